"""`stripemeter backtest`: months that were, priced by plans that might be.

Belongs here: options, the progress bar, where reports go. Does not: pricing (`pipeline.backtests`), the reports' words
(`pipeline.backtest_report`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from stripemeter.pipeline.backtests import Watch

_PLAN = typer.Option("--plan", help="A plan to try, a YAML file; any number of times.", show_default=False)


class Form(Enum):
    """What is printed."""

    MARKDOWN = "markdown"
    JSON = "json"


def backtest(
    tenant: Annotated[str, typer.Option("--tenant", help="Whose customers.", show_default=False)],
    plan: Annotated[list[Path], _PLAN],
    first: Annotated[str, typer.Option("--from", help="First month, YYYY-MM (UTC).", show_default=False)],
    last: Annotated[str, typer.Option("--to", help="Last month, included; it has ended.", show_default=False)],
    baseline: Annotated[
        Path | None, typer.Option("--baseline", help="A plan to compare with instead of the prices in force.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", help="Where backtest.html, backtest.md and backtest.json are written.")
    ] = Path("backtest"),
    rounding: Annotated[str, typer.Option("--rounding", help="half_up, half_even or ceiling.")] = "half_up",
    form: Annotated[Form, typer.Option("--format", help="What is printed.")] = Form.MARKDOWN,
) -> None:
    """Price past months by candidate plans, beside what they cost today. Nothing is changed, Stripe is not asked.

    Exit 1: a plan or the months cannot be right, or a day cannot be read: it is named.
    """
    from stripemeter.cli.counters import database_pool
    from stripemeter.cli.plans import read_plan
    from stripemeter.pipeline.backtest_files import write_reports
    from stripemeter.pipeline.backtests import run_backtest
    from stripemeter.pipeline.billed_usage import parse_months
    from stripemeter.pricing.rounding import parse_rounding
    from stripemeter.runtime.settings import load_settings
    from stripemeter.store.lake import open_lake

    months = parse_months(first, last)
    candidates = [read_plan(file) for file in plan]
    with database_pool() as pool, _progress() as watch:
        done = run_backtest(
            pool,
            open_lake(load_settings().lake_location),
            tenant_id=tenant,
            candidates=candidates,
            baseline=None if baseline is None else read_plan(baseline),
            first=months[0],
            last=months[1],
            now=datetime.now(UTC),
            rounding=parse_rounding(rounding, "--rounding"),
            watch=watch,
        )
    files = write_reports(done, out)
    typer.echo((files.markdown if form is Form.MARKDOWN else files.json).read_text(encoding="utf-8").rstrip())
    typer.echo(f"written: {files.page}, {files.markdown}, {files.json}", err=True)


@contextmanager
def _progress() -> Iterator[Watch]:
    """A bar on a terminal, a line a step elsewhere."""
    if not sys.stderr.isatty():
        yield lambda done, total, step: typer.echo(f"{done} of {total}: {step}", err=True)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("reading")

        def show(done: int, total: int, step: str) -> None:
            bar.update(task, completed=done, total=total, description=step)

        watch: Callable[[int, int, str], None] = show
        yield watch
