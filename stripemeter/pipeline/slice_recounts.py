"""Counting again what rules changed under: days of one tenant or customer, each in a transaction of its own.

Belongs here: working off the table `slice_recounts`. Does not: who asks for it (`pipeline.meters`,
`pipeline.customers`), the recount itself (`pipeline.recount`).
"""

from __future__ import annotations

import time

import structlog
from psycopg_pool import ConnectionPool

from stripemeter.errors import StripeMeterError
from stripemeter.pipeline.recount import recount_slice
from stripemeter.store import counters, slice_recounts
from stripemeter.store.postgres import transaction

_log = structlog.get_logger(__name__)


def drain(pool: ConnectionPool, *, tenant_id: str | None = None, budget_seconds: int) -> int:
    """Count waiting days again, of one tenant when given, until none waits or the time is up.

    Any number of callers may work at once: each takes a row nobody else has. Whoever dies loses one day's work, which
    the next caller does again.

    Returns:
        How many days still wait.

    Raises:
        Unavailable: Postgres does not answer.
    """
    deadline = time.monotonic() + budget_seconds
    while time.monotonic() < deadline and _recount_next(pool, tenant_id):
        pass
    with transaction(pool) as tx:
        return slice_recounts.count_pending_days(tx, tenant_id)


def _recount_next(pool: ConnectionPool, tenant_id: str | None) -> bool:
    """One day of the oldest row that nobody works on; False when there is none."""
    with transaction(pool) as tx:
        waiting = slice_recounts.take_slice(tx, tenant_id)
        if waiting is None:
            return False
        try:
            with tx.transaction():
                counters.lock_days(tx, [waiting.next_day])
                refs = None if waiting.customer_ref is None else [waiting.customer_ref]
                recount_slice(tx, waiting.next_day, tenant_id=waiting.tenant_id, customer_refs=refs)
                slice_recounts.finish_day(tx, waiting)
        except StripeMeterError as error:
            if error.retryable:
                raise
            _log.exception("slice_recount_failed", tenant=waiting.tenant_id, day=waiting.next_day.isoformat())
            slice_recounts.record_failure(tx, waiting, str(error))
        return True
