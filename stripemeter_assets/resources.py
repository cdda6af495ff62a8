"""What the glue borrows from outside: Postgres and Stripe.

Belongs here: turning configuration into a pool and a sink, once per process. Does not: queries, calls to Stripe.
"""

from __future__ import annotations

import atexit
import functools
from contextlib import AbstractContextManager
from threading import Lock
from typing import TYPE_CHECKING

import dagster as dg
from psycopg_pool import ConnectionPool

from stripemeter.runtime.settings import load_settings
from stripemeter.store.postgres import Tx, open_pool, transaction

if TYPE_CHECKING:
    from stripemeter.billing import BillingSink

_POOL_SIZE = 4
_pools: dict[str, ConnectionPool] = {}
_pools_lock = Lock()


class PostgresResource(dg.ConfigurableResource):  # type: ignore[type-arg]  # it wants a type only for IO managers
    """The ledger's database. Dagster builds a resource per tick; the pool behind it is one per process."""

    database_url: str

    @property
    def pool(self) -> ConnectionPool:
        """The process's pool on this database, opened at first use."""
        return _shared_pool(self.database_url)

    def transaction(self) -> AbstractContextManager[Tx]:
        """One transaction: commits at the end of the block, rolls back on any error."""
        return transaction(self.pool)


class StripeResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Where usage is pushed to. Keys come from the settings, never from Dagster's configuration, which the UI shows."""

    def sink(self) -> BillingSink:
        """The sink the settings choose; one per process, it keeps connections and a token bucket."""
        return _shared_sink()


def close_pools() -> None:
    """Close every pool of this process; the next use opens a new one."""
    with _pools_lock:
        for pool in _pools.values():
            pool.close()
        _pools.clear()


def _shared_pool(database_url: str) -> ConnectionPool:
    with _pools_lock:
        if database_url not in _pools:
            _pools[database_url] = open_pool(database_url, max_size=_POOL_SIZE)
        return _pools[database_url]


@functools.cache
def _shared_sink() -> BillingSink:
    from stripemeter.billing import open_sink  # noqa: PLC0415 - every run imports anew, and most runs never see Stripe

    return open_sink(load_settings())


atexit.register(close_pools)
