"""Projections: which price a metric has, what is forecast from which days, and how wrong that was before."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.billing import StripePrice
from stripemeter.errors import InvalidInput
from stripemeter.metering.segments import BEGINNING, Segment, parse_phase
from stripemeter.pipeline.meters import create_meter
from stripemeter.pipeline.price_versions import stripe_price_version
from stripemeter.pipeline.prices import say_price
from stripemeter.pipeline.projections import Projection, project_cost
from stripemeter.pricing import InvoiceSimulator
from stripemeter.store.customers import CustomerItem, CustomerPhase, replace_items, replace_phases
from stripemeter.store.mappings import CustomerBinding, PriceMapping, bind_customer, create_mapping
from stripemeter.store.postgres import transaction
from stripemeter.store.prices import record_price
from tests.adjusting import adjust

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
DAY = timedelta(days=1)
START, END = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)
LONG_AGO = NOW - 400 * DAY
FLAT = {"model": "flat", "currency": "USD", "unitPrice": "0.02"}


def count(pool: ConnectionPool, meter: str, quantity: int, at: datetime, customer: str = "ada") -> None:
    """A day's counter of one event, as the fold leaves it; of whole UTC months."""
    with transaction(pool) as tx:
        tx.execute(
            """
            insert into counters (tenant_id, customer_ref, meter, day, segment_start, event_count, quantity_sum,
                quantity_min, quantity_max, quantity_last, last_ts, last_seq)
            values ('acme', %(customer)s, %(meter)s, %(day)s, date_trunc('month', %(at)s, 'UTC'), 1, %(q)s, %(q)s,
                %(q)s, %(q)s, %(at)s, 1)
            """,
            {"customer": customer, "meter": meter, "day": at.date(), "at": at, "q": quantity},
        )


def own_price(pool: ConnectionPool, meter: str, since: datetime = LONG_AGO, **config: Any) -> None:  # noqa: ANN401
    """A price of the tenant's own; two cents a unit unless told otherwise."""
    assert say_price(pool, FLAT | config, tenant_id="acme", meter=meter, effective_from=since, now=NOW)


def map_meter(pool: ConnectionPool, meter: str, **more: Any) -> None:  # noqa: ANN401 - any member
    """A shadow mapping."""
    mapping: dict[str, Any] = {
        "id": uuid.uuid4(),
        "tenant_id": "acme",
        "meter": meter,
        "aggregation": "sum",
        "stripe_account_id": "acct_1",
        "stripe_event_name": meter,
        "stripe_meter_id": f"mtr_{meter}",
        "mode": "shadow",
        "is_shadow": True,
        "created_at": NOW,
    }
    with transaction(pool) as tx:
        create_mapping(tx, PriceMapping(**(mapping | more)))


def stripe_price(pool: ConnectionPool, price_id: str, unit: int, account: str = "acct_1", **more: Any) -> None:  # noqa: ANN401
    """A price as an account told it, so many cents a unit."""
    price = StripePrice(
        price_id=price_id,
        currency="usd",
        is_active=True,
        stripe_meter_id="mtr_1",
        created_at=LONG_AGO,
        document={"id": price_id, "currency": "usd", "unit_amount": unit, **more},
    )
    with transaction(pool) as tx:
        assert record_price(tx, stripe_price_version(price, stripe_account_id=account, now=NOW))


def bind(pool: ConnectionPool, account: str) -> None:
    """`ada` is a customer there."""
    with transaction(pool) as tx:
        bind_customer(
            tx,
            CustomerBinding(
                tenant_id="acme",
                customer_ref="ada",
                stripe_account_id=account,
                stripe_customer_id=f"cus_{account}",
                created_at=NOW,
            ),
        )


def project(pool: ConnectionPool, period: Segment | None = None, now: datetime = NOW) -> Projection:
    """Ada's."""
    return project_cost(pool, tenant_id="acme", customer_ref="ada", period=period, rounding="half_up", now=now)


def reasons(found: Projection) -> dict[str, str]:
    """Why metrics have no price."""
    return {metric.meter: metric.reason for metric in found.usage.unpriced}


def amounts(found: Projection) -> dict[str, int]:
    """Cost to date by metric, in minor units."""
    return {line.metric.meter: line.quote.total_minor for line in found.lines}


def test_a_metric_without_a_known_price_is_named_and_never_free(pool: ConnectionPool) -> None:
    """Each reason there can be; such a metric is in no sum, and without any priced one there is none."""
    map_meter(pool, "off", mode="off", price_id="price_1")
    map_meter(pool, "named")
    map_meter(pool, "unknown", price_id="price_unknown")
    map_meter(pool, "peak", price_id="price_1", aggregation="max")
    map_meter(pool, "odd", price_id="price_odd")
    stripe_price(pool, "price_1", 2)
    stripe_price(pool, "price_odd", 2, currency="ugx")
    own_price(pool, "young", since=END)
    for meter in ("unmapped", "off", "named", "unknown", "odd", "young"):
        count(pool, meter, 5, NOW)
    found = project(pool)
    assert (found.lines, found.totals) == ((), ())
    own = "and the metric has no price of its own (stripemeter prices set)"
    assert reasons(found) == {
        "unmapped": f"no mapping names a price for it, {own}",
        "off": f"its mapping is off, {own}",
        "named": f"it is mapped by the event name 'named', which names no price, {own}",
        "unknown": "the terms of price_unknown are not known yet: run stripemeter prices sync",
        "odd": "the terms of price_odd cannot be computed: currency: Stripe's pages contradict each other on the "
        "decimals of UGX",
        "young": "the price young holds from 2026-12-01T00:00:00Z on, which is not before the period's end",
    }
    assert {metric.quantity for metric in found.usage.unpriced} == {5}


def test_the_price_is_that_of_the_mapping_that_counts(pool: ConnectionPool) -> None:
    """Live before shadow before one's own; of two accounts the customer's; of the same id the account's."""
    for meter in ("calls", "disk", "own", "idle"):
        own_price(pool, meter)
        if meter != "idle":
            count(pool, meter, 100, NOW)
    stripe_price(pool, "price_1", 3)
    stripe_price(pool, "price_1", 5, account="acct_2")
    map_meter(pool, "calls", price_id="price_1")
    map_meter(pool, "calls", price_id="price_1", stripe_account_id="acct_2", mode="live", is_shadow=False)
    map_meter(pool, "disk", price_id="price_1", stripe_account_id="acct_2", stripe_event_name="disk_2")
    map_meter(pool, "disk", price_id="price_1")
    map_meter(pool, "idle", price_id="price_1")
    assert amounts(project(pool))["calls"] == 500
    bind(pool, "acct_1")
    assert amounts(project(pool)) == {"calls": 500, "disk": 300, "own": 200, "idle": 0}


def test_each_period_has_its_own_version_of_a_price(pool: ConnectionPool) -> None:
    """A price that rose within November prices all of it, and October by what held then."""
    own_price(pool, "calls")
    own_price(pool, "calls", since=NOW - DAY, unitPrice="0.05")
    count(pool, "calls", 10, START - DAY)
    count(pool, "calls", 10, START)
    october = Segment(start=datetime(2026, 10, 1, tzinfo=UTC), end=START)
    assert (amounts(project(pool)), amounts(project(pool, october))) == ({"calls": 50}, {"calls": 20})


def test_items_that_are_recorded_say_what_is_billed_anyway(pool: ConnectionPool) -> None:
    """Who has an item for one of two mapped metrics is not charged the other's flat amount; what was used is priced."""
    tiers = [{"up_to": None, "unit_amount": 1, "flat_amount": 900}]
    stripe_price(pool, "price_1", 0, unit_amount=None, billing_scheme="tiered", tiers_mode="volume", tiers=tiers)
    for meter in ("calls", "disk"):
        map_meter(pool, meter, price_id="price_1")
    assert amounts(project(pool)) == {}
    bind(pool, "acct_1")
    assert amounts(project(pool)) == {"calls": 900, "disk": 900}
    item = CustomerItem(meter="disk", stripe_account_id="acct_1", stripe_subscription_id="sub_1", stripe_item_id="si_1")
    with transaction(pool) as tx:
        replace_items(tx, "acme", "ada", [item], stripe_account_id="acct_1", now=NOW)
    assert amounts(project(pool)) == {"disk": 900}
    count(pool, "calls", 1, NOW)
    assert amounts(project(pool)) == {"calls": 901, "disk": 900}


def test_a_mapping_that_bills_another_number_prices_nothing(pool: ConnectionPool) -> None:
    """What is priced is what is counted: a meter defined otherwise than its mapping bills has no price."""
    create_meter(pool, "acme", {"name": "calls", "aggregation": "count"}, effective_on=None, actor="ann", now=NOW)
    stripe_price(pool, "price_1", 3)
    map_meter(pool, "calls", price_id="price_1")
    count(pool, "calls", 100, NOW)
    assert reasons(project(pool)) == {"calls": "it counts as count, and its mapping bills sum"}


def test_cost_to_date_is_the_simulators_invoice(pool: ConnectionPool) -> None:
    """The same line items, subtotal and total as the original's scenario of the same usage and price."""
    tiers = [{"upTo": 10, "unitPrice": "0.5", "flatPrice": 9}, {"upTo": None, "unitPrice": "0.015"}]
    config = {"model": "graduated", "currency": "USD", "tiers": tiers}
    assert say_price(pool, config, tenant_id="acme", meter="calls", effective_from=LONG_AGO, now=NOW)
    own_price(pool, "disk")
    count(pool, "calls", 13, NOW - DAY)
    count(pool, "disk", 7, NOW)
    items = [
        {"metric": "calls", "quantity": 13, "priceConfig": config},
        {"metric": "disk", "quantity": 7, "priceConfig": FLAT},
    ]
    said = {"customerId": "ada", "periodStart": START, "periodEnd": END, "usageItems": items}
    (total,) = project(pool).totals
    simulated = InvoiceSimulator().simulate(said)
    assert total.invoice.to_dict()["lineItems"] == simulated.to_dict()["lineItems"]
    assert (total.invoice.subtotal, total.invoice.total) == (simulated.subtotal, simulated.total)
    assert total.invoice.total == Decimal("14.19")  # 10 at 0.50, the flat 9.00, 3 at 0.015 are 0.045, 7 at 0.02


def test_weekdays_are_told_apart(pool: ConnectionPool) -> None:
    """Usage on working days only: half of today is to come, the weekend brings nothing; the past was as forecast."""
    own_price(pool, "calls")
    for back in range(128):
        at = NOW - DAY * back
        if at.weekday() < 5:
            count(pool, "calls", 100 if back else 50, at)
    (line,) = project(pool).lines
    # 15 whole working days of November and half of this Monday are over; the other half and five days to come.
    assert line.metric.quantity == 1550
    assert line.forecast is not None
    assert (line.forecast.quote.quantity, line.forecast.method) == (2100, "weekday_rates")
    assert line.forecast.quote.total_minor == 4200
    assert len(line.forecast.backcasts) == 3
    assert (line.forecast.quantity_error_pct, line.forecast.amount_error_pct) == (0, 0)


def test_a_forecast_says_how_wrong_it_was(pool: ConnectionPool) -> None:
    """Who doubled a month ago was forecast half of what came; an adjustment is part of the cost and of no rate."""
    own_price(pool, "calls")
    for back in range(1, 128):
        count(pool, "calls", 100 if back > 30 else 200, NOW - DAY * back)
    adjust(pool, "acme", "-400", NOW - 3 * DAY, metric="calls", customer_ref="ada")
    (line,) = project(pool).lines
    assert line.metric.quantity == 22 * 200 - 400
    assert line.forecast is not None
    assert line.forecast.quote.quantity == 4000 + 7 * 200 + 100
    first, *earlier = line.forecast.backcasts
    # 30 days ago 22 days of 100 were over, and on each of the 8 to come there were 200.
    assert (first.forecast, first.actual) == (3000, 3800)
    assert [(each.forecast, each.actual) for each in earlier] == [(3000, 3000), (3000, 3000)]
    assert line.forecast.quantity_error_pct == Decimal("7.02")  # a third of 800 in 3800
    (total,) = project(pool).totals
    assert (total.forecast, total.error_pct) == (Decimal("110.00"), Decimal("7.02"))


def test_what_days_do_not_add_up_to_is_held(pool: ConnectionPool) -> None:
    """A peak is forecast as it is; one that was never reported stays unused; one from today alone has no forecast."""
    stripe_price(pool, "price_1", 3)
    map_meter(pool, "seats", price_id="price_1", aggregation="max")
    map_meter(pool, "idle", price_id="price_1")
    map_meter(pool, "past", price_id="price_1", aggregation="max")
    count(pool, "past", 50, START - DAY)
    bind(pool, "acct_1")
    own_price(pool, "fresh")
    count(pool, "seats", 9, NOW - DAY)
    count(pool, "fresh", 9, NOW)
    found = {line.metric.meter: line.forecast for line in project(pool).lines}
    assert found["fresh"] is None
    seats, idle, past = found["seats"], found["idle"], found["past"]
    assert seats is not None
    assert idle is not None
    assert past is not None
    assert (past.quote.quantity, past.method) == (0, "held")
    assert (seats.quote.quantity, seats.method, seats.quantity_error_pct) == (9, "held", None)
    assert (idle.quote.quantity, idle.method) == (0, "unused")
    (total,) = project(pool).totals
    assert (total.invoice.total, total.forecast) == (Decimal("0.45"), None)


def test_a_period_that_is_over_costs_what_it_cost(pool: ConnectionPool) -> None:
    """Nothing is to come; the period must be one of the customer's, and the refusal says which one it would be."""
    own_price(pool, "calls")
    count(pool, "calls", 5, START - DAY)
    count(pool, "calls", 7, START)
    october = Segment(start=datetime(2026, 10, 1, tzinfo=UTC), end=START)
    (line,) = project(pool, october).lines
    assert line.forecast is not None
    assert (line.quote.total_minor, line.forecast.quote.total_minor, line.forecast.method) == (10, 10, "period_over")
    for period, field in (
        (Segment(start=START, end=END - DAY), "periodEnd"),
        (Segment(start=NOW, end=END), "periodStart"),
    ):
        with pytest.raises(InvalidInput, match="2026-11-01T00:00:00Z to 2026-12-01T00:00:00Z") as refused:
            project(pool, period)
        assert refused.value.field == field


def test_a_metric_with_billing_phases_of_its_own_has_its_own_period(pool: ConnectionPool) -> None:
    """Its cost and forecast are those of its weeks, also when nothing was used in this one."""
    stripe_price(pool, "price_1", 3)
    for meter in ("calls", "disk"):
        map_meter(pool, meter, price_id="price_1")
    bind(pool, "acct_1")
    phase = parse_phase(cadence="week", starts_at=BEGINNING, anchor_at=datetime(2026, 11, 16, tzinfo=UTC))
    with transaction(pool) as tx:
        replace_phases(tx, "acme", "ada", [CustomerPhase(meter="disk", phase=phase, reason="")], now=NOW)
    found = {line.metric.meter: line.metric.segment for line in project(pool).lines}
    assert found == {
        "calls": Segment(start=START, end=END),
        "disk": Segment(start=datetime(2026, 11, 23, tzinfo=UTC), end=datetime(2026, 11, 30, tzinfo=UTC)),
    }


def test_below_zero_costs_nothing(pool: ConnectionPool) -> None:
    """A credit beyond the usage is priced as 0, as Stripe bills it."""
    own_price(pool, "calls")
    adjust(pool, "acme", "-400", NOW - 3 * DAY, metric="calls", customer_ref="ada")
    assert amounts(project(pool)) == {"calls": 0}
