"""JSON answers: exact quantities and unambiguous times.

Belongs here: how a quantity, an instant and a stored JSON text look on the wire. Does not: which members an answer has.

A quantity is a JSON number with every digit it has, without exponent or trailing zeros; it never passes through a
float. An instant is RFC 3339 in UTC with `Z`; microseconds (six digits) are written only when they are not zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal

import msgspec
from starlette.responses import Response

from stripemeter.metering.events import canonical_quantity

encode_json = msgspec.json.Encoder().encode


class JsonAnswer(Response):
    """A JSON answer encoded by msgspec; `content` holds only plain values, `number` and `stored_json`."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        """The body of `content`."""
        return encode_json(content)


def number(quantity: Decimal) -> msgspec.Raw:
    """A quantity as an exact JSON number."""
    return msgspec.Raw(canonical_quantity(quantity).encode("ascii"))


def number_or_null(quantity: Decimal | None) -> msgspec.Raw | None:
    """A quantity as an exact JSON number; null where there is none."""
    return None if quantity is None else number(quantity)


def stored_json(text: str | None) -> msgspec.Raw | None:
    """JSON text from the database, passed on digit by digit."""
    return None if text is None else msgspec.Raw(text.encode("utf-8"))


def instant(at: datetime) -> str:
    """An aware instant as RFC 3339 in UTC: `2026-11-23T10:00:00Z`, `2026-11-23T10:00:00.000001Z`."""
    return at.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"


def csv_lines(header: Sequence[str], rows: Iterable[Sequence[str | None]]) -> str:
    """RFC 4180: CRLF after every line, quotes where needed; None is empty, an empty text is `""`.

    Source: RFC 4180, 2. Texts are passed on as they are: a spreadsheet may read one that starts with `=` as a formula.
    """
    return "".join(f"{','.join(map(_csv_field, line))}\r\n" for line in (header, *rows))


def _csv_field(text: str | None) -> str:
    if text is None:
        return ""
    if text == "" or any(special in text for special in ',"\r\n'):
        return '"' + text.replace('"', '""') + '"'
    return text
