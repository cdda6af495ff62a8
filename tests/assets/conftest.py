"""Fixtures of the Dagster tests: the real assembly on this test's database, and events through the real receiver."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time

import dagster as dg
import pytest
from psycopg_pool import ConnectionPool

from stripemeter.store.postgres import transaction
from stripemeter_assets.definitions import build_definitions
from stripemeter_assets.resources import PostgresResource, StripeResource, close_shared
from tests.assets.running import Report, report
from tests.emulator import emulator, emulator_server

__all__ = ["emulator", "emulator_server"]


@pytest.fixture
def postgres_resource(database_url: str) -> Iterator[PostgresResource]:
    """The resource on this test's database; its pool ends with the test."""
    yield PostgresResource(database_url=database_url)
    close_shared()


@pytest.fixture
def definitions(postgres_resource: PostgresResource) -> dg.Definitions:
    """The real code location on this test's database."""
    return build_definitions({"postgres": postgres_resource, "stripe": StripeResource()})


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster of this test's own, in memory."""
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def report_usage(database_url: str) -> Report:
    """Report events through the receiver's own path: `report_usage(day, count=3, customer="c1")`, received now."""
    return functools.partial(report, database_url)


@pytest.fixture
def poison(pool: ConnectionPool) -> Callable[[date], None]:
    """Give a day a ledger row that no recount can read: not a number, and already behind the fold's cursor."""

    def plant(day: date) -> None:
        with transaction(pool) as tx:
            tx.execute("select ensure_events_month(%s)", [day.replace(day=1)])
            tx.execute(
                "insert into events (xid, ts, received_at, quantity, tenant_id, metric, customer_ref, idempotency_key,"
                " source) values ('1', %s, now(), 'NaN', 'acme', 'api_calls', 'c1', 'poison', 'http')",
                [datetime.combine(day, time(3), UTC)],
            )

    return plant
