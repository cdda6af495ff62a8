"""What every framework request passes through: its id, its measurement, and the log of what went wrong.

Belongs here: adopting and echoing `x-request-id`, counting and timing, logging an unforeseen exception.
Does not: the hot ingest route, which does these three itself in fewer steps.
"""

from __future__ import annotations

import time
from collections.abc import MutableMapping
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stripemeter_api import instruments
from stripemeter_api.request_ids import HEADER, remember_request_id

_log = structlog.get_logger(__name__)


class Edge:
    """Wraps an ASGI application; only `http` scopes are touched."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever the application does."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = remember_request_id(scope)
        status = 0
        is_complete = False

        async def send_marked(message: Message) -> None:
            nonlocal status, is_complete
            if message["type"] == "http.response.start":
                status = message["status"]
                message.setdefault("headers", []).append((HEADER, request_id.encode("ascii")))
            elif message["type"] == "http.response.body":
                is_complete = not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, receive, send_marked)
        except Exception:
            # The path and never the query: it carries customers' references.
            _log.exception("request_failed", request_id=request_id, method=scope["method"], route=route_of(scope))
            # The framework has answered 500 by its handler and raised the error once more, for this log. When half of
            # another answer is out, only a broken connection still tells the caller.
            if not is_complete:
                raise
        finally:
            instruments.observe_request(route_of(scope), scope["method"], status, time.perf_counter() - started)


def route_of(scope: MutableMapping[str, Any]) -> str:
    """The template of the matched route, or UNMATCHED."""
    return str(getattr(scope.get("route"), "path", None) or instruments.UNMATCHED)
