"""Recounting: make a day's counters again from the ledger.

Belongs here: the day's lock and the order of things under it. Does not: aggregation, SQL, when to run.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from psycopg_pool import ConnectionPool

from stripemeter.errors import StripeMeterError
from stripemeter.metering.aggregation import aggregate
from stripemeter.store import counter_days, counters, ledger
from stripemeter.store.counters import MeterTotal
from stripemeter.store.postgres import transaction
from stripemeter.store.scan import LedgerScanner, open_scanner


@dataclass(frozen=True, slots=True, kw_only=True)
class RecountedDay:
    """What a recount found. `changed` counts counter rows that were not what the ledger makes: 0 is the rule."""

    day: date
    events: int
    counters: int
    changed: int
    meters: tuple[MeterTotal, ...]


def recount_day(pool: ConnectionPool, day: date, *, scanner: LedgerScanner | None = None) -> RecountedDay:
    """Replace one UTC day's counters by what its folded events make; commits before it returns.

    Only events below the fold's cursor count, so the next fold adds the rest: recounting at any moment, any number
    of times, beside a running fold, leaves every total where it was. A failure is remembered against the day.

    Args:
        pool: the database.
        day: the day.
        scanner: reads the ledger; one of its own when None. Whoever recounts many days brings one for all.

    Raises:
        Unavailable: Postgres does not answer; nothing changed.
        InvariantBroken: the database was restored into another cluster.
    """
    try:
        if scanner is not None:
            return _recount(pool, day, scanner)
        with open_scanner(pool) as own:
            return _recount(pool, day, own)
    except StripeMeterError as error:
        if not error.retryable:
            with transaction(pool) as tx:
                counter_days.record_failed_recount(tx, day, str(error))
        raise


def _recount(pool: ConnectionPool, day: date, scanner: LedgerScanner) -> RecountedDay:
    with transaction(pool) as tx:
        counters.lock_days(tx, [day])
        # After the lock: a fold that held it has committed, and its cursor is visible to this statement.
        below = ledger.load_cursor(tx)
        version = counter_days.load_dirty_version(tx, day)
        events = scanner.scan_day(day, below=below)
        states = aggregate(events)
        # Nearly always equal: then nothing is staged or written, which would cost more than all the rest.
        changed = 0 if scanner.holds_counters(day, states) else counters.replace_day(tx, day, states)
        counter_days.settle_day(tx, day, version)
        return RecountedDay(
            day=day,
            events=events.height,
            counters=states.height,
            changed=changed,
            meters=counters.load_day_totals(tx, day),
        )
