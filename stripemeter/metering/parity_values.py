"""Cells of an export: texts, exact numbers, instants and periods, each complaint at the field.

Belongs here: what a cell may look like. Does not: which column holds which field (`parity_rows`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal

import msgspec

from stripemeter.errors import InvalidInput
from stripemeter.metering.days import next_month
from stripemeter.metering.parsing import MAX_TEXT, has_too_many_decimals, number_of, parse_text, shown

MAX_WHOLE_DIGITS = 26
_MONTH = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
# Source: Stripe Sigma writes timestamps so, and all of them are UTC.
_SIGMA = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?( UTC)?")
_SECONDS = re.compile(r"[0-9]{9,11}")
_decode = msgspec.json.Decoder(float_hook=Decimal).decode


def decoded(value: object) -> object:
    """A cell as text, number or time; JSON is decoded with its digits."""
    if not isinstance(value, msgspec.Raw):
        return value
    try:
        return _decode(value)
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise InvalidInput(f"the row cannot be read: {error}", field="") from error


def text_in(told: Mapping[str, object], field: str) -> str:
    """The text of a field; '' when it is absent. An id may be a whole number."""
    value = told.get(field)
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool) and field in ("customer", "id"):
        value = str(value)
    return parse_text(value.strip() if isinstance(value, str) else value, field, least=0, most=MAX_TEXT)


def number_in(told: Mapping[str, object], field: str) -> Decimal | None:
    """The number of a field, every digit; None when it is absent."""
    value = told.get(field)
    if value is None:
        return None
    if isinstance(value, float):  # allow-float: it is refused
        raise InvalidInput(
            f"{field}: a floating-point number may not be what was written: store text, integers or decimals",
            field=field,
        )
    number = number_of(value.strip() if isinstance(value, str) else value)
    if number is None:
        raise InvalidInput(f"{field}: must be a number like 12.5, not {shown(value)}", field=field)
    if has_too_many_decimals(number) or number.adjusted() >= MAX_WHOLE_DIGITS:
        raise InvalidInput(
            f"{field}: at most {MAX_WHOLE_DIGITS} digits and 12 decimals, not {shown(number)}", field=field
        )
    return number


def parse_period(value: object) -> tuple[datetime, datetime]:
    """A UTC month `YYYY-MM` or a UTC day `YYYY-MM-DD`."""
    text = value.strip() if isinstance(value, str) else value
    if isinstance(text, date) and not isinstance(text, datetime):
        text = text.isoformat()
    try:
        if isinstance(text, str) and _MONTH.fullmatch(text):
            first = date.fromisoformat(f"{text}-01")
            return _midnight(first), _midnight(next_month(first))
        if isinstance(text, str) and _DAY.fullmatch(text):
            day = date.fromisoformat(text)
            return _midnight(day), _midnight(date.fromordinal(day.toordinal() + 1))
    except (ValueError, OverflowError) as error:
        raise InvalidInput(f"period: {text!r:.40} is not in the calendar", field="period") from error
    raise InvalidInput(
        f"period: must be a month like 2026-11 or a day like 2026-11-05, not {shown(value)}", field="period"
    )


def parse_instant(value: object, field: str) -> datetime:
    """An instant: RFC 3339 with a zone, Sigma's form (UTC), seconds since 1970, or a UTC day's first."""
    if value is None:
        raise InvalidInput(f"{field}: start and end belong together", field=field)
    try:
        found = _aware(value.strip() if isinstance(value, str) else value)
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidInput(f"{field}: {shown(value)} is no instant: {error}", field=field) from error
    if found is None:
        raise InvalidInput(
            f"{field}: must be an instant with a zone like 2026-11-01T00:00:00Z, a day, seconds since 1970, or as "
            f"Sigma writes it (2026-11-01 00:00:00), not {shown(value)}",
            field=field,
        )
    return found


def _aware(value: object) -> datetime | None:
    """The instant; None: it has no zone, or is nothing that could be one."""
    match value:
        case datetime():
            return None if value.tzinfo is None else value.astimezone(UTC)
        case date():
            return _midnight(value)
        case bool():
            return None
        case int():
            return datetime.fromtimestamp(value, UTC)
        case str() if len(value) <= MAX_TEXT:
            return _read_aware(value)
        case _:
            return None


def _read_aware(text: str) -> datetime | None:
    if _SECONDS.fullmatch(text):
        return datetime.fromtimestamp(int(text), UTC)
    if _DAY.fullmatch(text):
        return _midnight(date.fromisoformat(text))
    if _SIGMA.fullmatch(text):
        return datetime.fromisoformat(text.removesuffix(" UTC")).replace(tzinfo=UTC)
    found = datetime.fromisoformat(text)
    return None if found.tzinfo is None else found.astimezone(UTC)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), tzinfo=UTC)
