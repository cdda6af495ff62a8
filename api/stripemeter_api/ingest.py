"""POST /v1/events/ingest: the hot route, a bare ASGI callable ahead of the framework.

Belongs here: reading the body, headers, the answer's JSON and status codes of this one route. Does not: what an event
is (`metering.events`), storing (`pipeline.ingest`).

The framework's routing and injection cost three times this route's own work; OpenAPI still describes it
(`documents.py`), and a test holds the two together.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog

from stripemeter.errors import InvalidInput, Unavailable
from stripemeter.metering.events import IngestLimits, RejectedEvent, UsageEvent, parse_ingest
from stripemeter.pipeline.ingest import EventResult, GroupCommit, Outcome
from stripemeter.runtime.settings import Settings
from stripemeter_api import instruments
from stripemeter_api.errors import problem
from stripemeter_api.request_ids import adopt_request_id

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PATH = "/v1/events/ingest"
_log = structlog.get_logger(__name__)
_encode = msgspec.json.Encoder().encode
_JSON = (b"content-type", b"application/json")
_PROBLEM = (b"content-type", b"application/problem+json")


def ingest_limits(settings: Settings) -> IngestLimits:
    """What the operator bounds."""
    return IngestLimits(
        max_batch=settings.max_ingest_batch,
        max_meta_bytes=settings.max_event_meta_bytes,
        is_tenant_uuid=settings.strict_tenant_id_uuid,
    )


class IngestRoute:
    """ASGI callable for `POST /v1/events/ingest`; answers only after the commit."""

    def __init__(self, settings: Settings, group_commit: GroupCommit) -> None:
        self._group_commit = group_commit
        self._body_limit = settings.ingest_body_limit_bytes
        self._limits = ingest_limits(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read, parse, store, answer."""
        started = time.perf_counter()
        headers = dict(scope["headers"])
        request_id = adopt_request_id(scope["headers"])
        status, body, extra = await self._respond(headers, receive, request_id)
        if status == 0:  # the client left before its body was complete
            return
        response_headers = [
            _JSON if status == 200 else _PROBLEM,
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", request_id.encode()),
            *extra,
        ]
        await send({"type": "http.response.start", "status": status, "headers": response_headers})
        await send({"type": "http.response.body", "body": body})
        seconds = time.perf_counter() - started
        instruments.observe_request(PATH, "POST", status, seconds)
        instruments.observe_ingest(seconds * 1000)

    async def _respond(
        self, headers: dict[bytes, bytes], receive: Receive, request_id: str
    ) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
        refused = _refuse_media(headers)
        if refused is not None:
            return *_refusal(415, "unsupported_media_type", refused, request_id), []
        body = await self._read(headers, receive)
        if body is None:
            return 0, b"", []
        if len(body) > self._body_limit:
            message = f"Request body is too large: at most {self._body_limit} bytes"
            return *_refusal(413, "body_too_large", message, request_id), [(b"connection", b"close")]
        try:
            header_key = headers.get(b"idempotency-key")
            events = parse_ingest(
                body,
                header_key=None if header_key is None else _header_text(header_key),
                now=datetime.now(UTC),
                limits=self._limits,
            )
            results = await self._group_commit.accept(events)
        except InvalidInput as error:
            return *_refusal(400, error.code, str(error), request_id, field=error.field, index=error.index), []
        except Unavailable as error:
            return *_refusal(503, error.code, str(error), request_id), [(b"retry-after", b"1")]
        except Exception as error:  # noqa: BLE001 - the caller gets a 500 without internals, the log the rest
            _log.exception("ingest_failed", error=type(error).__name__, request_id=request_id)
            return *_refusal(500, "internal_error", "An internal server error occurred.", request_id), []
        _count(events, results)
        return 200, _answer(results, request_id), []

    async def _read(self, headers: dict[bytes, bytes], receive: Receive) -> bytes | None:
        """The body, cut off just past the limit; None when the client disconnected."""
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._body_limit:
            return b" " * (self._body_limit + 1)
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunk = message.get("body", b"")
            size += len(chunk)
            chunks.append(chunk)
            if not message.get("more_body", False) or size > self._body_limit:
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _refuse_media(headers: dict[bytes, bytes]) -> str | None:
    media = headers.get(b"content-type", b"application/json").split(b";")[0].strip().lower()
    if media != b"application/json" and not media.endswith(b"+json"):
        return f"send the body as application/json, not {media.decode('latin-1')}"
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding != b"identity":
        return f"send the body without content encoding, not {encoding.decode('latin-1')}"
    return None


def _header_text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput("the Idempotency-Key header must be UTF-8 text", field="Idempotency-Key") from error


def _count(events: list[UsageEvent | RejectedEvent], results: list[EventResult]) -> None:
    """Add a request's events to the instruments: once per metric, an increment costs as much as storing an event."""
    accepted: dict[str, int] = {}
    for event, result in zip(events, results, strict=True):
        if result.outcome is Outcome.ACCEPTED and isinstance(event, UsageEvent):
            accepted[event.metric] = accepted.get(event.metric, 0) + 1
        elif result.outcome is Outcome.CONFLICT:
            instruments.count_conflicts(1)
    for metric, count in accepted.items():
        instruments.count_ingested(metric, count)


def _answer(results: list[EventResult], request_id: str) -> bytes:
    counts = dict.fromkeys(Outcome, 0)
    rows: list[dict[str, object]] = []
    errors: list[dict[str, object]] = []
    for index, result in enumerate(results):
        counts[result.outcome] += 1
        row: dict[str, object] = {
            "index": index,
            "idempotencyKey": result.idempotency_key,
            "status": result.outcome.value,
        }
        if result.message is not None:
            row["error"] = result.message
            row["code"] = result.code
        if result.outcome is Outcome.REJECTED:
            errors.append({"index": index, "error": result.message, "code": result.code})
        rows.append(row)
    answer: dict[str, object] = {
        "accepted": counts[Outcome.ACCEPTED],
        "duplicates": counts[Outcome.DUPLICATE],
        "conflicts": counts[Outcome.CONFLICT],
        "requestId": request_id,
        "results": rows,
    }
    if errors:
        answer["errors"] = errors
    return _encode(answer)


def _refusal(
    status: int, code: str, message: str, request_id: str, *, field: str = "body", index: int | None = None
) -> tuple[int, bytes]:
    """A whole request refused, nothing of it stored: RFC 9457 members and the original's."""
    instruments.count_rejected_request(code)
    answer = {
        **problem(status=status, code=code, detail=message, request_id=request_id),
        "accepted": 0,
        "duplicates": 0,
        "conflicts": 0,
        "requestId": request_id,
        "errors": [{"index": -1 if index is None else index, "path": field, "message": message, "error": message}],
    }
    return status, _encode(answer)
