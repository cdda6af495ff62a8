"""Scenarios somebody keeps: making, changing, deactivating and finding them.

Belongs here: refusing one that cannot be run before it is stored, statements. Does not: what a scenario says
(`stripemeter.simulation`), asking for runs (`pipeline.request_simulation`).

A statement is a scenario's document with the members of its `metadata` at the top, as the original's API has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Literal
from uuid import UUID, uuid4

import msgspec
from psycopg_pool import ConnectionPool

from stripemeter.errors import Conflict, InvalidInput, ScenarioError
from stripemeter.pipeline.simulations import read_judged, read_stored
from stripemeter.pricing.reading import within
from stripemeter.simulation.entries import Send
from stripemeter.simulation.running import run_scenario
from stripemeter.simulation.scenarios import Scenario
from stripemeter.simulation.stripe_scripts import scripts_of
from stripemeter.simulation.traffic import Generator
from stripemeter.store import scenarios
from stripemeter.store.postgres import transaction
from stripemeter.store.scenarios import ScenarioSort, StoredScenario

DEFAULT_TENANT = "default"
"""Whose a scenario is that names no tenant: the original's clients say none, and there are no keys yet to tell."""
HEAD = ("name", "description", "version", "tags")
"""Members of a statement that stand under `metadata` in a document."""
QUICK_STEPS = 20_000
"""Deliveries, and days of customers, that are played before a scenario is stored: well under a second."""
_MOST_CHARACTERS = 255
# A decimal stays the number it was, digit by digit.
_encode = msgspec.json.Encoder(decimal_format="number").encode


def create_scenario(
    pool: ConnectionPool, *, tenant_id: str | None, statement: Mapping[str, object], now: datetime
) -> StoredScenario:
    """Keep a scenario once it has been run without effect.

    Args:
        pool: where.
        tenant_id: whose; None: DEFAULT_TENANT's.
        statement: its document with the members of `metadata` at the top.
        now: aware.

    Raises:
        ScenarioError: it cannot be run; `field` is a path of the statement.
    """
    stored = prepare_scenario(statement, tenant_id=tenant_id or DEFAULT_TENANT, scenario_id=uuid4(), now=now)
    with transaction(pool) as tx:
        scenarios.insert_scenario(tx, stored)
    return stored


def find_scenario(pool: ConnectionPool, scenario_id: UUID, *, tenant_id: str | None) -> StoredScenario:
    """One scenario, of a tenant when one is given.

    Raises:
        NotFound: there is none of that id.
    """
    with transaction(pool) as tx:
        return scenarios.load_scenario(tx, scenario_id, tenant_id=tenant_id)


def change_scenario(
    pool: ConnectionPool,
    scenario_id: UUID,
    *,
    tenant_id: str | None,
    members: Mapping[str, object],
    is_active: bool | None,
    now: datetime,
) -> StoredScenario:
    """Change the members given, once the result has been run without effect; runs keep what they were asked with.

    Args:
        pool: where.
        scenario_id: which.
        tenant_id: whose; None: anybody's.
        members: as in `create_scenario`; None takes an optional one away.
        is_active: whether it is in use from now on; None: as before.
        now: aware.

    Raises:
        NotFound: there is none of that id.
        ScenarioError: it cannot be run as changed; nothing was stored.
        Conflict: somebody else changed it meanwhile; nothing was stored.
    """
    before = find_scenario(pool, scenario_id, tenant_id=tenant_id)
    statement = {**statement_of(before.document), **members}
    # Run outside any transaction: one that lasts would hold back the fold.
    kept = prepare_scenario(statement, tenant_id=before.tenant_id, scenario_id=before.id, now=now)
    active = before.is_active if is_active is None else is_active
    after = replace(kept, revision=before.revision + 1, created_at=before.created_at, is_active=active)
    with transaction(pool) as tx:
        if not scenarios.update_scenario(tx, after):
            raise Conflict("the scenario was changed meanwhile: read it and try again")
    return after


def deactivate_scenario(pool: ConnectionPool, scenario_id: UUID, *, tenant_id: str | None, now: datetime) -> None:
    """Put a scenario out of use: it and its runs can still be read. Doing it again changes nothing.

    Raises:
        NotFound: there is none of that id.
    """
    with transaction(pool) as tx:
        scenarios.deactivate_scenario(tx, scenarios.load_scenario(tx, scenario_id, tenant_id=tenant_id), now=now)


def list_scenarios(
    pool: ConnectionPool,
    *,
    tenant_id: str | None,
    is_active: bool | None,
    tag: str | None,
    sort: ScenarioSort,
    direction: Literal["asc", "desc"],
    limit: int,
    offset: int,
) -> tuple[list[StoredScenario], int]:
    """A page without documents, and how many match."""
    with transaction(pool) as tx:
        page = scenarios.list_scenarios(
            tx,
            tenant_id=tenant_id,
            is_active=is_active,
            tag=tag,
            sort=sort,
            direction=direction,
            limit=limit,
            offset=offset,
        )
        return page, scenarios.count_scenarios(tx, tenant_id=tenant_id, is_active=is_active, tag=tag)


def statement_of(document: str) -> dict[str, object]:
    """A stored document as it is sent: the members of `metadata` at the top."""
    members: dict[str, object] = dict(read_stored(document))
    metadata = members.pop("metadata")
    assert isinstance(metadata, Mapping)
    return {**metadata, **members}


def prepare_scenario(
    statement: Mapping[str, object], *, tenant_id: str, scenario_id: UUID, now: datetime
) -> StoredScenario:
    """The row of a statement, or of a document, that can be run; nothing is stored.

    Raises:
        ScenarioError: it cannot be run.
    """
    refuse_nul(statement, "")
    is_document = "metadata" in statement
    document = statement if is_document else _document(statement)
    try:
        scenario = read_judged(document).scenario
        if not 1 <= len(scenario.version) <= _MOST_CHARACTERS:
            path = "metadata.version"
            raise ScenarioError(f"{path}: must have 1 to {_MOST_CHARACTERS} characters", field=path)
        if _is_quick(scenario):
            run_scenario(scenario)
    except ScenarioError as error:
        if is_document:
            raise
        message = str(error).removeprefix("metadata.")
        raise ScenarioError(message, field=error.field.removeprefix("metadata.")) from error
    return StoredScenario(
        tenant_id=tenant_id,
        id=scenario_id,
        name=scenario.name,
        description=scenario.description,
        version=scenario.version,
        tags=list(scenario.tags),
        document=_encode(document).decode(),
        revision=1,
        is_active=True,
        created_at=now,
        updated_at=now,
    )


def require_playable(document: str, seed: int | None) -> None:
    """Refuse what no test clock can play, before a run of it on Stripe is stored; a long story shows it at its run.

    Raises:
        ScenarioError: `field` is the path of what cannot be played.
    """
    scenario = read_judged(read_stored(document)).scenario
    if _is_quick(scenario):
        scripts_of(scenario, scenario.seed if seed is None else seed)


def refuse_nul(value: object, path: str) -> None:
    """Postgres keeps no NUL in a text: neither a name nor what an assertion shows could be stored."""
    match value:
        case str() if "\x00" in value:
            raise InvalidInput(f"{path}: must not contain the NUL character", field=path)
        case Mapping():
            for name, member in value.items():
                refuse_nul(name, path)
                refuse_nul(member, within(path, name))
        case list() | tuple():
            for number, element in enumerate(value):
                refuse_nul(element, within(path, number))
        case _:
            pass


def _document(statement: Mapping[str, object]) -> dict[str, object]:
    said = {name: value for name, value in statement.items() if value is not None}
    metadata = {name: said.pop(name) for name in HEAD if name in said}
    return {"metadata": metadata, **said}


def _is_quick(scenario: Scenario) -> bool:
    """Whether it is played before it is stored; a long story is read whole, and shows at its run what ails it."""
    story = scenario.story
    if story is None:
        return True
    deliveries = 0
    for entry in story.entries:
        match entry.action:
            case Generator(count=count):
                deliveries += count
            case Send(deliveries=sent):
                deliveries += len(sent)
            case _:
                pass
    return max(deliveries, len(story.customers) * (story.end - story.start).days) <= QUICK_STEPS
