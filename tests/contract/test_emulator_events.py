"""The emulator's meters, meter events and summaries: rules M and S of its RULES.md, through the official SDK."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
import stripe

from tests.emulator import RunningEmulator

NOW = 1_795_435_200  # 2026-11-23 12:00:00 UTC
MIDNIGHT = NOW - 12 * 3600


class Bench:
    """One meter and one customer at a frozen instant."""

    def __init__(self, emulator: RunningEmulator, **meter: Any) -> None:  # noqa: ANN401 - any parameter
        emulator.freeze(datetime.fromtimestamp(NOW, UTC))
        self.client = emulator.client()
        self.customer = self.client.v1.customers.create({"name": "Ada"}).id
        parameters: Any = {
            "display_name": "Calls",
            "event_name": "calls",
            "default_aggregation": {"formula": "sum"},
            **meter,
        }
        self.meter = self.client.v1.billing.meters.create(parameters).id

    def send(self, value: str, ts: int = NOW, identifier: str | None = None, **payload: str) -> None:
        """One event."""
        parameters: Any = {
            "event_name": "calls",
            "timestamp": ts,
            "payload": {"stripe_customer_id": self.customer, "value": value, **payload},
        }
        if identifier is not None:
            parameters["identifier"] = identifier
        self.client.v1.billing.meter_events.create(parameters)

    def summaries(self, start: int, end: int, window: str | None = None) -> dict[int, Decimal]:
        """Start of each window and its exact value."""
        parameters: Any = {"customer": self.customer, "start_time": start, "end_time": end, "limit": 100}
        if window is not None:
            parameters["value_grouping_window"] = window
        page = self.client.v1.billing.meters.event_summaries.list(self.meter, parameters)
        assert page.last_response is not None
        body = json.loads(page.last_response.body, parse_float=Decimal, parse_int=Decimal)
        return {int(row["start_time"]): row["aggregated_value"] for row in body["data"]}


def test_timestamps_have_a_window(emulator: RunningEmulator) -> None:
    """M1: 35 days back and 5 minutes ahead are the last seconds accepted."""
    bench = Bench(emulator)
    bench.send("1", NOW - 35 * 86_400)
    bench.send("1", NOW + 300)
    with pytest.raises(stripe.InvalidRequestError, match="no more than 35 days in the past"):
        bench.send("1", NOW - 35 * 86_400 - 1)
    with pytest.raises(stripe.InvalidRequestError, match="5 minutes in the future"):
        bench.send("1", NOW + 301)


def test_a_live_identifier_is_refused(emulator: RunningEmulator) -> None:
    """M3, M14: the second event of an identifier is a 400 without a code, under any Idempotency-Key; one is counted."""
    bench = Bench(emulator)
    bench.send("1", identifier="same")
    with pytest.raises(stripe.InvalidRequestError, match=r"An event already exists with identifier same\.$") as refused:
        bench.send("2", identifier="same")
    assert (refused.value.http_status, refused.value.code) == (400, None)
    assert refused.value.headers is not None
    assert refused.value.headers["stripe-should-retry"] == "false"
    assert bench.summaries(NOW, NOW + 60) == {NOW: 1}


def test_an_identifier_is_free_again_after_a_day(emulator: RunningEmulator) -> None:
    """M2: a blind resend after 24 hours is counted twice. This is why nobody may do it."""
    bench = Bench(emulator)
    bench.send("1", identifier="same")
    emulator.control("POST", "/clock", {"advance": 24 * 3600 - 1})
    with pytest.raises(stripe.InvalidRequestError, match="already exists"):
        bench.send("1", identifier="same")
    emulator.control("POST", "/clock", {"advance": 1})
    bench.send("1", identifier="same")
    assert bench.summaries(NOW, NOW + 60) == {NOW: 2}


def test_values(emulator: RunningEmulator) -> None:
    """M6-M8, S4: decimals and negatives are summed exactly; 16 digits, exponents and words are refused."""
    bench = Bench(emulator)
    for value in ("0.1", "0.2", "-0.05", "100000000000000", "0.000000000001", "001.50"):
        bench.send(value)
    for value in ("1234567890123456", "1.234567890123456"):
        with pytest.raises(stripe.InvalidRequestError, match="at most 15 digits"):
            bench.send(value)
    for value in ("1E3", "many", "+1", " 1", "NaN", "", "1."):
        with pytest.raises(stripe.InvalidRequestError, match="must be a number"):
            bench.send(value)
    assert bench.summaries(NOW, NOW + 60) == {NOW: Decimal("100000000000001.750000000001")}


@pytest.mark.parametrize(
    ("formula", "window", "expected"),
    [
        ("sum", None, Decimal(12)),
        ("count", None, Decimal(3)),
        ("last", None, Decimal(7)),
        ("sum", "hour", Decimal(9)),
    ],
)
def test_formulas(emulator: RunningEmulator, formula: str, window: str | None, expected: Decimal) -> None:
    """M9, M10: last goes by timestamp, not by receipt; an hour window keeps what it received last."""
    extra: dict[str, Any] = {"default_aggregation": {"formula": formula}}
    if window is not None:
        extra["event_time_window"] = window
    bench = Bench(emulator, **extra)
    bench.send("3", NOW - 120)
    bench.send("7", NOW)
    bench.send("2", NOW - 60)  # the same hour as the first, received later
    assert bench.summaries(MIDNIGHT, MIDNIGHT + 86_400) == {MIDNIGHT: expected}
    assert bench.summaries(NOW + 3600, NOW + 7200) == {NOW + 3600: 0}


def test_meters_live_and_die(emulator: RunningEmulator) -> None:
    """M11: one active meter per event name; only its display name changes; an inactive one counts nothing."""
    bench = Bench(emulator)
    meters = bench.client.v1.billing.meters
    with pytest.raises(stripe.InvalidRequestError, match="already exists"):
        meters.create({"display_name": "x", "event_name": "calls", "default_aggregation": {"formula": "sum"}})
    assert meters.update(bench.meter, {"display_name": "Requests"}).display_name == "Requests"
    assert meters.deactivate(bench.meter).status == "inactive"
    bench.send("5")
    assert [found.id for found in meters.list({"status": "active"}).data] == []
    assert meters.reactivate(bench.meter).status == "active"
    bench.send("2")
    assert bench.summaries(NOW, NOW + 60) == {NOW: 2}


def test_accepted_is_not_counted(emulator: RunningEmulator) -> None:
    """M13: an unknown customer or event name is answered 200 and counted nowhere; only the ledger tells."""
    bench = Bench(emulator)
    bench.send("1", stripe_customer_id="cus_nobody")
    bench.client.v1.billing.meter_events.create({"event_name": "typo", "payload": {"value": "1"}})
    emulator.fault(
        {"do": {"kind": "drop_async"}}, {"do": {"kind": "accept_then_async_reject", "code": "archived_meter"}}
    )
    bench.send("1")
    bench.send("1")
    told = [(event["state"], event["reason"]) for event in emulator.ledger()]
    assert told == [
        ("rejected", "meter_event_customer_not_found"),
        ("rejected", "no_meter"),
        ("dropped", None),
        ("rejected", "archived_meter"),
    ]
    assert bench.summaries(NOW, NOW + 60) == {NOW: 0}


def test_summaries_are_half_open_and_aligned(emulator: RunningEmulator) -> None:
    """S1-S3: the end is outside; ranges lie on minutes, hours or UTC midnights; empty windows are left out."""
    bench = Bench(emulator)
    for ts in (NOW - 60, NOW - 1, NOW, NOW - 86_400):
        bench.send("1", ts)
    assert bench.summaries(NOW - 60, NOW) == {NOW - 60: 2}
    assert bench.summaries(MIDNIGHT, NOW + 3600, "hour") == {NOW - 3600: 2, NOW: 1}
    assert bench.summaries(MIDNIGHT - 5 * 86_400, MIDNIGHT + 86_400, "day") == {MIDNIGHT: 3, MIDNIGHT - 86_400: 1}
    with pytest.raises(stripe.InvalidRequestError, match="aligned with minute boundaries"):
        bench.summaries(NOW - 30, NOW)
    with pytest.raises(stripe.InvalidRequestError, match=r"aligned with day \(UTC\) boundaries"):
        bench.summaries(NOW - 3600, NOW, "day")


def test_an_event_sent_twice_with_one_key_is_one_event(emulator: RunningEmulator) -> None:
    """K1 for events: 500 committed replays as 500 under its key, and as 'exists' under a new one."""
    bench = Bench(emulator)
    event: Any = {
        "event_name": "calls",
        "identifier": "i",
        "timestamp": NOW,
        "payload": {"stripe_customer_id": bench.customer, "value": "4"},
    }
    emulator.fault({"do": {"kind": "status", "status": 500, "committed": True}})
    for _ in range(2):
        with pytest.raises(stripe.APIError):
            bench.client.v1.billing.meter_events.create(event, {"idempotency_key": "i.0"})
    with pytest.raises(stripe.InvalidRequestError, match="already exists"):
        bench.client.v1.billing.meter_events.create(event, {"idempotency_key": "i.1"})
    assert bench.summaries(NOW, NOW + 60) == {NOW: 4}
