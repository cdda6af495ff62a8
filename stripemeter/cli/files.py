"""`stripemeter ingest FILE` and `stripemeter backfills`: files into the ledger.

Belongs here: options, progress, exit statuses. Does not: reading and storing (`stripemeter.pipeline.backfill`).
"""

from __future__ import annotations

import getpass
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from uuid import UUID

import typer

from stripemeter.errors import InvalidInput

if TYPE_CHECKING:
    from stripemeter.metering.events import IngestLimits
    from stripemeter.pipeline.backfill import Watch
    from stripemeter.runtime.settings import Settings
    from stripemeter.store.backfills import Backfill, NewBackfill, RowCounts
    from stripemeter.store.postgres import Tx

app = typer.Typer(help="Imports of files and backfills: list, show, run, cancel, revert.", no_args_is_help=True)

NOT_ALL_TAKEN = 1
INTERRUPTED = 130
"""As a shell reports a process ended by Ctrl-C."""


def ingest(  # noqa: PLR0913, PLR0917 - options of a command
    file: Annotated[str, typer.Argument(help="A path, or s3://BUCKET/KEY.", show_default=False)],
    tenant: Annotated[str, typer.Option("--tenant", help="Every row belongs to it.", show_default=False)],
    metric: Annotated[
        str | None,
        typer.Option("--metric", help="Metric of rows that name none; others are skipped.", show_default=False),
    ] = None,
    file_format: Annotated[
        Literal["csv", "jsonl", "parquet"] | None,
        typer.Option("--format", help="Default: what the name says.", show_default=False),
    ] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option("--map", help="COLUMN=FIELD, where the file names it otherwise.", show_default=False),
    ] = None,
    errors: Annotated[
        Path | None,
        typer.Option("--errors", help="Report: a JSON line per row not taken.", show_default=False),
    ] = None,
    first: Annotated[
        str | None, typer.Option("--from", help="First UTC day; earlier rows are skipped.", show_default=False)
    ] = None,
    last: Annotated[
        str | None, typer.Option("--to", help="Last UTC day, included; later rows are skipped.", show_default=False)
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the record.")] = "import",
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing; say what would happen.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with this file's interrupted import.")] = False,
) -> None:
    """Load a CSV, JSON Lines or Parquet file of events. Sending a row again is harmless: its key is known.

    Exit 0: every row was taken, known or skipped. 1: some failed or conflict (--errors says which). 130: Ctrl-C;
    --resume goes on.
    """
    from stripemeter.runtime.database import current_database_url
    from stripemeter.runtime.settings import load_settings

    settings = load_settings()
    database_url = current_database_url(settings)
    new = _asked(file, tenant, metric, file_format, mapping or [], (_day(first, "--from"), _day(last, "--to")), reason)
    with _progress() as watch:
        if dry_run:
            from stripemeter.pipeline.backfill import preview_file

            counts = preview_file(database_url, new, limits=_limits(settings), now=datetime.now(UTC), watch=watch)
            typer.echo(f"dry run, nothing written: {_shown(counts)}")
        else:
            ended = _run(database_url, new, settings, errors, watch, resume=resume)
            counts = ended.counts
            typer.echo(f"{ended.status} {ended.id}: {_shown(counts)}")
    if counts.failed or counts.conflicts:
        raise typer.Exit(NOT_ALL_TAKEN)


@app.command("list")
def list_operations(
    tenant: Annotated[str | None, typer.Option("--tenant", help="Only this tenant's.", show_default=False)] = None,
    status: Annotated[
        Literal["pending", "processing", "completed", "failed", "cancelled"] | None,
        typer.Option("--status", help="Only these.", show_default=False),
    ] = None,
) -> None:
    """The last fifty imports and backfills, newest first."""
    from stripemeter.store.backfills import list_backfills

    with _tx() as tx:
        for backfill in list_backfills(tx, tenant_id=tenant, status=status):
            typer.echo(_line(backfill))


@app.command()
def show(backfill_id: Annotated[UUID, typer.Argument(metavar="ID", show_default=False)]) -> None:
    """One import or backfill."""
    from stripemeter.store.backfills import load_backfill

    with _tx() as tx:
        typer.echo(_line(load_backfill(tx, backfill_id)))


@app.command("run")
def run_operation(backfill_id: Annotated[UUID, typer.Argument(metavar="ID", show_default=False)]) -> None:
    """Run a backfill from where it stands, here and now, without Dagster.

    Exit 0: every row was taken, known or skipped. 1: some failed or conflict, or the backfill failed. 130: Ctrl-C; the
    same command goes on.
    """
    from stripemeter.pipeline.backfill import run_backfill
    from stripemeter.pipeline.error_report import report_path
    from stripemeter.runtime.database import current_database_url
    from stripemeter.runtime.settings import load_settings

    settings = load_settings()
    report = report_path(settings.state, backfill_id)
    try:
        with _progress() as watch:
            ended = run_backfill(
                current_database_url(settings),
                backfill_id,
                limits=_limits(settings),
                clock=lambda: datetime.now(UTC),
                report_path=report,
                watch=watch,
            )
    except KeyboardInterrupt:
        typer.echo(f"interrupted: the same command goes on with {backfill_id}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    typer.echo(f"{ended.status} {ended.id}: {_shown(ended.counts)}")
    if ended.error_message:
        typer.echo(ended.error_message, err=True)
    if ended.counts.failed or ended.counts.conflicts or ended.status == "failed":
        typer.echo(f"rows not taken: {report}", err=True)
        raise typer.Exit(NOT_ALL_TAKEN)


@app.command()
def revert(
    backfill_id: Annotated[UUID, typer.Argument(metavar="ID", show_default=False)],
    reason: Annotated[str, typer.Option("--reason", help="Why, for the record.", show_default=False)],
    tenant: Annotated[
        str | None, typer.Option("--tenant", help="Only when it is this tenant's.", show_default=False)
    ] = None,
) -> None:
    """Let every event of an ended import or backfill count nowhere. The events stay in the ledger, their keys taken.

    After Ctrl-C or a crash the same command goes on.
    """
    from stripemeter.pipeline.revert import request_revert, revert_backfill
    from stripemeter.runtime.database import current_database_url
    from stripemeter.runtime.settings import load_settings

    if not 1 <= len(reason) <= 500:
        raise InvalidInput("--reason must have 1 to 500 characters", field="--reason")
    actor = f"cli:{getpass.getuser()}"
    with _tx() as tx:
        request_revert(tx, backfill_id, tenant_id=tenant, reason=reason, actor=actor, now=datetime.now(UTC))
    done = revert_backfill(
        current_database_url(load_settings()),
        backfill_id,
        clock=lambda: datetime.now(UTC),
        watch=lambda voided, stored: typer.echo(f"{voided:,} of {stored:,} events voided", err=True),
    )
    typer.echo(f"reverted {done.id}: {done.voided_count:,} of {done.counts.accepted:,} events voided by this")


@app.command()
def cancel(backfill_id: Annotated[UUID, typer.Argument(metavar="ID", show_default=False)]) -> None:
    """Stop an import for good, running or interrupted. What it has stored stays."""
    from stripemeter.store.backfills import finish_backfill, load_backfill

    with _tx() as tx:
        was_open = finish_backfill(tx, backfill_id, status="cancelled", now=datetime.now(UTC))
        backfill = load_backfill(tx, backfill_id)
    typer.echo(_line(backfill))
    if not was_open and backfill.status != "cancelled":
        typer.echo(f"it had ended before: {backfill.status}", err=True)
        raise typer.Exit(1)


def _asked(
    file: str,
    tenant: str,
    metric: str | None,
    file_format: Literal["csv", "jsonl", "parquet"] | None,
    mapping: list[str],
    period: tuple[date | None, date | None],
    reason: str,
) -> NewBackfill:
    from stripemeter.store.backfills import NewBackfill
    from stripemeter.store.files import find_source, format_of

    for name, text, most in (("--tenant", tenant, 255), ("--metric", metric or "m", 100), ("--reason", reason, 500)):
        if not 1 <= len(text) <= most or "\x00" in text:
            raise InvalidInput(f"{name} must have 1 to {most} characters", field=name)
    first, last = period
    if first is not None and last is not None and last < first:
        raise InvalidInput(f"--to {last} is before --from {first}", field="--to")
    column_map: dict[str, str] = {}
    for pair in mapping:
        column, separator, field = pair.rpartition("=")
        if not separator or not column or not field or column in column_map:
            raise InvalidInput(f"--map {pair!r}: write COLUMN=FIELD, each column once", field="--map")
        column_map[column] = field
    source = find_source(file)
    return NewBackfill(
        tenant_id=tenant,
        metric=metric,
        period_start=first,
        period_end=last,
        reason=reason,
        actor=f"cli:{getpass.getuser()}",
        source_type="file",
        source=source.location,
        source_version=source.version,
        source_format=file_format or format_of(source.location),
        source_size=source.size,
        column_map=column_map,
    )


def _run(
    database_url: str, new: NewBackfill, settings: Settings, errors: Path | None, watch: Watch, *, resume: bool
) -> Backfill:
    from stripemeter.pipeline.backfill import check_source, run_backfill

    check_source(new, limits=_limits(settings))
    backfill_id = _resumed(new) if resume else _created(new)
    try:
        return run_backfill(
            database_url,
            backfill_id,
            limits=_limits(settings),
            clock=lambda: datetime.now(UTC),
            report_path=errors,
            watch=watch,
        )
    except KeyboardInterrupt:
        typer.echo(f"interrupted: {backfill_id} goes on with the same command and --resume", err=True)
        raise typer.Exit(INTERRUPTED) from None


def _created(new: NewBackfill) -> UUID:
    from stripemeter.store.backfills import create_backfill

    with _tx() as tx:
        return create_backfill(tx, new, now=datetime.now(UTC))


def _resumed(new: NewBackfill) -> UUID:
    from stripemeter.errors import Conflict, NotFound
    from stripemeter.store.backfills import find_unfinished

    with _tx() as tx:
        found = find_unfinished(tx, tenant_id=new.tenant_id, source=new.source)
    if found is None:
        raise NotFound(f"no interrupted import of {new.source} for tenant {new.tenant_id!r}: leave --resume out")
    for name in ("metric", "period_start", "period_end", "source_format", "column_map"):
        before, now = getattr(found, name), getattr(new, name)
        if before != now:
            raise Conflict(f"import {found.id} was begun with {name} {before!r}, not {now!r}: use the same options")
    typer.echo(f"going on with {found.id} after {found.counts.rows:,} rows", err=True)
    return found.id


def _limits(settings: Settings) -> IngestLimits:
    from stripemeter.metering.events import IngestLimits

    return IngestLimits(max_meta_bytes=settings.max_event_meta_bytes, is_tenant_uuid=settings.strict_tenant_id_uuid)


def _day(text: str | None, name: str) -> date | None:
    from stripemeter.metering.days import parse_day

    return None if text is None else parse_day(text, field=name)


def _shown(counts: RowCounts) -> str:
    return (
        f"{counts.rows:,} rows = {counts.accepted:,} accepted + {counts.duplicates:,} duplicates"
        f" + {counts.conflicts:,} conflicts + {counts.failed:,} failed + {counts.skipped:,} skipped"
    )


def _line(backfill: Backfill) -> str:
    source = backfill.source or backfill.source_type
    return f"{backfill.id} {backfill.status:<10} {backfill.tenant_id} {source}: {_shown(backfill.counts)}"


@contextmanager
def _tx() -> Iterator[Tx]:
    from stripemeter.runtime.database import current_database_url
    from stripemeter.runtime.settings import load_settings
    from stripemeter.store.postgres import connect

    with connect(current_database_url(load_settings())) as tx:
        yield tx


@contextmanager
def _progress() -> Iterator[Watch]:
    """A bar on a terminal, a line per tenth elsewhere."""
    if not sys.stderr.isatty():
        from stripemeter.pipeline.backfill import by_tenths

        yield by_tenths(lambda percent, counts: typer.echo(f"{percent:3d} %  {_shown(counts)}", err=True))
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None)

        def watch(position: int, size: int, counts: RowCounts) -> None:
            bar.update(task, completed=position, total=size, description=f"{counts.rows:,} rows")

        yield watch
