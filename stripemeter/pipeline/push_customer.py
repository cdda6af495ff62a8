"""One customer's push: plan, claim, send, settle, until nothing is lacking.

Belongs here: the protocol of one (Stripe meter, customer), with a transaction around each step. Does not: choosing
customers (`pipeline.push`), reading back old rows (`pipeline.push_probe`), telling Stripe's answers apart (`billing`).

    plan    a row with the delta, its minute and its identifier, committed before anything is sent
    claim   the row is `sending` and ours for LEASE, committed before the first byte
    send    once; the sink does not retry
    settle  what the answer means:
              acknowledged, or refused because it is there already   accepted
              another refusal                                        rejected: the customer waits for an operator
              401, 403                                               stays in flight, and the whole push stops
              busy (409, 429)                                        stays in flight, same Idempotency-Key
              5xx                                                    stays in flight, new Idempotency-Key, because
                                                                     Stripe would repeat the old one's 5xx
              no answer                                              stays in flight, same Idempotency-Key

A process that dies anywhere leaves a row that the next push finds and sends again under the same identifier; Stripe
takes it once. Past RETRY_WINDOW Stripe may have forgotten the identifier: then the row's minute is read back instead.
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

from stripemeter.billing.sink import Accepted, AlreadyAccepted, BillingSink, MeterEvent
from stripemeter.errors import OutcomeUnknown, StripeMeterError, StripeRejected, Unavailable
from stripemeter.metering.deltas import (
    RETRY_WINDOW,
    STAMP_WINDOW,
    idempotency_key,
)
from stripemeter.pipeline.push_plan import plan_next
from stripemeter.pipeline.push_probe import ProbeVerdict, probe_entry
from stripemeter.store import push_entries
from stripemeter.store.postgres import transaction
from stripemeter.store.push_entries import PushEntry, PushTarget

LEASE = timedelta(seconds=60)
"""How long a claimed row is left alone by others: more than twice the longest a request may take."""
FIRST_BACKOFF = timedelta(seconds=15)
LAST_BACKOFF = timedelta(minutes=15)
WAITS = "waits for a free whole minute of the day inside its segment"
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


@dataclass(slots=True, kw_only=True)
class PushRun:
    """What the customers of one push share. `stopped` is the reason to leave the rest, empty while there is none."""

    pool: ConnectionPool
    sink: BillingSink
    clock: Callable[[], datetime]
    retries: RetryPolicy
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

    def stop(self, reason: str) -> None:
        """Leave the rest: it would fail as well."""
        with self._lock:
            self.stopped = self.stopped or reason


def push_customer(run: PushRun, target: PushTarget) -> list[Pushed]:
    """Everything this customer lacks on this meter; ends at the first row that does not get through."""
    results: list[Pushed] = []
    try:
        while not run.stopped:
            step = _next_step(run, target)
            if not isinstance(step, PushEntry):
                return results + step
            result = _deliver(run, target, step)
            if result is None:
                continue
            results.append(result)
            if result.outcome not in ("accepted", "already_accepted"):
                return results
    except StripeMeterError as error:
        # One customer's trouble, our tables' included, is not another's.
        results.append(_pushed(target, None, "unsettled", str(error)))
    return results


def _next_step(run: PushRun, target: PushTarget) -> PushEntry | list[Pushed]:
    """The target's row in flight, else a new one; or nothing to do, with the days that wait."""
    now = run.clock()
    with transaction(run.pool) as tx:
        push_entries.lock_target(tx, target)
        entry = push_entries.load_open_entry(tx, target)
        if entry is not None:
            return entry if _is_due(entry, now) else [_pushed(target, entry, "unsettled", "in flight elsewhere")]
        if push_entries.is_blocked(tx, target):
            return []
        planned = plan_next(tx, target, now=now)
    if isinstance(planned, PushEntry):
        return planned
    return [
        Pushed(target=target, day=day.day, delta=day.counted - day.planned, outcome="waiting", reason=WAITS)
        for day in planned
    ]


def _deliver(run: PushRun, target: PushTarget, entry: PushEntry) -> Pushed | None:
    """What became of the row; None when the customer's state is to be looked at afresh."""
    now = run.clock()
    if entry.first_attempt_at is not None and now >= entry.first_attempt_at + RETRY_WINDOW:
        return _probed(run, target, entry)
    if entry.state == "planned" and entry.stamped_at < now - STAMP_WINDOW:
        with transaction(run.pool) as tx:
            push_entries.settle_cancelled(tx, entry.id, now=now, error_message="never sent, and now too old for Stripe")
        return None
    result = _pushed(target, entry, "unsettled", "somebody else sends it")
    for attempt in range(1, run.retries.attempts + 1):
        outcome, pause = _attempt(run, target, entry)
        result = outcome or result
        if pause is None:
            return result
        if attempt < run.retries.attempts:
            time.sleep(pause.total_seconds() * (1 << (attempt - 1)) * random.random())  # noqa: S311 - jitter
    run.heard_nothing(result.reason)
    return result


def _attempt(run: PushRun, target: PushTarget, entry: PushEntry) -> tuple[Pushed | None, timedelta | None]:
    """Claim, send, settle: the outcome, and the pause before another attempt is worth it (None: no more)."""
    now = run.clock()
    with transaction(run.pool) as tx:
        claimed = push_entries.claim(tx, entry.id, now=now, lease_until=now + LEASE)
    if claimed is None:
        return None, None
    attempt, key_no = claimed
    try:
        answer = run.sink.send_meter_event(_event(entry, key_no))
    except StripeRejected as refused:
        return _settle_refused(run, target, entry, refused, attempt), None
    except (Unavailable, OutcomeUnknown) as trouble:
        return _settle_trouble(run, target, entry, trouble, attempt)
    return _settle_arrived(run, target, entry, answer), None


def _settle_arrived(run: PushRun, target: PushTarget, entry: PushEntry, answer: Accepted | AlreadyAccepted) -> Pushed:
    run.heard()
    is_already = isinstance(answer, AlreadyAccepted)
    with transaction(run.pool) as tx:
        push_entries.settle_accepted(
            tx, entry.id, now=run.clock(), is_already_accepted=is_already, request_id=answer.request_id
        )
    return _pushed(target, entry, "already_accepted" if is_already else "accepted", "")


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
        return _pushed(target, entry, "unsettled", str(refused))
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
    return _pushed(target, entry, "rejected", str(refused))


def _settle_trouble(
    run: PushRun, target: PushTarget, entry: PushEntry, trouble: Unavailable | OutcomeUnknown, attempt: int
) -> tuple[Pushed, timedelta | None]:
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
    result = _pushed(target, entry, "unsettled", str(trouble))
    return result, (run.retries.first_pause if asked is None else None)


def _probed(run: PushRun, target: PushTarget, entry: PushEntry) -> Pushed | None:
    match probe_entry(run.pool, run.sink, target, entry, now=run.clock(), lease=LEASE):
        case ProbeVerdict(is_settled=True, quarantined=""):
            return None
        case ProbeVerdict(is_settled=True, quarantined=reason):
            return _pushed(target, entry, "quarantined", reason)
        case verdict:
            return _pushed(target, entry, "unsettled", verdict.waiting_for)


def _event(entry: PushEntry, key_no: int) -> MeterEvent:
    return MeterEvent(
        event_name=entry.stripe_event_name,
        stripe_customer_id=entry.stripe_customer_id,
        quantity=entry.delta,
        at=entry.stamped_at,
        identifier=entry.identifier,
        idempotency_key=idempotency_key(entry.identifier, key_no),
    )


def _is_due(entry: PushEntry, now: datetime) -> bool:
    return all(until is None or until <= now for until in (entry.lease_until, entry.next_attempt_at))


def _backoff(attempt: int) -> timedelta:
    return min(FIRST_BACKOFF * (1 << min(attempt - 1, 10)), LAST_BACKOFF)


def _pushed(target: PushTarget, entry: PushEntry | None, outcome: Outcome, reason: str) -> Pushed:
    return Pushed(
        target=target,
        day=entry.day if entry is not None else None,
        delta=entry.delta if entry is not None else Decimal(0),
        outcome=outcome,
        reason=reason,
    )
