"""Recounting: make a day's counters again from the ledger.

Belongs here: the day's lock and the order of things under it. Does not: aggregation, SQL, when to run.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime

from psycopg_pool import ConnectionPool

from stripemeter.errors import StripeMeterError
from stripemeter.metering.aggregation import aggregate
from stripemeter.metering.readings import read_meters
from stripemeter.pipeline.count_day import count_day
from stripemeter.store import counter_days, counters, ledger
from stripemeter.store.counters import MeterTotal
from stripemeter.store.dropped_months import load_slice
from stripemeter.store.lateness import absorb_day
from stripemeter.store.postgres import Tx, transaction
from stripemeter.store.rulebook import load_rulebook
from stripemeter.store.scan import LedgerScanner, open_scanner
from stripemeter.store.slice_recounts import retry_slices


@dataclass(frozen=True, slots=True, kw_only=True)
class RecountedDay:
    """What a recount found.

    `changed` counts counter rows that were not what the ledger makes: 0 is the rule, unless late adjustments were
    `absorbed`, whose events moved from the late lane into the counters.
    """

    day: date
    events: int
    counters: int
    changed: int
    absorbed: int
    meters: tuple[MeterTotal, ...]


def recount_day(
    pool: ConnectionPool, day: date, *, scanner: LedgerScanner | None = None, now: datetime | None = None
) -> RecountedDay:
    """Replace one UTC day's counters by what its folded events make; commits before it returns.

    Only events below the fold's cursor count, so the next fold adds the rest: recounting at any moment, any number
    of times, beside a running fold, leaves every total where it was. Approved late adjustments of the day become
    `absorbed`: their events move from the late lane into the counters, and no total moves. A failure is remembered
    against the day.

    Args:
        pool: the database.
        day: the day.
        scanner: reads the ledger; one of its own when None. Whoever recounts many days brings one for all.
        now: the instant written down; the clock's when None.

    Raises:
        Unavailable: Postgres does not answer; nothing changed.
        InvariantBroken: the database was restored into another cluster.
    """
    try:
        if scanner is not None:
            return _recount(pool, day, scanner, now or datetime.now(UTC))
        with open_scanner(pool) as own:
            return _recount(pool, day, own, now or datetime.now(UTC))
    except StripeMeterError as error:
        if not error.retryable:
            with transaction(pool) as tx:
                counter_days.record_failed_recount(tx, day, str(error))
        raise


def recount_slice(tx: Tx, day: date, *, tenant_id: str, customer_refs: Collection[str] | None = None) -> int:
    """Replace one tenant's counters of a day (or those of some customers) in the caller's transaction.

    What the transaction has voided, approved or taken back before is in the result; adjustments stay as they are.
    References are widened to every reference of the customers they mean. Returns how many rows changed.

    The caller holds the day's lock, and the fold's cursor when it changed what counts.

    Raises:
        InvariantBroken: the database was restored into another cluster.
    """
    rulebook = load_rulebook(tx, [tenant_id])
    rules = rulebook.of(tenant_id)
    refs = None
    if customer_refs is not None:
        refs = set(customer_refs).union(*(rules.refs_of(rules.customer_of(ref)) for ref in customer_refs))
    below = ledger.load_cursor(tx)
    events = load_slice(tx, day, tenant_id=tenant_id, customer_refs=refs, below=below)
    counted = aggregate(read_meters(events, rulebook))
    changed = counters.replace_day(tx, day, counted, tenant_id=tenant_id, customer_refs=refs)
    if changed:
        counter_days.touch_days(tx, {day: False})  # so that the lake learns of it
    return changed


def _recount(pool: ConnectionPool, day: date, scanner: LedgerScanner, now: datetime) -> RecountedDay:
    with transaction(pool) as tx:
        counters.lock_days(tx, [day])
        # After the lock: a fold that held it has committed, and its cursor is visible to this statement.
        below = ledger.load_cursor(tx)
        version = counter_days.load_dirty_version(tx, day)
        totals = counters.load_day_totals(tx, day)
        absorbed = absorb_day(tx, day, now=now)
        made = count_day(
            tx,
            scanner,
            day,
            load_rulebook(tx),
            below=below,
            expected=sum(total.events for total in totals),
            absorbed=absorbed,
        )
        counted = made.counted
        # Nearly always equal: then nothing is staged or written, which would cost more than all the rest.
        changed = 0 if scanner.holds_counters(day, counted) else counters.replace_day(tx, day, counted)
        counter_days.settle_day(tx, day, version)
        retry_slices(tx, day)
        return RecountedDay(
            day=day,
            events=made.events,
            counters=counted.counters.height,
            changed=changed,
            absorbed=absorbed,
            meters=counters.load_day_totals(tx, day) if changed else totals,
        )
