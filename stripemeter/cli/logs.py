"""`stripemeter logs`: what the services of a stack wrote."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pathlib import Path

_COLOURS = (typer.colors.CYAN, typer.colors.MAGENTA, typer.colors.YELLOW, typer.colors.GREEN, typer.colors.BLUE)
_POLL_SECONDS = 0.25


def logs(
    service: Annotated[
        str | None, typer.Argument(help="A service, or `api` for all its workers; default: all.")
    ] = None,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many past lines of each.")] = 50,
) -> None:
    """Show what the services wrote since they were started."""
    from stripemeter.runtime.log_files import Follower, tail
    from stripemeter.runtime.settings import load_settings

    paths = _chosen(load_settings().state / "logs", service)
    followers = [Follower(path=path) for path in paths]
    for follower in followers:
        follower.skip_to_end()
        for line in tail(follower.path, lines).splitlines() if lines else []:
            show_line(follower.path.stem, line, of=len(paths))
    while follow:
        for follower in followers:
            for line in follower.new_lines():
                show_line(follower.path.stem, line, of=len(paths))
        time.sleep(_POLL_SECONDS)


def show_line(service: str, line: str, *, of: int) -> None:
    """Print one line, prefixed with its service unless there is only one."""
    if of == 1:
        typer.echo(line)
        return
    colour = _COLOURS[sum(service.encode()) % len(_COLOURS)]
    typer.echo(f"{typer.style(f'{service:<17} |', fg=colour)} {line}")


def _chosen(folder: Path, service: str | None) -> list[Path]:
    from stripemeter.errors import NotFound

    known = sorted(folder.glob("*.log"))
    chosen = [path for path in known if service is None or path.stem == service or path.stem.startswith(f"{service}-")]
    if not chosen:
        names = ", ".join(path.stem for path in known) or "none yet: run `stripemeter up`"
        raise NotFound(f"no log of {service or 'any service'} in {folder}. Logs there: {names}")
    return chosen
