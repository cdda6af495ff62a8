"""Archiving: a day's ledger, counters and rules as files, and the proof that they are the same.

Belongs here: the day's lock and the order of things under it; recounting from the lake alone. Does not: files
(`store.lake`), the manifest's table (`store.archived_days`), when to archive.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import polars as pl
import structlog
from psycopg_pool import ConnectionPool

from stripemeter.errors import InvariantBroken, NotFound, Unavailable
from stripemeter.metering.aggregation import Counted, aggregate
from stripemeter.metering.frames import GROUP
from stripemeter.metering.readings import read_meters
from stripemeter.metering.rulebook import Rulebook
from stripemeter.store import archived_days, counters, ledger
from stripemeter.store.archived_days import ArchivedDay
from stripemeter.store.dropped_months import counting, load_archive_day
from stripemeter.store.lake import (
    Lake,
    load_counters,
    load_events,
    load_items,
    load_rules,
    publish_day,
    require_files,
    stage_day,
)
from stripemeter.store.postgres import Tx, transaction
from stripemeter.store.rulebook import load_rulebook
from stripemeter.store.scan import LedgerScanner, open_scanner

CLOSED_AFTER = timedelta(days=3)
"""How long after a day ended it is archived by itself: past the lateness window of 48 h, so seldom twice."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedArchive:
    """A day that was not archived, and why."""

    day: date
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LakeMismatch:
    """A day of the lake that is not what Postgres says, and in what."""

    day: date
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LakeRecount:
    """A day counted from its files alone, and how many counters and items come out otherwise than archived."""

    day: date
    events: int
    counted: Counted
    different: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LakeProof:
    """Days of the lake compared with Postgres. `stale` ones changed since, so nothing is proven of them."""

    proven: tuple[date, ...]
    stale: tuple[date, ...]
    mismatches: tuple[LakeMismatch, ...]


def archive_day(pool: ConnectionPool, lake: Lake, day: date) -> ArchivedDay:
    """Write one UTC day's folded events, its counters and its rules to the lake; durable and published on return.

    Read under the day's lock, below the fold's cursor, as a recount does, so all of it is of one state. The same state
    gives the same bytes. An empty day gives empty files.

    Raises:
        Unavailable: Postgres or the lake does not answer; what was archived before stands.
        InvariantBroken: the counters are not what the events make (recount the day first), or the database was restored
            into another cluster.
    """
    with open_scanner(pool) as scanner:
        return _archive(pool, lake, day, scanner)


def archive_days(pool: ConnectionPool, lake: Lake, days: Iterable[date]) -> Iterator[ArchivedDay | FailedArchive]:
    """Archive the days in the order given; yields what came of each once it is committed.

    A day that fails does not keep the others from theirs; when Postgres or the lake is away the iteration ends.
    """
    with open_scanner(pool) as scanner:
        for day in days:
            try:
                yield _archive(pool, lake, day, scanner)
            except Unavailable as error:
                yield FailedArchive(day=day, message=str(error))
                return
            except Exception as error:  # noqa: BLE001 - a poisoned day must not keep the others from theirs
                _log.exception("day_archive_failed", day=day.isoformat())
                yield FailedArchive(day=day, message=f"{type(error).__name__}: {error}")


def unarchived_days(pool: ConnectionPool, *, now: datetime, limit: int) -> list[date]:
    """Closed days that the lake lacks or holds in an older state, oldest first.

    Raises:
        Unavailable: Postgres does not answer.
    """
    with transaction(pool) as tx:
        return archived_days.load_unarchived_days(tx, before=(now.astimezone(UTC) - CLOSED_AFTER).date(), limit=limit)


def recount_from_lake(lake: Lake, day: date) -> LakeRecount:
    """Count a day's archived events by its archived rules and compare; reads nothing but the lake.

    Raises:
        InvariantBroken: the lake does not hold the day, not legibly, or as files that do not belong together.
        Unavailable: the lake does not answer.
    """
    rules = load_rules(lake, day)
    events = load_events(lake, day, sha256=rules.files["events"])
    counted = _count(events, rules.rulebook)
    counters = load_counters(lake, day, sha256=rules.files["counters"])
    items = load_items(lake, day, sha256=rules.files["counter_items"])
    different = _differing(counted.counters, counters, GROUP) + _differing(counted.items, items, (*GROUP, "item"))
    return LakeRecount(day=day, events=events.height, counted=counted, different=different)


def prove_days(pool: ConnectionPool, lake: Lake, days: Sequence[date]) -> LakeProof:
    """Compare the archived ones of these days with Postgres: bytes with the manifest, recounts with the counters.

    Publishes what a killed archive left staged. Days that are not archived are passed over.

    Raises:
        Unavailable: Postgres or the lake does not answer.
    """
    proven: list[date] = []
    stale: list[date] = []
    mismatches: list[LakeMismatch] = []
    for day in _archived_among(pool, days):
        try:
            (proven if _prove(pool, lake, day) else stale).append(day)
        except InvariantBroken as error:
            mismatches.append(LakeMismatch(day=day, problem=str(error)))
    return LakeProof(proven=tuple(proven), stale=tuple(stale), mismatches=tuple(mismatches))


def _archive(pool: ConnectionPool, lake: Lake, day: date, scanner: LedgerScanner) -> ArchivedDay:
    with transaction(pool) as tx:
        counters.lock_days(tx, [day])
        below = ledger.load_cursor(tx)  # after the lock: a fold that held it has committed
        events = load_archive_day(tx, scanner, lake, day, below=below)
        rulebook = load_rulebook(tx)
        counted = _count(events, rulebook)
        _require_counted(tx, day, counted)
        archived = archived_days.replace_archived_day(
            tx,
            day,
            events=events.height,
            counters=counted.counters.height,
            items=counted.items.height,
            files=stage_day(lake, day, events=events, counted=counted, rulebook=rulebook),
            folded_below=below,
        )
    with transaction(pool) as tx:
        _publish(tx, lake, day)
    return archived


def _prove(pool: ConnectionPool, lake: Lake, day: date) -> bool:
    """Whether the day is proven; False when it is stale."""
    with transaction(pool) as tx:
        counters.lock_days(tx, [day])
        archived = _publish(tx, lake, day)
        require_files(lake, day, archived.files)
        if archived.is_stale:
            return False
        if archived.rules_sha256 is None or archived.items_sha256 is None:  # archived by an earlier release
            counted = _count(load_events(lake, day), load_rulebook(tx))
            different = _differing(counted.counters, load_counters(lake, day), GROUP)
        else:
            recounted = recount_from_lake(lake, day)
            counted, different = recounted.counted, recounted.different
        if different:
            raise InvariantBroken(f"its events do not make its counters: {different} are others")
        _require_counted(tx, day, counted)
        return True


def _publish(tx: Tx, lake: Lake, day: date) -> ArchivedDay:
    # Under the lock and by the committed manifest: of two archives at once, whichever comes here publishes the later.
    counters.lock_days(tx, [day])
    archived = archived_days.load_archived_day(tx, day)
    if archived is None:
        raise NotFound(f"{day} is not archived")
    publish_day(lake, day, archived.files)
    return archived


def _require_counted(tx: Tx, day: date, counted: Counted) -> None:
    mismatches = counters.compare_day(tx, day, counted)
    if mismatches:
        raise InvariantBroken(
            f"{len(mismatches)} counters of {day} are not what its events make: "
            f"run `stripemeter counters recount {day}`"
        )


def _differing(made: pl.DataFrame, archived: pl.DataFrame, key: Sequence[str]) -> int:
    """How many rows are in one of two frames alone, or not the same in both; both unique by the key."""
    if made.sort(key).equals(archived.sort(key)):
        return 0
    alike = made.join(archived, on=list(made.columns), how="semi", nulls_equal=True).height
    keys = pl.concat([made.select(key), archived.select(key)]).unique().height
    return keys - alike


def _archived_among(pool: ConnectionPool, days: Sequence[date]) -> list[date]:
    if not days:
        return []
    wanted = set(days)
    with transaction(pool) as tx:
        return [day for day in archived_days.list_archived_days(tx, min(wanted), max(wanted)) if day in wanted]


def _count(events: pl.DataFrame, rulebook: Rulebook) -> Counted:
    """What archived events make: those that count, in the lane they count in."""
    return aggregate(read_meters(counting(events), rulebook))
