"""Routes whose body may have so many bytes and no more.

Belongs here: refusing a longer one while it arrives, with 413. Does not: what a body means.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from stripemeter_api.exact_bodies import ExactBodyRoute

TOO_LARGE = 413


class BoundedBodyRoute(ExactBodyRoute):
    """A route whose body is exact, and bounded by the number of bytes that `app.state` has under `limit`."""

    limit = "backfill_body_bytes"

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, given a request whose body ends with 413 beyond the limit."""
        answer = super().get_route_handler()

        async def answer_bounded(request: Request) -> Response:
            most: int = getattr(request.app.state, self.limit)
            declared = request.headers.get("content-length", "0")
            if declared.isdecimal() and int(declared) > most:
                raise HTTPException(TOO_LARGE)
            return await answer(Request(request.scope, _bounded(request.receive, most)))

        return answer_bounded


def _bounded(receive: Receive, most: int) -> Receive:
    size = 0

    async def receive_bounded() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > most:
            raise HTTPException(TOO_LARGE)
        return message

    return receive_bounded
