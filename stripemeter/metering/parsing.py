"""Reading decoded documents (JSON or YAML): members by name, each complaint at the path of what it is about.

Belongs here: what any document of rules must look like. Does not: what a rule means (`meters`, `filters`), events
(`events`: they are too many for this).

Numbers are int or Decimal: whoever decodes a document keeps them exact.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from decimal import Decimal
from typing import Any

from stripemeter.errors import InvalidInput
from stripemeter.metering.events import MAX_DECIMALS, MAX_META_DECIMALS, MAX_META_WHOLE_DIGITS, NUL, canonical_quantity

MAX_TEXT = 255
"""Characters of a text operand: those of a reference."""

_DECIMAL = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def invalid(message: str, field: str) -> InvalidInput:
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
        raise invalid(f"must be an object, not {shown(document)}", field)
    for name in document:
        if name not in known:
            raise invalid(f"no such member: there are {', '.join(known)}", within(field, shown_name(name)))
    return {name: value for name, value in document.items() if value is not None}


def elements_of(document: object, field: str, *, most: int) -> list[Any]:
    """The elements of a list of 1 to `most`."""
    if not isinstance(document, list | tuple):
        raise invalid(f"must be a list, not {shown(document)}", field)
    if not 1 <= len(document) <= most:
        raise invalid(f"must have 1 to {most} elements, not {len(document)}", field)
    return list(document)


def parse_text(document: object, field: str, *, least: int = 1, most: int = MAX_TEXT) -> str:
    """A text of `least` to `most` characters that Postgres can store."""
    if not isinstance(document, str):
        raise invalid(f"must be a text, not {shown(document)}", field)
    if not least <= len(document) <= most:
        raise invalid(f"must have {least} to {most} characters, not {len(document)}", field)
    if NUL in document:
        raise invalid("must not contain the NUL character", field)
    if _SURROGATE.search(document):
        raise invalid("must be valid Unicode", field)
    return document


def parse_number(document: object, field: str) -> Decimal:
    """A number, or a decimal string like "1.5", exactly."""
    number = number_of(document)
    if number is None:
        raise invalid(f'must be a number or a decimal string like "1.5", not {shown(document)}', field)
    return number


def number_of(value: object) -> Decimal | None:
    """The number that a number or a decimal string is, without trailing zeros or a sign of zero; None for all else.

    Beyond the bounds of numbers inside `meta` nothing is a number.
    """
    if isinstance(value, str):
        # A digit a character: longer texts are out of bounds whatever they say.
        if len(value) > MAX_META_WHOLE_DIGITS + MAX_META_DECIMALS or not _DECIMAL.fullmatch(value):
            return None
        number = Decimal(value)
    elif isinstance(value, Decimal):
        number = value
    elif isinstance(value, int) and not isinstance(value, bool):
        number = Decimal(value)
    else:
        return None
    if not number.is_finite():
        return None
    if not number:
        return Decimal(0)
    if number.adjusted() >= MAX_META_WHOLE_DIGITS or int(number.as_tuple().exponent) < -MAX_META_DECIMALS:
        return None
    return Decimal(canonical_quantity(number))


def has_too_many_decimals(number: Decimal) -> bool:
    """Whether a canonical number has more decimals than a quantity."""
    return int(number.as_tuple().exponent) < -MAX_DECIMALS


def shown(value: object) -> str:
    """A value for a message, in few words."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return repr(value) if len(value) <= 40 else f"{value[:40]!r}…"
        case int() | Decimal():
            number = number_of(value)
            return "a number out of range" if number is None else shown_number(number)
        case Mapping():
            return "an object"
        case list() | tuple():
            return "a list"
        case _:
            return f"a {type(value).__name__}"


def shown_number(number: Decimal) -> str:
    """A number for a message, in few digits."""
    text = canonical_quantity(number)
    return text if len(text) <= 40 else f"{text[:40]}…"


def shown_name(name: object) -> str:
    """A member's name for a path, in few characters."""
    text = str(name)
    return text if len(text) <= 40 else f"{text[:40]}…"
