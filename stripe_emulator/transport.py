"""Breaking connections: what a client sees when a network or a peer dies in the middle.

Belongs here: the one place that reaches below ASGI. Does not: deciding when to.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import cast

from fastapi import Request, Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

SCOPE_KEY = "stripe_emulator.transport"


class BreakableProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with its transport in the scope of every request."""

    def on_message_begin(self) -> None:
        """Start a request."""
        super().on_message_begin()
        cast("dict[str, object]", self.scope)[SCOPE_KEY] = self.transport


async def break_connection(request: Request, body: bytes) -> Response:
    """Reset the connection; with a body, after headers that promise all of it and one half.

    The response returned goes nowhere: ASGI wants one.
    """
    transport: asyncio.Transport = request.scope[SCOPE_KEY]
    if body:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        transport.write(head.encode() + body[: len(body) // 2])
        transport.close()  # an orderly end in the wrong place, so that the half that was sent arrives
    else:
        # Linger of zero seconds: the close sends RST, not FIN.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    await request.receive()  # the body was read already, so this is the end of the connection
    return Response(status_code=500)
