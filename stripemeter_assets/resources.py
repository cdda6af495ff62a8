"""What the glue borrows from outside: Postgres, the lake and Stripe.

Belongs here: turning configuration into a pool and a sink, once per process. Does not: queries, calls to Stripe.
"""

from __future__ import annotations

import atexit
import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager
from threading import Lock

import dagster as dg
from psycopg_pool import ConnectionPool

from stripemeter.billing import BillingSink, open_sinks
from stripemeter.runtime.settings import load_settings
from stripemeter.store.lake import LocalLake, open_lake
from stripemeter.store.postgres import Tx, open_pool, transaction

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


class LakeResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Where archived days lie; without a location, where the settings say."""

    location: str = ""

    @property
    def lake(self) -> LocalLake:
        """The lake; nothing is opened."""
        return open_lake(self.location or load_settings().lake_location)


class StripeResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Where usage is pushed to. Keys come from the settings, never from Dagster's configuration, which the UI shows."""

    def sinks(self) -> Sequence[BillingSink]:
        """Every account the settings allow; once per process, a sink keeps connections and a token bucket."""
        return _shared_sinks()


def close_shared() -> None:
    """Close every pool of this process and forget its sinks; the next use opens new ones."""
    _shared_sinks.cache_clear()
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
def _shared_sinks() -> Sequence[BillingSink]:
    return tuple(open_sinks(load_settings()))


atexit.register(close_shared)
