"""Meters: what a document says, and what one event gives. Laws over all of them: tests/laws/test_meter_laws.py."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from stripemeter.errors import InvalidInput
from stripemeter.metering.filters import Compares, Either, Equals, Every, Exists, OneOf
from stripemeter.metering.meters import (
    Constant,
    MeterDefinition,
    MeterVersion,
    Path,
    Quantity,
    Reading,
    Unread,
    decode_meta,
    group_rank,
    meter_document,
    parse_meter,
    read_event,
    version_on,
)


def meter(**members: object) -> MeterDefinition:
    """A definition named tokens, with these members."""
    return parse_meter({"name": "tokens", **members})


def condition(field: str, op: str, value: object) -> dict[str, object]:
    """A condition on the wire."""
    return {"field": field, "op": op, "value": value}


def read(definition: MeterDefinition, meta: str | None = None, **event: Any) -> Reading | Unread:  # noqa: ANN401 - an event
    """What an event of the metric tokens with quantity 7 gives."""
    facts = {"metric": "tokens", "quantity": Decimal(7), "resource_id": None, "source": "http", **event}
    return read_event(definition, meta=decode_meta(meta), **facts)


def test_a_name_alone_sums_the_quantity_of_its_metric() -> None:
    """Everything but the name has a default."""
    assert meter() == MeterDefinition(
        name="tokens",
        metrics=("tokens",),
        filter=None,
        value=Quantity(),
        aggregation="sum",
        percentile=None,
        dimensions=(),
        max_groups=100,
    )
    assert read(meter()) == Reading(Decimal(7), None, "")


def test_a_document_says_every_part_of_a_meter() -> None:
    """And writing it down gives the same meter again, with exact numbers."""
    document = {
        "name": "seats",
        "metrics": ["b", "a", "b"],
        "filter": {
            "and": [
                condition("meta.plan.tier", "eq", "pro"),
                {"or": [condition("source", "in", ["sdk", 1, True]), condition("meta.size", "gte", Decimal("1.50"))]},
                condition("resourceId", "exists", False),
            ]
        },
        "value": "meta.seats",
        "aggregation": "percentile",
        "percentile": Decimal("99.90"),
        "dimensions": ["source", "meta.region", "source"],
        "maxGroups": 5,
    }
    definition = parse_meter(document)
    assert definition == MeterDefinition(
        name="seats",
        metrics=("a", "b"),
        filter=Every(
            (
                Equals("meta.plan.tier", "pro"),
                Either((OneOf("source", ("sdk", "1", "true")), Compares("meta.size", "gte", Decimal("1.5")))),
                Exists("resourceId", False),
            )
        ),
        value=Path("meta.seats"),
        aggregation="percentile",
        percentile=Decimal("99.9"),
        dimensions=("meta.region", "source"),
        max_groups=5,
    )
    written = json.loads(json.dumps(meter_document(definition)))
    assert written["percentile"] == "99.9"
    assert parse_meter(written) == definition


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("quantity", Quantity()),
        (3, Constant(Decimal(3))),
        (Decimal("0.10"), Constant(Decimal("0.1"))),
        ("2.50", Constant(Decimal("2.5"))),
        ("resourceId", Path("resourceId")),
        ("meta.a.b", Path("meta.a.b")),
    ],
)
def test_a_value_is_the_quantity_a_constant_or_a_path(written: object, value: object) -> None:
    """A decimal string is a number, as it is for a quantity."""
    assert meter(value=written).value == value


DEEP: dict[str, object] = condition("source", "eq", "sdk")
for _ in range(6):
    DEEP = {"and": [DEEP]}
WIDE = {"or": [{"or": [condition("source", "eq", "sdk")] * 20}] * 6}


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"name": None}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "a\0b"}, "name"),
        ({"name": "\ud800"}, "name"),
        ({"name": 5}, "name"),
        ({"metrics": []}, "metrics"),
        ({"metrics": "tokens"}, "metrics"),
        ({"metrics": ["a"] * 21}, "metrics"),
        ({"metrics": ["a", 1]}, "metrics[1]"),
        ({"colour": "blue"}, "colour"),
        ({"filter": []}, "filter"),
        ({"filter": {}}, "filter.field"),
        ({"filter": {"and": []}}, "filter.and"),
        ({"filter": {"and": [condition("source", "eq", "x")], "or": [condition("source", "eq", "x")]}}, "filter.or"),
        ({"filter": {"and": [condition("source", "eq", "x")], "op": "eq"}}, "filter.op"),
        ({"filter": {"or": [condition("source", "eq", "x"), condition("tier", "eq", "x")]}}, "filter.or[1].field"),
        ({"filter": condition("customerRef", "eq", "x")}, "filter.field"),
        ({"filter": condition("meta", "eq", "x")}, "filter.field"),
        ({"filter": condition("meta.a..b", "eq", "x")}, "filter.field"),
        ({"filter": condition("meta.1.2.3.4.5.6.7.8.9", "eq", "x")}, "filter.field"),
        ({"filter": condition("source", "ne", "x")}, "filter.op"),
        ({"filter": {"field": "source", "op": "eq"}}, "filter.value"),
        ({"filter": condition("source", "eq", ["x"])}, "filter.value"),
        ({"filter": condition("source", "eq", "x\0")}, "filter.value"),
        ({"filter": condition("source", "eq", Decimal("1e400"))}, "filter.value"),
        ({"filter": condition("source", "in", "x")}, "filter.value"),
        ({"filter": condition("source", "in", [])}, "filter.value"),
        ({"filter": condition("source", "in", ["x", {}])}, "filter.value[1]"),
        ({"filter": condition("meta.a", "gt", "x")}, "filter.value"),
        ({"filter": condition("meta.a", "gt", True)}, "filter.value"),
        ({"filter": condition("meta.a", "exists", "true")}, "filter.value"),
        ({"filter": {**condition("meta.a", "eq", 1), "not": True}}, "filter.not"),
        ({"filter": DEEP}, "filter.and[0].and[0].and[0].and[0].and[0]"),
        ({"filter": WIDE}, "filter"),
        ({"value": "meta"}, "value"),
        ({"value": "source"}, "value"),
        ({"value": True}, "value"),
        ({"value": -1}, "value"),
        ({"value": 10**26}, "value"),
        ({"value": "0.0000000000001"}, "value"),
        ({"value": 1.5}, "value"),  # a float is not exact: decoders keep decimals
        ({"value": Decimal("NaN")}, "value"),
        ({"aggregation": "median"}, "aggregation"),
        ({"aggregation": ["sum"]}, "aggregation"),
        ({"aggregation": "percentile"}, "percentile"),
        ({"percentile": 50}, "percentile"),
        ({"aggregation": "percentile", "percentile": 0}, "percentile"),
        ({"aggregation": "percentile", "percentile": "100.1"}, "percentile"),
        ({"dimensions": "source"}, "dimensions"),
        ({"dimensions": ["metric"]}, "dimensions[0]"),
        ({"dimensions": ["meta.a", "meta.b", "meta.c", "meta.d", "meta.e", "meta.f"]}, "dimensions"),
        ({"dimensions": [f"meta.{letter * 60}" for letter in "abcd"]}, "dimensions"),
        ({"maxGroups": 0}, "maxGroups"),
        ({"maxGroups": 1001}, "maxGroups"),
        ({"maxGroups": True}, "maxGroups"),
        ({"maxGroups": Decimal("1.5")}, "maxGroups"),
    ],
)
def test_what_says_no_meter_is_refused_by_its_member(members: dict[str, object], field: str) -> None:
    """The field names the member, below the document's own place."""
    with pytest.raises(InvalidInput) as refused:
        parse_meter({"name": "tokens", **members}, field="meters[3]")
    assert refused.value.field == f"meters[3].{field}"
    assert str(refused.value).startswith(f"meters[3].{field}: ")


@pytest.mark.parametrize("document", [None, [], "tokens", 5])
def test_a_document_that_is_no_object_is_refused(document: object) -> None:
    """As a whole: the field is empty."""
    with pytest.raises(InvalidInput, match="must be an object") as refused:
        parse_meter(document)
    assert refused.value.field == ""


def test_an_event_of_another_metric_gives_nothing() -> None:
    """And says so."""
    assert read(meter(), metric="other") == "metric"
    assert read(meter(metrics=["other"])) == "metric"


@pytest.mark.parametrize("aggregation", ["sum", "min", "max", "last", "avg", "time_weighted"])
@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ('{"n": 1.50}', Reading(Decimal("1.5"), None, "")),
        ('{"n": "1.50"}', Reading(Decimal("1.5"), None, "")),
        ('{"n": 99999999999999999999999999.999999999999}', Reading(Decimal("9" * 26 + "." + "9" * 12), None, "")),
        ('{"n": 0.0000000000010}', Reading(Decimal("1e-12"), None, "")),
        ('{"n": -0.0}', Reading(Decimal(0), None, "")),
        ('{"n": 0.0000000000001}', "value_not_a_number"),
        ('{"n": 100000000000000000000000000}', "value_not_a_number"),
        ('{"n": -1}', "value_not_a_number"),
        ('{"n": "many"}', "value_not_a_number"),
        ('{"n": true}', "value_not_a_number"),
        ('{"n": [1]}', "value_not_a_number"),
        ('{"n": null}', "value_missing"),
        (None, "value_missing"),
    ],
)
def test_numbers_are_read_where_a_quantity_could_stand(
    aggregation: str, meta: str | None, expected: Reading | str
) -> None:
    """Exactly, within the ledger's bounds; whatever else stands there is not counted and not rounded."""
    assert read(meter(value="meta.n", aggregation=aggregation), meta) == expected


def test_a_constant_counts_whatever_the_event_says() -> None:
    """Its quantity too."""
    assert read(meter(value="0.5")) == Reading(Decimal("0.5"), None, "")


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ('{"n": 3}', Reading(Decimal(3), None, "")),
        ('{"n": "x"}', Reading(Decimal(7), None, "")),
        ('{"n": {}}', Reading(Decimal(7), None, "")),
        ('{"n": -3}', Reading(Decimal(7), None, "")),
        ('{"n": null}', "value_missing"),
    ],
)
def test_count_asks_only_that_something_is_there(meta: str, expected: Reading | str) -> None:
    """A path counts the events that have it."""
    assert read(meter(value="meta.n", aggregation="count"), meta) == expected


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ('{"n": "ann"}', Reading(Decimal(7), "ann", "")),
        ('{"n": 1.0}', Reading(Decimal(1), "1", "")),
        ('{"n": false}', Reading(Decimal(7), "false", "")),
        ('{"n": -2}', Reading(Decimal(7), "-2", "")),
        ('{"n": {"a": 1}}', "value_missing"),
        ('{"n": null}', "value_missing"),
    ],
)
def test_unique_keeps_the_text(meta: str, expected: Reading | str) -> None:
    """Beside the number, if it is one, else the quantity."""
    assert read(meter(value="meta.n", aggregation="unique"), meta) == expected


def test_percentile_keeps_the_number_as_text() -> None:
    """Canonical: equal numbers are one item."""
    definition = meter(aggregation="percentile", percentile=95)
    assert read(definition, quantity=Decimal("2.500000000000")) == Reading(Decimal("2.5"), "2.5", "")


def test_dimensions_are_texts_by_sorted_path() -> None:
    """Compact JSON; absent, null and what has no text are null; 1 and "1" are one group."""
    definition = meter(dimensions=["source", "meta.plan", "resourceId"])
    found = [
        read(definition, '{"plan": 1.0}', resource_id='é"'),
        read(definition, '{"plan": "1"}', resource_id='é"'),
        read(definition, '{"plan": [1]}'),
    ]
    assert [reading.dimensions for reading in found if isinstance(reading, Reading)] == [
        '{"meta.plan":"1","resourceId":"é\\"","source":"http"}',
        '{"meta.plan":"1","resourceId":"é\\"","source":"http"}',
        '{"meta.plan":null,"resourceId":null,"source":"http"}',
    ]


@pytest.mark.parametrize("letter", ["x", "é", "😀", "\x01", '"'])
def test_long_texts_keep_their_beginning_and_their_hash(letter: str) -> None:
    """A key column holds at most 100 bytes of one; different texts stay different."""
    definition = meter(dimensions=["resourceId"], value="resourceId", aggregation="unique")
    first, second = (read(definition, resource_id=letter * 200 + end) for end in "ab")
    assert isinstance(first, Reading)
    assert isinstance(second, Reading)
    assert first.item != second.item
    assert first.dimensions != second.dimensions
    assert first.item.startswith(letter * 10)
    assert len(json.dumps(first.item, ensure_ascii=False).encode()) <= 102


def test_meta_is_decoded_exactly() -> None:
    """No number becomes a float, no meta stays none."""
    assert decode_meta(None) is None
    decoded = decode_meta('{"a": 0.1, "b": {"c": [1e-30]}, "d": 123456789012345678901234567890}')
    assert decoded == {"a": Decimal("0.1"), "b": {"c": [Decimal("1e-30")]}, "d": 123456789012345678901234567890}
    assert not isinstance(decoded["a"], float)


def test_meta_that_nests_beyond_reach_is_not_looked_into() -> None:
    """At a bound of ours, not at a depth of the caller's stack; brackets in texts and many siblings do not count."""
    assert decode_meta('{"a": [], "deep": ' + "[" * 199 + "]" * 199 + "}") is not None
    assert decode_meta('{"a": 1, "deep": ' + "[" * 200 + "]" * 200 + "}") is None
    assert decode_meta('{"deep": ' + "[" * 100_000 + "]" * 100_000 + "}") is None
    assert decode_meta('{"text": "' + '[\\"{' * 300 + '"}') is not None
    assert decode_meta('{"wide": [' + ",".join(["[]"] * 300) + "]}") is not None


def test_the_greatest_version_in_effect_counts_a_day() -> None:
    """Not the latest date: a newer version that begins earlier replaces it from there on. Inactive means none."""

    def version(number: int, day: date, *, is_active: bool = True) -> MeterVersion:
        return MeterVersion(definition=meter(), version=number, effective_on=day, is_active=is_active)

    versions = [
        version(3, date(2026, 3, 1), is_active=False),
        version(1, date(1, 1, 1)),
        version(2, date(2026, 5, 1)),
        version(4, date(2026, 4, 1)),
    ]
    found = {day: version_on(versions, day) for day in (date(1, 1, 1), date(2026, 3, 1), date(2026, 4, 1), date.max)}
    assert [each.version if each else None for each in found.values()] == [1, None, 4, 4]
    assert version_on(versions[2:], date(2026, 3, 31)) is None
    assert version_on([], date.max) is None


def test_the_rank_of_a_group_is_its_hash() -> None:
    """Stored rows depend on it: it never changes."""
    assert group_rank('{"meta.plan":"pro"}').hex() == "2969ec6f5873f89b"
