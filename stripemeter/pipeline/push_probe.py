"""Reading a row back: did it arrive, when asking again could count it twice?

Belongs here: rows whose first attempt is older than RETRY_WINDOW. Does not: sending.

The row's minute is its alone, so Stripe's sum over that minute is the row's delta or nothing. Summaries lag, so the
answer counts only when read at least SETTLE after the last attempt, twice, AGAIN apart, and equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from psycopg_pool import ConnectionPool

from stripemeter.billing.sink import BillingSink
from stripemeter.errors import OutcomeUnknown, StripeRejected, Unavailable
from stripemeter.metering.deltas import MINUTE, STAMP_WINDOW, fixed_point
from stripemeter.store import push_entries
from stripemeter.store.postgres import transaction
from stripemeter.store.push_entries import Arrival, PushEntry, PushTarget

SETTLE = timedelta(hours=1)
AGAIN = timedelta(minutes=10)
UNREADABLE = timedelta(minutes=5)
"""How long to wait when the minute could not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeVerdict:
    """What reading back decided: settled (`quarantined` says why an operator must look), or what it waits for."""

    is_settled: bool
    quarantined: str = ""
    waiting_for: str = ""


def probe_entry(
    pool: ConnectionPool, sink: BillingSink, target: PushTarget, entry: PushEntry, *, now: datetime, lease: timedelta
) -> ProbeVerdict:
    """One reading of the row's minute, and the decision when it is the second equal one."""
    settled_at = (entry.last_attempt_at or now) + SETTLE
    if now < settled_at:
        return _wait(pool, entry, settled_at, "its last attempt is less than an hour old: read back later")
    with transaction(pool) as tx:
        if not push_entries.hold_for_probe(tx, entry.id, now=now, lease_until=now + lease):
            return ProbeVerdict(is_settled=False, waiting_for="somebody else reads it back")
    try:
        quantity = sink.read_quantity(
            stripe_meter_id=target.stripe_meter_id,
            stripe_customer_id=entry.stripe_customer_id,
            start=entry.stamped_at,
            end=entry.stamped_at + MINUTE,
        )
    except (StripeRejected, Unavailable, OutcomeUnknown) as error:
        return _wait(pool, entry, now + UNREADABLE, f"its minute could not be read back: {error}")
    if entry.probed_at is None or entry.probed_quantity != quantity:
        with transaction(pool) as tx:
            push_entries.settle_probe(tx, entry.id, now=now, quantity=quantity, next_attempt_at=now + AGAIN)
        return ProbeVerdict(is_settled=False, waiting_for=f"its minute holds {quantity}; read back once more")
    if now < entry.probed_at + AGAIN:
        return _wait(pool, entry, entry.probed_at + AGAIN, "read back once more")
    return _decide(pool, entry, quantity, now)


def _decide(pool: ConnectionPool, entry: PushEntry, quantity: Decimal, now: datetime) -> ProbeVerdict:
    with transaction(pool) as tx:
        if quantity == entry.delta:
            arrival = Arrival(entry_id=entry.id, is_already_accepted=True, request_id=None)
            push_entries.settle_accepted(tx, [arrival], now=now)
        elif quantity == 0 and entry.stamped_at < now - STAMP_WINDOW:
            push_entries.settle_cancelled(tx, entry.id, now=now, error_message="absent, and now too old for Stripe")
        elif quantity == 0:
            push_entries.settle_rearmed(tx, entry.id)
        else:
            reason = f"its minute holds {fixed_point(quantity)}, not {fixed_point(entry.delta)}: somebody else writes"
            push_entries.settle_quarantined(tx, entry.id, now=now, error_message=reason)
            return ProbeVerdict(is_settled=True, quarantined=reason)
    return ProbeVerdict(is_settled=True)


def _wait(pool: ConnectionPool, entry: PushEntry, until: datetime, reason: str) -> ProbeVerdict:
    with transaction(pool) as tx:
        push_entries.settle_open(
            tx, entry.id, next_attempt_at=until, is_new_key=False, http_status=None, error_message=reason
        )
    return ProbeVerdict(is_settled=False, waiting_for=reason)
