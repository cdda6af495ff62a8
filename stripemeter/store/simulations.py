"""Simulation runs: the tables `simulation_runs`, `_assertions`, `_batches` and `_totals`.

Belongs here: rows, and which session is at a run. Does not: scenarios somebody keeps (`store.scenarios`), running one
(`pipeline.simulations`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import class_row

from stripemeter.errors import Conflict, NotFound
from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries

_Q = load_queries("simulations")

RunType = Literal["manual", "scheduled", "ci"]
RunStatus = Literal["pending", "running", "completed", "failed", "cancelled"]
Driver = Literal["pure", "stripe"]
Outcome = Literal["passed", "unmet", "unjudged", "failed", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRun:
    """A run somebody asks for; its `scenario` is a copy, which no later change reaches.

    `scenario`, `metadata`: JSON. `scenario_id`, `scenario_revision`: None when the scenario came with the request.
    """

    tenant_id: str
    id: UUID
    scenario_id: UUID | None
    scenario_revision: int | None
    batch_id: UUID | None = None
    batch_position: int | None = None
    run_type: RunType
    driver: Driver
    name: str | None
    description: str | None
    metadata: str
    scenario_name: str
    scenario_version: str
    scenario: str
    seed: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationRun:
    """One run as it stands. In listings `scenario` is empty and `result` None.

    Args:
        passed: whether everything came as expected; None: not completed, or nothing is expected.
        attempt_count: more than 1 when a process that ran it was killed.
        stripe_calls: requests to Stripe; 0 of a pure run.
    """

    tenant_id: str
    id: UUID
    scenario_id: UUID | None
    scenario_revision: int | None
    batch_id: UUID | None
    run_type: RunType
    driver: Driver
    name: str | None
    description: str | None
    metadata: str
    scenario_name: str
    scenario_version: str
    scenario: str
    seed: int | None
    status: RunStatus
    attempt_count: int
    passed: bool | None
    result: str | None
    error_message: str | None
    duration_ms: Decimal | None
    stripe_calls: int
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None

    @property
    def has_ended(self) -> bool:
        """Whether nothing changes it any more."""
        return self.completed_at is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAssertion:
    """One expected value of a run and what came, as texts; `difference` of two numbers."""

    path: str
    instant: datetime | None
    expected: str | None
    actual: str | None
    difference: Decimal | None
    passed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationBatch:
    """Runs asked for together."""

    tenant_id: str
    id: UUID
    name: str
    description: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnd:
    """How a run ends; `result`: JSON, of a completed one."""

    status: Literal["completed", "failed", "cancelled"]
    passed: bool | None = None
    result: str | None = None
    error_message: str | None = None
    duration_ms: Decimal | None = None
    stripe_calls: int = 0
    assertions: Sequence[StoredAssertion] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTotal:
    """What ended runs of a driver, an outcome and a band of differences came to.

    Args:
        delta_cents_bound: the band's upper bound; infinite: above every bound; -1: no invoice total is expected.
        met_count: assertions that passed.
        unmet_count: those that did not.
        delta_cents: sum over the runs of the greatest difference of an invoice total.
    """

    driver: Driver
    outcome: Outcome
    delta_cents_bound: Decimal
    run_count: int
    seconds: Decimal
    met_count: int
    unmet_count: int
    delta_cents: Decimal
    stripe_calls: int


def insert_batch(tx: Tx, batch: SimulationBatch) -> None:
    """Record a batch; its runs follow in the same transaction."""
    values = {name: getattr(batch, name) for name in SimulationBatch.__dataclass_fields__}
    tx.execute(_Q["insert_batch"], {**values, "now": batch.created_at})


def load_batch(tx: Tx, batch_id: UUID, *, tenant_id: str | None) -> SimulationBatch:
    """One batch, of a tenant when one is given.

    Raises:
        NotFound: there is none of that id.
    """
    with tx.cursor(row_factory=class_row(SimulationBatch)) as cursor:
        found = cursor.execute(_Q["load_batch"], {"id": batch_id, "tenant_id": tenant_id}).fetchone()
    if found is None:
        raise NotFound("Batch not found")
    return found


def insert_run(tx: Tx, run: NewRun, *, now: datetime) -> None:
    """Record a run, pending."""
    values = {name: getattr(run, name) for name in NewRun.__dataclass_fields__}
    tx.execute(_Q["insert_run"], {**values, "now": now})


def load_run(tx: Tx, run_id: UUID, *, tenant_id: str | None = None) -> SimulationRun:
    """One run, of a tenant when one is given.

    Raises:
        NotFound: there is none of that id.
    """
    with tx.cursor(row_factory=class_row(SimulationRun)) as cursor:
        found = cursor.execute(_Q["load_run"], {"id": run_id, "tenant_id": tenant_id}).fetchone()
    if found is None:
        raise NotFound("Run not found")
    return found


def list_runs(
    tx: Tx,
    *,
    tenant_id: str | None,
    scenario_id: UUID | None,
    status: RunStatus | None,
    run_type: RunType | None,
    limit: int,
    offset: int,
) -> tuple[list[SimulationRun], int]:
    """A page, newest first and equals by id, and how many match."""
    values = {"tenant_id": tenant_id, "scenario_id": scenario_id, "status": status, "run_type": run_type}
    counted = tx.execute(_Q["count_runs"], values).fetchone()
    assert counted is not None
    with tx.cursor(row_factory=class_row(SimulationRun)) as cursor:
        page = cursor.execute(_Q["list_runs"], {**values, "most": limit, "skipped": offset}).fetchall()
    return page, int(counted[0])


def list_batch_runs(tx: Tx, batch: SimulationBatch) -> list[SimulationRun]:
    """A batch's runs, in the order asked for."""
    with tx.cursor(row_factory=class_row(SimulationRun)) as cursor:
        values = {"tenant_id": batch.tenant_id, "batch_id": batch.id}
        return cursor.execute(_Q["list_batch_runs"], values).fetchall()


def list_assertions(tx: Tx, run: SimulationRun) -> list[StoredAssertion]:
    """What each expected value of a run came to, in the scenario's order; empty while it has not ended."""
    with tx.cursor(row_factory=class_row(StoredAssertion)) as cursor:
        values = {"tenant_id": run.tenant_id, "run_id": run.id}
        return cursor.execute(_Q["list_assertions"], values).fetchall()


def list_waiting(tx: Tx, *, limit: int) -> list[tuple[UUID, UUID | None]]:
    """Runs with nobody at them that have not ended, oldest first: id, and batch where there is one."""
    return [(row[0], row[1]) for row in tx.execute(_Q["list_waiting"], {"most": limit})]


def list_unfinished(tx: Tx, operation_id: UUID) -> list[UUID]:
    """Those runs of a batch that have not ended, those begun before last; or the one run of that id."""
    return [row[0] for row in tx.execute(_Q["list_unfinished"], {"operation_id": operation_id})]


def begin_run(tx: Tx, run_id: UUID, *, now: datetime) -> SimulationRun:
    """Make this session, which is in autocommit, the run's only one, as long as it lives; the run as it is then.

    Raises:
        Conflict: another session is at it, or it has ended.
        NotFound: there is none of that id.
    """
    if tx.execute(_Q["lock_run"], {"id": run_id}).fetchone() != (True,):
        raise Conflict(f"simulation run {run_id} is being run by another process")
    is_begun = tx.execute(_Q["begin_run"], {"id": run_id, "now": now}).fetchone() is not None
    run = load_run(tx, run_id)
    if not is_begun:
        raise Conflict(f"simulation run {run_id} has ended: it is {run.status}")
    return run


def release_run(tx: Tx, run_id: UUID) -> None:
    """Let another session work on the run at once; one that cannot speak any more is left to the server's noticing."""
    if tx.info.transaction_status is TransactionStatus.IDLE:
        with suppress(psycopg.Error):
            tx.execute(_Q["release_run"], {"id": run_id})


def end_run(tx: Tx, run_id: UUID, end: RunEnd, *, now: datetime) -> tuple[str, Driver] | None:
    """End a run for good with its assertions; whose it was and its driver, or None when it had ended already."""
    values = {name: getattr(end, name) for name in RunEnd.__dataclass_fields__ if name != "assertions"}
    row = tx.execute(_Q["end_run"], {**values, "id": run_id, "now": now}).fetchone()
    if row is None:
        return None
    tenant_id, driver = row
    with tx.cursor() as cursor:
        cursor.executemany(
            _Q["insert_assertion"],
            [
                {"tenant_id": tenant_id, "run_id": run_id, "position": position, **_assertion_values(assertion)}
                for position, assertion in enumerate(end.assertions)
            ],
        )
    return tenant_id, driver


def add_total(tx: Tx, total: RunTotal) -> None:
    """Count one ended run, in the transaction that ends it."""
    tx.execute(_Q["add_total"], {name: getattr(total, name) for name in RunTotal.__dataclass_fields__})


def load_totals(tx: Tx) -> list[RunTotal]:
    """What ended runs came to so far."""
    with tx.cursor(row_factory=class_row(RunTotal)) as cursor:
        return cursor.execute(_Q["load_totals"]).fetchall()


def _assertion_values(assertion: StoredAssertion) -> dict[str, object]:
    return {name: getattr(assertion, name) for name in StoredAssertion.__dataclass_fields__}
