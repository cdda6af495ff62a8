"""`stripemeter demo`: a year of real departures, from HTTP to Stripe's totals, proven.

Belongs here: finding or starting the stack, progress and the table. Does not: the demo itself (`stripemeter.demo`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated

import typer

from stripemeter.errors import InvalidInput

if TYPE_CHECKING:
    from stripemeter.billing.sink import BillingSink
    from stripemeter.demo.run import DemoReport
    from stripemeter.runtime.settings import Settings
    from stripemeter.runtime.stack_record import StackRecord

FAILED = 1


def demo(
    *,
    seed: Annotated[int, typer.Option(help="Order of sending, and which events are sent twice or late.")] = 2013,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack running if the demo started it.")] = False,
) -> None:
    """Load 336,776 real flights, then prove source = counters = Stripe for every carrier. Exit 1 on any difference."""
    from stripemeter.demo.flights import load_flights
    from stripemeter.demo.run import run_demo
    from stripemeter.runtime.settings import load_settings
    from stripemeter.store.postgres import open_pool

    now = datetime.now(UTC)
    watcher = _Watcher()
    flights = load_flights(now.date() - timedelta(days=1))
    with _stack(load_settings(), keep=keep) as record, open_pool(record.database_url, max_size=4) as pool:
        report = run_demo(
            flights,
            api_url=record.urls["api"],
            pool=pool,
            sink=_emulated_stripe(record),
            now=now,
            seed=seed,
            show=watcher,
        )
        _show_table(report)
        failures = report.failures
        for failure in failures[:20]:
            typer.echo(f"DIFFERENT {failure}")
        typer.echo(_verdict(report, len(failures)))
        if failures:
            raise typer.Exit(FAILED)


@contextmanager
def _stack(settings: Settings, *, keep: bool) -> Iterator[StackRecord]:
    """The running stack of the home; one of our own for the time of the demo when there is none."""
    from stripemeter.runtime.detached import start_detached, stop_stack

    started = start_detached(settings.state, wait_seconds=300)
    typer.echo(f"using the stack at {started.record.urls['api']} (Dagster: {started.record.urls['dagster']})")
    try:
        yield started.record
    finally:
        if started.was_running or keep:
            typer.echo(f"the stack goes on: {started.record.urls['dagster']} (stop it with: stripemeter down)")
        else:
            stop_stack(settings.state, timeout_seconds=180)


def _emulated_stripe(record: StackRecord) -> BillingSink:
    from pydantic import SecretStr

    from stripemeter.billing.opening import open_sink
    from stripemeter.runtime.settings import load_settings
    from stripemeter.runtime.stack import EMULATOR_KEY

    if "emulator" not in record.urls:
        raise InvalidInput(
            "the demo invents meters and customers, so it only runs against the emulator: unset the Stripe keys",
            field="STRIPE_TEST_SECRET_KEY",
        )
    settings = load_settings().model_copy(
        update={"stripe_test_secret_key": SecretStr(EMULATOR_KEY), "stripe_api_base": record.urls["emulator"]}
    )
    return open_sink(settings)


class _Watcher:
    """Steps and a bar on a terminal; a line per tenth elsewhere."""

    def step(self, text: str) -> None:
        """A new step begins."""
        typer.echo(f"{datetime.now(UTC):%H:%M:%S} {text}")

    def sending(self, total: int) -> Callable[[int], None]:
        """A bar over `total` events."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        if not sys.stderr.isatty():
            return _tenths(total)
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.speed:,.0f}/s"), TimeRemainingColumn())
        bar = Progress(TextColumn("        "), *columns)
        task = bar.add_task("", total=total)
        bar.start()

        def advance(count: int) -> None:
            bar.advance(task, count)
            if bar.finished:
                bar.stop()

        return advance


def _tenths(total: int) -> Callable[[int], None]:
    done = shown = 0

    def advance(count: int) -> None:
        nonlocal done, shown
        done += count
        if done * 10 // total > shown:
            shown = done * 10 // total
            typer.echo(f"         {shown * 10:3d} %  {done:,} of {total:,}", err=True)

    return advance


def _show_table(report: DemoReport) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"tenant {report.tenant_id}")
    for heading in ("carrier", "events", "duplicates", "departures", "miles", "minutes in the air"):
        table.add_column(heading, justify="left" if heading == "carrier" else "right")
    table.add_column(f"held: outside\nStripe's window\n({report.held_days} days)", justify="right")
    table.add_column(f"departures\nsince {report.first_at_stripe}\nat Stripe", justify="right")
    table.add_column("difference\n(every metric\nand day)", justify="right")
    for proof in sorted(report.carriers, key=lambda one: -one.truth["departures"]):
        table.add_row(
            proof.carrier,
            _count(sum(one.events_by_customer[proof.carrier] for one in report.answers)),
            _count(sum(one.duplicates_by_customer[proof.carrier] for one in report.answers)),
            *(_count(proof.counted[metric]) for metric in proof.counted),
            _count(proof.held["departures"]),
            _count(proof.at_stripe["departures"]),
            "0" if not proof.differences else f"{len(proof.differences)} DIFFER",
        )
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def _count(number: Decimal | int) -> str:
    return f"{number:,}"


def _verdict(report: DemoReport, failures: int) -> str:
    accepted = sum(one.accepted for one in report.answers)
    duplicates = sum(one.duplicates for one in report.answers)
    seen = f"{report.sent:,} events: {accepted:,} accepted, {duplicates:,} duplicates"
    if failures:
        return f"{seen}. {failures} figures differ."
    return f"{seen}. Source = counters = Stripe, difference 0."
