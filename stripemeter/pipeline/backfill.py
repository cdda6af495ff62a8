"""Running an import or backfill: batches of a file into the ledger, each with its checkpoint in one transaction.

Belongs here: the loop, the order of writes, going on after a crash. Does not: reading files (`store.files`), rows to
events (`metering.rows`), storing a batch (`pipeline.bulk`).

A batch's events, the counts of its rows and the position behind it commit together, so whatever dies at whatever
instant, every row is counted once. While Postgres stores one batch, the next is parsed.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self
from uuid import UUID

import msgspec
import psycopg

from stripemeter.errors import Conflict, Unavailable
from stripemeter.metering.events import IngestLimits, RejectedEvent, UsageEvent
from stripemeter.metering.rows import FailedRow, ParsedRow, RowRules, SkippedRow, check_columns, fields_of, parse_row
from stripemeter.pipeline.bulk import SESSION_OPTIONS, ensure_months, preview_events, store_events
from stripemeter.pipeline.ingest import EventResult, Outcome
from stripemeter.store.backfills import (
    Backfill,
    NewBackfill,
    RowCounts,
    advance_backfill,
    begin_backfill,
    finish_backfill,
)
from stripemeter.store.files import Rows, find_source, open_rows
from stripemeter.store.postgres import CONNECTION_OPTIONS

BATCH_ROWS = 5_000
"""Larger batches are no faster; this one holds the fold's cut for about a tenth of a second."""

Watch = Callable[[int, int, RowCounts], None]
"""Called after each committed batch with position, size (both bytes, or rows of Parquet) and the counts so far."""


class RowError(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the error report. `row` counts from 1, without heading and empty lines."""

    row: int
    field: str
    code: str
    message: str


class ErrorReport:
    """A JSON Lines file, one line per failed or conflicting row, that never holds more than was committed for long."""

    def __init__(self, path: Path | None, *, committed_bytes: int) -> None:
        self.length = committed_bytes
        self._file: BinaryIO | None = None
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("r+b" if committed_bytes and path.exists() else "w+b")
        # What was written for a batch that never committed is written again with it.
        self.length = min(committed_bytes, self._file.seek(0, io.SEEK_END))
        self._file.truncate(self.length)
        self._file.seek(self.length)

    def append(self, errors: Sequence[RowError]) -> None:
        """Write lines, on disk when it returns."""
        if self._file is None or not errors:
            return
        lines = b"".join(msgspec.json.encode(error) + b"\n" for error in errors)
        self._file.write(lines)
        self._file.flush()
        os.fsync(self._file.fileno())
        self.length += len(lines)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    first_row: int
    rows: list[ParsedRow]
    position: int


class _EndedError(Exception):
    """Somebody ended the operation while it ran."""


def run_backfill(
    database_url: str,
    backfill_id: UUID,
    *,
    limits: IngestLimits,
    clock: Callable[[], datetime],
    report_path: Path | None = None,
    watch: Watch = lambda _position, _size, _counts: None,
) -> Backfill:
    """Run an operation from where it stands to its end; returns it as it is then (completed, or cancelled meanwhile).

    An interruption of any kind leaves it `processing`: run it again to go on.

    Raises:
        Conflict: another process runs it, it has ended, or its source changed since it began.
        NotFound: no such operation, or its source is gone.
        InvalidInput: the source cannot be read in its format.
        Unavailable: Postgres or S3 went away; what was committed stays, run it again.
    """
    try:
        with _connect(database_url) as connection:
            backfill = begin_backfill(connection, backfill_id, now=clock())
            rules = rules_of(backfill, limits)
            with (
                closing(_open(backfill)) as rows,
                ErrorReport(report_path, committed_bytes=backfill.report_bytes) as report,
            ):
                if rows.columns is not None:
                    check_columns(rows.columns, rules=rules, mapping=backfill.column_map)
                runner = _Runner(connection, backfill, report, clock=clock, watch=watch, size=rows.size)
                return runner.run(_batches(rows, rules, clock(), backfill.counts.rows))
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise Unavailable(f"Postgres went away: {error}. What is committed stays: resume to go on") from error


def preview_file(
    database_url: str, new: NewBackfill, *, limits: IngestLimits, now: datetime, watch: Watch
) -> RowCounts:
    """What running it would come to, by the keys that stand now; writes nothing.

    A row whose key stands earlier in the same file is told from a new one only within a batch.

    Raises:
        NotFound, InvalidInput, Unavailable: as `run_backfill`.
    """
    counts = RowCounts()
    check_file(new, limits=limits)
    rules = rules_of(new, limits)
    try:
        with (
            closing(open_rows(find_source(new.source), new.source_format)) as rows,
            _connect(database_url) as connection,
        ):
            for batch in _batches(rows, rules, now, 0):
                done, _ = _tally(batch, preview_events(connection, _events(batch)))
                counts = counts.plus(done)
                watch(batch.position, rows.size, counts)
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise Unavailable(f"Postgres went away: {error}") from error
    return counts


def check_file(new: NewBackfill, *, limits: IngestLimits) -> None:
    """Refuse a file that cannot give events before anything is recorded of it.

    Raises:
        NotFound, InvalidInput, Unavailable: as `run_backfill`.
    """
    rules = rules_of(new, limits)
    with closing(open_rows(find_source(new.source), new.source_format)) as rows:
        if rows.columns is not None:
            check_columns(rows.columns, rules=rules, mapping=new.column_map)


def rules_of(asked: Backfill | NewBackfill, limits: IngestLimits) -> RowRules:
    """What an operation makes of rows.

    Raises:
        InvalidInput: its column map is not usable.
    """
    return RowRules(
        tenant_id=asked.tenant_id,
        metric=asked.metric,
        customer_ref=asked.customer_ref,
        start_at=None if asked.period_start is None else _midnight(asked.period_start),
        end_at=None if asked.period_end is None else _midnight(asked.period_end) + timedelta(days=1),
        fields=fields_of(asked.column_map),
        limits=limits,
    )


class _Runner:
    """One run: parses in the caller's thread, stores in another. Only that one uses the connection meanwhile."""

    def __init__(
        self,
        connection: psycopg.Connection[tuple[object, ...]],
        backfill: Backfill,
        report: ErrorReport,
        *,
        clock: Callable[[], datetime],
        watch: Watch,
        size: int,
    ) -> None:
        self._connection = connection
        self._backfill = backfill
        self._report = report
        self._clock = clock
        self._watch = watch
        self._size = size
        self._months: set[date] = set()

    def run(self, batches: Iterator[_Batch]) -> Backfill:
        """To the end."""
        storing: Future[None] | None = None
        with ThreadPoolExecutor(1, thread_name_prefix="backfill") as thread:
            try:
                for batch in batches:
                    self._settle(storing)
                    storing = thread.submit(self._store, batch)
                self._settle(storing)
            except _EndedError:
                return replace(self._backfill, status="cancelled")
        if not finish_backfill(self._connection, self._backfill.id, status="completed", now=self._clock()):
            return replace(self._backfill, status="cancelled")
        return replace(self._backfill, status="completed")

    def _settle(self, storing: Future[None] | None) -> None:
        if storing is not None:
            storing.result()
            self._watch(self._backfill.source_position, self._size, self._backfill.counts)

    def _store(self, batch: _Batch) -> None:
        now = self._clock()
        events = _events(batch)
        ensure_months(self._connection, events, self._months)
        with self._connection.transaction():
            results = self._accept(events, now.date()) if events else []
            done, errors = _tally(batch, results)
            self._report.append(errors)
            is_ours = advance_backfill(
                self._connection,
                self._backfill,
                done,
                position=batch.position,
                report_bytes=self._report.length,
                now=now,
            )
            if not is_ours:
                raise _EndedError
        self._backfill = replace(
            self._backfill,
            counts=self._backfill.counts.plus(done),
            source_position=batch.position,
            report_bytes=self._report.length,
        )

    def _accept(self, events: Sequence[UsageEvent | RejectedEvent], received_on: date) -> list[EventResult]:
        return store_events(self._connection, events, received_on=received_on, backfill_id=self._backfill.id)


def _connect(database_url: str) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(
        database_url,
        autocommit=True,
        options=f"{CONNECTION_OPTIONS} {SESSION_OPTIONS}",
        application_name="stripemeter-backfill",
        connect_timeout=10,
    )


def _open(backfill: Backfill) -> Rows:
    source = find_source(backfill.source)
    if source.version != backfill.source_version:
        raise Conflict(
            f"{source.location} changed since backfill {backfill.id} began: cancel it and start a new one "
            "(rows that were accepted already will be duplicates)"
        )
    return open_rows(source, backfill.source_format, position=backfill.source_position)


def _batches(rows: Rows, rules: RowRules, now: datetime, rows_before: int) -> Iterator[_Batch]:
    first_row = rows_before + 1
    stream = iter(rows)
    while taken := [
        row if isinstance(row, FailedRow) else parse_row(row, rules=rules, now=now)
        for row in islice(stream, BATCH_ROWS)
    ]:
        yield _Batch(first_row=first_row, rows=taken, position=rows.position)
        first_row += len(taken)


def _events(batch: _Batch) -> list[UsageEvent | RejectedEvent]:
    return [row for row in batch.rows if isinstance(row, UsageEvent | RejectedEvent)]


def _tally(batch: _Batch, results: Sequence[EventResult]) -> tuple[RowCounts, list[RowError]]:
    counts = dict.fromkeys(Outcome, 0)
    skipped = failed = 0
    errors: list[RowError] = []
    remaining = iter(results)
    for number, row in enumerate(batch.rows, batch.first_row):
        if isinstance(row, SkippedRow):
            skipped += 1
        elif isinstance(row, FailedRow):
            failed += 1
            errors.append(RowError(row=number, field=row.field, code=row.code, message=row.message))
        else:
            result = next(remaining)
            counts[result.outcome] += 1
            if result.code is not None and result.message is not None:
                field = _FIELDS.get(result.code, "")
                errors.append(RowError(row=number, field=field, code=result.code, message=result.message))
    done = RowCounts(
        accepted=counts[Outcome.ACCEPTED],
        duplicates=counts[Outcome.DUPLICATE],
        conflicts=counts[Outcome.CONFLICT],
        failed=failed + counts[Outcome.REJECTED],
        skipped=skipped,
    )
    return done, errors


_FIELDS: Mapping[str, str] = {
    "idempotency_conflict": "idempotencyKey",
    "ts_too_far_ahead": "ts",
    "meta_too_large": "meta",
}


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), tzinfo=UTC)
