"""Changing meters: a new version, and its days counted again.

Belongs here: writing a version together with what waits for a recount. Does not: which version a change makes
(`metering.meter_changes`), the recount (`pipeline.slice_recounts`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

from psycopg_pool import ConnectionPool

from stripemeter.errors import InvalidInput, NotFound
from stripemeter.metering.meter_changes import check_expected, create_version, end_version, put_version, touched_meters
from stripemeter.metering.meters import MeterVersion, parse_meter, version_on
from stripemeter.pipeline.slice_recounts import drain
from stripemeter.store import meters as store
from stripemeter.store.ledger import lock_cursor
from stripemeter.store.meters import RecordedVersion
from stripemeter.store.postgres import Tx, transaction
from stripemeter.store.slice_recounts import add_slice_recount

RECOUNT_SECONDS = 5
"""How long a change recounts before it answers; the fold's ticks do the rest."""

MAX_METERS = 1000
"""Of one tenant, ended ones too, whose history stays: a fold reads the rules of every tenant it counts."""

_Decide = Callable[[list[MeterVersion], date], MeterVersion | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterChange:
    """What a change came to.

    Args:
        versions: every version of the meter, ascending.
        is_created: it is the meter's first version.
        is_changed: a version was made; else everything was as wanted already.
        pending_days: how many of the tenant's days still wait to be counted again.
    """

    versions: list[RecordedVersion]
    is_created: bool
    is_changed: bool
    pending_days: int


def find_meter(pool: ConnectionPool, tenant_id: str, name: str) -> list[RecordedVersion]:
    """Every version of a meter, ascending; empty when there never was one.

    Raises:
        Unavailable: Postgres does not answer.
    """
    with transaction(pool) as tx:
        return store.find_meter(tx, tenant_id, name)


def list_meters(pool: ConnectionPool, tenant_id: str, day: date) -> list[RecordedVersion]:
    """The versions that count a day, by name.

    Raises:
        Unavailable: Postgres does not answer.
    """
    with transaction(pool) as tx:
        meters = store.list_meters(tx, tenant_id)
    counting = {name: version_on((each.version for each in recorded), day) for name, recorded in meters.items()}
    return [each for name, recorded in meters.items() for each in recorded if each.version == counting[name]]


def load_versions(pool: ConnectionPool, tenant_id: str) -> Mapping[str, Sequence[MeterVersion]]:
    """Every version of a tenant's meters, ascending, by name.

    Raises:
        Unavailable: Postgres does not answer.
    """
    with transaction(pool) as tx:
        return store.load_meter_versions(tx, [tenant_id]).get(tenant_id, {})


def put_meter(
    pool: ConnectionPool,
    tenant_id: str,
    document: object,
    *,
    effective_on: date | None,
    actor: str,
    expected_version: int | None,
    now: datetime,
    recount_seconds: int = RECOUNT_SECONDS,
) -> MeterChange:
    """Let a definition count from a day on. Saying the same again changes nothing.

    Args:
        pool: the database.
        tenant_id: whose.
        document: the decoded definition.
        effective_on: from which UTC day; by default a new meter counts all of history, a change counts from today.
        actor: who wants it.
        expected_version: the version it was decided on, 0 for none; None: any.
        now: aware.
        recount_seconds: how long to recount before returning.

    Raises:
        InvalidInput: no definition, or too many meters.
        Conflict: another version is the newest.
        Unavailable: Postgres does not answer. Whether the version was made is unknown: say the same again.
    """
    definition = parse_meter(document)

    def decide(versions: list[MeterVersion], today: date) -> MeterVersion | None:
        check_expected(versions, expected_version)
        return put_version(versions, definition, effective_on=effective_on, today=today)

    return _change(pool, tenant_id, definition.name, decide, actor=actor, now=now, recount_seconds=recount_seconds)


def create_meter(
    pool: ConnectionPool,
    tenant_id: str,
    document: object,
    *,
    effective_on: date | None,
    actor: str,
    expected_version: int | None = None,
    now: datetime,
    recount_seconds: int = RECOUNT_SECONDS,
) -> MeterChange:
    """As `put_meter`, for a meter that must not exist; one that was deleted may be made again.

    The very same request again changes nothing and goes on counting the days again: its answer may have been lost.

    Raises:
        InvalidInput: no definition, or too many meters.
        Conflict: there is another such meter, or another version is the newest.
        Unavailable: Postgres does not answer. Whether the version was made is unknown: say the same again.
    """
    definition = parse_meter(document)

    def decide(versions: list[MeterVersion], today: date) -> MeterVersion | None:
        return create_version(versions, definition, effective_on=effective_on, expected=expected_version, today=today)

    return _change(pool, tenant_id, definition.name, decide, actor=actor, now=now, recount_seconds=recount_seconds)


def delete_meter(
    pool: ConnectionPool,
    tenant_id: str,
    name: str,
    *,
    effective_on: date | None,
    actor: str,
    expected_version: int | None,
    now: datetime,
    recount_seconds: int = RECOUNT_SECONDS,
) -> MeterChange:
    """Let a meter count nothing from a day on, by default today; a metric of its name then counts by itself again.

    Raises:
        NotFound: there is no such meter, or it counts nothing from that day on already.
        Conflict: another version is the newest.
        Unavailable: Postgres does not answer.
    """

    def decide(versions: list[MeterVersion], today: date) -> MeterVersion | None:
        check_expected(versions, expected_version if versions else None)
        ended = end_version(versions, effective_on=effective_on, today=today)
        if ended is None:
            raise NotFound(f"no meter {name!r} counts {effective_on or today} or later")
        return ended

    return _change(pool, tenant_id, name, decide, actor=actor, now=now, recount_seconds=recount_seconds)


def apply_version(
    pool: ConnectionPool, tenant_id: str, version: MeterVersion, *, actor: str, expected_version: int, now: datetime
) -> MeterChange:
    """Make a planned version, and leave its days to whoever counts them again.

    Raises:
        Conflict: it was planned on another version than the newest.
        Unavailable: Postgres does not answer.
    """

    def decide(versions: list[MeterVersion], _: date) -> MeterVersion:
        check_expected(versions, expected_version)
        return version

    return _change(pool, tenant_id, version.definition.name, decide, actor=actor, now=now, recount_seconds=0)


def _change(
    pool: ConnectionPool,
    tenant_id: str,
    name: str,
    decide: _Decide,
    *,
    actor: str,
    now: datetime,
    recount_seconds: int,
) -> MeterChange:
    with transaction(pool) as tx:
        # No fold counts by the old rule once the range of days is known.
        lock_cursor(tx)
        before = [recorded.version for recorded in store.find_meter(tx, tenant_id, name)]
        version = decide(before, now.astimezone(UTC).date())
        if version is not None:
            if not before:
                _require_room(tx, tenant_id)
            store.append_meter_version(tx, tenant_id, version, actor=actor, now=now)
            meters = touched_meters(store.load_meter_versions(tx, [tenant_id])[tenant_id], name)
            reason = f"meter {name} version {version.version}"
            for first, last in store.load_counted_ranges(tx, tenant_id, meters, version.effective_on):
                add_slice_recount(tx, tenant_id, None, first, last, reason, now)
        versions = store.find_meter(tx, tenant_id, name)
    return MeterChange(
        versions=versions,
        is_created=not before,
        is_changed=version is not None,
        pending_days=drain(pool, tenant_id=tenant_id, budget_seconds=recount_seconds),
    )


def _require_room(tx: Tx, tenant_id: str) -> None:
    if store.count_meters(tx, tenant_id) >= MAX_METERS:
        raise InvalidInput(
            f"a tenant has at most {MAX_METERS} meters, ended ones included: change one of them instead, or count "
            "several things by one meter with dimensions",
            field="name",
        )
