"""The state of each UTC day: touched late, recounted, given up on.

Belongs here: the table `counter_days`. Does not: deciding when to recount (`stripemeter_assets.triggers`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries

_Q = load_queries("counters")


@dataclass(frozen=True, slots=True, kw_only=True)
class StuckDay:
    """A day whose recount failed so often that nobody retries it by itself."""

    day: date
    failed_recounts: int
    last_failure: str


def touch_days(tx: Tx, late_by_day: Mapping[date, bool]) -> None:
    """Remember that the fold wrote these days; a day with late events becomes dirty."""
    days = sorted(late_by_day)
    tx.execute(_Q["touch_days"], {"days": days, "late": [late_by_day[day] for day in days]})


def load_dirty_version(tx: Tx, day: date) -> int:
    """The version a recount settles: read it before the day's events."""
    row = tx.execute(_Q["load_dirty_version"], {"day": day}).fetchone()
    return int(row[0]) if row is not None else 0


def settle_day(tx: Tx, day: date, version: int) -> None:
    """Record a successful recount of what was dirty at `version`."""
    tx.execute(_Q["settle_day"], {"day": day, "version": version})


def record_failed_recount(tx: Tx, day: date, message: str) -> None:
    """Count a failed recount; `dirty_days` leaves the day out when there are too many."""
    tx.execute(_Q["record_failed_recount"], {"day": day, "message": message[:2000]})


def dirty_days(tx: Tx, *, quiet_seconds: int, max_failures: int, limit: int) -> list[date]:
    """Days touched by late events since their last recount and quiet since; oldest first.

    Level-triggered: a day stays in this list until a recount succeeds, whatever became of the requests for it.
    """
    rows = tx.execute(
        _Q["load_dirty_days"], {"quiet_seconds": quiet_seconds, "max_failures": max_failures, "limit": limit}
    )
    return [row[0] for row in rows]


def stuck_days(tx: Tx, *, max_failures: int) -> list[StuckDay]:
    """Days over the failure cap: an operator must look."""
    return [
        StuckDay(day=row[0], failed_recounts=row[1], last_failure=row[2])
        for row in tx.execute(_Q["load_stuck_days"], {"max_failures": max_failures})
    ]
