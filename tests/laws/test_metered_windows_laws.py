"""Meters by window and group: counters and ledger answer with the same number, folded or not, and with a pencil's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import reduce
from zoneinfo import ZoneInfo

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.errors import InvalidInput
from stripemeter.metering.averages import add
from stripemeter.metering.windows import window_edges
from stripemeter.pipeline.fold import fold
from stripemeter.store.metered_windows import load_metered_windows
from stripemeter.store.usage_windows import Reader, UsageQuestion, UsageWindows
from tests.adjusting import adjust, alias, void
from tests.laws.worlds import Fact, ingest_into

FIRST = datetime(2026, 10, 24, tzinfo=UTC)
LAST = datetime(2026, 10, 28, tzinfo=UTC)
NOW = datetime(2026, 12, 1, tzinfo=UTC)
READERS: list[Reader] = ["counters", "ledger"]
AGGREGATIONS = ["count", "sum", "min", "max", "last", "avg", "unique", "percentile"]
QUANTITIES = ["0", "0.000000000001", "3", "99999999999999999999999999.999999999999", "3"]
METAS = [None, {"region": "eu"}, {"region": "us", "skip": True}, {"region": "us"}]
FACTS = [
    Fact(
        metric=["raw", "other"][n % 2],
        customer=["a", "b", "old"][n % 3],
        quantity=QUANTITIES[n % 5],
        ts=FIRST + n * timedelta(hours=5, minutes=1),
        meta=METAS[n % 4],
    )
    for n in range(19)
]
"""Every mixture of metric, customer, quantity and meta that a few days hold."""


def define(pool: ConnectionPool, tenant: str, aggregation: str, *, max_groups: int = 100) -> None:
    """The meter m of both metrics, without what is to be skipped, by region."""
    definition = {
        "name": "m",
        "metrics": ["raw", "other"],
        "aggregation": aggregation,
        "filter": {"field": "meta.skip", "op": "exists", "value": False},
        "dimensions": ["meta.region"],
        "maxGroups": max_groups,
    }
    if aggregation == "percentile":
        definition["percentile"] = "50"
    with pool.connection() as connection:
        connection.execute(
            "insert into meters values (%s, 'm', 1, '0001-01-01', true, %s, 'test', now())",
            (tenant, json.dumps(definition)),
        )


def asked(tenant: str) -> UsageQuestion:
    """Days of the meter."""
    edges = window_edges(FIRST, LAST, window="day", zone=ZoneInfo("UTC"), most=100)
    return UsageQuestion(tenant_id=tenant, metric="m", edges=edges)


def read(pool: ConnectionPool, question: UsageQuestion, reader: Reader | None = None) -> UsageWindows:
    """The answer; that there is one is part of the law."""
    found = load_metered_windows(pool, question, now=NOW, reader=reader)
    assert found is not None
    return found


def rows(found: UsageWindows) -> list[tuple[datetime, str | None, Decimal | None, int, Decimal]]:
    """Its cells, to compare."""
    return [(cell.start, cell.group, cell.quantity, cell.event_count, cell.quantity_sum) for cell in found.cells]


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_counters_and_ledger_agree_about_a_meter(pool: ConnectionPool, aggregation: str) -> None:
    """By customer, by dimension or not at all; sums and counts are those of a pencil."""
    tenant = f"agree-{aggregation}"
    define(pool, tenant, aggregation)
    alias(pool, tenant, "old", "a")
    facts = [replace(fact, tenant=tenant, key=f"k{n}") for n, fact in enumerate(FACTS)]
    with ingest_into(str(pool.conninfo)) as ingest:
        ingest.accept(facts[::2])
        fold(pool, now=FIRST)
        ingest.accept(facts[1::2])
    question = asked(tenant)
    for each in (
        question,
        replace(question, group_by="customerRef"),
        replace(question, customer_refs=["old"]),
        replace(question, group_by="meta", group_path=["region"]),
    ):
        answers = [read(pool, each, reader) for reader in READERS]
        assert rows(answers[0]) == rows(answers[1])
        if aggregation in ("sum", "count"):
            total = reduce(add, (cell.quantity or Decimal(0) for cell in answers[0].cells))
            assert total == _pencil(facts, aggregation, only_a=each.customer_refs is not None)


def test_windows_filters_and_states_of_a_meter(pool: ConnectionPool) -> None:
    """Hours and filters are read from the events, voids left out; adjustments stand in the meter's own number."""
    define(pool, "states", "sum")
    facts = [
        Fact(metric="raw", customer="a", quantity="1", ts=FIRST, meta={"region": "eu"}),
        Fact(metric="other", customer="a", quantity="2", ts=FIRST + timedelta(hours=1), meta={"region": "us"}),
        Fact(metric="raw", customer="a", quantity="50", ts=FIRST, meta={"region": "eu"}),
    ]
    with ingest_into(str(pool.conninfo)) as ingest:
        ingest.accept([replace(fact, tenant="states", key=f"k{n}") for n, fact in enumerate(facts)])
    void(pool, "states", "k2")
    fold(pool)
    adjust(pool, "states", "0.5", FIRST, metric="m", customer_ref="a")
    days = asked("states")
    hours = replace(days, edges=[FIRST, FIRST + timedelta(hours=1), FIRST + timedelta(hours=2)])
    for question, reader, numbers in (
        (days, "counters", ["3.5", "0", "0", "0"]),
        (replace(days, aggregation="max"), "counters", ["2", None, None, None]),
        (hours, "ledger", ["1.5", "2"]),
        (replace(hours, meta_filters=[(["region"], "us")]), "ledger", ["0", "2"]),
        (replace(days, known_at=FIRST - timedelta(days=9)), "ledger", ["0", "0", "0", "0"]),
        (replace(days, source="http"), "ledger", ["3", "0", "0", "0"]),
    ):
        found = read(pool, question)
        assert found.reader == reader
        assert [cell.quantity for cell in found.cells] == [None if n is None else Decimal(n) for n in numbers], question
    with pytest.raises(InvalidInput) as refused:
        read(pool, replace(days, aggregation="unique", unique_of="customerRef"))
    assert refused.value.field == "uniqueOf"
    assert load_metered_windows(pool, replace(days, metric="raw"), now=NOW) is None


def test_combinations_that_share_a_row_are_read_from_the_events(pool: ConnectionPool) -> None:
    """The guard of dimensions never makes a group's number less than its events."""
    define(pool, "cut", "sum", max_groups=1)
    regions = ["eu", "us", "ap"]
    with ingest_into(str(pool.conninfo)) as ingest:
        ingest.accept([Fact(tenant="cut", metric="raw", ts=FIRST, key=name, meta={"region": name}) for name in regions])
    fold(pool)
    found = read(pool, replace(asked("cut"), group_by="meta", group_path=["region"]))
    assert found.reader == "ledger"
    assert [(cell.group, cell.quantity) for cell in found.cells[:3]] == [("ap", 1), ("eu", 1), ("us", 1)]


@pytest.mark.parametrize("is_folded", [False, True])
def test_levels_are_carried_into_every_window(pool: ConnectionPool, is_folded: bool) -> None:
    """By dimension as well; what only the events know is read from them (test_weighted_windows_laws.py)."""
    tenant = f"levels-{is_folded}"
    define(pool, tenant, "time_weighted")
    facts = [
        Fact(metric="raw", quantity="2", ts=FIRST - timedelta(days=3), meta={"region": "eu"}),
        Fact(metric="raw", quantity="5", ts=FIRST + timedelta(hours=30), meta={"region": "us"}),
    ]
    with ingest_into(str(pool.conninfo)) as ingest:
        ingest.accept([replace(fact, tenant=tenant, key=f"k{n}") for n, fact in enumerate(facts)])
    if is_folded:
        fold(pool)
    question = asked(tenant)
    hours = [[48, 0], [48, 90], [48, 120], [48, 120]]
    assert [cell.quantity for cell in read(pool, question).cells] == [sum(day) * 3600 for day in hours]
    by_region = read(pool, replace(question, group_by="meta", group_path=["region"])).cells
    assert [cell.quantity for cell in by_region] == [level * 3600 for day in hours for level in day]
    by_events = read(pool, replace(question, source="http"))
    assert (by_events.reader, by_events.cells) == ("ledger", read(pool, question).cells)


def _pencil(facts: Sequence[Fact], aggregation: str, *, only_a: bool) -> Decimal:
    counted = [
        Decimal(fact.quantity)
        for fact in facts
        if not (fact.meta or {}).get("skip") and (not only_a or fact.customer in ("a", "old")) and fact.ts < LAST
    ]
    return Decimal(len(counted)) if aggregation == "count" else reduce(add, counted, Decimal(0))
