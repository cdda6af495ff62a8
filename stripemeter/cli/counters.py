"""`stripemeter counters`: fold, recount, and what a restored database needs.

Belongs here: options, progress, exit statuses. Does not: counting (`stripemeter.pipeline`), GraphQL (`dagster_runs`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from stripemeter.errors import InvalidInput

if TYPE_CHECKING:
    from psycopg_pool import ConnectionPool

app = typer.Typer(help="Fold new events, recount days, repair after a restore.", no_args_is_help=True)

_FIRST = typer.Option("--from", help="First day, YYYY-MM-DD (UTC).", show_default=False)
_LAST = typer.Option("--to", help="Last day, included.", show_default=False)


@app.command()
def fold() -> None:
    """Count every committed event that is not counted yet. A running stack does it every few seconds by itself."""
    from stripemeter.pipeline.fold import fold as fold_events

    with database_pool() as pool:
        report = fold_events(pool)
        typer.echo(f"folded {report.events} events into {len(report.days)} days")
        while report.has_more:
            report = fold_events(pool)
            typer.echo(f"folded {report.events} events into {len(report.days)} days")


@app.command()
def recount(
    days: Annotated[list[str] | None, typer.Argument(help="Days, YYYY-MM-DD (UTC).", show_default=False)] = None,
    first: Annotated[str | None, _FIRST] = None,
    last: Annotated[str | None, _LAST] = None,
    *,
    local: Annotated[
        bool, typer.Option("--local", help="Recount in this process: no Dagster, nothing in its UI.")
    ] = False,
) -> None:
    """Count days again from the ledger: totals stay right whatever else runs meanwhile.

    Asks the running stack's Dagster, so that the run appears in its UI, and shows the progress. Each day is committed
    by itself. Exit 1 when any day failed; the others are done nevertheless.
    """
    wanted = parse_days(days or [], first, last)
    failed = _recount_here(wanted) if local else _recount_in_dagster(wanted)
    if failed:
        raise typer.Exit(1)


@app.command()
def restamp(*, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """After a restore into another PostgreSQL server: make the ledger readable there. Stop writers first."""
    from stripemeter.store.ledger import restamp as restamp_ledger
    from stripemeter.store.postgres import transaction

    if not yes:
        typer.confirm("Rewrite every ledger row's transaction id? Nothing may write meanwhile", abort=True)
    with database_pool() as pool, transaction(pool) as tx:
        restamp_ledger(tx)
    typer.echo("done: the fold goes on where it was")


def _recount_here(days: Iterable[date]) -> bool:
    from stripemeter.pipeline.recount_days import FailedDay, recount_days

    failed = False
    with database_pool() as pool:
        for outcome in recount_days(pool, days):
            if isinstance(outcome, FailedDay):
                failed = True
                typer.echo(f"{outcome.day}: FAILED, {outcome.message}", err=True)
            else:
                typer.echo(
                    f"{outcome.day}: {outcome.events} events, {outcome.counters} counters, {outcome.changed} changed"
                )
    return failed


def _recount_in_dagster(days: Iterable[date]) -> bool:
    from stripemeter.cli.dagster_runs import launch_recount

    dagster_url = _dagster_url()
    runs = {launch_recount(dagster_url, *days): days for days in contiguous(days)}
    shown = [_show(dagster_url, run_id, *days) for run_id, days in runs.items()]  # every run, also after a failed one
    return any(shown)


def _show(dagster_url: str, run_id: str, first: date, last: date) -> bool:
    from stripemeter.cli.dagster_runs import follow

    typer.echo(f"{first} to {last}: {dagster_url}/runs/{run_id}")
    status = ""
    for progress in follow(dagster_url, run_id):
        if progress.status != status:
            status = progress.status
            typer.echo(f"  {status.lower()}")
        for line in progress.lines:
            typer.echo(f"  {line.strip()}")
    return status != "SUCCESS"


def contiguous(days: Iterable[date]) -> Iterator[tuple[date, date]]:
    """The days as ranges, first and last included, without any day between that was not asked for."""
    wanted = set(days)
    lasts = sorted(day for day in wanted if day + timedelta(days=1) not in wanted)
    firsts = sorted(day for day in wanted if day - timedelta(days=1) not in wanted)
    return zip(firsts, lasts, strict=True)


def parse_days(days: list[str], first: str | None, last: str | None) -> list[date]:
    """The days named one by one or as a range, ascending, each once.

    Raises:
        InvalidInput: none, half a range, not a date, or a day that has not begun.
    """
    from stripemeter.metering.days import days_between, parse_day

    parsed = {parse_day(day) for day in days}
    if (first is None) != (last is None):
        raise InvalidInput("--from and --to belong together", field="--from" if first is None else "--to")
    if first is not None and last is not None:
        parsed |= set(days_between(parse_day(first, field="--from"), parse_day(last, field="--to")))
    if not parsed:
        raise InvalidInput("name at least one day, or --from and --to, the first no later than the last", field="days")
    if max(parsed) > datetime.now(UTC).date():
        raise InvalidInput(f"{max(parsed)} has not begun (days are UTC)", field="days")
    return sorted(parsed)


def _dagster_url() -> str:
    from stripemeter.runtime.settings import load_settings
    from stripemeter.runtime.stack_record import read_record

    settings = load_settings()
    record = read_record(settings.state)
    if record is not None and record.is_supervised and "dagster" in record.urls:
        return record.urls["dagster"]
    return f"http://127.0.0.1:{settings.dagster_port}"


@contextmanager
def database_pool() -> Iterator[ConnectionPool]:
    """A pool on the database the settings or the running stack name."""
    from stripemeter.runtime.database import current_database_url
    from stripemeter.runtime.settings import load_settings
    from stripemeter.store.postgres import open_pool

    with open_pool(current_database_url(load_settings()), max_size=2) as pool:
        yield pool
