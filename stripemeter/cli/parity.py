"""`stripemeter parity`: an export of usage or invoices against ours.

Belongs here: options, formats, exit statuses. Does not: comparing (`pipeline.parity`), reports
(`pipeline.parity_report`).
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stripemeter.errors import InvalidInput, StripeMeterError

if TYPE_CHECKING:
    from stripemeter.pipeline.parity import ParityReport
    from stripemeter.pipeline.parity_export import ExportRequest

app = typer.Typer(help="An export of usage or invoices against ours.", no_args_is_help=True)

EQUAL, DIFFERENT, UNUSABLE = 0, 1, 2
MOST_SHOWN = 50
"""Differences of the table: what a person looks at; the other formats have all."""


@app.callback()
def parity() -> None:
    """An export of usage or invoices against ours."""


@app.command()
def compare(  # noqa: PLR0913, PLR0917 - options of a command
    file: Annotated[
        str, typer.Argument(help="CSV, JSON Lines or Parquet: a path, or s3://BUCKET/KEY.", show_default=False)
    ],
    tenant: Annotated[str, typer.Option("--tenant", help="Whose.", show_default=False)],
    kind: Annotated[
        Literal["usage", "invoice"], typer.Option("--kind", help="Quantities, or invoice lines with amounts.")
    ] = "usage",
    period: Annotated[
        str | None,
        typer.Option(
            "--period",
            help="A UTC month, YYYY-MM: of rows that name no period; rows that begin in another are left out.",
            show_default=False,
        ),
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", help="Only this metric; may be repeated.", show_default=False)
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option("--as-of", help="Compare with what was known then: 2026-11-01T06:00:00Z.", show_default=False),
    ] = None,
    amounts: Annotated[
        Literal["major", "minor"] | None,
        typer.Option("--amounts", help="Unit of a column `amount`: 10.50 or 1050.", show_default=False),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option("--columns", help="COLUMN=FIELD, where the file names it otherwise.", show_default=False),
    ] = None,
    file_format: Annotated[
        Literal["csv", "jsonl", "parquet"] | None,
        typer.Option("--file-format", help="Default: what the name says.", show_default=False),
    ] = None,
    rounding: Annotated[
        Literal["half_up", "half_even", "ceiling"], typer.Option("--rounding", help="Of our invoice lines.")
    ] = "half_up",
    answer_format: Annotated[
        Literal["table", "json", "csv", "html"], typer.Option("--format", help="Of the report.")
    ] = "table",
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the report there, not to the terminal.", show_default=False)
    ] = None,
) -> None:
    """Compare an export with what we counted and what that costs. Nothing is changed, and Stripe is not asked.

    Exit 0: everything is equal to the last digit. 1: something differs, within epsilon or beyond. 2: rows could not be
    used or ours could not be told, so the comparison is incomplete, or there was none at all.
    """
    from stripemeter.cli.counters import database_pool
    from stripemeter.pipeline.parity import compare_export

    try:
        asked = _asked(file, kind, period, metric or [], as_of, amounts, columns or [], file_format, rounding)
        with database_pool() as pool:
            report = compare_export(pool, asked, tenant_id=tenant, now=datetime.now(UTC))
    except StripeMeterError as error:
        typer.echo(f"error ({error.code}): {error}", err=True)
        raise typer.Exit(UNUSABLE) from error
    text = _written(report, answer_format)
    if out is None:
        typer.echo(text, nl=False)
    else:
        out.write_text(text, encoding="utf-8", newline="")
        typer.echo(f"{report.verdict}: {out}")
    statuses = {"equal": EQUAL, "within_epsilon": DIFFERENT, "different": DIFFERENT, "incomplete": UNUSABLE}
    raise typer.Exit(statuses[report.verdict])


def _asked(  # noqa: PLR0913, PLR0917 - options of a command
    file: str,
    kind: Literal["usage", "invoice"],
    period: str | None,
    metrics: list[str],
    as_of: str | None,
    amounts: Literal["major", "minor"] | None,
    columns: list[str],
    file_format: Literal["csv", "jsonl", "parquet"] | None,
    rounding: Literal["half_up", "half_even", "ceiling"],
) -> ExportRequest:
    from stripemeter.metering.days import month_bounds
    from stripemeter.metering.parity_rows import parse_columns
    from stripemeter.pipeline.parity_export import ExportRequest
    from stripemeter.pipeline.reconciliation_months import parse_month
    from stripemeter.pricing.reading import parse_instant
    from stripemeter.store.files import find_source, format_of

    source = find_source(file)
    try:
        source_format = file_format or format_of(source.location)
    except InvalidInput as error:
        raise InvalidInput(f"{error}; say it with --file-format", field="--file-format") from error
    return ExportRequest(
        source=source,
        source_format=source_format,
        kind=kind,
        period=None if period is None else month_bounds(parse_month(period, field="--period")),
        metrics=tuple(metrics),
        columns=parse_columns(columns, field="--columns"),
        amounts=amounts,
        as_of=None if as_of is None else parse_instant(as_of, "--as-of"),
        rounding=rounding,
    )


def _written(report: ParityReport, answer_format: str) -> str:
    from stripemeter.pipeline.parity_report import report_csv, report_document, report_html, report_table

    match answer_format:
        case "json":
            return json.dumps(report_document(report), indent=2, ensure_ascii=False) + "\n"
        case "csv":
            return report_csv(report)
        case "html":
            return report_html(report)
        case _:
            return report_table(report, most=MOST_SHOWN)
