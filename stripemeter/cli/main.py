"""The `stripemeter` command: its table of contents, and how an error looks to whoever typed it.

Belongs here: which commands exist (one module per noun). Does not: what they do.
Nothing heavy is imported at the top level, here or in the modules below: `stripemeter --help` answers at once.
"""

from __future__ import annotations

import sys
from contextvars import ContextVar
from typing import Annotated

import typer

import stripemeter
from stripemeter.cli import (
    adjustments,
    backtest,
    closing,
    counters,
    customers,
    database,
    demo,
    doctor,
    emulator,
    events,
    explain,
    files,
    lake,
    late,
    logs,
    mappings,
    meters,
    parity,
    plans,
    prices,
    push,
    recheck,
    reconcile,
    replay,
    restore_fence,
    sim,
    stack,
    stripe,
)
from stripemeter.errors import StripeMeterError

app = typer.Typer(
    help="Stripe-native usage metering: every event stored once, counted, pushed and proven.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
_wants_traceback: ContextVar[bool] = ContextVar("_wants_traceback", default=False)

app.command("up")(stack.up)
app.command("down")(stack.down)
app.command("status")(stack.status)
app.command("logs")(logs.logs)
app.command("doctor")(doctor.doctor)
app.command("emulator")(emulator.emulator)
app.command("migrate")(database.migrate)
app.command("demo")(demo.demo)
app.command("query")(lake.query)
app.command("backtest")(backtest.backtest)
app.command("ingest")(files.ingest)
app.command("replay")(replay.replay)
app.command("restore-fence")(restore_fence.restore_fence)
app.add_typer(adjustments.app, name="adjustments")
app.add_typer(files.app, name="backfills")
app.add_typer(closing.app, name="close")
app.add_typer(counters.app, name="counters")
app.add_typer(customers.app, name="customers")
app.add_typer(events.app, name="events")
app.add_typer(explain.app, name="explain")
app.add_typer(lake.app, name="lake")
app.add_typer(late.app, name="late")
app.add_typer(mappings.app, name="mappings")
app.add_typer(meters.app, name="meters")
app.add_typer(parity.app, name="parity")
app.add_typer(plans.app, name="plans")
app.add_typer(prices.app, name="prices")
app.add_typer(reconcile.app, name="reconcile")
app.add_typer(reconcile.repair, name="repair")
app.add_typer(push.app, name="push")
app.add_typer(sim.app, name="sim")
stripe.app.command("recheck")(recheck.recheck)
app.add_typer(stripe.app, name="stripe")


def main() -> None:
    """Run the command line. Exit status: 0 done, 1 refused or failed, 2 wrong usage; others are a command's own."""
    try:
        app()
    except StripeMeterError as error:
        if _wants_traceback.get():
            raise
        typer.secho(f"error ({error.code}): {error}", err=True, fg=typer.colors.RED if sys.stderr.isatty() else None)
        sys.exit(1)


@app.callback()
def root(
    *,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version and leave.", is_eager=True)] = False,
) -> None:
    """Stripe-native usage metering."""
    _wants_traceback.set(debug)
    if version:
        typer.echo(stripemeter.__version__)
        raise typer.Exit


if __name__ == "__main__":
    main()
