"""`stripemeter sim run --billing`: scenarios on Stripe's test clocks.

Belongs here: which account, files of results, lines, exit statuses. Does not: playing (`pipeline.billing_plays`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from stripemeter.errors import InvalidInput

if TYPE_CHECKING:
    from stripemeter.simulation.running import Progress

_UNUSABLE = 2
Read = Callable[[Path], Mapping[str, object]]


def run_on_stripe(
    files: Sequence[tuple[Path, Path, Read]], seed: int | None, progress: Callable[[str], Progress | None]
) -> None:
    """Play each on test clocks, and say what differs from our own run. Exit 1: something does. 2: one cannot be played.

    Args:
        files: scenario, result of a run without Stripe, whose name the result here follows, and how it is read.
        seed: of what is drawn; None: the scenario's own.
        progress: shows how far a title is.
    """
    from stripemeter.billing.clock_accounts import open_clock_account
    from stripemeter.pipeline.billing_plays import play_on_stripe
    from stripemeter.runtime.settings import load_settings
    from stripemeter.simulation.scenarios import read_scenario

    settings = load_settings()
    outcomes: list[int] = []
    for number, (path, result, read) in enumerate(files, start=1):
        account = open_clock_account(settings)
        try:
            scenario = read_scenario(read(path))
            done = play_on_stripe(scenario, account, seed=seed, progress=progress(f"{number} of {len(files)}: {path}"))
        except InvalidInput as error:
            typer.echo(f"error  {path}: {error}")
            outcomes.append(_UNUSABLE)
            continue
        target = result.with_name(result.name.replace(".result.", ".billing."))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(done.to_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        compared = (*done.invoices, *done.standings)
        equal = sum(not each.differences for each in compared)
        counts = (
            f"{equal} of {len(compared)} equal at {account.name} ({len(done.invoices)} invoices, {done.calls} calls)"
        )
        typer.echo(f"{'ok' if done.passed else 'diff':<6} {scenario.name}: {counts}")
        for each in compared:
            for difference in each.differences:
                typer.echo(f"       {each.customer_ref}, {each.what}: {difference}")
        outcomes.append(0 if done.passed else 1)
    if worst := max(outcomes):
        raise typer.Exit(worst)
