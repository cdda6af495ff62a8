"""Pushing one row: send it, and what its answer means.

Belongs here: the attempts of one claimed row. Does not: planning and claiming (`pipeline.push_rows`), the reading of
old rows (`pipeline.push_probe`), telling Stripe's answers apart (`billing`).

    acknowledged, or refused because it is there already   arrived
    another refusal                                        rejected: the customer waits for an operator
    401, 403                                               stays in flight, and the whole push stops
    busy (409, 429)                                        stays in flight, same Idempotency-Key
    5xx                                                    stays in flight, new Idempotency-Key, because Stripe would
                                                           repeat the old one's 5xx
    no answer                                              stays in flight, same Idempotency-Key

Past RETRY_WINDOW Stripe may have forgotten the identifier: then the row's minute is read back instead.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from threading import Lock
from typing import Literal

from psycopg_pool import ConnectionPool

from stripemeter.billing.sink import AlreadyAccepted, BillingSink, MeterEvent
from stripemeter.errors import OutcomeUnknown, StripeRejected, Unavailable
from stripemeter.metering.deltas import idempotency_key
from stripemeter.pipeline.push_probe import ProbeVerdict, probe_entry
from stripemeter.store import push_entries, push_epochs
from stripemeter.store.postgres import transaction
from stripemeter.store.push_entries import Arrival, PushEntry, PushTarget
from stripemeter.store.push_witness import PushWitness

LEASE = timedelta(seconds=60)
"""How long a claimed row is left alone by others: more than twice the longest a request may take."""
LONGEST_REQUEST = timedelta(seconds=25)
"""A row whose lease ends sooner is not sent any more: somebody else might send it at the same time."""
FIRST_BACKOFF = timedelta(seconds=15)
LAST_BACKOFF = timedelta(minutes=15)
SILENT_CUSTOMERS = 5
"""After so many customers in a row without any answer from Stripe, the rest is left for the next push."""

Outcome = Literal["accepted", "already_accepted", "unsettled", "waiting", "rejected", "quarantined", "held"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often one row is tried within one push, and the first pause; pauses double, with full jitter."""

    attempts: int
    first_pause: timedelta


DEFAULT_RETRIES = RetryPolicy(attempts=4, first_pause=timedelta(milliseconds=250))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What became of one delta, or why a day waits."""

    target: PushTarget
    day: date | None
    delta: Decimal
    outcome: Outcome
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What makes a row ours to send: its attempt, the number of its Idempotency-Key, and until when."""

    attempt: int
    key_no: int
    lease_until: datetime


Delivered = Arrival | Pushed | None
"""Arrived and not yet written down; settled otherwise; or to be looked at afresh."""


@dataclass(slots=True, kw_only=True)
class PushRun:
    """What the rows of one push share. `stopped` is the reason to leave the rest, empty while there is none."""

    pool: ConnectionPool
    sink: BillingSink
    clock: Callable[[], datetime]
    retries: RetryPolicy
    witness: PushWitness | None = None
    stopped: str = ""
    _silent: int = 0
    _lock: Lock = field(default_factory=Lock)

    def heard(self) -> None:
        """Stripe answered."""
        with self._lock:
            self._silent = 0

    def heard_nothing(self, reason: str) -> None:
        """A customer's row got no answer in all its attempts."""
        with self._lock:
            self._silent += 1
            if self._silent >= SILENT_CUSTOMERS:
                self.stopped = self.stopped or f"Stripe does not answer: {reason}"

    def is_late(self, lease_until: datetime) -> bool:
        """Whether a row of this lease is not to be sent any more."""
        return bool(self.stopped) or self.clock() > lease_until - LONGEST_REQUEST

    def stop(self, reason: str) -> None:
        """Leave the rest: it would fail as well."""
        with self._lock:
            self.stopped = self.stopped or reason


def deliver(run: PushRun, target: PushTarget, entry: PushEntry, claim: Claim) -> Delivered:
    """Send a claimed row, again after a pause where that is worth it."""
    if run.is_late(claim.lease_until):
        return leave(run, target, entry)
    pause_unit = run.retries.first_pause.total_seconds()
    for attempt in range(1, run.retries.attempts + 1):
        delivered, is_worth_another = _attempt(run, target, entry, claim)
        if not is_worth_another:
            return delivered
        if attempt == run.retries.attempts:
            break
        time.sleep(pause_unit * (1 << (attempt - 1)) * random.random())  # noqa: S311 - jitter
        now = run.clock()
        with transaction(run.pool) as tx:
            push_epochs.require_open(tx)
            again = push_entries.claim(tx, [entry.id], now=now, lease_until=now + LEASE).get(entry.id)
        if again is None:
            return delivered
        claim = Claim(attempt=again[0], key_no=again[1], lease_until=now + LEASE)
    if isinstance(delivered, Pushed):
        run.heard_nothing(delivered.reason)
    return delivered


def probe(run: PushRun, target: PushTarget, entry: PushEntry) -> Pushed | None:
    """Read an old row back; None when that settled it and its target may go on."""
    match probe_entry(run.pool, run.sink, target, entry, now=run.clock(), lease=LEASE):
        case ProbeVerdict(is_settled=True, quarantined=""):
            return None
        case ProbeVerdict(is_settled=True, quarantined=reason):
            return pushed(target, entry, "quarantined", reason)
        case verdict:
            return pushed(target, entry, "unsettled", verdict.waiting_for)


def leave(run: PushRun, target: PushTarget, entry: PushEntry) -> Pushed:
    """Let a claimed row wait for the next push, unsent."""
    reason = run.stopped or "its turn did not come inside its lease"
    with transaction(run.pool) as tx:
        push_entries.settle_open(
            tx, entry.id, next_attempt_at=run.clock(), is_new_key=False, http_status=None, error_message=reason
        )
    return pushed(target, entry, "unsettled", reason)


def settle_trouble(
    run: PushRun, target: PushTarget, entry: PushEntry, trouble: Unavailable | OutcomeUnknown, attempt: int
) -> Pushed:
    """Nobody knows, or not now: the row stays in flight for a later push."""
    asked = trouble.retry_after_seconds if isinstance(trouble, Unavailable) else None
    status = trouble.status if isinstance(trouble, OutcomeUnknown) else None
    wait = _backoff(attempt) if asked is None else timedelta(seconds=asked)
    with transaction(run.pool) as tx:
        push_entries.settle_open(
            tx,
            entry.id,
            next_attempt_at=run.clock() + wait,
            is_new_key=status is not None and status >= 400,
            http_status=status,
            error_message=str(trouble),
        )
    return pushed(target, entry, "unsettled", str(trouble))


def meter_event(entry: PushEntry, key_no: int) -> MeterEvent:
    """A row as it is sent."""
    return MeterEvent(
        event_name=entry.stripe_event_name,
        stripe_customer_id=entry.stripe_customer_id,
        quantity=entry.delta,
        at=entry.stamped_at,
        identifier=entry.identifier,
        idempotency_key=idempotency_key(entry.identifier, key_no),
    )


def pushed(target: PushTarget, entry: PushEntry | None, outcome: Outcome, reason: str) -> Pushed:
    """What became of a row; without one, of its target."""
    return Pushed(
        target=target,
        day=entry.day if entry is not None else None,
        delta=entry.delta if entry is not None else Decimal(0),
        outcome=outcome,
        reason=reason,
    )


def _attempt(run: PushRun, target: PushTarget, entry: PushEntry, claim: Claim) -> tuple[Delivered, bool]:
    """Send once and settle all but an arrival; with whether another attempt is worth it."""
    try:
        answer = run.sink.send_meter_event(meter_event(entry, claim.key_no))
    except StripeRejected as refused:
        return _settle_refused(run, target, entry, refused, claim.attempt), False
    except (Unavailable, OutcomeUnknown) as trouble:
        return settle_trouble(run, target, entry, trouble, claim.attempt), _is_worth_another(trouble)
    run.heard()
    is_already = isinstance(answer, AlreadyAccepted)
    return Arrival(entry_id=entry.id, is_already_accepted=is_already, request_id=answer.request_id), False


def _is_worth_another(trouble: Unavailable | OutcomeUnknown) -> bool:
    """Not when Stripe said how long to wait."""
    return not isinstance(trouble, Unavailable) or trouble.retry_after_seconds is None


def _settle_refused(
    run: PushRun, target: PushTarget, entry: PushEntry, refused: StripeRejected, attempt: int
) -> Pushed:
    run.heard()
    now = run.clock()
    if refused.status in (401, 403):
        run.stop(f"Stripe refuses the key ({refused.status}): {refused}")
        with transaction(run.pool) as tx:
            push_entries.settle_open(
                tx,
                entry.id,
                next_attempt_at=now + _backoff(attempt),
                is_new_key=False,
                http_status=refused.status,
                error_message=str(refused),
            )
        return pushed(target, entry, "unsettled", str(refused))
    with transaction(run.pool) as tx:
        push_entries.settle_rejected(
            tx,
            entry.id,
            now=now,
            http_status=refused.status,
            error_code=refused.stripe_code,
            error_message=str(refused),
            request_id=refused.request_id,
        )
    return pushed(target, entry, "rejected", str(refused))


def _backoff(attempt: int) -> timedelta:
    return min(FIRST_BACKOFF * (1 << min(attempt - 1, 10)), LAST_BACKOFF)
