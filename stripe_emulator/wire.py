"""What crosses the wire: forms in, JSON out, errors in Stripe's envelope.

Belongs here: decoding of `a[b][0]=c`, encoding of exact decimals and instants, the error type every handler raises.
Does not: what a parameter must be (`contract`), what an endpoint does.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl

Json = dict[str, Any]

_MARK = secrets.token_hex(16)
_MARKED = re.compile(f'"{_MARK}(-?[0-9.]+)"')
_KEY_PART = re.compile(r"\[([^\[\]]*)\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A response before it is encoded. `is_saved`: an idempotency key replays it."""

    status: int
    body: Json
    headers: Mapping[str, str] = field(default_factory=dict)
    is_saved: bool = True


class StripeError(Exception):
    """An answer in Stripe's error envelope.

    Args:
        status: HTTP status.
        message: Stripe's sentence.
        code: Stripe's code; None for the errors that have none.
        param: the offending parameter; None when none is meant.
        kind: Stripe's `type`.
        is_saved: whether an idempotency key replays it; Stripe saves what began to execute, nothing refused before.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        kind: str = "invalid_request_error",
        is_saved: bool = False,
    ) -> None:
        super().__init__(message)
        error: Json = {"message": message, "type": kind}
        # Stripe's schema forbids nulls here: an absent member is absent.
        error |= {name: value for name, value in (("code", code), ("param", param)) if value is not None}
        headers = {"Stripe-Should-Retry": "false"} if 400 <= status < 500 and status not in (409, 429) else {}
        self.answer = Answer(status=status, body={"error": error}, headers=headers, is_saved=is_saved)


class OutcomeError(StripeError):
    """An error that is an outcome, as a declined card is: what the request changed stays."""


def decode_form(text: str) -> Json:
    """Nested parameters of an `application/x-www-form-urlencoded` body or query; leaves are strings.

    Lists come out as dicts keyed "0", "1", ... because only the schema knows that they are lists.
    """
    decoded: Json = {}
    for key, value in parse_qsl(text, keep_blank_values=True):
        head = key.split("[", 1)[0]
        path = [head, *_KEY_PART.findall(key[len(head) :])]
        node = decoded
        for part in path[:-1]:
            child = node.setdefault(part or str(len(node)), {})
            if not isinstance(child, dict):
                raise StripeError(400, f"Invalid parameter: {key}", param=head)
            node = child
        node[path[-1] or str(len(node))] = value
    return decoded


def encode_json(body: Json) -> bytes:
    """JSON text; a Decimal becomes a number with exactly its digits."""
    return _MARKED.sub(r"\1", json.dumps(body, default=_encode_decimal, indent=2)).encode()


def _encode_decimal(value: object) -> str:
    if isinstance(value, Decimal):
        return f"{_MARK}{plain(value)}"
    raise TypeError(f"no JSON for {type(value).__name__}")


def plain(value: Decimal) -> str:
    """A decimal in fixed notation without trailing zeros: 1.50 -> 1.5, 1E+2 -> 100."""
    text = format(value, "f")
    return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"


def instant(seconds: int) -> str:
    """Seconds since the Unix epoch as v2 writes them: RFC 3339 in UTC, with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
