"""The same rules asked of the emulator and of Stripe itself.

Of Stripe only with STRIPE_SANDBOX_KEY, a key of a sandbox: its tests make objects there and end them. What Stripe
leaves open is not asserted here but asked by the probe (`make stripe-probe`).
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import stripe

from tests.emulator import RunningEmulator
from tools.stripe_probe.desk import Desk, open_desk

KEY = os.environ.get("STRIPE_SANDBOX_KEY", "")
NOW = datetime(2026, 11, 23, 12, 10, 20, tzinfo=UTC)
DAY = 86_400
VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "stripe_price_vectors.json").read_text(encoding="utf-8")
)["vectors"]


@pytest.fixture(
    params=[
        "emulator",
        pytest.param("sandbox", marks=pytest.mark.skipif(not KEY, reason="never run against Stripe")),
    ]
)
def desk(request: pytest.FixtureRequest) -> Iterator[Desk]:
    """An account at the emulator, its clock frozen, or in a sandbox of Stripe's."""
    if request.param == "sandbox":
        with open_desk(KEY) as opened:
            yield opened
        return
    emulator: RunningEmulator = request.getfixturevalue("emulator")
    emulator.freeze(NOW)
    with open_desk(emulator.key, emulator_url=emulator.url) as opened:
        yield opened


def test_meters_live_and_die(desk: Desk) -> None:
    """M11: one active meter an event name; only the display name changes."""
    meters, meter = desk.client.v1.billing.meters, desk.meter()
    given: Any = {
        "display_name": "x",
        "event_name": meter.event_name,
        "default_aggregation": {"formula": "sum"},
    }
    with pytest.raises(stripe.InvalidRequestError):
        meters.create(given)
    assert meters.update(meter.id, {"display_name": "Requests"}).display_name == "Requests"
    unknown: Any = {"event_name": "other"}
    with pytest.raises(stripe.InvalidRequestError) as refused:
        meters.update(meter.id, unknown)
    assert refused.value.code == "parameter_unknown"
    assert meters.deactivate(meter.id).status == "inactive"
    assert meters.reactivate(meter.id).status == "active"
    found = meters.retrieve(meter.id)
    assert (found.customer_mapping.event_payload_key, found.value_settings.event_payload_key) == (
        "stripe_customer_id",
        "value",
    )


def test_an_event_is_told_back(desk: Desk) -> None:
    """What was sent is answered, with an identifier when none was given."""
    meter, customer = desk.meter(), desk.customer()
    payload = {"stripe_customer_id": customer, "value": "25"}
    told = desk.client.v1.billing.meter_events.create({"event_name": meter.event_name, "payload": payload})
    assert (told.object, told.event_name, told.livemode) == ("billing.meter_event", meter.event_name, False)
    assert told.payload.to_dict() == payload
    assert told.identifier


def test_timestamps_have_a_window(desk: Desk) -> None:
    """M1: 35 days back, 5 minutes ahead; a minute on either side is enough to know."""
    meter, customer, now = desk.meter(), desk.customer(), desk.now()
    assert desk.send(meter, customer, "1", timestamp=now - 35 * DAY + 60) is None
    assert desk.send(meter, customer, "1", timestamp=now + 240) is None
    assert desk.send(meter, customer, "1", timestamp=now - 35 * DAY - 60) is not None
    assert desk.send(meter, customer, "1", timestamp=now + 360) is not None


def test_a_live_identifier_is_refused(desk: Desk) -> None:
    """M3: 400 with a sentence and no code, not to be retried; one of the two counts."""
    meter, customer = desk.meter(), desk.customer()
    identifier, minute = uuid.uuid4().hex, desk.now() // 60 * 60 - 60
    assert desk.send(meter, customer, "3", identifier=identifier, timestamp=minute) is None
    event: Any = {
        "event_name": meter.event_name,
        "identifier": identifier,
        "timestamp": minute,
        "payload": {"stripe_customer_id": customer, "value": "4"},
    }
    with pytest.raises(stripe.InvalidRequestError) as refused:
        desk.client.v1.billing.meter_events.create(event)
    assert (refused.value.http_status, refused.value.code) == (400, None)
    assert refused.value.user_message == f"An event already exists with identifier {identifier}."
    headers = {name.lower(): value for name, value in dict(refused.value.headers or {}).items()}
    assert headers["stripe-should-retry"] == "false"
    total, _ = desk.until(lambda: desk.total(meter, customer, minute, minute + 60), bool)
    assert total == 3


def test_values_have_fifteen_digits(desk: Desk) -> None:
    """M6-M8: decimals and negatives are taken, sixteen significant digits are not."""
    meter, customer, minute = desk.meter(), desk.customer(), desk.now() // 60 * 60 - 60
    for value in ("1.5", "-0.25", "100000000000000"):
        assert desk.send(meter, customer, value, timestamp=minute) is None
    assert desk.send(meter, customer, "1234567890123456", timestamp=minute) is not None
    desk.until(
        lambda: desk.total(meter, customer, minute, minute + 60), lambda total: abs(total - 100000000000001.25) < 0.1
    )


def test_an_idempotency_key_replays(desk: Desk) -> None:
    """K1, K2: the same answer to the same request, an error to another one."""
    key = uuid.uuid4().hex
    first = desk.client.v1.products.create({"name": desk.tag}, {"idempotency_key": key})
    again = desk.client.v1.products.create({"name": desk.tag}, {"idempotency_key": key})
    desk.client.v1.products.update(first.id, {"active": False})
    assert again.id == first.id
    assert again.last_response is not None
    headers = {name.lower(): value for name, value in dict(again.last_response.headers).items()}
    assert headers["idempotent-replayed"] == "true"
    with pytest.raises(stripe.IdempotencyError):
        desk.client.v1.products.create({"name": "another"}, {"idempotency_key": key})


def test_summaries_add_up(desk: Desk) -> None:
    """S1-S3: by range and by hour; off the minute is refused."""
    meter, customer = desk.meter(), desk.customer()
    hour = desk.now() // 3_600 * 3_600 - 7_200
    for value, ts in (("1", hour + 600), ("2", hour + 660), ("4", hour + 3_600 + 600)):
        desk.send(meter, customer, value, timestamp=ts)
    desk.until(lambda: desk.total(meter, customer, hour, hour + 7_200), lambda total: total == 7)
    assert desk.total(meter, customer, hour + 600, hour + 720) == 3
    by_hour = desk.summaries(meter, customer, hour, hour + 7_200, value_grouping_window="hour")
    assert by_hour == [4, 3]
    with pytest.raises(stripe.InvalidRequestError):
        desk.total(meter, customer, hour + 1, hour + 61)
    with pytest.raises(stripe.InvalidRequestError):
        desk.summaries(meter, customer, hour + 60, hour + 3_660, value_grouping_window="hour")


@pytest.mark.parametrize(("formula", "expected"), [("sum", 9), ("count", 2), ("last", 7)])
def test_formulas(desk: Desk, formula: str, expected: int) -> None:
    """M9: sum, count and last of the same two events."""
    meter, customer, minute = desk.meter(formula=formula), desk.customer(), desk.now() // 60 * 60 - 180
    desk.send(meter, customer, "2", timestamp=minute)
    desk.send(meter, customer, "7", timestamp=minute + 60)
    desk.until(lambda: desk.total(meter, customer, minute, minute + 180), lambda total: total == expected)


def test_an_event_is_cancelled(desk: Desk) -> None:
    """J1: it counts no longer."""
    meter, customer, minute = desk.meter(), desk.customer(), desk.now() // 60 * 60 - 60
    identifier = uuid.uuid4().hex
    desk.send(meter, customer, "5", timestamp=minute, identifier=identifier)
    desk.send(meter, customer, "1", timestamp=minute)
    desk.until(lambda: desk.total(meter, customer, minute, minute + 60), lambda total: total == 6)
    told = desk.client.v1.billing.meter_event_adjustments.create(
        {"type": "cancel", "event_name": meter.event_name, "cancel": {"identifier": identifier}}
    )
    assert told.status in ("pending", "complete")
    desk.until(lambda: desk.total(meter, customer, minute, minute + 60), lambda total: total == 1)


def test_prices_keep_their_tiers_to_themselves(desk: Desk) -> None:
    """R2, R3, R5: tiers only when expanded; amounts never change; a metered price needs a meter."""
    meter, prices = desk.meter(), desk.client.v1.prices
    tiers = [{"up_to": 10, "unit_amount_decimal": "0.5", "flat_amount": 100}, {"up_to": "inf", "unit_amount": 3}]
    amounts = {"currency": "usd", "billing_scheme": "tiered", "tiers_mode": "graduated", "tiers": tiers}
    made = desk.price_of(meter.id, amounts)
    assert "tiers" not in prices.retrieve(made)
    found = prices.retrieve(made, {"expand": ["tiers"]}).tiers or []
    assert [(tier.up_to, str(tier.unit_amount_decimal), tier.flat_amount) for tier in found] == [
        (10, "0.5", 100),
        (None, "3", None),
    ]
    unknown: Any = {"unit_amount": 3}
    with pytest.raises(stripe.InvalidRequestError) as refused:
        prices.update(made, unknown)
    assert refused.value.code == "parameter_unknown"
    meterless: Any = {
        "currency": "usd",
        "unit_amount": 1,
        "product": desk.product(),
        "recurring": {"interval": "month", "usage_type": "metered"},
    }
    with pytest.raises(stripe.InvalidRequestError, match="must be backed by meters"):
        prices.create(meterless)


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["id"] for vector in VECTORS])
def test_a_preview_costs_what_the_source_says(desk: Desk, vector: dict[str, Any]) -> None:
    """L1-L5: every sourced total on a preview."""
    meter, customer = desk.meter(), desk.customer()
    amounts = dict(vector["price"])
    if "tiers" in amounts:
        amounts["tiers"] = [
            {name: value for name, value in tier.items() if value is not None} for tier in amounts["tiers"]
        ]
    subscription = desk.subscribe(customer, desk.price_of(meter.id, amounts)).id
    minute = desk.now() // 60 * 60
    if vector["quantity"] != "0":
        desk.send(meter, customer, vector["quantity"])
        desk.until(lambda: desk.total(meter, customer, minute, minute + 120), bool)
    total, _ = desk.until(
        lambda: desk.client.v1.invoices.create_preview({"subscription": subscription}).subtotal,
        lambda subtotal: subtotal == vector["expected_total"],
    )
    assert total == vector["expected_total"]


def test_month_ends_are_clamped_from_the_anchor(desk: Desk) -> None:
    """P13, P14, T3: on a test clock: Jan 31, Feb 28, Mar 31."""
    days = [
        int(datetime(2026, month, day, 10, 30, tzinfo=UTC).timestamp()) for month, day in ((1, 31), (2, 28), (3, 31))
    ]
    clock = desk.test_clock(days[0])
    subscription = desk.subscribe(desk.customer(test_clock=clock), desk.price(desk.meter().id, "1")).id
    desk.advance(clock, days[1] + 60)
    item = desk.client.v1.subscriptions.retrieve(subscription)["items"].data[0]
    assert (item.current_period_start, item.current_period_end) == (days[1], days[2])


def test_a_clock_has_limits(desk: Desk) -> None:
    """T2: forward only, at most two years without a subscription; three customers."""
    now = desk.now()
    clock = desk.test_clock(now)
    clocks = desk.client.v1.test_helpers.test_clocks
    for to in (now - 1, now + 3 * 366 * DAY):
        with pytest.raises(stripe.InvalidRequestError):
            clocks.advance(clock, {"frozen_time": to})
    for _ in range(3):
        desk.customer(test_clock=clock)
    with pytest.raises(stripe.InvalidRequestError):
        desk.customer(test_clock=clock)


def test_credits_are_granted_and_voided(desk: Desk) -> None:
    """C7, C9: the balance is the grant's, and nothing once it is voided."""
    customer, billing = desk.customer(), desk.client.v1.billing
    grant = billing.credit_grants.create(
        {
            "customer": customer,
            "amount": {"type": "monetary", "monetary": {"currency": "usd", "value": 1_000}},
            "applicability_config": {"scope": {"price_type": "metered"}},
        }
    )
    assert (grant.priority, grant.category, grant.voided_at) == (50, "paid", None)

    def available() -> list[int]:
        summary = billing.credit_balance_summary.retrieve(
            {"customer": customer, "filter": {"type": "credit_grant", "credit_grant": grant.id}}
        )
        told = [balance.available_balance.monetary for balance in summary.balances]
        return [balance.value for balance in told if balance is not None]

    assert available() == [1_000]
    assert billing.credit_grants.void_grant(grant.id).voided_at is not None
    assert sum(available()) == 0
    kinds = [
        (transaction.credit or transaction.debit)
        for transaction in billing.credit_balance_transactions.list({"customer": customer}).data
    ]
    assert {str(kind.type) for kind in kinds if kind is not None} == {"credits_granted", "credits_voided"}


def test_what_is_not_there_is_404(desk: Desk) -> None:
    """W1, W3."""
    with pytest.raises(stripe.InvalidRequestError, match="No such customer: 'cus_nobodyofthisname'") as refused:
        desk.client.v1.customers.retrieve("cus_nobodyofthisname")
    assert (refused.value.http_status, refused.value.code) == (404, "resource_missing")
    with pytest.raises(stripe.InvalidRequestError, match="Unrecognized request URL"):
        desk.client.raw_request("get", "/v1/no_such_path")
