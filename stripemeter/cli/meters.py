"""`stripemeter meters`: what a tenant counts, as a file in YAML.

Belongs here: options, how meters and changes look, progress. Does not: planning (`metering.meter_files`), changing
(`pipeline.meters`).
"""

from __future__ import annotations

import getpass
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stripemeter.errors import NotFound

if TYPE_CHECKING:
    from psycopg_pool import ConnectionPool

    from stripemeter.metering.meter_files import MeterFile, PlannedChange
    from stripemeter.store.meters import RecordedVersion

app = typer.Typer(help="What is counted: meters, their versions, and files of them.", no_args_is_help=True)

_TENANT = typer.Option("--tenant", help="Whose.", show_default=False)
_FILE = typer.Argument(help="YAML: `tenant: NAME` and `meters: [...]`, as `export` writes it.", show_default=False)
_PRUNE = typer.Option("--prune", help="End, from today, the meters that the file does not name.")
IDLE_ROUNDS = 10
"""Seconds without a day counted again before `apply` leaves the rest to others: somebody has it, or it fails."""


@app.command("list")
def list_meters(
    tenant: Annotated[str, _TENANT],
    day: Annotated[str | None, typer.Option("--day", help="The UTC day they count; default: today.")] = None,
) -> None:
    """The meters that count a day; metrics without a meter of their name count by themselves."""
    from stripemeter.cli.counters import database_pool
    from stripemeter.metering.days import parse_day
    from stripemeter.pipeline import meters

    with database_pool() as pool:
        found = meters.list_meters(pool, tenant, _today() if day is None else parse_day(day, field="--day"))
    for recorded in found:
        definition = recorded.version.definition
        typer.echo(
            "\t".join((definition.name, definition.aggregation, ",".join(definition.metrics), _version(recorded)))
        )


@app.command("show")
def show(
    meter: Annotated[str, typer.Argument(help="The meter.", show_default=False)], tenant: Annotated[str, _TENANT]
) -> None:
    """A meter's newest definition, and every version there was."""
    from stripemeter.cli.counters import database_pool
    from stripemeter.cli.yaml_files import to_yaml
    from stripemeter.metering.meters import meter_document
    from stripemeter.pipeline import meters

    with database_pool() as pool:
        versions = meters.find_meter(pool, tenant, meter)
    if not versions:
        raise NotFound(f"tenant {tenant!r} has no meter {meter!r}")
    typer.echo(to_yaml(meter_document(versions[-1].version.definition)), nl=False)
    for recorded in versions:
        typer.echo(f"# {_version(recorded)}, {recorded.actor}, {recorded.created_at.isoformat(timespec='seconds')}")


@app.command("export")
def export(tenant: Annotated[str, _TENANT]) -> None:
    """The newest definitions as a file on standard output; applying it changes nothing."""
    from stripemeter.cli.counters import database_pool
    from stripemeter.cli.yaml_files import to_yaml
    from stripemeter.metering.meter_files import meter_file_document
    from stripemeter.pipeline import meters

    with database_pool() as pool:
        versions = meters.load_versions(pool, tenant)
    typer.echo(to_yaml(meter_file_document(tenant, versions, today=_today())), nl=False)


@app.command("diff")
def diff(file: Annotated[Path, _FILE], *, prune: Annotated[bool, _PRUNE] = False) -> None:
    """What `apply` would do. Exit 1 when that is anything, 0 when all is so already."""
    from stripemeter.cli.counters import database_pool

    said = _read(file)
    with database_pool() as pool:
        changes = _plan(pool, said, prune=prune)
    for change in changes:
        _show(change)
    if changes:
        raise typer.Exit(1)


@app.command("apply")
def apply(file: Annotated[Path, _FILE], *, prune: Annotated[bool, _PRUNE] = False) -> None:
    """Let a file's meters count, and count again what that touches. Saying the same again changes nothing.

    Each meter is changed by itself. Interrupted, the rest is counted again by the running stack, or by the next apply.
    """
    from stripemeter.cli.counters import database_pool

    said = _read(file)
    with database_pool() as pool:
        for change in _plan(pool, said, prune=prune):
            _show(change)
            _apply(pool, said.tenant_id, change)
        waiting = _recount(pool, said.tenant_id)
    if waiting:
        typer.echo(f"{waiting} days still wait to be counted again: the running stack goes on with them", err=True)
        raise typer.Exit(1)


def _read(file: Path) -> MeterFile:
    from stripemeter.cli.yaml_files import read_yaml
    from stripemeter.metering.meter_files import parse_meter_file

    return parse_meter_file(read_yaml(file))


def _plan(pool: ConnectionPool, said: MeterFile, *, prune: bool) -> list[PlannedChange]:
    from stripemeter.metering.meter_files import plan_changes, plan_removals
    from stripemeter.pipeline import meters

    versions = meters.load_versions(pool, said.tenant_id)
    changes = plan_changes(said, versions, today=_today())
    return changes + (plan_removals(said, versions, today=_today()) if prune else [])


def _apply(pool: ConnectionPool, tenant_id: str, change: PlannedChange) -> None:
    from stripemeter.pipeline import meters

    meters.apply_version(
        pool,
        tenant_id,
        change.version,
        actor=f"cli:{getpass.getuser()}",
        expected_version=change.based_on,
        now=datetime.now(UTC),
    )


def _recount(pool: ConnectionPool, tenant_id: str) -> int:
    """Counts waiting days again and shows how far it is; how many remain when nothing moves any more."""
    from stripemeter.pipeline.slice_recounts import drain

    total = waiting = drain(pool, tenant_id=tenant_id, budget_seconds=0)
    if not total:
        return 0
    idle = 0
    with _progress(total) as watch:
        while waiting and idle < IDLE_ROUNDS:
            before, waiting = waiting, drain(pool, tenant_id=tenant_id, budget_seconds=1)
            watch(total - waiting)
            idle = idle + 1 if waiting >= before else 0
            if idle:
                time.sleep(1)
    return waiting


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, a line per round elsewhere."""
    if not sys.stderr.isatty():
        yield lambda done: typer.echo(f"counted again: {done} of {total} days", err=True)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("counting again"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.update(task, completed=done)


def _show(change: PlannedChange) -> None:
    version = change.version
    since = "all of history" if version.effective_on == date.min else f"from {version.effective_on}"
    typer.echo(f"{change.action} {version.definition.name} (version {version.version}, {since})")
    for name, before, after in change.members:
        typer.echo(f"  {name}: {json.dumps(before, ensure_ascii=False)} -> {json.dumps(after, ensure_ascii=False)}")


def _version(recorded: RecordedVersion) -> str:
    version = recorded.version
    state = "" if version.is_active else ", ended"
    return f"version {version.version} from {version.effective_on}{state}"


def _today() -> date:
    return datetime.now(UTC).date()
