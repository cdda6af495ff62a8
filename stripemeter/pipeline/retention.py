"""Retention: a month leaves Postgres once the lake provably has it.

Belongs here: what must hold before, the locks, the drop; which months have their turn; a lake that moved. Does not:
reading a month that left (`store.dropped_months`), archiving (`pipeline.archive`), when to drop.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from psycopg_pool import ConnectionPool

from stripemeter.errors import Conflict, InvalidInput, InvariantBroken, NotFound
from stripemeter.metering.days import day_bounds, days_between, month_start, next_month
from stripemeter.pipeline.archive import prove_days
from stripemeter.pipeline.ingest import FIRST_PARTITIONED_YEAR
from stripemeter.store import counters, dropped_months, ledger
from stripemeter.store.archived_days import ArchivedDay, list_archived_days, load_archived_day
from stripemeter.store.dropped_months import DroppedMonth
from stripemeter.store.lake import LocalLake, load_events, require_files
from stripemeter.store.postgres import Tx, transaction
from stripemeter.store.scan import LedgerScanner, open_scanner

KEPT_AFTER = timedelta(days=62)
"""How long after its end a month stays: past the previous month, which may still be invoiced."""
_EVERY_TRANSACTION = 2**63 - 1


def drop_month(pool: ConnectionPool, lake: LocalLake, month_on: date, *, now: datetime) -> DroppedMonth:
    """Drop the ledger rows of a month (its first day) that the lake has; commits before it returns.

    Usage, recounts, duplicates, conservation go on as before. Doing it again changes nothing, unless events came since:
    then those go, too.

    Raises:
        InvalidInput: not the first day of a month that has a partition of its own.
        NotFound: no event of the month was ever stored.
        Conflict: the month is too young, or the lake does not have all of it as it is: the message says what to do.
        Unavailable: Postgres or the lake does not answer, or others kept the ledger busy; nothing changed.
    """
    if month_on != month_start(month_on) or month_on.year < FIRST_PARTITIONED_YEAR:
        raise InvalidInput(f"a month from {FIRST_PARTITIONED_YEAR}-01 on, not {month_on}", field="month")
    droppable_at = _droppable_at(month_on)
    if now < droppable_at:
        raise Conflict(f"{month_on:%Y-%m} stays in Postgres until {droppable_at:%Y-%m-%d}: it may still be invoiced")
    with transaction(pool) as tx:
        stands = dropped_months.load_dropped_month(tx, month_on)
        if not dropped_months.has_partition(tx, month_on):
            if stands is None:
                raise NotFound(f"the ledger has no events of {month_on:%Y-%m}")
            return stands
    days = days_between(month_on, _last_day(month_on))
    _require_proven(pool, lake, days)
    with open_scanner(pool) as scanner, transaction(pool) as tx:
        below = ledger.lock_cursor(tx).folded_below
        counters.lock_days(tx, days)
        _require_folded(tx, days, below)
        events = sum(_require_in_lake(tx, scanner, lake, day) for day in days)
        dropped_months.lock_ledger(tx)
        _require_folded(tx, days, below)  # nothing came between: rows are only added, and never below the cursor
        dropped = DroppedMonth(month_on=month_on, events=events, lake=str(lake.root), dropped_at=now.astimezone(UTC))
        dropped_months.drop_partition(tx, dropped)
    return dropped


def months_to_drop(pool: ConnectionPool, *, now: datetime, retain_months: int) -> list[date]:
    """First days of the months with a partition that may go, ascending; the lake may still lack some of them.

    Args:
        pool: the database.
        now: aware.
        retain_months: how many whole months before the current one stay.

    Raises:
        Unavailable: Postgres does not answer.
    """
    first_kept = month_start(now.astimezone(UTC).date())
    for _ in range(retain_months):
        first_kept = month_start(first_kept - timedelta(days=1))
    with transaction(pool) as tx:
        months = dropped_months.list_partitions(tx, before=first_kept)
    return [month for month in months if month.year >= FIRST_PARTITIONED_YEAR and now >= _droppable_at(month)]


def move_lake(pool: ConnectionPool, lake: LocalLake) -> list[DroppedMonth]:
    """Look for every dropped month in this lake from now on; returns them, ascending.

    Each month is committed by itself, once every file of it was found here with its hash. Again changes nothing.

    Raises:
        Conflict: a file is not here as it was archived; months before it are looked for here, it and those after it
            where they were.
        Unavailable: Postgres or the lake does not answer.
    """
    with transaction(pool) as tx:
        months = sorted(dropped_months.list_dropped_months(tx))
    return [_move_month(pool, lake, month_on) for month_on in months]


def _move_month(pool: ConnectionPool, lake: LocalLake, month_on: date) -> DroppedMonth:
    with transaction(pool) as tx:
        days = list_archived_days(tx, month_on, _last_day(month_on))
        counters.lock_days(tx, days)  # nobody archives them meanwhile
        for day in days:
            archived = load_archived_day(tx, day)
            if archived is not None:
                _require_files(lake, archived)
        dropped_months.replace_lake(tx, month_on, str(lake.root))
        moved = dropped_months.load_dropped_month(tx, month_on)
    if moved is None:
        raise InvariantBroken(f"{month_on:%Y-%m} is no dropped month any more")
    return moved


def _require_files(lake: LocalLake, archived: ArchivedDay) -> None:
    try:
        require_files(lake, archived.day, archived.files)
    except InvariantBroken as error:
        raise Conflict(f"{lake.root} does not have {archived.day} as it was archived: {error}") from error


def _last_day(month_on: date) -> date:
    return next_month(month_on) - timedelta(days=1)


def _droppable_at(month_on: date) -> datetime:
    return day_bounds(_last_day(month_on))[1] + KEPT_AFTER


def _require_proven(pool: ConnectionPool, lake: LocalLake, days: list[date]) -> None:
    proof = prove_days(pool, lake, days)
    if proof.mismatches:
        wrong = proof.mismatches[0]
        raise Conflict(f"the lake is wrong about {wrong.day}: {wrong.problem}")
    if proof.stale:
        raise _unarchived(proof.stale[0])


def _require_folded(tx: Tx, days: list[date], below: int) -> None:
    if dropped_months.has_unfolded(tx, days[0], days[-1], below=below):
        raise Conflict(
            f"events of {days[0]:%Y-%m} are not counted yet: run `stripemeter counters fold`, archive, again"
        )


def _require_in_lake(tx: Tx, scanner: LedgerScanner, lake: LocalLake, day: date) -> int:
    """How many events the lake has of a day, once each ledger row is found among them, column by column."""
    rows = scanner.scan_archive_day(day, below=_EVERY_TRANSACTION)
    archived = load_archived_day(tx, day)
    if archived is None:
        if rows.is_empty():
            return 0
        raise _unarchived(day)
    if archived.is_stale:
        raise _unarchived(day)
    kept = load_events(lake, day, sha256=archived.events_sha256)
    same = kept.join(rows.select("seq"), on="seq", how="semi")
    if not same.drop("state").sort("seq").equals(rows.drop("state").sort("seq")):
        raise _unarchived(day)
    return kept.height


def _unarchived(day: date) -> Conflict:
    return Conflict(f"the lake does not have {day} as it is: run `stripemeter lake archive {day}` first")
