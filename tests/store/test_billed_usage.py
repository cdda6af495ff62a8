"""Billed usage: of every customer and period it is the number the usage routes answer, however time is cut."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.errors import InvalidInput, Unavailable
from stripemeter.metering.segments import parse_phase
from stripemeter.pipeline.archive import archive_day
from stripemeter.pipeline.backtests import run_backtest
from stripemeter.pipeline.billed_usage import BilledUsage, load_billed_usage
from stripemeter.pipeline.customers import CustomerChange, put_customer
from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.meters import put_meter
from stripemeter.pricing.plans import parse_plan
from stripemeter.store.customers import CustomerItem, CustomerPhase, replace_items
from stripemeter.store.lake import LocalLake
from stripemeter.store.metered_usage import read_one_snapshot
from stripemeter.store.postgres import transaction
from stripemeter.store.usage import load_current_usage
from tests.adjusting import adjust
from tests.laws.worlds import Fact, ingest_into

NOW = datetime(2026, 3, 10, tzinfo=UTC)
FIRST, LAST = date(2025, 1, 1), date(2025, 3, 1)
MIDDLE = datetime(2025, 1, 15, 6, tzinfo=UTC)
METERS = [
    {"name": f"by_{how}", "metrics": ["api_calls"], "aggregation": how}
    for how in ("count", "min", "max", "last", "avg")
] + [
    {"name": "by_unique", "metrics": ["api_calls"], "aggregation": "unique", "value": "meta.user"},
    {"name": "heat", "aggregation": "avg"},
    {"name": "by_region", "metrics": ["api_calls"], "dimensions": ["meta.region"]},
]
CUSTOMERS = {
    "a": CustomerChange(aliases=("a2",), billing=parse_phase(cadence="month", anchor_at=MIDDLE)),
    "b": CustomerChange(
        phases=(
            CustomerPhase(
                meter="by_count", phase=parse_phase(cadence="week", anchor_at=MIDDLE, starts_at=None), reason="billing"
            ),
        )
    ),
    "y": CustomerChange(billing=parse_phase(cadence="year", anchor_at=datetime(2025, 2, 1, tzinfo=UTC))),
}


def some_facts() -> list[Fact]:
    """From December, which is before, to April, which is after; nothing in February of the last customer."""
    random = Random(3)
    return [
        Fact(
            customer=random.choice(["a", "a2", "b", "c", "y"]),
            quantity=str(Decimal(random.randrange(1, 9_000)).scaleb(-random.randrange(4))),
            ts=datetime(2024, 12, random.choice([3, 14, 15, 28]), random.randrange(24), tzinfo=UTC)
            + timedelta(days=31 * random.randrange(5)),
            key=str(number),
            meta={"user": random.choice(["u1", "u2", "u3"]), "region": random.choice(["eu", "us"])},
        )
        for number in range(150)
    ] + [
        Fact(customer="rests", quantity="7", ts=datetime(2024, 12, 5, tzinfo=UTC), key="rests", meta={"user": "u"}),
        Fact(customer="warm", metric="heat", ts=datetime(2025, 2, 5, tzinfo=UTC), key="warm"),
    ]


@pytest.fixture
def world(pool: ConnectionPool, database_url: str, tmp_path: Path) -> LocalLake:
    """Meters of every aggregation, customers of every cadence, adjustments; every other day is archived."""
    for document in METERS:
        put_meter(pool, "acme", document, effective_on=None, actor="ann", expected_version=None, now=NOW)
    for ref, change in CUSTOMERS.items():
        put_customer(pool, tenant_id="acme", customer_ref=ref, change=change, now=NOW)
    with ingest_into(database_url) as ingest:
        ingest.accept(some_facts())
    fold(pool)
    for metric, delta, customer in (("by_count", "3", "c"), ("by_last", "0.5", "rests"), ("api_calls", "-9", "b")):
        adjust(pool, "acme", delta, MIDDLE, metric=metric, customer_ref=customer)
    adjust(pool, "acme", "1000", MIDDLE, metric="by_count", customer_ref="c", status="pending")
    lake = LocalLake(root=tmp_path / "lake")
    for day in sorted({fact.ts.date() for fact in some_facts()})[::2]:
        archive_day(pool, lake, day)
    return lake


def load(pool: ConnectionPool, lake: LocalLake, now: datetime = NOW) -> BilledUsage:
    """The first quarter of 2025."""
    with transaction(pool) as tx:
        read_one_snapshot(tx)
        return load_billed_usage(tx, lake, tenant_id="acme", first=FIRST, last=LAST, now=now, watch=lambda _: None)


def answered(pool: ConnectionPool) -> Iterator[tuple[str, datetime, datetime, str, Decimal]]:
    """What the usage routes answer of every billing period that begins in these months and is over."""
    for customer in ("a", "b", "c", "rests", "y"):
        for week in range(13):  # what is cut into the smallest periods is cut by weeks
            at = datetime(2025, 1, 1, 12, tzinfo=UTC) + timedelta(weeks=week)
            found = load_current_usage(pool, tenant_id="acme", customer_ref=customer, at=at, now=NOW)
            for meter, usage in found.metrics.items():
                segment = usage.segment or found.segment
                if segment.start >= datetime(2025, 1, 1, tzinfo=UTC) and segment.start < datetime(
                    2025, 4, 1, tzinfo=UTC
                ):
                    yield customer, segment.start, segment.end, meter, usage.quantity


def test_it_is_what_the_usage_routes_answer(pool: ConnectionPool, world: LocalLake) -> None:
    """Of months, months from the fifteenth on, weeks of one metric, and a year, which is named while it lasts."""
    found = load(pool, world)
    assert {month.lake_days > 0 and month.postgres_days > 0 for month in found.days[:3]} == {True}
    expected = {
        row for row in answered(pool) if row[3] != "by_avg" and (row[4] or row[3] != "by_last") and row[2] <= NOW
    }
    assert set(found.usage.iter_rows()) == expected
    assert {row[3] for row in expected if row[0] == "rests"} == {"by_last"}
    assert {(row[2] - row[1]).days for row in expected} >= {7, 31, 28, 365}
    assert found.uncounted == dict.fromkeys(["by_avg", "heat"], "it counts by avg, which no price bills")
    assert found.apart.rows() == [("b", "by_count")]
    periods = set(found.periods.iter_rows())
    february = datetime(2025, 2, 1, tzinfo=UTC), datetime(2025, 3, 1, tzinfo=UTC)
    assert {row[:3] for row in expected if row[:1] + row[3:4] != ("b", "by_count")} <= periods
    assert {("rests", *february), ("warm", *february)} <= periods
    assert found.unfinished == 0
    while_it_lasts = load(pool, world, now=datetime(2025, 6, 1, tzinfo=UTC))
    assert while_it_lasts.unfinished == 1
    assert "y" not in while_it_lasts.periods["customer_ref"].to_list()


def test_who_is_billed_and_what_is_refused(pool: ConnectionPool, world: LocalLake) -> None:
    """A subscriber is without usage, too; a price of an average is not tried, nor a day archived under other rules."""
    item = CustomerItem(
        meter="api_calls", stripe_account_id="acct_1", stripe_subscription_id="sub_1", stripe_item_id="si_1"
    )
    with transaction(pool) as tx:
        replace_items(tx, "acme", "quiet", [item], stripe_account_id="acct_1", now=datetime(2025, 2, 20, tzinfo=UTC))
    starts = [row[1].month for row in load(pool, world).periods.iter_rows() if row[0] == "quiet"]
    assert starts == [2, 3]
    assert "nobody" not in load(pool, world).periods["customer_ref"].to_list()
    plan = parse_plan({"name": "p", "currency": "USD", "metrics": {"by_avg": {"model": "flat", "unitPrice": 1}}})
    with pytest.raises(InvalidInput, match="prices by_avg, but it counts by avg"):
        run_backtest(pool, world, tenant_id="acme", candidates=[plan], baseline=plan, first=FIRST, last=LAST, now=NOW)
    with transaction(pool) as tx:
        tx.execute(
            "insert into meters select tenant_id, name, 2, effective_on, true,"
            " jsonb_set(definition, '{aggregation}', '\"max\"'), actor, created_at from meters where name = 'by_min'"
        )
    with pytest.raises(Unavailable, match="was archived when by_min counted by min, and now it counts by max"):
        load(pool, world)
