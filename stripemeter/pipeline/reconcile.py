"""Reconcile: compare every open day with what Stripe holds, and say why they differ.

Belongs here: reading both sides, storing verdicts, confirming what matches, suggesting to take a surplus back. Does
not: judging one day (`metering.drift`), repairing (`pipeline.repair`): a push repairs what is unsent, a person decides
the rest.

Days older than Stripe takes are not compared: nothing could be done about them here. They are counted as held.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import groupby, islice

from psycopg_pool import ConnectionPool

from stripemeter.billing.sink import BillingSink
from stripemeter.errors import OutcomeUnknown, StripeRejected, Unavailable
from stripemeter.metering.days import day_bounds
from stripemeter.metering.deltas import first_open_day, whole_minutes
from stripemeter.metering.drift import DayState, judge_day, repair_plan, surplus_at_stripe
from stripemeter.metering.rulebook import TenantRules
from stripemeter.metering.segments import BillingPhase, segment_at, segment_starts
from stripemeter.store import corrections, push_entries, reconciliation_runs, reconciliations
from stripemeter.store.customers import load_phases
from stripemeter.store.postgres import transaction
from stripemeter.store.reconciliation_runs import ReconciliationRun
from stripemeter.store.reconciliations import LocalDay, ReconciledDay

MAX_ROWS = 1000
"""Most rows of a report; the counts are of all days."""
SILENT_CUSTOMERS = 5
"""After so many customers in a row without an answer the rest is `unknown` unasked."""
CUSTOMERS_TOGETHER = 50
"""Customers whose verdicts are written down together."""
EXPLAINED = ("unsent", "in_flight")
"""Causes that pass by themselves: the next push, or a few minutes."""

TICK = timedelta(microseconds=1)

_Phases = Mapping[str, Mapping[tuple[str, str], Sequence[BillingPhase]]]
"""By tenant: the phases of each (customer, meter)."""
_Reading = Mapping[tuple[datetime, date], Decimal]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconciledRow:
    """One day that is not ok. `drift` = ours minus Stripe's; Stripe's side is None when it could not be read.

    `plan` says what makes the difference go away.
    """

    tenant_id: str
    meter: str
    customer_ref: str
    segment_start: datetime
    day: date
    status: str
    cause: str
    local: Decimal
    pushed: Decimal
    stripe: Decimal | None
    drift: Decimal | None
    plan: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconciliationReport:
    """What the comparison found, for one account.

    Args:
        days: how many days of customers were compared.
        unexplained: days with drift that neither a push nor a few minutes will clear: somebody must look.
        held: days older than Stripe takes and not what was sent.
        confirmed: outbox rows confirmed now.
        drift_total: sum of the absolute drift of all days that could be read.
        rows: every day that is not ok, worst first, at most MAX_ROWS.
    """

    stripe_account_id: str
    days: int
    ok: int
    within_epsilon: int
    drift: int
    unknown: int
    unexplained: int
    held: int
    confirmed: int
    drift_total: Decimal
    rows: tuple[ReconciledRow, ...]


def reconcile_usage(
    pool: ConnectionPool, sink: BillingSink, *, now: datetime, max_workers: int = 4
) -> ReconciliationReport:
    """Compare, store the verdicts, confirm what matches. A customer Stripe does not answer for is `unknown`.

    Raises:
        StripeRejected: the key is refused.
        Unavailable, OutcomeUnknown: the account could not be asked for, or Postgres is gone.
    """
    account = sink.account_id()
    first, today = first_open_day(now), now.astimezone(UTC).date()
    with transaction(pool) as tx:
        local = reconciliations.load_local_days(
            tx, stripe_account_id=account, mode=sink.mode, first_day=first, today=today
        )
        phases = load_phases(tx, sorted({day.tenant_id for day in local}))
    customers = [list(days) for _, days in groupby(local, key=lambda day: (day.mapping_id, day.customer_ref))]
    reader = _Reader(sink=sink, phases=phases, first=first, today=today)
    verdicts: list[ReconciledDay] = []
    confirmed = 0
    with ThreadPoolExecutor(max_workers=max_workers, thread_name_prefix="reconcile") as workers:
        readings = zip(customers, workers.map(reader.read, customers), strict=True)
        while group := list(islice(readings, CUSTOMERS_TOGETHER)):
            judged = [row for days, reading in group for row in _judge(days, reading, now)]
            confirmed += _write_down(pool, judged, now)
            verdicts += [verdict for _, verdict in judged]
    with transaction(pool) as tx:
        held, _ = push_entries.load_held(tx, stripe_account_id=account, mode=sink.mode, first_day=first, limit=0)
    return _report(account, verdicts, held=held, confirmed=confirmed)


def reconcile_and_record(
    pool: ConnectionPool, sink: BillingSink, *, clock: Callable[[], datetime]
) -> ReconciliationReport:
    """As `reconcile_usage`, and the run is written down: when, how long, what it found.

    Raises:
        StripeRejected, Unavailable, OutcomeUnknown: as `reconcile_usage`; nothing is written down.
    """
    started_at = clock()
    report = reconcile_usage(pool, sink, now=started_at)
    run = ReconciliationRun(
        started_at=started_at,
        ended_at=clock(),
        day_count=report.days,
        ok_count=report.ok,
        within_epsilon_count=report.within_epsilon,
        drift_count=report.drift,
        unknown_count=report.unknown,
        unexplained_count=report.unexplained,
        drift_total=report.drift_total,
    )
    with transaction(pool) as tx:
        reconciliation_runs.insert_run(tx, run, stripe_account_id=report.stripe_account_id, mode=sink.mode)
    return report


class _Reader:
    """Stripe's side, customer by customer; gives up on Stripe after SILENT_CUSTOMERS in a row."""

    def __init__(self, *, sink: BillingSink, phases: _Phases, first: date, today: date) -> None:
        self._sink = sink
        self._phases = phases
        self._first = first
        self._today = today
        self._silent = 0

    def read(self, days: Sequence[LocalDay]) -> _Reading | None:
        """One customer's days by (segment, day); None when Stripe cannot be read."""
        if self._silent >= SILENT_CUSTOMERS:
            return None
        try:
            reading = self._read(days)
        except (StripeRejected, Unavailable, OutcomeUnknown) as error:
            # Every day of this customer becomes `unknown`, which nobody can read as agreement.
            self._silent = 0 if isinstance(error, StripeRejected) else self._silent + 1
            return None
        self._silent = 0
        return reading

    def _read(self, days: Sequence[LocalDay]) -> _Reading:
        """Whole days in one reading; a day cut by a segment boundary part by part.

        What only Stripe knows comes out under the segment that holds it by now. A counter's day of a segment that the
        phases no longer make holds nothing there: Stripe's minutes of it belong to the segments there are.
        """
        target = days[0]
        daily = self._sink.read_daily_quantities(
            stripe_meter_id=target.stripe_meter_id,
            stripe_customer_id=target.stripe_customer_id,
            first=self._first,
            last=self._today,
        )
        rules = TenantRules(phases=self._phases.get(target.tenant_id, {}))
        phases = rules.phases_of(target.customer_ref, target.meter)
        found = {(day.segment_start, day.day): Decimal(0) for day in days}
        wanted = {day.day for day in days} | {day for day, quantity in daily.items() if quantity}
        for day in sorted(wanted):
            first, last = day_bounds(day)
            for start in segment_starts(phases, first, last - TICK):
                minutes = whole_minutes(
                    day=day, segment_start=start, segment_end=segment_at(phases, max(start, first)).end
                )
                if (start, day) in found or daily.get(day):
                    found[start, day] = self._read_part(target, minutes, day, daily)
        return found

    def _read_part(
        self, target: LocalDay, minutes: tuple[datetime, datetime], day: date, daily: Mapping[date, Decimal]
    ) -> Decimal:
        start, end = minutes
        if minutes == day_bounds(day):
            return daily.get(day, Decimal(0))
        if start >= end:
            return Decimal(0)
        return self._sink.read_quantity(
            stripe_meter_id=target.stripe_meter_id, stripe_customer_id=target.stripe_customer_id, start=start, end=end
        )


def _judge(
    days: Sequence[LocalDay], stripe: _Reading | None, now: datetime
) -> Iterator[tuple[LocalDay, ReconciledDay]]:
    known = {(day.segment_start, day.day) for day in days}
    strangers = [_stranger(days[0], *key) for key in (stripe or {}) if key not in known]
    for day in [*days, *strangers]:
        quantity = None if stripe is None else stripe[day.segment_start, day.day]
        verdict = judge_day(_state(day, quantity), now=now)
        yield (
            day,
            ReconciledDay(
                mapping_id=day.mapping_id,
                customer_ref=day.customer_ref,
                segment_start=day.segment_start,
                day=day.day,
                tenant_id=day.tenant_id,
                meter=day.meter,
                status=verdict.status,
                cause=verdict.cause,
                local_quantity=day.counted,
                pushed_quantity=day.accepted,
                stripe_quantity=quantity,
                checked_at=now,
            ),
        )


def _state(day: LocalDay, stripe: Decimal | None) -> DayState:
    return DayState(
        counted=day.counted,
        planned=day.planned,
        accepted=day.accepted,
        stripe=stripe,
        is_rejected=day.is_rejected,
        last_accepted_at=day.last_accepted_at,
    )


def _write_down(pool: ConnectionPool, judged: Sequence[tuple[LocalDay, ReconciledDay]], now: datetime) -> int:
    """Store the verdicts, one suggestion for as long as there is a surplus, and how many rows are now confirmed."""
    surpluses = [
        (day, surplus, verdict.status)
        for day, verdict in judged
        if (surplus := surplus_at_stripe(_state(day, verdict.stripe_quantity), now=now)) is not None
    ]
    exact = [
        (day, verdict.stripe_quantity)
        for day, verdict in judged
        if verdict.stripe_quantity is not None and verdict.stripe_quantity == day.accepted
    ]
    with transaction(pool) as tx:
        reconciliations.replace_verdicts(tx, [verdict for _, verdict in judged])
        for day, surplus, status in surpluses:
            if surplus > 0 and status != "ok":
                corrections.suggest(tx, day, surplus, now=now)
        corrections.resolve(tx, [day for day, surplus, status in surpluses if surplus <= 0 or status == "ok"], now=now)
        return reconciliations.confirm_days(tx, exact)


def _stranger(like: LocalDay, segment_start: datetime, day: date) -> LocalDay:
    """A day that Stripe has and we do not."""
    return LocalDay(
        mapping_id=like.mapping_id,
        tenant_id=like.tenant_id,
        meter=like.meter,
        customer_ref=like.customer_ref,
        stripe_account_id=like.stripe_account_id,
        stripe_event_name=like.stripe_event_name,
        stripe_meter_id=like.stripe_meter_id,
        stripe_customer_id=like.stripe_customer_id,
        segment_start=segment_start,
        day=day,
        counted=Decimal(0),
        planned=Decimal(0),
        accepted=Decimal(0),
        last_accepted_at=None,
        is_rejected=False,
    )


def _report(account: str, verdicts: Sequence[ReconciledDay], *, held: int, confirmed: int) -> ReconciliationReport:
    statuses = Counter(verdict.status for verdict in verdicts)
    bad = sorted((verdict for verdict in verdicts if verdict.status != "ok"), key=_severity)
    return ReconciliationReport(
        stripe_account_id=account,
        days=len(verdicts),
        ok=statuses["ok"],
        within_epsilon=statuses["within_epsilon"],
        drift=statuses["drift"],
        unknown=statuses["unknown"],
        unexplained=sum(verdict.status == "drift" and verdict.cause not in EXPLAINED for verdict in verdicts),
        held=held,
        confirmed=confirmed,
        drift_total=sum((abs(_drift(verdict) or Decimal(0)) for verdict in verdicts), Decimal(0)),
        rows=tuple(_row(verdict) for verdict in bad[:MAX_ROWS]),
    )


def _severity(verdict: ReconciledDay) -> tuple[bool, Decimal, date, str]:
    drift = _drift(verdict)
    return verdict.cause in EXPLAINED, -abs(drift or Decimal(0)), verdict.day, verdict.customer_ref


def _drift(verdict: ReconciledDay) -> Decimal | None:
    return None if verdict.stripe_quantity is None else verdict.local_quantity - verdict.stripe_quantity


def _row(verdict: ReconciledDay) -> ReconciledRow:
    return ReconciledRow(
        tenant_id=verdict.tenant_id,
        meter=verdict.meter,
        customer_ref=verdict.customer_ref,
        segment_start=verdict.segment_start,
        day=verdict.day,
        status=verdict.status,
        cause=verdict.cause or "",
        local=verdict.local_quantity,
        pushed=verdict.pushed_quantity,
        stripe=verdict.stripe_quantity,
        drift=_drift(verdict),
        plan=repair_plan(verdict.cause),
    )
