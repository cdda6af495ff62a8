"""The emulator's v2: single events checked at once, the stream checked afterwards, idempotency for 30 days.

Stripe's document here has no v2 paths: the answers are held against the official SDK's types instead.
"""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import pytest
import stripe

from tests.contract.test_emulator_async import NOW, Metered
from tests.emulator import RunningEmulator

DAY = 86_400


@pytest.fixture
def metered(emulator: RunningEmulator) -> Metered:
    """A meter and a customer."""
    return Metered(emulator)


def event(metered: Metered, **changes: object) -> Any:  # noqa: ANN401 - parameters of the SDK
    """Parameters of one event."""
    return {
        "event_name": "calls",
        "timestamp": "2026-11-23T12:00:00.000Z",
        "payload": {"stripe_customer_id": metered.customer, "value": "3"},
        **changes,
    }


def stream_client(metered: Metered) -> stripe.StripeClient:
    """A client that holds a session's token."""
    return metered.emulator.client(metered.client.v2.billing.meter_event_session.create().authentication_token)


def members(kind: type[stripe.StripeObject]) -> set[str]:
    """What the SDK says an object has."""
    return {name for name in kind.__annotations__ if not name.startswith("_") and name != "OBJECT_NAME"}


def test_a_single_event_is_accepted_and_counts(metered: Metered) -> None:
    """V1: RFC 3339 in and out; the answer has exactly the members the SDK types."""
    answer = metered.client.v2.billing.meter_events.create(event(metered, identifier="a"))
    assert answer.timestamp == "2026-11-23T12:00:00.000Z"
    assert set(answer.to_dict()) == members(stripe.v2.billing.MeterEvent)
    metered.client.v2.billing.meter_events.create(event(metered, timestamp="2026-11-23T13:00:00+01:00"))
    assert metered.total() == [6]
    assert [told["source"] for told in metered.emulator.ledger()] == ["v2", "v2"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"identifier": "taken"}, "duplicate_meter_event"),
        ({"event_name": "typo"}, "no_meter"),
        ({"event_name": "old"}, "archived_meter"),
        ({"payload": {"value": "1"}}, "payload_no_customer_defined"),
        ({"payload": {"stripe_customer_id": "cus_x", "value": "many"}}, "payload_invalid_value"),
        ({"payload": {"stripe_customer_id": "cus_x", "value": "1" * 16}}, "payload_invalid_value"),
        ({"timestamp": "2026-10-01T00:00:00Z"}, "timestamp_too_far_in_past"),
        ({"timestamp": "2026-11-24T00:00:00Z"}, "timestamp_in_future"),
        ({"timestamp": "2026-11-23T12:00:00"}, "invalid_fields"),
        ({"timestamp": 1_795_435_200}, "invalid_fields"),
        ({"colour": "red"}, "invalid_fields"),
        ({"identifier": "i" * 101}, "invalid_fields"),
    ],
)
def test_a_single_event_is_checked_at_once(metered: Metered, changes: dict[str, Any], code: str) -> None:
    """V2: each refusal has Stripe's code, and nothing is stored."""
    metered.client.v1.billing.meters.deactivate(metered.add_meter("old"))
    metered.send("1", "taken")
    with pytest.raises(stripe.InvalidRequestError) as refused:
        metered.client.v2.billing.meter_events.create(event(metered, **changes))
    assert (refused.value.http_status, refused.value.code) == (400, code)
    assert len(metered.emulator.ledger()) == 1


def test_a_value_is_missed_at_once(metered: Metered) -> None:
    """V2: `payload_no_value_defined` when the meter needs one."""
    with pytest.raises(stripe.InvalidRequestError) as refused:
        metered.client.v2.billing.meter_events.create(event(metered, payload={"stripe_customer_id": metered.customer}))
    assert refused.value.code == "payload_no_value_defined"


def test_an_unknown_customer_is_reported_by_v2_too(metered: Metered) -> None:
    """V3: no refusal, an error report."""
    metered.client.v2.billing.meter_events.create(
        event(metered, payload={"stripe_customer_id": "cus_nobody", "value": "1"})
    )
    metered.at(NOW + 10)
    assert [told.type for told in metered.client.v2.core.events.list().data] == [
        "v1.billing.meter.error_report_triggered"
    ]


def test_the_stream_takes_everything_and_checks_afterwards(metered: Metered) -> None:
    """V4: 200 and nothing else; what is wrong is reported, a duplicate is ignored in silence."""
    metered.send("1", "taken")
    events = [
        event(metered, identifier="taken"),
        event(metered, identifier="good"),
        event(metered, identifier="good"),
        event(metered, identifier="typo", event_name="typo"),
        event(metered, identifier="old", timestamp="2026-10-01T00:00:00Z"),
        event(metered, identifier="odd", payload={"stripe_customer_id": metered.customer, "value": "many"}),
    ]
    stream_client(metered).v2.billing.meter_event_stream.create({"events": events})
    assert metered.total() == [4]
    told = [(entry["identifier"], entry["state"], entry["reason"]) for entry in metered.emulator.ledger()]
    assert told == [
        ("taken", "visible", None),
        ("taken", "dropped", "duplicate"),
        ("good", "visible", None),
        ("good", "dropped", "duplicate"),
        ("typo", "rejected", "no_meter"),
        ("old", "rejected", "timestamp_too_far_in_past"),
        ("odd", "rejected", "meter_event_invalid_value"),
    ]
    metered.at(NOW + 10)
    reports = {told.type: told.to_dict()["data"]["reason"] for told in metered.client.v2.core.events.list().data}
    assert reports["v1.billing.meter.no_meter_found"]["error_count"] == 1
    assert reports["v1.billing.meter.error_report_triggered"]["error_count"] == 2


def test_the_stream_takes_a_hundred_at_most(metered: Metered) -> None:
    """V5: 100 events are accepted, 101 refused altogether."""
    stream = stream_client(metered).v2.billing.meter_event_stream
    stream.create({"events": [event(metered)] * 100})
    with pytest.raises(stripe.InvalidRequestError, match="at most 100"):
        stream.create({"events": [event(metered)] * 101})
    assert metered.total() == [300]


def test_a_session_lasts_fifteen_minutes(metered: Metered) -> None:
    """V6: an expired token is told from a wrong one; an API key is no token, a token no API key."""
    session = metered.client.v2.billing.meter_event_session.create()
    assert (session.created, session.expires_at) == ("2026-11-23T12:00:00.000Z", "2026-11-23T12:15:00.000Z")
    assert set(session.to_dict()) == members(stripe.v2.billing.MeterEventSession)
    client = metered.emulator.client(session.authentication_token)
    metered.at(NOW + 899)
    client.v2.billing.meter_event_stream.create({"events": [event(metered)]})
    with pytest.raises(stripe.AuthenticationError):
        client.v1.customers.list()
    with pytest.raises(stripe.AuthenticationError):
        metered.client.v2.billing.meter_event_stream.create({"events": [event(metered)]})
    metered.at(NOW + 900)
    with pytest.raises(stripe.TemporarySessionExpiredError):
        client.v2.billing.meter_event_stream.create({"events": [event(metered)]})
    assert metered.total() == [3]


def test_v2_cancels_an_event(metered: Metered) -> None:
    """J3: as v1 does, with an id and a time."""
    metered.client.v2.billing.meter_events.create(event(metered, identifier="a"))
    answer = metered.client.v2.billing.meter_event_adjustments.create(
        {"type": "cancel", "event_name": "calls", "cancel": {"identifier": "a"}}
    )
    assert set(answer.to_dict()) == members(stripe.v2.billing.MeterEventAdjustment)
    assert (answer.status, metered.total()) == ("complete", [0])


def test_v2_keys_replay_successes_for_thirty_days(metered: Metered) -> None:
    """K5: a success replays for 30 days without a mark; other parameters are refused; a failure is executed again."""
    create = metered.client.v2.billing.meter_events.create
    first = create(event(metered, identifier="a"), {"idempotency_key": "k"})
    metered.at(NOW + 30 * DAY - 1)
    again = create(event(metered, identifier="a"), {"idempotency_key": "k"})
    assert again.created == first.created
    assert again.last_response is not None
    assert "Idempotent-Replayed" not in again.last_response.headers
    with pytest.raises(stripe.IdempotencyError):
        create(event(metered, identifier="b"), {"idempotency_key": "k"})
    assert len(metered.emulator.ledger()) == 1
    metered.at(NOW + 30 * DAY)
    second = create(event(metered, identifier="a"), {"idempotency_key": "k"})
    assert second.created != first.created


@pytest.mark.parametrize(("is_committed", "code"), [(False, None), (True, "duplicate_meter_event")])
def test_v2_failures_are_executed_again(metered: Metered, is_committed: bool, code: str | None) -> None:
    """K6: the same key after a 500 gives a fresh answer, which tells whether the first try had happened."""
    metered.emulator.fault({"do": {"kind": "status", "status": 500, "committed": is_committed}})
    create = metered.client.v2.billing.meter_events.create
    with pytest.raises(stripe.APIError):
        create(event(metered, identifier="a"), {"idempotency_key": "k"})
    if code is None:
        create(event(metered, identifier="a"), {"idempotency_key": "k"})
    else:
        with pytest.raises(stripe.InvalidRequestError) as refused:
            create(event(metered, identifier="a"), {"idempotency_key": "k"})
        assert refused.value.code == code
    assert metered.total() == [3]


def test_destinations_and_events_have_the_members_of_the_sdk(metered: Metered) -> None:
    """V7: other paths of v2 are unknown, and these answer with nothing the SDK does not type."""
    made = metered.client.v2.core.event_destinations.create(
        {
            "name": "n",
            "type": "webhook_endpoint",
            "event_payload": "thin",
            "enabled_events": ["*"],
            "webhook_endpoint": {"url": "http://127.0.0.1:9/"},
        }
    )
    assert set(made.to_dict()) <= members(stripe.v2.core.EventDestination)
    metered.send("1", "a", customer="cus_nobody")
    metered.emulator.control("POST", "/deliveries", {"mode": "on_demand"})
    metered.at(NOW + 10)
    (told,) = metered.client.v2.core.events.list().data
    assert set(told.to_dict()) - {"data", "related_object"} <= members(stripe.v2.core.Event)
    with pytest.raises(stripe.InvalidRequestError, match="Unrecognized request URL"):
        metered.client.v2.core.accounts.list()


def test_v2_wants_json(metered: Metered) -> None:
    """V7: a form is refused and says why."""
    request = urllib.request.Request(
        f"{metered.emulator.url}/v2/billing/meter_events",
        data=b"event_name=calls",
        headers={"authorization": f"Bearer {metered.emulator.key}"},
    )
    with pytest.raises(OSError, match="400") as refused:
        urllib.request.urlopen(request, timeout=10)
    answer: Any = refused.value
    assert "not JSON" in json.load(answer)["error"]["message"]
    answer.close()
