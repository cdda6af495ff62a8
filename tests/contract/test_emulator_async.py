"""The emulator's way from accepted to counted: lag, identifiers, concurrency, cancels, faults, snapshots."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import stripe

from tests.emulator import RunningEmulator, start_emulator

NOW = 1_795_435_200  # 2026-11-23 12:00:00 UTC
DAY = 86_400


class Metered:
    """One meter and one customer at a frozen instant."""

    def __init__(self, emulator: RunningEmulator) -> None:
        self.emulator = emulator
        self.at(NOW)
        self.client = emulator.client()
        self.account = self.client.v1.accounts.retrieve_current().id
        self.customer = self.client.v1.customers.create({"name": "Ada"}).id
        self.meter = self.add_meter("calls")

    def add_meter(self, event_name: str) -> str:
        """Another meter."""
        parameters: Any = {
            "display_name": event_name,
            "event_name": event_name,
            "default_aggregation": {"formula": "sum"},
        }
        return self.client.v1.billing.meters.create(parameters).id

    def at(self, now: int) -> None:
        """Move the frozen clock."""
        self.emulator.freeze(datetime.fromtimestamp(now, UTC))

    def send(self, value: str, identifier: str, *, customer: str | None = None, name: str = "calls") -> None:
        """One event at NOW."""
        self.client.v1.billing.meter_events.create(
            {
                "event_name": name,
                "identifier": identifier,
                "timestamp": NOW,
                "payload": {"stripe_customer_id": customer or self.customer, "value": value},
            }
        )

    def total(self, window: str | None = None, end: int = NOW + 3_600) -> list[Decimal]:
        """What the summaries say of the hour from NOW, or of each window."""
        parameters: Any = {"customer": self.customer, "start_time": NOW, "end_time": end}
        if window is not None:
            parameters["value_grouping_window"] = window
        page = self.client.v1.billing.meters.event_summaries.list(self.meter, parameters)
        return [Decimal(str(row.aggregated_value)) for row in page.data]

    def state_of(self, identifier: str) -> str:
        """What the ledger says of an event."""
        states = [event["state"] for event in self.emulator.ledger() if event["identifier"] == identifier]
        return str(states[-1])


@pytest.fixture
def metered(emulator: RunningEmulator) -> Metered:
    """A meter and a customer."""
    return Metered(emulator)


def test_accepted_events_count_after_the_lag(metered: Metered) -> None:
    """I1: an event is queued for the lag's seconds of the emulator's clock; flushing ends the wait."""
    metered.emulator.control("POST", "/ingest_lag", {"seconds": 90})
    metered.send("3", "a")
    metered.at(NOW + 89)
    assert (metered.total(), metered.state_of("a")) == ([0], "queued")
    metered.at(NOW + 90)
    assert (metered.total(), metered.state_of("a")) == ([3], "visible")
    metered.send("4", "b")
    assert metered.total() == [3]
    assert metered.emulator.control("POST", "/flush_ingest") == {"settled": 1}
    assert metered.total() == [7]


def test_identifiers_are_taken_for_a_day_and_perhaps_longer(metered: Metered) -> None:
    """I2: with jitter nobody can rely on exactly 24 hours; a window below Stripe's promise is refused."""
    metered.emulator.control("POST", "/dedup_window", {"seconds": DAY, "jitter_seconds": 7_200})
    names = [f"i{number}" for number in range(12)]
    for name in names:
        metered.send("1", name)
    metered.at(NOW + DAY + 3_600)
    free = [name for name in names if _is_accepted(metered, name)]
    assert 0 < len(free) < len(names)
    metered.at(NOW + DAY + 7_201)
    metered.send("1", next(name for name in names if name not in free))
    with pytest.raises(OSError, match="422"):
        metered.emulator.control("POST", "/dedup_window", {"seconds": DAY - 1})


def _is_accepted(metered: Metered, identifier: str) -> bool:
    try:
        metered.send("1", identifier)
    except stripe.InvalidRequestError:
        return False
    return True


@pytest.mark.parametrize(
    ("scope", "other_customer", "other_meter"),
    [("account", "refused", "refused"), ("meter", "refused", "accepted"), ("customer", "accepted", "accepted")],
)
def test_identifiers_have_a_scope(metered: Metered, scope: str, other_customer: str, other_meter: str) -> None:
    """M14: whether another customer's or another meter's event may bear the same identifier is a knob."""
    metered.emulator.control("POST", "/metering", {"identifier_scope": scope})
    metered.add_meter("bytes")
    stranger = metered.client.v1.customers.create({"name": "Eve"}).id
    metered.send("1", "same")
    for wanted, how in ((other_customer, {"customer": stranger}), (other_meter, {"name": "bytes"})):
        if wanted == "accepted":
            metered.send("1", "same", **how)
            continue
        with pytest.raises(stripe.InvalidRequestError, match="already exists"):
            metered.send("1", "same", **how)


def test_an_unknown_customer_is_refused_or_reported(metered: Metered) -> None:
    """M13: which of both is a knob."""
    metered.send("1", "a", customer="cus_nobody")
    assert metered.state_of("a") == "rejected"
    metered.emulator.control("POST", "/metering", {"unknown_customer": "refused"})
    with pytest.raises(stripe.InvalidRequestError, match="No such customer: 'cus_nobody'"):
        metered.send("1", "b", customer="cus_nobody")


def test_one_event_at_a_time_of_a_customer_and_meter(metered: Metered) -> None:
    """I3, K4: a second one in the meantime is a 409, as is its idempotency key's; another customer's is not."""
    stranger = metered.client.v1.customers.create({"name": "Eve"}).id
    metered.emulator.control("POST", "/metering", {"concurrent_events": "refused", "working_seconds": 4})
    event: Any = {
        "event_name": "calls",
        "identifier": "first",
        "timestamp": NOW,
        "payload": {"stripe_customer_id": metered.customer, "value": "1"},
    }
    create = metered.client.v1.billing.meter_events.create
    first = threading.Thread(target=create, args=(event, {"idempotency_key": "k"}))
    first.start()
    while not [entry for entry in metered.emulator.journal() if entry.get("identifier") == "first"]:
        pass  # its line in the journal is the only sign that it is in work
    metered.emulator.control("POST", "/metering", {"working_seconds": 0})
    for identifier, key, code in (
        ("second", "other", "too_many_concurrent_requests"),
        ("first", "k", "idempotency_key_in_use"),
    ):
        second: Any = {**event, "identifier": identifier}
        with pytest.raises(stripe.StripeError) as refused:
            create(second, {"idempotency_key": key})
        body: Any = refused.value.json_body
        assert (refused.value.http_status, body["error"]["code"]) == (409, code)
    metered.send("1", "third", customer=stranger)
    first.join()
    metered.send("1", "second")
    assert [event["identifier"] for event in metered.emulator.ledger()] == ["third", "first", "second"]


@pytest.mark.parametrize(("setting", "told"), [("left_out", [2]), ("zero", [0, 2, 0])])
def test_empty_windows_are_a_knob(metered: Metered, setting: str, told: list[int]) -> None:
    """S3: windows without events are left out, or told as zero."""
    metered.emulator.control("POST", "/metering", {"empty_windows": setting})
    metered.client.v1.billing.meter_events.create(
        {
            "event_name": "calls",
            "timestamp": NOW - 3_600,
            "payload": {"stripe_customer_id": metered.customer, "value": "2"},
        }
    )
    parameters: Any = {
        "customer": metered.customer,
        "start_time": NOW - 7_200,
        "end_time": NOW + 3_600,
        "value_grouping_window": "hour",
    }
    page = metered.client.v1.billing.meters.event_summaries.list(metered.meter, parameters)
    assert [row.aggregated_value for row in page.data] == told


@pytest.mark.parametrize(("setting", "total"), [("excluded", 0), ("included", 5)])
def test_the_end_of_a_summary_is_a_knob(metered: Metered, setting: str, total: int) -> None:
    """S1: an event of the second `end_time` belongs to the summary or does not."""
    metered.emulator.control("POST", "/metering", {"summary_end": setting})
    metered.send("5", "a")
    page = metered.client.v1.billing.meters.event_summaries.list(
        metered.meter, {"customer": metered.customer, "start_time": NOW - 60, "end_time": NOW}
    )
    assert [row.aggregated_value for row in page.data] == [total]


def test_an_event_is_cancelled_within_a_day(metered: Metered) -> None:
    """J1, J2: by identifier and name, within 24 hours of receipt; it counts until the cancel has settled."""
    metered.send("3", "a")
    metered.send("4", "b")
    metered.emulator.control("POST", "/ingest_lag", {"seconds": 60})
    cancel = metered.client.v1.billing.meter_event_adjustments.create
    adjustment = cancel({"type": "cancel", "event_name": "calls", "cancel": {"identifier": "a"}})
    assert (adjustment.status, metered.total()) == ("pending", [7])
    metered.at(NOW + 60)
    assert (metered.state_of("a"), metered.total()) == ("cancelled", [4])
    for wrong, words in (
        ({"cancel": {"identifier": "a"}}, "already cancelled"),
        ({"cancel": {"identifier": "nobody"}}, "No meter event found"),
        ({"cancel": {"identifier": "b"}, "event_name": "bytes"}, "No meter event found"),
        ({}, "Missing required param"),
    ):
        parameters: Any = {"type": "cancel", "event_name": "calls", **wrong}
        with pytest.raises(stripe.InvalidRequestError, match=words):
            cancel(parameters)
    metered.at(NOW + DAY)
    with pytest.raises(stripe.InvalidRequestError, match="within 24 hours"):
        cancel({"type": "cancel", "event_name": "calls", "cancel": {"identifier": "b"}})
    assert metered.total() == [4]


def test_a_cancel_without_lag_is_complete(metered: Metered) -> None:
    """J2: when the summaries follow at once, so does the status; the identifier stays taken."""
    metered.send("3", "a")
    adjustment = metered.client.v1.billing.meter_event_adjustments.create(
        {"type": "cancel", "event_name": "calls", "cancel": {"identifier": "a"}}
    )
    assert (adjustment.status, metered.total()) == ("complete", [0])
    with pytest.raises(stripe.InvalidRequestError, match="already exists"):
        metered.send("3", "a")


def test_a_request_delivered_twice_is_answered_once_more(metered: Metered) -> None:
    """F1: the second execution answers: the first one's answer under its key, `exists` without; counted once."""
    metered.emulator.fault({"match": {"path_re": "meter_events"}, "do": {"kind": "duplicate_delivery"}})
    metered.send("2", "a")
    answered = [entry["is_replayed"] for entry in metered.emulator.journal() if entry["fault"] == "duplicate_delivery"]
    assert (answered, metered.total()) == ([True], [2])


def test_an_answer_that_comes_too_late_was_committed(metered: Metered) -> None:
    """F2: the client's patience ends before the answer; the event is there."""
    bases: Any = dict.fromkeys(("api", "files", "connect", "meter_events"), metered.emulator.url)
    impatient = stripe.StripeClient(
        metered.emulator.key,
        base_addresses=bases,
        max_network_retries=0,
        http_client=stripe.RequestsClient(timeout=0.5),
    )
    metered.emulator.fault(
        {"match": {"path_re": "meter_events"}, "do": {"kind": "commit_then_timeout", "seconds": 2.0}}
    )
    with pytest.raises(stripe.APIConnectionError):
        impatient.v1.billing.meter_events.create(
            {
                "event_name": "calls",
                "timestamp": NOW,
                "payload": {"stripe_customer_id": metered.customer, "value": "9"},
            }
        )
    assert metered.total() == [9]


def test_a_rate_limit_refills_with_the_clock(metered: Metered) -> None:
    """F3: beyond the burst 429 with Stripe's reason, nothing executed, the key free; each second gives `rps` more."""
    metered.emulator.fault(
        {
            "match": {"path_re": "meter_events"},
            "do": {"kind": "rate_limit", "rps": 1, "burst": 2, "reason": "global-rate"},
        }
    )
    metered.send("1", "a")
    metered.send("1", "b")
    for _ in range(2):
        with pytest.raises(stripe.RateLimitError) as limited:
            metered.send("1", "c")
        assert limited.value.headers is not None
        assert limited.value.headers["Stripe-Rate-Limited-Reason"] == "global-rate"
    assert metered.emulator.control("GET", "/faults") == {"pending": 0}
    metered.at(NOW + 1)
    metered.send("1", "c")
    assert metered.total() == [3]


def test_another_writer_of_the_account(metered: Metered) -> None:
    """F4: an event no request carried counts like any other, and the ledger tells whose it is."""
    metered.send("1", "ours")
    foreign = {
        "account": metered.account,
        "event_name": "calls",
        "timestamp": NOW,
        "payload": {"stripe_customer_id": metered.customer, "value": "10"},
    }
    metered.emulator.control("POST", "/foreign_event", foreign)
    assert metered.total() == [11]
    assert [event["source"] for event in metered.emulator.ledger()] == ["v1", "foreign"]


@pytest.fixture(params=["memory", "file"])
def own_emulator(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningEmulator]:
    """An emulator of this test's own."""
    running = start_emulator(state=tmp_path / "emulator.sqlite" if request.param == "file" else None)
    yield running
    running.kill()


def test_a_snapshot_brings_everything_back(own_emulator: RunningEmulator) -> None:
    """F5: events, identifiers, idempotency keys, knobs and clock are as they were kept."""
    metered = Metered(own_emulator)
    metered.send("1", "before")
    own_emulator.control("POST", "/snapshot", {"name": "one"})
    metered.send("2", "after")
    own_emulator.control("POST", "/ingest_lag", {"seconds": 60})
    metered.at(NOW + 120)
    own_emulator.control("POST", "/restore", {"name": "one"})
    assert own_emulator.control("GET", "/health")["now"] == NOW
    assert metered.total() == [1]
    metered.send("5", "after")
    assert metered.total() == [6]
    with pytest.raises(OSError, match="404"):
        own_emulator.control("POST", "/restore", {"name": "two"})


def test_a_file_of_the_first_version_is_read(tmp_path: Path) -> None:
    """What an emulator without lag remembered counts as before, and its identifiers stay taken for their day."""
    file = tmp_path / "emulator.sqlite"
    first = start_emulator(state=file)
    try:
        metered = Metered(first)
        metered.send("4", "old")
    finally:
        first.kill()
    with sqlite3.connect(file) as db:
        db.execute("drop index meter_events_rejected")
        for name in ("settles_at", "taken_until", "source", "request_id", "request_key"):
            db.execute(f"alter table meter_events drop column {name}")
    db.close()
    second = start_emulator(state=file, key=first.key)
    try:
        metered.emulator, metered.client = second, second.client()
        assert metered.total() == [4]
        with pytest.raises(stripe.InvalidRequestError, match="already exists"):
            metered.send("4", "old")
    finally:
        second.kill()


def test_the_journal_keeps_headers_but_no_key(metered: Metered) -> None:
    """Every request with its headers; never the credentials."""
    journal = metered.emulator.journal()
    assert all(entry["headers"]["user-agent"].startswith("Stripe/v1 PythonBindings") for entry in journal)
    assert metered.emulator.key not in json.dumps(journal)
