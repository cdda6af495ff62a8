"""Fixtures of the Dagster tests: the real assembly on this test's database, and events through the real receiver."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, time
from typing import Any

import dagster as dg
import msgspec
import pytest
from psycopg_pool import ConnectionPool

from stripemeter.metering.events import IngestLimits, parse_ingest
from stripemeter.pipeline.ingest import GroupCommit
from stripemeter.store.postgres import transaction
from stripemeter_assets.definitions import build_definitions
from stripemeter_assets.resources import PostgresResource, StripeResource, close_pools
from tests.assets.running import Report


@pytest.fixture
def postgres_resource(database_url: str) -> Iterator[PostgresResource]:
    """The resource on this test's database; its pool ends with the test."""
    yield PostgresResource(database_url=database_url)
    close_pools()


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

    def report(*days: date, count: int = 2, customer: str = "c1", quantity: str = "1.5") -> None:
        asyncio.run(_accept(database_url, _events(days, count, customer, quantity)))

    return report


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


def _events(days: Sequence[date], count: int, customer: str, quantity: str) -> list[dict[str, Any]]:
    return [
        {
            "tenantId": "acme",
            "metric": "api_calls",
            "customerRef": customer,
            "quantity": quantity,
            "ts": f"{day.isoformat()}T00:00:0{number % 10}Z",
            "idempotencyKey": f"{customer}-{day.isoformat()}-{number}",
        }
        for day in days
        for number in range(count)
    ]


async def _accept(database_url: str, events: list[dict[str, Any]]) -> None:
    now = datetime.now(UTC)
    receiver = GroupCommit(database_url, clock=lambda: now)
    receiver.start()
    body = msgspec.json.encode({"events": events})
    limits = IngestLimits(max_batch=10_000)
    await receiver.accept(parse_ingest(body, header_key=None, now=now, limits=limits))
    await receiver.stop()
