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
