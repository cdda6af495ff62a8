"""`stripemeter lake` and `stripemeter query`: closed days as Parquet files, and questions to them.

Belongs here: options, forms of an answer, exit statuses. Does not: archiving (`pipeline.archive`), DuckDB
(`store.lake_query`).
"""

from __future__ import annotations

import csv
import sys
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stripemeter.cli.counters import database_pool, parse_days

if TYPE_CHECKING:
    from stripemeter.store.lake import LocalLake
    from stripemeter.store.lake_query import Answer

app = typer.Typer(help="Archive days as Parquet files, prove them.", no_args_is_help=True)

_Days = Annotated[list[str] | None, typer.Argument(help="Days, YYYY-MM-DD (UTC).", show_default=False)]
_First = Annotated[str | None, typer.Option("--from", help="First day, YYYY-MM-DD (UTC).", show_default=False)]
_Last = Annotated[str | None, typer.Option("--to", help="Last day, included.", show_default=False)]


class Form(Enum):
    """How an answer is written."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


@app.command()
def archive(days: _Days = None, first: _First = None, last: _Last = None) -> None:
    """Write days to the lake, in this process. Closed days are archived every night by themselves."""
    from stripemeter.pipeline.archive import FailedArchive, archive_days

    failed = False
    with database_pool() as pool:
        for outcome in archive_days(pool, _lake(), parse_days(days or [], first, last)):
            if isinstance(outcome, FailedArchive):
                failed = True
                typer.echo(f"{outcome.day}: FAILED, {outcome.message}", err=True)
            else:
                typer.echo(f"{outcome.day}: {outcome.events} events, {outcome.counters} counters")
    if failed:
        raise typer.Exit(1)


@app.command()
def verify(days: _Days = None, first: _First = None, last: _Last = None) -> None:
    """Compare archived days with Postgres: every byte with the manifest, recounts with the counters."""
    from stripemeter.pipeline.archive import prove_days

    with database_pool() as pool:
        proof = prove_days(pool, _lake(), parse_days(days or [], first, last))
    for mismatch in proof.mismatches:
        typer.echo(f"{mismatch.day}: {mismatch.problem}", err=True)
    typer.echo(f"proven: {len(proof.proven)}, stale: {len(proof.stale)}, wrong: {len(proof.mismatches)}")
    if proof.mismatches:
        raise typer.Exit(1)


@app.command()
def recount(days: _Days = None, first: _First = None, last: _Last = None) -> None:
    """Count archived days again from their files alone, without Postgres, and compare with the archived counters."""
    from stripemeter.errors import InvariantBroken
    from stripemeter.pipeline.archive import recount_from_lake

    lake, failed = _lake(), False
    for day in parse_days(days or [], first, last):
        try:
            found = recount_from_lake(lake, day)
        except InvariantBroken as error:  # one wrong day must not hide the others
            failed = True
            typer.echo(f"{day}: {error}", err=True)
            continue
        made = (
            f"{found.events} events make {found.counted.counters.height} counters, {found.counted.items.height} items"
        )
        if found.different:
            failed = True
            typer.echo(f"{day}: {made}; {found.different} are not what was archived", err=True)
        else:
            typer.echo(f"{day}: {made}, as archived")
    if failed:
        raise typer.Exit(1)


@app.command("drop-month")
def drop_month(
    month: Annotated[str, typer.Argument(help="Month, YYYY-MM (UTC).", show_default=False)],
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Drop a month's ledger rows from Postgres once the lake has each of them; it is their only place then."""
    from stripemeter.metering.days import parse_day
    from stripemeter.pipeline.retention import drop_month as drop

    month_on = parse_day(f"{month}-01", field="month")
    lake = _lake()
    if not yes:
        typer.confirm(f"Drop {month} from Postgres? Only {lake.root} and its backups have it then", abort=True)
    with database_pool() as pool:
        dropped = drop(pool, lake, month_on, now=datetime.now(UTC))
    typer.echo(f"{month}: {dropped.events} events, in {dropped.lake} since {dropped.dropped_at:%Y-%m-%d}")


@app.command()
def moved(
    location: Annotated[str, typer.Argument(help="Where the lake's directory is now.", show_default=False)],
) -> None:
    """Look for dropped months in another directory from now on, once every file of them is found there."""
    from stripemeter.pipeline.retention import move_lake
    from stripemeter.store.lake import open_lake

    lake = open_lake(location)
    with database_pool() as pool:
        months = move_lake(pool, lake)
    for month in months:
        typer.echo(f"{month.month_on:%Y-%m}: {month.events} events, in {month.lake}")
    if _lake() != lake:
        typer.echo(f"set STRIPEMETER_LAKE={lake.root}, so that days are archived there, too")


def query(
    question: Annotated[str, typer.Argument(help="SQL over the views events, counters, counter_items, daily_usage.")],
    form: Annotated[Form, typer.Option("--format", help="How the answer is written.")] = Form.TABLE,
) -> None:
    """Ask the lake in DuckDB's SQL, read-only: `stripemeter query "select * from daily_usage"`.

    Decimals are exact in every form; in JSON they are strings, as everywhere in the API.
    """
    from stripemeter.store.lake_query import query_lake

    answer = query_lake(_lake(), question)
    match form:
        case Form.TABLE:
            _write_table(answer)
        case Form.CSV:
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerow(answer.columns)
            writer.writerows([_text(cell) for cell in row] for row in answer.rows)
        case Form.JSON:
            _write_json(answer)


def _write_table(answer: Answer) -> None:
    rows = [list(answer.columns), *([_text(cell) for cell in row] for row in answer.rows)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(answer.columns))]
    rows.insert(1, ["-" * width for width in widths])
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _write_json(answer: Answer) -> None:
    import msgspec

    rows = [dict(zip(answer.columns, map(_plain, row), strict=True)) for row in answer.rows]
    typer.echo(msgspec.json.encode(rows).decode())


def _text(cell: object) -> str:
    return "" if cell is None else str(_plain(cell))


def _plain(cell: Any) -> Any:  # noqa: ANN401 - whatever type a question yields
    match cell:
        case Decimal():
            return f"{cell:f}"
        case datetime():
            return cell.isoformat()
        case _:
            return cell


def _lake() -> LocalLake:
    from stripemeter.runtime.settings import load_settings
    from stripemeter.store.lake import open_lake

    return open_lake(load_settings().lake_location)
