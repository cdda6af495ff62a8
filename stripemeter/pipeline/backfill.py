"""Running an import or backfill: batches of rows into the ledger, each with its checkpoint in one transaction.

Belongs here: the loop, the order of writes, going on after a crash. Does not: reading files (`store.files`), rows to
events (`metering.rows`), storing a batch (`pipeline.bulk`).

A batch's events, the counts of its rows and the position behind it commit together, so whatever dies at whatever
instant, every row is counted once. While Postgres stores one batch, the next is parsed.

An import of a file whose source cannot be read waits for whoever typed it; a backfill that came over HTTP has nobody
watching, so it ends as `failed` and says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice
from pathlib import Path
from uuid import UUID

import psycopg
import structlog

from stripemeter.errors import Conflict, InvalidInput, NotFound, Unavailable
from stripemeter.metering.events import IngestLimits, RejectedEvent, UsageEvent
from stripemeter.metering.rows import FailedRow, ParsedRow, RowRules, SkippedRow, check_columns, fields_of, parse_row
from stripemeter.pipeline.bulk import (
    SESSION_OPTIONS,
    PreparedEvents,
    ensure_months,
    prepare_events,
    preview_events,
    store_prepared,
)
from stripemeter.pipeline.error_report import MAX_REPORT_BYTES, ErrorReport, RowError
from stripemeter.pipeline.ingest import EventResult, Outcome
from stripemeter.store.backfills import (
    Backfill,
    NewBackfill,
    RowCounts,
    advance_backfill,
    begin_backfill,
    finish_backfill,
    load_backfill,
    load_payload,
    note_interruption,
    note_row_count,
    pin_source,
    release_backfill,
)
from stripemeter.store.files import Rows, SourceFile, find_source, open_rows, payload_source
from stripemeter.store.postgres import CONNECTION_OPTIONS

BATCH_ROWS = 5_000
"""Larger batches are no faster; this one holds the fold's cut for about a tenth of a second."""

Watch = Callable[[int, int, RowCounts], None]
"""Called after each committed batch with position, size (both bytes, or rows of Parquet) and the counts so far."""
_log = structlog.get_logger(__name__)


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

    An interruption of any kind leaves it `processing`: run it again to go on. One that came over HTTP and whose source
    cannot be read ends as failed.

    Raises:
        Conflict: another process runs it, it has ended, or its file changed since it began.
        NotFound: no such operation, or its file is gone.
        InvalidInput: the file cannot be read in its format.
        Unavailable: Postgres or S3 went away; what was committed stays, run it again.
    """
    try:
        with _connect(database_url) as connection:
            backfill = begin_backfill(connection, backfill_id, now=clock())
            try:
                return _run(connection, backfill, limits=limits, clock=clock, report_path=report_path, watch=watch)
            except (InvalidInput, NotFound, Conflict) as error:
                if backfill.source_type == "file":
                    raise
                _log.warning("backfill_failed", backfill=str(backfill_id), reason=str(error))
                finish_backfill(connection, backfill_id, status="failed", now=clock(), error_message=str(error))
                return load_backfill(connection, backfill_id)
            except Unavailable as error:
                note_interruption(connection, backfill_id, str(error), now=clock())
                raise
            finally:
                release_backfill(connection, backfill_id)
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
    check_source(new, limits=limits)
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


def check_source(new: NewBackfill, *, limits: IngestLimits) -> None:
    """Refuse a file or payload that cannot give events before anything is recorded of it.

    Raises:
        NotFound, InvalidInput, Unavailable: as `run_backfill`.
    """
    rules = rules_of(new, limits)
    source = find_source(new.source) if new.payload is None else payload_source(new.payload)
    with closing(open_rows(source, new.source_format)) as rows:
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


def by_tenths(tell: Callable[[int, RowCounts], None]) -> Watch:
    """A watch that tells per cent and counts when another tenth is done."""
    told = 0

    def watch(position: int, size: int, counts: RowCounts) -> None:
        nonlocal told
        tenths = position * 10 // size if size else 10
        if tenths > told:
            told = tenths
            tell(tenths * 10, counts)

    return watch


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
                    # Here, while the batch before is stored: in the other thread the two would wait for each other's
                    # Python (measured: three quarters of the rows per second).
                    prepared = prepare_events(_events(batch))
                    self._settle(storing)
                    storing = thread.submit(self._store, batch, prepared)
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

    def _store(self, batch: _Batch, prepared: PreparedEvents) -> None:
        now = self._clock()
        ensure_months(self._connection, prepared, self._months)
        with self._connection.transaction():
            results = self._accept(prepared, now.date()) if prepared.events else []
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

    def _accept(self, prepared: PreparedEvents, received_on: date) -> list[EventResult]:
        return store_prepared(self._connection, prepared, received_on=received_on, backfill_id=self._backfill.id)


def _connect(database_url: str) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(
        database_url,
        autocommit=True,
        options=f"{CONNECTION_OPTIONS} {SESSION_OPTIONS}",
        application_name="stripemeter-backfill",
        connect_timeout=10,
    )


def _run(
    connection: psycopg.Connection[tuple[object, ...]],
    backfill: Backfill,
    *,
    limits: IngestLimits,
    clock: Callable[[], datetime],
    report_path: Path | None,
    watch: Watch,
) -> Backfill:
    rules = rules_of(backfill, limits)
    most_bytes = None if backfill.source_type == "file" else MAX_REPORT_BYTES
    source = _source(connection, backfill, clock())
    with (
        closing(open_rows(source, backfill.source_format, position=backfill.source_position)) as rows,
        ErrorReport(report_path, committed_bytes=backfill.report_bytes, most_bytes=most_bytes) as report,
    ):
        if rows.columns is not None:
            check_columns(rows.columns, rules=rules, mapping=backfill.column_map)
        if backfill.source_format == "parquet" and backfill.source_row_count is None:  # its size is its rows
            note_row_count(connection, backfill.id, rows.size, now=clock())
        runner = _Runner(connection, backfill, report, clock=clock, watch=watch, size=rows.size)
        return runner.run(_batches(rows, rules, clock(), backfill.counts.rows))


def _source(connection: psycopg.Connection[tuple[object, ...]], backfill: Backfill, now: datetime) -> SourceFile:
    if not backfill.source:
        payload = load_payload(connection, backfill.id)
        if payload is None:
            raise Conflict(f"backfill {backfill.id} has ended: its payload is gone")
        return payload_source(payload)
    source = find_source(backfill.source)
    if not backfill.source_version:
        pin_source(connection, backfill.id, source_version=source.version, source_size=source.size, now=now)
    elif source.version != backfill.source_version:
        raise Conflict(
            f"{source.location} changed since backfill {backfill.id} began: cancel it and start a new one "
            "(rows that were accepted already will be duplicates)"
        )
    return source


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
