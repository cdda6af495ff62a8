"""`stripemeter doctor`."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def doctor(*, as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Look at everything a stack needs; every finding comes with one command that fixes it. Exit 1 on any ✗."""
    from stripemeter.runtime.checkup import examine
    from stripemeter.runtime.findings import Verdict
    from stripemeter.runtime.settings import load_settings

    findings = examine(load_settings())
    if as_json:
        typer.echo(
            json.dumps(
                [
                    {"check": one.check, "verdict": one.verdict.name.lower(), "found": one.found, "fix": one.fix}
                    for one in findings
                ],
                indent=2,
            )
        )
    else:
        for one in findings:
            typer.echo(f"{one.verdict.value} {one.check:<18} {one.found}")
            if one.fix is not None:
                typer.echo(f"  {'':<18} fix: {one.fix}")
    if any(one.verdict is Verdict.FAILED for one in findings):
        raise typer.Exit(1)
