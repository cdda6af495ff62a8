"""Backtests on real counters: the lake and Postgres tell the same, and each delta is of whole invoices."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.billing import StripePrice
from stripemeter.errors import InvalidInput, InvariantBroken, NotFound
from stripemeter.pipeline.archive import archive_day
from stripemeter.pipeline.backtests import Backtest, Comparison, PlanRevenue, run_backtest
from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.price_versions import stripe_price_version
from stripemeter.pipeline.prices import say_price
from stripemeter.pricing import InvoiceSimulator
from stripemeter.pricing.plans import Plan, parse_plan, plan_invoice
from stripemeter.store.lake import LocalLake
from stripemeter.store.mappings import PriceMapping, create_mapping
from stripemeter.store.postgres import transaction
from stripemeter.store.prices import record_price
from stripemeter.store.usage import load_current_usage
from tests.laws.worlds import Fact, ingest_into

NOW = datetime(2026, 3, 10, tzinfo=UTC)
FIRST, LAST = date(2025, 1, 1), date(2025, 3, 1)
CALLS = {"model": "graduated", "tiers": [{"upTo": 10, "unitPrice": "0.105", "flatPrice": 1}, {"unitPrice": "0.05"}]}
OLD = parse_plan({"name": "old", "currency": "USD", "metrics": {"calls": {"model": "flat", "unitPrice": "0.1"}}})
NEW = parse_plan(
    {
        "name": "new",
        "currency": "USD",
        "metrics": {"calls": CALLS, "jobs": {"model": "package", "unitPrice": 2, "packageSize": 3}},
        "fees": [{"name": "platform", "amount": 5}],
        "minimums": [{"name": "floor", "amount": 9, "metrics": ["calls", "jobs"]}],
        "free": ["views"],
    }
)


def facts(seed: int = 1) -> list[Fact]:
    """Three months of three metrics and seven customers, one of whom rests in February."""
    random = Random(seed)
    found = []
    for number in range(120):
        customer = f"c{random.randrange(7)}"
        month = random.choice([1, 3] if customer == "c3" else [1, 2, 3])
        found.append(
            Fact(
                customer=customer,
                metric=random.choice(["calls", "calls", "jobs", "views"]),
                quantity=str(Decimal(random.randrange(1, 4_000)).scaleb(-random.randrange(4))),
                ts=datetime(2025, month, random.randrange(1, 5), random.randrange(24), tzinfo=UTC),
                key=str(number),
            )
        )
    return found


@pytest.fixture
def lake(tmp_path: Path) -> LocalLake:
    """An empty one."""
    return LocalLake(root=tmp_path / "lake")


@pytest.fixture
def used(pool: ConnectionPool, database_url: str) -> list[Fact]:
    """The facts, counted."""
    with ingest_into(database_url) as ingest:
        ingest.accept(facts())
    fold(pool)
    return facts()


def backtest(pool: ConnectionPool, lake: LocalLake, *candidates: Plan, baseline: Plan | None = OLD) -> Backtest:
    """Of the first quarter of 2025."""
    return run_backtest(
        pool, lake, tenant_id="acme", candidates=candidates, baseline=baseline, first=FIRST, last=LAST, now=NOW
    )


def totals(comparison: Comparison) -> tuple[int, int, int]:
    """Before, after and delta over all customers."""
    return tuple(int(comparison.deltas[name].sum()) for name in ("before", "after", "delta"))  # type: ignore[return-value]


def invoiced(pool: ConnectionPool, plan: Plan) -> dict[tuple[str, date, str], int]:
    """What the simulator bills for each customer's month, of the usage the API answers."""
    found: dict[tuple[str, date, str], int] = {}
    for customer in sorted({fact.customer for fact in facts()}):
        for month in (1, 2, 3):
            at = datetime(2025, month, 15, tzinfo=UTC)
            usage = load_current_usage(pool, tenant_id="acme", customer_ref=customer, at=at, now=NOW)
            if usage.metrics:
                quantities = dict.fromkeys(plan.metrics, Decimal(0))
                quantities |= {name: each.quantity for name, each in usage.metrics.items()}
                inputs = plan_invoice(
                    plan,
                    customer_id=customer,
                    period_start=usage.segment.start,
                    period_end=usage.segment.end,
                    quantities=quantities,
                )
                assert inputs is not None
                found[customer, date(2025, month, 1), "USD"] = InvoiceSimulator().simulate(inputs).total_minor
    return found


def rows(backtested: PlanRevenue) -> dict[tuple[str, date, str], int]:
    """Its invoices by customer, month and currency."""
    return {tuple(row[:3]): int(row[3]) for row in backtested.invoices.iter_rows()}


def test_a_backtest_is_the_sum_of_the_simulators_invoices(
    pool: ConnectionPool, lake: LocalLake, used: list[Fact]
) -> None:
    """To the last minor unit, per customer and month, whether days come from Postgres, from the lake, or from both."""
    from_postgres = backtest(pool, lake, NEW)
    expected = {name: invoiced(pool, plan) for name, plan in (("old", OLD), ("new", NEW))}
    days = sorted({fact.ts.date() for fact in used})
    for number, day in enumerate(days):
        if number % 2:
            archive_day(pool, lake, day)
    mixed = backtest(pool, lake, NEW)
    for day in days:
        archive_day(pool, lake, day)
    archived = backtest(pool, lake, NEW)
    for found in (from_postgres, mixed, archived):
        assert rows(found.baseline) == expected["old"]
        assert rows(found.comparisons[0].candidate) == expected["new"]
        before, after, delta = totals(found.comparisons[0])
        assert (before, after) == (sum(expected["old"].values()), sum(expected["new"].values()))
        assert delta == after - before
    assert sum(month.postgres_days for month in archived.days) == 0
    assert sum(month.lake_days for month in archived.days) == len(days)
    assert sum(month.lake_days + month.postgres_days + month.idle_days for month in mixed.days) == 90
    assert sum(month.postgres_days for month in from_postgres.days) == len(days)


def test_the_lake_is_really_read(pool: ConnectionPool, lake: LocalLake, used: list[Fact]) -> None:
    """A day's counters come from its file once it is archived, from Postgres again once it is counted anew."""
    day = min(fact.ts.date() for fact in used if fact.metric == "calls")
    archive_day(pool, lake, day)
    whole = totals(backtest(pool, lake, NEW).comparisons[0])
    with transaction(pool) as tx:
        tx.execute("delete from counters where day = %s", [day])
    assert totals(backtest(pool, lake, NEW).comparisons[0]) == whole
    with transaction(pool) as tx:
        tx.execute("update counter_days set last_folded_at = last_folded_at + interval '1 s' where day = %s", [day])
    assert totals(backtest(pool, lake, NEW).comparisons[0]) != whole


def test_a_damaged_day_is_refused_by_name(pool: ConnectionPool, lake: LocalLake, used: list[Fact]) -> None:
    """Never half a year priced silently."""
    day = min(fact.ts.date() for fact in used)
    archive_day(pool, lake, day)
    (part,) = lake.root.glob("counters/*/*/part.parquet")
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(InvariantBroken, match=f"day={day}"):
        backtest(pool, lake, NEW)


def test_the_baseline_itself_changes_nothing(pool: ConnectionPool, lake: LocalLake, used: list[Fact]) -> None:
    """Not for any customer; and the same backtest twice is equal."""
    same = Plan(name="same", currency=NEW.currency, metrics=NEW.metrics, fees=NEW.fees, minimums=NEW.minimums)
    one, two = (backtest(pool, lake, same, OLD, baseline=NEW) for _ in range(2))
    assert one.comparisons[0].deltas["delta"].to_list() == [0] * one.customers
    assert any(one.comparisons[1].deltas["delta"].to_list())
    for ours, theirs in zip(one.comparisons, two.comparisons, strict=True):
        assert ours.deltas.equals(theirs.deltas)
        assert ours.candidate.revenue.equals(theirs.candidate.revenue)


def test_todays_prices_are_the_baseline(pool: ConnectionPool, lake: LocalLake, used: list[Fact]) -> None:
    """A price set for a metric prices all months; a metric without one is named, and not priced as 0."""
    with pytest.raises(InvalidInput, match="no metric has a price today"):
        backtest(pool, lake, NEW, baseline=None)
    say_price(
        pool,
        {"model": "flat", "currency": "USD", "unitPrice": "0.1"},
        tenant_id="acme",
        meter="calls",
        effective_from=datetime(2026, 1, 1, tzinfo=UTC),
        now=NOW,
    )
    found = backtest(pool, lake, OLD, NEW, baseline=None)
    assert rows(found.baseline) == invoiced(pool, OLD)
    assert set(found.comparisons[0].deltas["delta"]) == {0}
    assert {each.metric: each.reason for each in found.baseline.unpriced} == dict.fromkeys(
        ["jobs", "views"], "no mapping names a price for it"
    )
    assert [each.metric for each in found.comparisons[1].candidate.unpriced] == []
    assert [change.path for change in found.comparisons[0].changes or ()] == []


def test_another_currency_is_not_compared(pool: ConnectionPool, lake: LocalLake, used: list[Fact]) -> None:
    """Dollars and euros are never subtracted: the refusal says which."""
    euros = parse_plan({"name": "euros", "currency": "EUR", "metrics": {"calls": {"model": "flat", "unitPrice": 1}}})
    with pytest.raises(InvalidInput, match="in EUR, and every customer is charged in USD"):
        backtest(pool, lake, euros)


def test_months_that_have_not_ended_are_refused(pool: ConnectionPool, lake: LocalLake) -> None:
    """Half a month is never priced as one."""
    with pytest.raises(InvalidInput, match="2026-03 has not ended"):
        run_backtest(
            pool, lake, tenant_id="acme", candidates=[NEW], baseline=OLD, first=FIRST, last=date(2026, 3, 1), now=NOW
        )


def test_customers_are_priced_as_they_stand(pool: ConnectionPool, lake: LocalLake, used: list[Fact]) -> None:
    """By their own item's price, their account's, else the newest mapping's; other currencies are not compared."""
    for account, currency in (("acct_us", "usd"), ("acct_eu", "eur")):
        map_calls(pool, account, f"price_{currency}")
        stripe_price(pool, account, f"price_{currency}", currency, 10)
    stripe_price(pool, "acct_us", "price_own", "usd", 20)
    with transaction(pool) as tx:
        for customer, account in (("c0", "acct_us"), ("c1", "acct_eu"), ("c2", "acct_us")):
            tx.execute(
                "insert into customer_bindings values ('acme', %s, %s, %s, now())",
                [customer, account, f"cus_{customer}"],
            )
        tx.execute(
            "insert into item_prices values ('acme', 'c2', 'calls', 'acct_us', 'price_own', '0001-01-01', now())"
        )
    found = backtest(pool, lake, OLD, baseline=None)
    single = invoiced(pool, OLD)
    charged = rows(found.baseline)
    for (customer, month, _), amount in single.items():
        currency = {"c1": "EUR"}.get(customer, "USD")
        expected = amount * 2 if customer == "c2" else amount
        assert abs(charged[customer, month, currency] - expected) <= 1, (customer, month)
    (comparison,) = found.comparisons
    assert comparison.incomparable == ("c1",)
    assert comparison.changes is None
    deltas = {row[0]: int(row[3]) for row in comparison.deltas.iter_rows()}
    assert deltas["c2"] < 0
    assert {customer for customer, delta in deltas.items() if delta} == {"c2"}
    assert set(found.baseline.totals()) == {"EUR", "USD"}


def test_a_tenant_nobody_knows_is_refused(pool: ConnectionPool, lake: LocalLake) -> None:
    """A misspelt tenant is no tenant without revenue."""
    with pytest.raises(NotFound, match="no customer of acme"):
        backtest(pool, lake, NEW)


def map_calls(pool: ConnectionPool, account: str, price_id: str) -> None:
    """Bill `calls` at an account by a price; not the newest but the bound account's decides."""
    with transaction(pool) as tx:
        create_mapping(
            tx,
            PriceMapping(
                id=uuid.uuid4(),
                tenant_id="acme",
                meter="calls",
                aggregation="sum",
                stripe_account_id=account,
                stripe_event_name="calls",
                stripe_meter_id=f"mtr_{account}",
                mode="shadow",
                is_shadow=True,
                created_at=NOW - timedelta(days=account == "acct_eu"),
                price_id=price_id,
            ),
        )


def stripe_price(pool: ConnectionPool, account: str, price_id: str, currency: str, unit: int) -> None:
    """A price as an account told it, so many cents a unit."""
    price = StripePrice(
        price_id=price_id,
        currency=currency,
        is_active=True,
        stripe_meter_id="mtr_1",
        created_at=NOW - timedelta(days=400),
        document={"id": price_id, "currency": currency, "unit_amount": unit},
    )
    with transaction(pool) as tx:
        assert record_price(tx, stripe_price_version(price, stripe_account_id=account, now=NOW))
