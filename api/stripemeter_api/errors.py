"""Errors on the wire: RFC 9457 `application/problem+json` with stable codes, and the original's members beside them.

Belongs here: the one table from our errors to HTTP statuses, the document, the handlers. Does not: raising.

Members: `type, title, status, detail, code, request_id, errors[{path, message}]` (ours) and `error, message` (the
original's; `statusCode` too where no route matched). Nothing of an exception's text reaches a caller on a 5xx that
we did not word ourselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from stripemeter import errors as tree
from stripemeter_api.answers import encode_json
from stripemeter_api.documents import Problem
from stripemeter_api.request_ids import request_id_of

_log = structlog.get_logger(__name__)

PROBLEM_JSON = "application/problem+json"
RETRY_AFTER_SECONDS = 1
INTERNAL_MESSAGE = "An internal server error occurred."
UNAVAILABLE_MESSAGE = "A dependency is not available and nothing was changed: try again."

READ_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "A parameter is not as it must be; `errors` names it."},
    503: {"model": Problem, "description": "The database is not available: try again, see Retry-After."},
}
"""What every read may answer instead, for OpenAPI."""

_STATUSES: Sequence[tuple[type[tree.StripeMeterError], int]] = (
    (tree.InvalidInput, 400),
    (tree.NotAllowed, 403),
    (tree.NotFound, 404),
    (tree.Conflict, 409),
    (tree.StripeRejected, 502),
    (tree.OutcomeUnknown, 502),
    (tree.Unavailable, 503),
    (tree.InvariantBroken, 500),
)
_ORIGINAL_NAMES = {400: "Validation Error"}
"""The original's `error` member where it is not the status' own phrase."""
_PHRASES = {413: "Payload Too Large", 422: "Unprocessable Content"}
"""Phrases that differ between Python versions; the wire must not."""
_CODES = {
    400: tree.InvalidInput.code,
    401: "not_authenticated",
    403: tree.NotAllowed.code,
    404: "route_not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
    429: "rate_limited",
}


def problem(
    *,
    status: int,
    code: str,
    detail: str,
    request_id: str,
    errors: Sequence[dict[str, Any]] = (),
    **members: object,
) -> dict[str, Any]:
    """A problem document as a plain dict.

    Args:
        status: HTTP status.
        code: stable, machine-readable; also the tail of `type`.
        detail: one sentence for a person: what was expected, what came, what to do.
        request_id: the request's id, as in the `x-request-id` header.
        errors: what is wrong where: `{path, message}`; left out when empty.
        members: further members (the original's), written last.
    """
    document: dict[str, Any] = {
        "type": f"urn:stripemeter:problem:{code}",
        "title": _phrase(status),
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request_id,
        "error": _ORIGINAL_NAMES.get(status, _phrase(status)),
        "message": detail,
    }
    if errors:
        document["errors"] = list(errors)
    document.update(members)
    return document


def status_of(error: tree.StripeMeterError) -> int:
    """The HTTP status one of our errors is answered with."""
    return next(status for kind, status in _STATUSES if isinstance(error, kind))


def answer_problem(document: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    """The response that carries a problem document; a 503 always says when to come back."""
    merged = dict(headers or {})
    if document["status"] == 503:
        merged.setdefault("retry-after", str(RETRY_AFTER_SECONDS))
    return Response(encode_json(document), document["status"], merged, PROBLEM_JSON)


def answer_our_error(request: Request, error: Exception, /, **members: object) -> Response:
    """Handler of the StripeMeterError tree; `members` are a route's own."""
    assert isinstance(error, tree.StripeMeterError)
    status = status_of(error)
    if status >= 500:
        _log.warning("request_refused", code=error.code, reason=str(error), request_id=request_id_of(request.scope))
    errors: list[dict[str, Any]] = []
    if isinstance(error, tree.InvalidInput) and error.field:
        errors = [{"path": error.field, "message": str(error)}]
    return answer_problem(
        problem(
            status=status,
            code=error.code,
            detail=_public_detail(error, status),
            request_id=request_id_of(request.scope),
            errors=errors,
            **members,
        )
    )


def problem_items(error: RequestValidationError) -> list[dict[str, Any]]:
    """What is wrong where, for `errors`."""
    return [{"path": _path(found["loc"]), "message": _message(found)} for found in error.errors()]


def answer_invalid_request(request: Request, error: Exception, /, **members: object) -> Response:
    """Handler of FastAPI's validation errors: 400, naming each parameter; `members` are a route's own."""
    assert isinstance(error, RequestValidationError)
    errors = problem_items(error)
    detail = "; ".join(f"{found['path']}: {found['message']}" for found in errors)
    return answer_problem(
        problem(
            status=400,
            code=tree.InvalidInput.code,
            detail=detail,
            request_id=request_id_of(request.scope),
            errors=errors,
            **members,
        )
    )


def answer_http_exception(request: Request, error: Exception) -> Response:
    """Handler of what the framework itself refuses: no such route, wrong method, body too large."""
    assert isinstance(error, HTTPException)
    status = error.status_code
    details = {
        404: f"Route {request.method}:{request.url.path} not found",
        405: f"{request.method} is not a method of {request.url.path}",
        413: "Request body is too large",
    }
    members: dict[str, Any] = {"statusCode": 404} if status == 404 else {}
    headers = {**(error.headers or {}), **(_allowed(request) if status == 405 else {})}
    return answer_problem(
        problem(
            status=status,
            code=_CODES.get(status, tree.StripeMeterError.code),
            detail=details.get(status, _phrase(status)),
            request_id=request_id_of(request.scope),
            **members,
        ),
        headers,
    )


def answer_unforeseen(request: Request, _: Exception) -> Response:
    """Handler of errors nobody foresaw: says nothing about the cause, which is in the log under the request's id."""
    request_id = request_id_of(request.scope)
    return answer_problem(problem(status=500, code="internal_error", detail=INTERNAL_MESSAGE, request_id=request_id))


def _allowed(request: Request) -> dict[str, str]:
    """Every method of the path, as documented: the framework names those of the first route alone."""
    path = getattr(request.scope.get("route"), "path", None)
    operations = request.app.openapi()["paths"].get(path, {})
    return {"Allow": ", ".join(sorted(method.upper() for method in operations))} if operations else {}


def _phrase(status: int) -> str:
    return _PHRASES.get(status) or HTTPStatus(status).phrase


def _public_detail(error: tree.StripeMeterError, status: int) -> str:
    if isinstance(error, tree.TookTooLong):
        return str(error)
    if status == 503:
        return UNAVAILABLE_MESSAGE  # the error's own text names hosts and drivers: it goes to the log
    return INTERNAL_MESSAGE if status >= 500 else str(error)


def _path(location: Sequence[int | str]) -> str:
    """`("body", "events", 0, "ts")` as `events[0].ts`; the part of the request it came from is left out."""
    text = ""
    for part in location[1:] or location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _message(found: Mapping[str, Any]) -> str:
    message = str(found["msg"]).removeprefix("Value error, ")
    return "is required" if found["type"] == "missing" else message
