"""Filters: which events a meter reads, by what they say.

Belongs here: paths into an event, what stands there, conditions and how they combine. Does not: the other parts of a
meter (`meters`).

What stands at a path is a text, a number or a boolean, compared by its text: numbers in canonical form (1.0 is 1),
booleans as `true` and `false`, so 1 and "1" are equal. A list or an object is there (`exists`) but has no text: it
equals nothing. Null means absent.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, assert_never, get_args

from stripemeter.metering.events import canonical_quantity
from stripemeter.metering.parsing import (
    elements_of,
    invalid,
    members_of,
    number_of,
    parse_number,
    parse_text,
    shown,
    within,
)

MAX_NAMES = 8
"""Names of a path below `meta`."""
MAX_PATH = 100
"""Characters of a path."""
MAX_PARTS = 20
MAX_NESTING = 5
MAX_CONDITIONS = 100
"""Of one filter: each is looked at for every event."""
MAX_TEXTS = 100
"""Operands of `in`."""

Comparison = Literal["gt", "gte", "lt", "lte"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventView:
    """What conditions can ask an event; `meta` as `meters.decode_meta` gives it."""

    metric: str
    resource_id: str | None
    source: str
    meta: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Equals:
    """The text at the path is this one."""

    field: str
    text: str


@dataclass(frozen=True, slots=True)
class OneOf:
    """The text at the path is one of these; in the order given."""

    field: str
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Compares:
    """What is at the path is a number (or a decimal string), and compares like this with the bound."""

    field: str
    op: Comparison
    bound: Decimal


@dataclass(frozen=True, slots=True)
class Exists:
    """Something other than null is at the path, or is not."""

    field: str
    is_there: bool


@dataclass(frozen=True, slots=True)
class Every:
    """All parts match."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Either:
    """At least one part matches."""

    parts: tuple[Filter, ...]


Filter = Equals | OneOf | Compares | Exists | Every | Either

_COMPARE: Mapping[Comparison, Callable[[Decimal, Decimal], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}
_OPS = ("eq", "in", *get_args(Comparison), "exists")


def matches(condition: Filter, event: EventView) -> bool:
    """Whether the event passes; never raises, whatever the event says."""
    match condition:
        case Equals(field, text):
            return text_of(look_up(event, field)) == text
        case OneOf(field, texts):
            return text_of(look_up(event, field)) in texts
        case Compares(field, op, bound):
            number = number_of(look_up(event, field))
            return number is not None and _COMPARE[op](number, bound)
        case Exists(field, is_there):
            return (look_up(event, field) is not None) is is_there
        case Every(parts):
            return all(matches(part, event) for part in parts)
        case Either(parts):
            return any(matches(part, event) for part in parts)
        case _:
            assert_never(condition)


def look_up(event: EventView, path: str) -> object:
    """What stands at a path: any JSON value, None when nothing does."""
    match path:
        case "metric":
            return event.metric
        case "resourceId":
            return event.resource_id
        case "source":
            return event.source
        case _:
            value: object = event.meta
            for name in path.split(".")[1:]:
                if not isinstance(value, Mapping):
                    return None
                value = value.get(name)
            return value


def text_of(value: object) -> str | None:
    """The text by which a value is compared and grouped; None when it has none: null, a list, an object."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    number = number_of(value)
    return None if number is None else canonical_quantity(number)


def parse_path(document: object, field: str, *, plain: tuple[str, ...]) -> str:
    """A path: one of the plain names, or `meta.` and 1 to MAX_NAMES names joined by dots.

    A member whose own name holds a dot cannot be named.

    Raises:
        InvalidInput: it is neither.
    """
    path = parse_text(document, field, most=MAX_PATH)
    first, *names = path.split(".")
    if path in plain or (first == "meta" and 1 <= len(names) <= MAX_NAMES and all(names)):
        return path
    raise invalid(
        f"must be one of {', '.join(plain)} or meta.NAME with at most {MAX_NAMES} names joined by dots, "
        f"not {shown(path)}",
        field,
    )


def parse_filter(document: object, field: str) -> Filter:
    """The filter a decoded document says.

    Raises:
        InvalidInput: it says none; `field` names the member.
    """
    parsed = _parse(document, field, 0)
    if _count(parsed) > MAX_CONDITIONS:
        raise invalid(f"must have at most {MAX_CONDITIONS} conditions, not {_count(parsed)}", field)
    return parsed


def filter_document(condition: Filter) -> dict[str, Any]:
    """The filter as JSON: texts for what is compared as text, decimal strings for bounds."""
    match condition:
        case Equals(field, text):
            return {"field": field, "op": "eq", "value": text}
        case OneOf(field, texts):
            return {"field": field, "op": "in", "value": list(texts)}
        case Compares(field, op, bound):
            return {"field": field, "op": op, "value": canonical_quantity(bound)}
        case Exists(field, is_there):
            return {"field": field, "op": "exists", "value": is_there}
        case Every(parts):
            return {"and": [filter_document(part) for part in parts]}
        case Either(parts):
            return {"or": [filter_document(part) for part in parts]}
        case _:
            assert_never(condition)


def _parse(document: object, field: str, depth: int) -> Filter:
    members = members_of(document, ("and", "or", "field", "op", "value"), field)
    joint = "and" if "and" in members else "or"
    if joint not in members:
        return _parse_condition(members, field)
    if len(members) > 1:
        other = next(name for name in members if name != joint)
        raise invalid(f"cannot stand beside {joint}", within(field, other))
    if depth == MAX_NESTING:
        raise invalid(f"nests deeper than {MAX_NESTING}", field)
    inside = within(field, joint)
    listed = elements_of(members[joint], inside, most=MAX_PARTS)
    parts = tuple(_parse(part, within(inside, index), depth + 1) for index, part in enumerate(listed))
    return Every(parts) if joint == "and" else Either(parts)


def _parse_condition(members: Mapping[str, Any], field: str) -> Filter:
    for name in ("field", "op", "value"):
        if name not in members:
            raise invalid("is required", within(field, name))
    path = parse_path(members["field"], within(field, "field"), plain=("metric", "resourceId", "source"))
    op, value, place = members["op"], members["value"], within(field, "value")
    match op:
        case "eq":
            return Equals(path, _parse_operand(value, place))
        case "in":
            listed = elements_of(value, place, most=MAX_TEXTS)
            texts = (_parse_operand(text, within(place, index)) for index, text in enumerate(listed))
            return OneOf(path, tuple(texts))
        case "gt" | "gte" | "lt" | "lte":
            return Compares(path, op, parse_number(value, place))
        case "exists":
            if not isinstance(value, bool):
                raise invalid(f"must be true or false, not {shown(value)}", place)
            return Exists(path, value)
        case _:
            raise invalid(f"must be one of {', '.join(_OPS)}, not {shown(op)}", within(field, "op"))


def _parse_operand(document: object, field: str) -> str:
    if isinstance(document, str):
        return parse_text(document, field, least=0)
    text = text_of(document)
    if text is None:
        raise invalid(f"must be a text, a number or a boolean, not {shown(document)}", field)
    return text


def _count(condition: Filter) -> int:
    match condition:
        case Every(parts) | Either(parts):
            return sum(_count(part) for part in parts)
        case _:
            return 1
