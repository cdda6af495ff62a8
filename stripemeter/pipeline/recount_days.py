"""Recounting many days: each in its own transaction, none at another's expense.

Belongs here: the loop, and which failures end it. Does not: recounting (`pipeline.recount`), choosing the days.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date

import structlog
from psycopg_pool import ConnectionPool

from stripemeter.errors import StripeMeterError, Unavailable
from stripemeter.pipeline.recount import RecountedDay, recount_day
from stripemeter.store.counter_days import record_failed_recount
from stripemeter.store.postgres import transaction
from stripemeter.store.scan import LedgerScanner, open_scanner

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedDay:
    """A day whose recount changed nothing, and why."""

    day: date
    message: str


def recount_days(pool: ConnectionPool, days: Iterable[date]) -> Iterator[RecountedDay | FailedDay]:
    """Recount the days in the order given; yields what came of each once it is committed.

    A failed recount is written down against its day (`counter_days.failed_recounts`) and the next day goes on. When not
    even that can be written Postgres is away, and the iteration ends with that day as its last.
    """
    with open_scanner(pool) as scanner:
        for day in days:
            try:
                yield _recount(pool, day, scanner)
            except Unavailable as error:
                yield FailedDay(day=day, message=str(error))
                return


def _recount(pool: ConnectionPool, day: date, scanner: LedgerScanner) -> RecountedDay | FailedDay:
    try:
        return recount_day(pool, day, scanner=scanner)
    except Exception as error:  # noqa: BLE001 - a poisoned day must not keep the others from theirs
        message = f"{type(error).__name__}: {error}"
        if not isinstance(error, StripeMeterError) or error.retryable:  # recount_day wrote the others down itself
            with transaction(pool) as tx:
                record_failed_recount(tx, day, message)
        _log.exception("day_recount_failed", day=day.isoformat())
        return FailedDay(day=day, message=message)
