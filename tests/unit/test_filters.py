"""Filters: which events pass. What is refused as one stands in test_meters.py."""

from __future__ import annotations

from decimal import Decimal

import pytest

from stripemeter.metering.filters import EventView, matches, parse_filter
from stripemeter.metering.meters import decode_meta


def condition(field: str, op: str, value: object) -> dict[str, object]:
    """A condition on the wire."""
    return {"field": field, "op": op, "value": value}


def passes(
    document: dict[str, object], meta: str | None = None, *, metric: str = "tokens", resource_id: str | None = None
) -> bool:
    """Whether an event passes a filter."""
    event = EventView(metric=metric, resource_id=resource_id, source="http", meta=decode_meta(meta))
    return matches(parse_filter(document, "filter"), event)


@pytest.mark.parametrize(
    ("op", "value", "meta", "is_match"),
    [
        ("eq", "pro", '{"a": "pro"}', True),
        ("eq", "pro", '{"a": "Pro"}', False),
        ("eq", 1, '{"a": "1"}', True),
        ("eq", "1", '{"a": 1.0}', True),
        ("eq", "1.0", '{"a": 1.0}', False),
        ("eq", "true", '{"a": true}', True),
        ("eq", True, '{"a": "true"}', True),
        ("eq", 1, '{"a": true}', False),
        ("eq", "", '{"a": ""}', True),
        ("eq", "", '{"a": null}', False),
        ("eq", "[]", '{"a": []}', False),
        ("eq", Decimal("0.1"), '{"a": 0.10}', True),
        ("in", ["x", 2], '{"a": 2}', True),
        ("in", ["x", 2], '{"a": 3}', False),
        ("in", ["x"], None, False),
        ("gt", 1, '{"a": 1.000000000000000000001}', True),
        ("gt", 1, '{"a": 1}', False),
        ("gte", 1, '{"a": "1.0"}', True),
        ("lt", "2.5", '{"a": -3}', True),
        ("lte", 0, '{"a": -0.0}', True),
        ("lt", 9, '{"a": "five"}', False),
        ("lt", 9, '{"a": true}', False),
        ("lt", 9, '{"a": [1]}', False),
        ("lt", 9, "{}", False),
        ("exists", True, '{"a": 0}', True),
        ("exists", True, '{"a": {}}', True),
        ("exists", True, '{"a": null}', False),
        ("exists", False, '{"a": null}', True),
        ("exists", False, None, True),
    ],
)
def test_a_condition_asks_meta(op: str, value: object, meta: str | None, is_match: bool) -> None:
    """By text for equality, as exact numbers for comparison; null is absent."""
    assert passes(condition("meta.a", op, value), meta) is is_match


def test_a_condition_asks_what_an_event_is() -> None:
    """Its metric, its resource, its source; deep paths step into objects alone."""
    assert passes(condition("metric", "eq", "other"), metric="other")
    assert passes(condition("resourceId", "eq", "r"), resource_id="r")
    assert not passes(condition("resourceId", "exists", True))
    assert passes(condition("source", "in", ["etl", "http"]))
    assert passes(condition("meta.a.b.c", "eq", "x"), '{"a": {"b": {"c": "x"}}}')
    assert not passes(condition("meta.a.b.c", "exists", True), '{"a": {"b": ["c"]}}')


def test_conditions_combine() -> None:
    """And wants all, or wants one."""
    one, two = condition("meta.a", "eq", 1), condition("meta.b", "eq", 2)
    for meta, both, either in [('{"a":1,"b":2}', True, True), ('{"a":1}', False, True), ("{}", False, False)]:
        assert passes({"and": [one, two]}, meta) is both
        assert passes({"or": [one, two]}, meta) is either
