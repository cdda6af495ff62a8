"""Scenarios somebody keeps: the table `simulation_scenarios`.

Belongs here: rows. Does not: what a scenario says (`stripemeter.simulation`), runs of one (`store.simulations`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from psycopg.rows import class_row

from stripemeter.errors import NotFound
from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries

_Q = load_queries("scenarios")

ScenarioSort = Literal["name", "createdAt", "updatedAt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredScenario:
    """One scenario as it is now.

    Args:
        tenant_id: whose.
        id: ours.
        name: of 1 to 255 characters.
        description: what it shows.
        version: its author's.
        tags: for finding it.
        document: JSON, as it was sent; empty in listings.
        revision: grows with each change.
        is_active: False: it can be read, and not be run.
        created_at: when it was stored.
        updated_at: when it was last changed.
    """

    tenant_id: str
    id: UUID
    name: str
    description: str
    version: str
    tags: Sequence[str]
    document: str
    revision: int
    is_active: bool
    created_at: datetime
    updated_at: datetime


def insert_scenario(tx: Tx, scenario: StoredScenario) -> None:
    """Keep a new scenario: active, of revision 1, created and changed at its `created_at`."""
    tx.execute(_Q["insert_scenario"], {**_values(scenario), "now": scenario.created_at})


def load_scenario(tx: Tx, scenario_id: UUID, *, tenant_id: str | None) -> StoredScenario:
    """One scenario, of a tenant when one is given.

    Raises:
        NotFound: there is none of that id.
    """
    with tx.cursor(row_factory=class_row(StoredScenario)) as cursor:
        found = cursor.execute(_Q["load_scenario"], {"id": scenario_id, "tenant_id": tenant_id}).fetchone()
    if found is None:
        raise NotFound("Scenario not found")
    return found


def update_scenario(tx: Tx, scenario: StoredScenario) -> bool:
    """What a scenario is from its `updated_at` on; False when it is not of the revision before this one any more."""
    values = {**_values(scenario), "now": scenario.updated_at}
    return tx.execute(_Q["update_scenario"], values).fetchone() is not None


def deactivate_scenario(tx: Tx, scenario: StoredScenario, *, now: datetime) -> None:
    """Put a scenario out of use; doing it again changes nothing."""
    tx.execute(_Q["deactivate_scenario"], {"tenant_id": scenario.tenant_id, "id": scenario.id, "now": now})


def list_scenarios(
    tx: Tx,
    *,
    tenant_id: str | None,
    is_active: bool | None,
    tag: str | None,
    sort: ScenarioSort,
    direction: Literal["asc", "desc"],
    limit: int,
    offset: int,
) -> list[StoredScenario]:
    """A page in the order asked for, equals by id; their documents are left out."""
    values = {
        "tenant_id": tenant_id,
        "is_active": is_active,
        "tag": tag,
        "sorting": f"{sort} {direction}",
        "most": limit,
        "skipped": offset,
    }
    with tx.cursor(row_factory=class_row(StoredScenario)) as cursor:
        return cursor.execute(_Q["list_scenarios"], values).fetchall()


def count_scenarios(tx: Tx, *, tenant_id: str | None, is_active: bool | None, tag: str | None) -> int:
    """How many scenarios match."""
    row = tx.execute(_Q["count_scenarios"], {"tenant_id": tenant_id, "is_active": is_active, "tag": tag}).fetchone()
    assert row is not None
    return int(row[0])


def _values(scenario: StoredScenario) -> dict[str, object]:
    values = {name: getattr(scenario, name) for name in StoredScenario.__dataclass_fields__}
    return {**values, "tags": list(scenario.tags)}
