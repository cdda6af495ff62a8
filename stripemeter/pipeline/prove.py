"""Proving: what was counted is what the ledger holds, and nothing that arrived was lost.

Belongs here: laws 2 and 4 as questions asked of the real tables. Does not: repairs (`pipeline.recount`), Stripe's side
(`pipeline.reconcile`), when to ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from psycopg_pool import ConnectionPool

from stripemeter.metering.days import days_between, month_start
from stripemeter.pipeline.count_day import count_day
from stripemeter.store import counters, ledger
from stripemeter.store.counters import CounterMismatch
from stripemeter.store.freshness import FoldState, load_fold_state
from stripemeter.store.postgres import Tx, transaction
from stripemeter.store.rulebook import load_rulebook
from stripemeter.store.scan import LedgerScanner, open_scanner
from stripemeter.store.sql import load_queries


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantConservation:
    """Law 2 for one tenant, read in one snapshot."""

    tenant_id: str
    received: int
    accepted: int
    duplicates: int
    conflicts: int
    rejected: int
    counted: int
    pending: int
    withheld: int
    unmatched: int
    voided: int
    quarantined: int

    @property
    def holds(self) -> bool:
        """Whether every event that arrived is accounted for.

        received = accepted + duplicates + conflicts + rejected; accepted = counted + pending + withheld + unmatched +
        voided; conflicts are kept. Withheld are late events whose adjustment waits, was rejected or was reverted.
        """
        return (
            self.received == self.accepted + self.duplicates + self.conflicts + self.rejected
            and self.accepted == self.counted + self.pending + self.withheld + self.unmatched + self.voided
            and self.conflicts == self.quarantined
        )


def open_days(now: datetime) -> list[date]:
    """Days of segments that may still be invoiced: the current and the previous UTC month, up to today."""
    today = now.astimezone(UTC).date()
    previous = month_start(month_start(today) - timedelta(days=1))
    return days_between(previous, today)


def counters_equal_ledger(pool: ConnectionPool, days: Sequence[date]) -> tuple[CounterMismatch, ...]:
    """Law 4: counters of these days that are not exactly what the folded events make; empty when all are.

    Reads each day under its lock, as a recount does, so it may run beside anything. Tenants whose day is about to be
    counted again under new rules are passed over.

    Raises:
        Unavailable: Postgres does not answer.
        InvariantBroken: the database was restored into another cluster.
    """
    mismatches: list[CounterMismatch] = []
    with open_scanner(pool) as scanner:
        for day in days:
            mismatches += _compare_day(pool, scanner, day)
    return tuple(mismatches)


def _compare_day(pool: ConnectionPool, scanner: LedgerScanner, day: date) -> list[CounterMismatch]:
    with transaction(pool) as tx:
        counters.lock_days(tx, [day])
        below = ledger.load_cursor(tx)
        expected = sum(total.events for total in counters.load_day_totals(tx, day))
        made = count_day(tx, scanner, day, load_rulebook(tx), below=below, expected=expected)
        return counters.compare_day(tx, day, made.counted)


def conservation(pool: ConnectionPool) -> tuple[TenantConservation, ...]:
    """Law 2 for every tenant that ever sent anything.

    Raises:
        Unavailable: Postgres does not answer.
    """
    with transaction(pool) as tx:
        return load_conservation(tx)


def load_conservation(tx: Tx) -> tuple[TenantConservation, ...]:
    """Law 2 for every tenant, asked in a transaction that acts on the answer."""
    rows = tx.execute(load_queries("counters")["load_conservation"]).fetchall()
    return tuple(
        TenantConservation(
            tenant_id=row[0],
            received=row[1],
            accepted=row[2],
            duplicates=row[3],
            conflicts=row[4],
            rejected=row[5],
            counted=row[6],
            pending=row[7],
            withheld=row[8],
            unmatched=row[9],
            voided=row[10],
            quarantined=row[11],
        )
        for row in rows
    )


def fold_state(pool: ConnectionPool) -> FoldState:
    """What waits behind the fold.

    Raises:
        Unavailable: Postgres does not answer.
    """
    with transaction(pool) as tx:
        return load_fold_state(tx)
