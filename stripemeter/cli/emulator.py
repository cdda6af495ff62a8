"""`stripemeter emulator`: the Stripe emulator by itself, without the stack.

Belongs here: its options. Does not: emulating (a program of its own, which nothing of ours imports).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer


def emulator(
    *,
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Where to listen.")] = 3003,
    host: Annotated[str, typer.Option(help="A loopback address; any other is refused.")] = "127.0.0.1",
    state: Annotated[
        Path | None,
        typer.Option(help="Keep everything in this SQLite file; in memory when absent.", show_default=False),
    ] = None,
    observed: Annotated[
        Path | None,
        typer.Option(help="Set the knobs as a Stripe sandbox answered (`make stripe-probe`).", show_default=False),
    ] = None,
) -> None:
    """Serve the Stripe emulator (not Stripe): on loopback, for test keys, with faults and knobs under /_emu."""
    # -P: a stripe_emulator.py in the working directory must not shadow the real one
    arguments = [sys.executable, "-P", "-m", "stripe_emulator", "--port", str(port), "--host", host]
    if state is not None:
        arguments += ["--state", str(state)]
    if observed is not None:
        arguments += ["--observed", str(observed)]
    sys.stdout.flush()
    os.execv(sys.executable, arguments)  # noqa: S606 - our own interpreter; signals must reach the server itself
