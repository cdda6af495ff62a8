"""Scenarios and runs for tests: the original's worked example, and what a test wants different."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NoReturn
from uuid import UUID

from psycopg_pool import ConnectionPool

from stripemeter.pipeline.request_simulation import RunWish, request_stored
from stripemeter.pipeline.scenarios import create_scenario
from stripemeter.store.postgres import transaction
from stripemeter.store.scenarios import StoredScenario
from stripemeter.store.simulations import SimulationRun, load_run

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
TIERS = [{"upTo": 10000, "unitPrice": 0.01}, {"upTo": 50000, "unitPrice": 0.008}, {"unitPrice": 0.005}]


def statement(**members: object) -> dict[str, Any]:
    """25 000 calls, of which three tiers make 220, as `POST /v1/simulations/scenarios` takes it."""
    return {
        "name": "tiers",
        "model": "tiered",
        "inputs": {
            "customerId": "c1",
            "periodStart": "2026-01-01",
            "periodEnd": "2026-02-01",
            "usageItems": [
                {
                    "metric": "calls",
                    "quantity": 25000,
                    "priceConfig": {"model": "tiered", "currency": "USD", "tiers": TIERS},
                }
            ],
        },
        "expected": {"total": 220},
        **members,
    }


def story(**members: object) -> dict[str, Any]:
    """A month of a flat price on a clock: 3 calls of 2.00."""
    price = {"model": "flat", "currency": "USD", "unitPrice": 2}
    return {
        "name": "month",
        "start": "2026-01-01",
        "plans": [{"name": "pro", "currency": "USD", "usage": [{"metric": "calls", "priceConfig": price}]}],
        "timeline": [
            {"subscribe": {"plan": "pro"}},
            {"after": "P3D", "events": [{"metric": "calls", "quantity": 3}]},
            {"at": "2026-02-02", "expect": {"invoices": [{"total": 6}]}},
        ],
        **members,
    }


def keep(pool: ConnectionPool, tenant_id: str = "acme", **members: object) -> StoredScenario:
    """A kept scenario."""
    return create_scenario(pool, tenant_id=tenant_id, statement=statement(**members), now=NOW)


def ask(pool: ConnectionPool, **members: object) -> UUID:
    """A pending run of a scenario kept for it."""
    return request_stored(pool, keep(pool, "acme", **members).id, tenant_id="acme", wish=RunWish(), now=NOW)


def no_account() -> NoReturn:
    """For runs that must not ask Stripe."""
    raise AssertionError("a pure run asked for an account")


def stored(pool: ConnectionPool, run_id: UUID) -> SimulationRun:
    """The run as the table has it."""
    with transaction(pool) as tx:
        return load_run(tx, run_id)
