"""Reading documents: members by name, numbers exactly, each complaint at the path of what it is about.

Belongs here: what any document about prices must look like. Does not: what a price means (`prices`), files and HTTP.

Not `metering.parsing`, so that prices are usable alone; and a price may be written as a float in Python source.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

from stripemeter.errors import InvalidInput

_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?")
_MOST_CHARACTERS = 255


def refused(message: str, field: str) -> InvalidInput:
    """A complaint about the member at this path; the whole document when the path is empty."""
    return InvalidInput(f"{field or 'the document'}: {message}", field=field)


def within(field: str, name: str | int) -> str:
    """The path of a member (or, by number, of an element) of what is at `field`."""
    if isinstance(name, int):
        return f"{field}[{name}]"
    return f"{field}.{name}" if field else name


def members_of(document: object, known: Collection[str], field: str) -> Mapping[str, Any]:
    """The members of an object that are there; null means absent.

    Raises:
        InvalidInput: no object, or a member nobody knows.
    """
    if not isinstance(document, Mapping):
        raise refused(f"must be an object, not a {type(document).__name__}", field)
    for name in document:
        if name not in known:
            raise refused(f"no such member: there are {', '.join(known)}", within(field, f"{name!s:.40}"))
    return {name: value for name, value in document.items() if value is not None}


def elements_of(document: object, field: str, *, least: int = 0) -> list[Any]:
    """The elements of a list of at least so many."""
    if not isinstance(document, list | tuple):
        raise refused(f"must be a list, not a {type(document).__name__}", field)
    if len(document) < least:
        raise refused(f"must have at least {least} element", field)
    return list(document)


def required(members: Mapping[str, Any], name: str, field: str) -> Any:  # noqa: ANN401 - its type is the caller's matter
    """The member of that name.

    Raises:
        InvalidInput: it is absent or null.
    """
    if name not in members:
        raise refused("is missing", within(field, name))
    return members[name]


def parse_text(document: object, field: str) -> str:
    """A text of at most 255 characters."""
    if not isinstance(document, str):
        raise refused(f"must be a text, not a {type(document).__name__}", field)
    if len(document) > _MOST_CHARACTERS:
        raise refused(f"must have at most {_MOST_CHARACTERS} characters, not {len(document)}", field)
    return document


def parse_number(document: object, field: str) -> Decimal:
    """A number, or a decimal string like "1.5", exactly; a float is what its shortest text says: 0.1 is 0.1."""
    match document:
        case bool():
            text = ""
        case int() | Decimal():
            return Decimal(document)
        case float():  # allow-float: what a Python literal or a JSON reader gives; read by its text
            text = repr(document)
        case str():
            text = document
        case _:
            text = ""
    if len(text) > _MOST_CHARACTERS or not _NUMBER.fullmatch(text):
        raise refused(f'must be a number or a decimal string like "1.5", not {document!r:.40}', field)
    return Decimal(text)


def parse_whole(document: object, field: str) -> int:
    """A whole number."""
    number = parse_number(document, field)
    if not number.is_finite() or abs(number.adjusted()) > _MOST_CHARACTERS or number != int(number):
        raise refused(f"must be a whole number, not {document!r:.40}", field)
    return int(number)


def parse_instant(document: object, field: str) -> datetime:
    """An aware datetime in UTC: of a datetime, a text like "2026-01-31T12:00:00Z", or a date: its midnight UTC."""
    instant = document
    if isinstance(document, str):
        try:
            instant = (
                datetime.fromisoformat(document) if len(document) > len("2026-01-31") else date.fromisoformat(document)
            )
        except ValueError as error:
            raise refused(
                f"must be a date or a date-time like 2026-01-31T12:00:00Z, not {document!r:.40}", field
            ) from error
    if isinstance(instant, date) and not isinstance(instant, datetime):
        instant = datetime.combine(instant, time(), UTC)
    if not isinstance(instant, datetime):
        raise refused(f"must be a date or a date-time, not a {type(document).__name__}", field)
    if instant.tzinfo is None:
        raise refused(f"needs a time zone, for example a Z at the end of {document!s:.40}", field)
    try:
        return instant.astimezone(UTC)
    except OverflowError as error:
        raise refused(f"is outside the years 1 to 9999 in UTC: {document!s:.40}", field) from error


def instant_text(instant: datetime) -> str:
    """RFC 3339 of a datetime in UTC, with Z."""
    return instant.isoformat().replace("+00:00", "Z")


@contextmanager
def naming(field: str, names: Mapping[str, str]) -> Iterator[None]:
    """Complaints of a typed object are made in the words of the document it is read from: path and members' names."""
    try:
        yield
    except InvalidInput as error:
        path = error.field
        for name, theirs in names.items():
            path = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", theirs, path)
        raise refused(str(error).removeprefix(f"{error.field}: "), within(field, path)) from error


def plain(number: Decimal) -> str:
    """Plain decimal text without exponent, sign of zero or trailing zeros: equal numbers, equal text."""
    text = format(number, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
