"""Meters: what to count. A definition, its versions, and what one event gives it.

Belongs here: parsing and writing definitions, which version counts a day, reading one event. Does not: filters
(`filters`), which meters read an event (`readings`), adding up (`aggregation`), storage.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Literal, assert_never, get_args

import msgspec

from stripemeter.metering.events import MAX_WHOLE_DIGITS, canonical_quantity
from stripemeter.metering.filters import (
    EventView,
    Filter,
    filter_document,
    look_up,
    matches,
    parse_filter,
    parse_path,
    text_of,
)
from stripemeter.metering.parsing import (
    elements_of,
    has_too_many_decimals,
    invalid,
    members_of,
    number_of,
    parse_number,
    parse_text,
    shown,
    shown_number,
    within,
)

Aggregation = Literal["count", "sum", "min", "max", "last", "avg", "unique", "time_weighted", "percentile"]
Unread = Literal["metric", "filter", "value_missing", "value_not_a_number"]
"""Why an event gives a meter nothing: its metric is another, its filter refuses, the value is not there, or it is no
number a quantity can be."""

MAX_NAME = 100
MAX_METRICS = 20
MAX_DIMENSIONS = 5
MAX_DIMENSION_BYTES = 200
"""Bytes of a meter's dimension paths, and
MAX_VALUE_BYTES those of a value, as JSON: both stand in a primary key, and a Postgres index entry has at most 2704."""
MAX_VALUE_BYTES = 100
DEFAULT_MAX_GROUPS = 100
MAX_GROUPS = 1000
MAX_META_NESTING = 200
"""How deep a `meta` may nest to be looked into. Decoders give up at a depth that depends on the caller's stack; this
bound does not, so one event reads the same everywhere. Paths reach 8 deep."""
OTHER = '"other"'
"""The dimensions of the row that all combinations beyond `max_groups` share."""

_MEMBERS = ("name", "metrics", "filter", "value", "aggregation", "percentile", "dimensions", "maxGroups")
_ANY_NUMBER = Decimal(10) ** MAX_WHOLE_DIGITS
_TEXT_IN_JSON = re.compile(r'"(?:[^"\\]|\\.)*"')
_decode = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal).decode
_encode = msgspec.json.Encoder(order="sorted").encode


@dataclass(frozen=True, slots=True)
class Quantity:
    """The value is the event's quantity."""


@dataclass(frozen=True, slots=True)
class Constant:
    """The value is this number, whatever the event says."""

    number: Decimal


@dataclass(frozen=True, slots=True)
class Path:
    """The value is what stands at `meta.a.b` or `resourceId`."""

    path: str


Value = Quantity | Constant | Path


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterDefinition:
    """What to count.

    Args:
        name: what its usage is asked by.
        metrics: events of these are looked at, sorted.
        filter: which of them count; None: all.
        value: what of an event is aggregated. Only what can be a quantity is read: a number or a decimal string, not
            negative, of at most 26 digits and 12 decimals. Two aggregations ask less. `count` counts events: a path
            must hold anything but null, and what it holds matters no further. `unique` counts distinct texts: a path
            must hold a text, a number or a boolean. Their counters keep the number where there is one, else the
            event's quantity.
        aggregation: how values become one number.
        percentile: which one, above 0 and at most 100; with the aggregation of that name and only then.
        dimensions: paths whose values split a counter, sorted. Their values are texts, as filters compare them.
        max_groups: the cardinality guard. Of each counter (customer, day, segment), the `max_groups` combinations of
            dimensions that come first by `group_rank` keep rows of their own, all others share one row whose
            dimensions are OTHER. Which do depends on the set of combinations alone, not on the order they came in.
    """

    name: str
    metrics: tuple[str, ...]
    filter: Filter | None
    value: Value
    aggregation: Aggregation
    percentile: Decimal | None
    dimensions: tuple[str, ...]
    max_groups: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterVersion:
    """A definition from a UTC day on; inactive: from that day on nothing is counted by it."""

    definition: MeterDefinition
    version: int
    effective_on: date
    is_active: bool


@dataclass(frozen=True, slots=True)
class Reading:
    """What one event gives one meter.

    Args:
        quantity: the number.
        item: of `unique` the distinct text, of `percentile` the number as canonical text, else None.
        dimensions: JSON object of texts (null: absent) by path, sorted, compact; '' for a meter without dimensions.
    """

    quantity: Decimal
    item: str | None
    dimensions: str


def parse_meter(document: object, *, field: str = "") -> MeterDefinition:
    """The definition a decoded document says.

    All but the name may be absent: a meter then sums the quantity of every event of the metric of its name.

    Args:
        document: decoded JSON or YAML; numbers int or Decimal.
        field: path of the document in what it is part of.

    Raises:
        InvalidInput: it says none; `field` names the member.
    """
    members = members_of(document, _MEMBERS, field)
    if "name" not in members:
        raise invalid("is required", within(field, "name"))
    name = parse_text(members["name"], within(field, "name"), most=MAX_NAME)
    place = within(field, "metrics")
    metrics = elements_of(members.get("metrics", [name]), place, most=MAX_METRICS)
    aggregation = _parse_aggregation(members.get("aggregation", "sum"), within(field, "aggregation"))
    return MeterDefinition(
        name=name,
        metrics=tuple(
            sorted({parse_text(metric, within(place, index), most=MAX_NAME) for index, metric in enumerate(metrics)})
        ),
        filter=parse_filter(members["filter"], within(field, "filter")) if "filter" in members else None,
        value=_parse_value(members.get("value", "quantity"), within(field, "value")),
        aggregation=aggregation,
        percentile=_parse_percentile(members.get("percentile"), aggregation, within(field, "percentile")),
        dimensions=_parse_dimensions(members.get("dimensions", []), within(field, "dimensions")),
        max_groups=_parse_max_groups(members.get("maxGroups", DEFAULT_MAX_GROUPS), within(field, "maxGroups")),
    )


def meter_document(definition: MeterDefinition) -> dict[str, Any]:
    """The definition as JSON with every member, numbers as decimal strings; `parse_meter` reads the same back."""
    percentile = definition.percentile
    return {
        "name": definition.name,
        "metrics": list(definition.metrics),
        "filter": None if definition.filter is None else filter_document(definition.filter),
        "value": _value_document(definition.value),
        "aggregation": definition.aggregation,
        "percentile": None if percentile is None else canonical_quantity(percentile),
        "dimensions": list(definition.dimensions),
        "maxGroups": definition.max_groups,
    }


def version_on(versions: Iterable[MeterVersion], day: date) -> MeterVersion | None:
    """The version that counts a day: the greatest that is effective; None when there is none or it is inactive."""
    effective = [version for version in versions if version.effective_on <= day]
    newest = max(effective, key=lambda version: version.version, default=None)
    return newest if newest is not None and newest.is_active else None


def decode_meta(text: str | None) -> Mapping[str, Any] | None:
    """A ledger event's meta with exact numbers; None for none, and for what nests deeper than MAX_META_NESTING."""
    if text is None or _nests_too_deep(text):
        return None
    return _decode(text)


def read_event(
    definition: MeterDefinition,
    *,
    metric: str,
    quantity: Decimal,
    resource_id: str | None,
    source: str,
    meta: Mapping[str, Any] | None,
) -> Reading | Unread:
    """What an event gives a meter, or why nothing; never raises, whatever `meta` says.

    Args:
        definition: the meter.
        metric: the event's, as are the others; `meta` is what `decode_meta` gives.
        quantity: its quantity.
        resource_id: its resource.
        source: how it came.
        meta: what else it says.
    """
    if metric not in definition.metrics:
        return "metric"
    event = EventView(metric=metric, resource_id=resource_id, source=source, meta=meta)
    if definition.filter is not None and not matches(definition.filter, event):
        return "filter"
    value = _value(definition.value, event, quantity)
    if value is None:
        return "value_missing"
    number = _as_quantity(value)
    dimensions = _dimensions(definition.dimensions, event)
    match definition.aggregation:
        case "count":
            return Reading(quantity if number is None else number, None, dimensions)
        case "unique":
            text = text_of(value)
            if text is None:
                return "value_missing"
            return Reading(quantity if number is None else number, _bounded(text), dimensions)
        case "sum" | "min" | "max" | "last" | "avg" | "time_weighted" | "percentile":
            if number is None:
                return "value_not_a_number"
            item = canonical_quantity(number) if definition.aggregation == "percentile" else None
            return Reading(number, item, dimensions)
        case _:
            assert_never(definition.aggregation)


def group_rank(dimensions: str) -> bytes:
    """Where a combination of dimensions stands when too many want a row: 8 bytes of its hash."""
    return hashlib.blake2b(dimensions.encode(), digest_size=8).digest()


def _value(value: Value, event: EventView, quantity: Decimal) -> object:
    match value:
        case Quantity():
            return quantity
        case Constant(number):
            return number
        case Path(path):
            return look_up(event, path)
        case _:
            assert_never(value)


def _as_quantity(value: object) -> Decimal | None:
    number = number_of(value)
    if number is None or not 0 <= number < _ANY_NUMBER or has_too_many_decimals(number):
        return None
    return number


def _dimensions(paths: tuple[str, ...], event: EventView) -> str:
    if not paths:
        return ""
    texts = {path: text_of(look_up(event, path)) for path in paths}
    return _encode({path: None if text is None else _bounded(text) for path, text in texts.items()}).decode()


def _bounded(text: str) -> str:
    """The text, or when it is long its beginning and its hash: different texts stay different."""
    if len(_encode(text)) <= MAX_VALUE_BYTES + 2:
        return text
    beginning = text[:10]  # at most 60 bytes, were they all escapes
    return f"{beginning}…{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"


def _nests_too_deep(text: str) -> bool:
    if text.count("{") + text.count("[") <= MAX_META_NESTING:
        return False
    depth = deepest = 0
    for character in _TEXT_IN_JSON.sub("", text):
        if character in "{[":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "}]":
            depth -= 1
    return deepest > MAX_META_NESTING


def _value_document(value: Value) -> str:
    match value:
        case Quantity():
            return "quantity"
        case Constant(number):
            return canonical_quantity(number)
        case Path(path):
            return path
        case _:
            assert_never(value)


def _parse_value(document: object, field: str) -> Value:
    if document == "quantity":
        return Quantity()
    number = number_of(document)
    if number is None and not isinstance(document, str):
        raise invalid(f'must be "quantity", a number or a path like "meta.seats", not {shown(document)}', field)
    if number is None:
        return Path(parse_path(document, field, plain=("quantity", "resourceId")))
    if _as_quantity(number) is None:
        raise invalid(
            f"a constant must be at least 0 with at most {MAX_WHOLE_DIGITS} digits and 12 decimals, "
            f"not {shown_number(number)}",
            field,
        )
    return Constant(number)


def _parse_aggregation(document: object, field: str) -> Aggregation:
    for known in get_args(Aggregation):
        if document == known:
            aggregation: Aggregation = known
            return aggregation
    raise invalid(f"must be one of {', '.join(get_args(Aggregation))}, not {shown(document)}", field)


def _parse_percentile(document: object, aggregation: Aggregation, field: str) -> Decimal | None:
    if document is None:
        if aggregation == "percentile":
            raise invalid("is required with the aggregation percentile", field)
        return None
    if aggregation != "percentile":
        raise invalid(f"stands with the aggregation percentile only, not with {aggregation}", field)
    number = parse_number(document, field)
    if not 0 < number <= 100 or has_too_many_decimals(number):
        raise invalid(f"must be above 0 and at most 100, with at most 12 decimals, not {shown_number(number)}", field)
    return number


def _parse_dimensions(document: object, field: str) -> tuple[str, ...]:
    if document in ([], ()):
        return ()
    listed = elements_of(document, field, most=MAX_DIMENSIONS)
    paths = {
        parse_path(path, within(field, index), plain=("resourceId", "source")) for index, path in enumerate(listed)
    }
    size = sum(len(_encode(path)) for path in paths)
    if size > MAX_DIMENSION_BYTES:
        raise invalid(f"must have at most {MAX_DIMENSION_BYTES} bytes together, not {size}", field)
    return tuple(sorted(paths))


def _parse_max_groups(document: object, field: str) -> int:
    if not isinstance(document, int) or isinstance(document, bool) or not 1 <= document <= MAX_GROUPS:
        raise invalid(f"must be a whole number from 1 to {MAX_GROUPS}, not {shown(document)}", field)
    return document
