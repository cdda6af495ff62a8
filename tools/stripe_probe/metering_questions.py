"""What is asked about meter events and summaries.

Belongs here: one function a question; it says what Stripe did, and which knob that sets. Does not: billing.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

import stripe

from tools.stripe_probe.desk import Desk, Json

HOUR = 3_600
DAY = 24 * HOUR
CALLS_AT_ONCE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What Stripe did; `metering` and `billing` are the emulator's knobs that do the same.

    pending: what a later run needs to ask again.
    """

    observed: Json
    metering: Json = field(default_factory=dict)
    billing: Json = field(default_factory=dict)
    pending: Json | None = None


def identifier_scope(desk: Desk) -> Answer:
    """Is an identifier taken for another customer, for another meter, and (in a later run) after a day?"""
    first, second = desk.meter(), desk.meter()
    ada, bob = desk.customer(), desk.customer()
    identifier, ts = f"{desk.tag}_same", desk.now()
    desk.send(first, ada, "1", identifier=identifier, timestamp=ts)
    observed = {
        "same": desk.send(first, ada, "1", identifier=identifier, timestamp=ts),
        "other_customer": desk.send(first, bob, "1", identifier=identifier, timestamp=ts),
        "other_meter": desk.send(second, ada, "1", identifier=identifier, timestamp=ts),
    }
    refused = tuple(observed[name] is not None for name in ("same", "other_customer", "other_meter"))
    scopes = {(True, True, True): "account", (True, True, False): "meter", (True, False, False): "customer"}
    stays = desk.client.v1.customers.create({"name": f"{desk.tag}, asked about again after a day"}).id
    pending = {"identifier": f"{desk.tag}_later", "event_name": first.event_name, "customer": stays, "sent_at": ts}
    desk.send(first, stays, "1", identifier=pending["identifier"], timestamp=ts)
    return Answer(
        observed=observed,
        metering={"identifier_scope": scopes[refused]} if refused in scopes else {},
        pending=pending,
    )


def unknown_customer(desk: Desk) -> Answer:
    """Is an event of an unknown customer refused at once?"""
    message = desk.send(desk.meter(), "cus_nobodyofthisname", "1")
    return Answer(
        observed={"message": message}, metering={"unknown_customer": "reported" if message is None else "refused"}
    )


def summaries(desk: Desk) -> Answer:
    """How long until an event counts, whose the end of a range is, are windows without events told?"""
    meter, customer = desk.meter(), desk.customer()
    minute = desk.now() // 60 * 60 - 180
    desk.send(meter, customer, "1", timestamp=minute)
    desk.send(meter, customer, "2", timestamp=minute + 60)
    _, lag = desk.until(lambda: desk.total(meter, customer, minute, minute + 120), lambda total: total == 3)
    until_end = desk.total(meter, customer, minute, minute + 60)
    last = (minute + 60) // HOUR * HOUR + HOUR
    windows = desk.summaries(meter, customer, last - DAY, last, value_grouping_window="hour")
    return Answer(
        observed={"lag_seconds": lag, "until_the_end": until_end, "windows_of_24": len(windows)},
        metering={
            "ingest_lag_seconds": lag,
            "summary_end": "excluded" if until_end == 1 else "included",
            "empty_windows": "zero" if len(windows) == 24 else "left_out",
        },
    )


def values(desk: Desk) -> Answer:
    """Which spellings of a value are taken?"""
    meter, customer = desk.meter(), desk.customer()
    tried = ("0.5", "0.000000000001", "0.0000000000001", "-1", "1e3", "+1", " 1", "1.", "1234567890123456")
    return Answer(observed={value: desk.send(meter, customer, value) for value in tried})


def concurrency(desk: Desk) -> Answer:
    """Is a second event of a customer and meter refused while one is in work?"""
    meter, customer = desk.meter(), desk.customer()
    outcomes = desk.at_once(*[lambda: desk.send(meter, customer, "1")] * CALLS_AT_ONCE)
    statuses = sorted(
        outcome.http_status or 0 if isinstance(outcome, stripe.StripeError) else 200 for outcome in outcomes
    )
    return Answer(
        observed={"statuses": statuses}, metering={"concurrent_events": "refused" if 409 in statuses else "accepted"}
    )


def hour_windows(desk: Desk) -> Answer:
    """Which event of an hour counts, and which after it is cancelled?"""
    meter, customer = desk.meter(window="hour"), desk.customer()
    hour = desk.now() // HOUR * HOUR - HOUR
    desk.send(meter, customer, "9", timestamp=hour + 600)
    identifier = uuid.uuid4().hex
    desk.send(meter, customer, "5", timestamp=hour + 60, identifier=identifier)
    before, _ = desk.until(lambda: desk.total(meter, customer, hour, hour + HOUR), bool)
    desk.client.v1.billing.meter_event_adjustments.create(
        {"type": "cancel", "event_name": meter.event_name, "cancel": {"identifier": identifier}}
    )
    after, _ = desk.until(lambda: desk.total(meter, customer, hour, hour + HOUR), lambda total: total != before)
    return Answer(observed={"earlier_stamp_received_last": before, "after_its_cancel": after})


def last_out_of_order(desk: Desk) -> Answer:
    """Does `last` go by timestamp or by receipt?"""
    meter, customer = desk.meter(formula="last"), desk.customer()
    minute = desk.now() // 60 * 60 - 300
    desk.send(meter, customer, "7", timestamp=minute + 120)
    desk.send(meter, customer, "2", timestamp=minute)
    total, _ = desk.until(lambda: desk.total(meter, customer, minute, minute + 180), bool)
    return Answer(observed={"later_stamp_7_received_first_earlier_stamp_2_received_last": total})


QUESTIONS = (
    identifier_scope,
    unknown_customer,
    summaries,
    values,
    concurrency,
    hour_windows,
    last_out_of_order,
)


def ask_again(desk: Desk, pending: Json) -> Json:
    """Is an identifier of an earlier run still taken? Its meter must be active: it is made so for the question."""
    meters = desk.client.v1.billing.meters
    (meter,) = [found for found in meters.list({"limit": 100}).data if found.event_name == pending["event_name"]]
    if meter.status == "inactive":
        meter = meters.reactivate(meter.id)
    message = desk.send(meter, pending["customer"], "1", identifier=pending["identifier"])
    meters.deactivate(meter.id)
    return {"hours": round((desk.now() - pending["sent_at"]) / HOUR, 1), "message": message}
