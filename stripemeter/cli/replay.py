"""`stripemeter replay`: count days again, or say what that would change; resumes after an interruption.

Belongs here: options, progress, the checkpoint's file. Does not: replaying (`stripemeter.pipeline.replay`).
"""

from __future__ import annotations

import hashlib
import json
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stripemeter.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from psycopg_pool import ConnectionPool

    from stripemeter.pipeline.replay import Mode, Replayed

PAGE_DAYS = 7
"""Days between two checkpoints."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a replay stands. The window is as it was when the replay began, whatever `now` is when it is resumed."""

    since: datetime
    until: datetime
    next_day: date | None
    changed: int


def replay(
    tenant: Annotated[str, typer.Option("--tenant", help="Whose days.", show_default=False)],
    since: Annotated[
        str, typer.Option("--since", help="2026-11-01T00:00:00Z, or before now: -PT24H, -P7D.", show_default=False)
    ],
    until: Annotated[str, typer.Option("--until", help="The same, or now.")] = "now",
    metrics: Annotated[
        list[str] | None, typer.Option("--metric", help="Always show this one; repeatable.", show_default=False)
    ] = None,
    *,
    apply: Annotated[bool, typer.Option("--apply", help="Change what is wrong; default: only say it.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the same replay was interrupted.")] = False,
) -> None:
    """Compare a tenant's counters with what its ledger makes, and with --apply count them again.

    Every UTC day that the window touches, as a whole. Exit 0: nothing differs, or it was applied. 1: a dry run found
    differences.
    """
    from stripemeter.cli.counters import database_pool
    from stripemeter.runtime.settings import load_settings

    now = datetime.now(UTC)
    begun = _Place(since=_moment(since, now, "--since"), until=_moment(until, now, "--until"), next_day=None, changed=0)
    if begun.until <= begun.since:
        raise InvalidInput(f"--until {until} is not after --since {since}", field="--until")
    mode: Mode = "apply" if apply else "dry-run"
    asked = [tenant, since, until, sorted(metrics or []), mode]
    checkpoint = _checkpoint(load_settings().state / "replays", asked)
    place = (_resumed(checkpoint) if resume else None) or begun
    with database_pool() as pool, _progress(place) as watch:
        for page, reached in _pages(pool, tenant, place, metrics or [], mode):
            place = reached
            _note(checkpoint, place)
            _show(page)
            watch(place)
    if place.changed and not apply:
        raise typer.Exit(1)


def _pages(
    pool: ConnectionPool, tenant: str, place: _Place, metrics: list[str], mode: Mode
) -> Iterator[tuple[Replayed, _Place]]:
    from stripemeter.pipeline.replay import replay as replay_page

    while True:
        page = replay_page(
            pool,
            tenant,
            since=place.since,
            until=place.until,
            mode=mode,
            now=datetime.now(UTC),
            metrics=metrics,
            next_day=place.next_day,
            max_days=PAGE_DAYS,
        )
        place = _Place(
            since=place.since,
            until=place.until,
            next_day=page.next_day,
            changed=place.changed + page.changed_counters,
        )
        yield page, place
        if place.next_day is None:
            return


def _show(page: Replayed) -> None:
    for name, change in page.changes.items():
        if change.affected_count or change.late_events:
            typer.echo(
                f"{name or '(no meter)'}: {change.events_found} events, {change.late_events} late, "
                f"{change.counter_delta:+f}, {change.affected_count} customers"
            )
    if page.withheld_late:
        typer.echo(f"late events that count nowhere: {page.withheld_late}, of them pending: {page.pending_late}")


def _moment(text: str, now: datetime, field: str) -> datetime:
    from stripemeter.cli.customers import parse_instant
    from stripemeter.metering.durations import before

    if text == "now":
        return now
    if not text.startswith("-P"):
        return parse_instant(text, field=field)
    try:
        return before(text, now)
    except ValueError as error:
        raise InvalidInput(f"{field} {error}, not {text!r}", field=field) from error


@contextmanager
def _progress(start: _Place) -> Iterator[Callable[[_Place], None]]:
    """A bar on a terminal, a line per page elsewhere."""
    from stripemeter.metering.days import day_of

    whole = (day_of(start.until) - day_of(start.since)).days + 1

    def done(place: _Place) -> int:
        return whole if place.next_day is None else (place.next_day - day_of(place.since)).days

    if not sys.stderr.isatty():
        yield lambda place: typer.echo(f"{done(place)}/{whole} days", err=True)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("days"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=whole)
        yield lambda place: bar.update(task, completed=done(place))


def _checkpoint(folder: Path, asked: Sequence[object]) -> Path:
    return folder / f"{hashlib.blake2b(json.dumps(asked).encode(), digest_size=8).hexdigest()}.json"


def _note(checkpoint: Path, place: _Place) -> None:
    """Remember where to go on; nothing when it is done."""
    if place.next_day is None:
        checkpoint.unlink(missing_ok=True)
        return
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    written = checkpoint.with_suffix(".tmp")
    written.write_text(
        json.dumps(
            {
                "since": place.since.isoformat(),
                "until": place.until.isoformat(),
                "next_day": place.next_day.isoformat(),
                "changed": place.changed,
            }
        )
    )
    written.replace(checkpoint)


def _resumed(checkpoint: Path) -> _Place | None:
    if not checkpoint.exists():
        typer.echo("no such replay was interrupted: from the beginning", err=True)
        return None
    noted = json.loads(checkpoint.read_text())
    return _Place(
        since=datetime.fromisoformat(noted["since"]),
        until=datetime.fromisoformat(noted["until"]),
        next_day=date.fromisoformat(noted["next_day"]),
        changed=noted["changed"],
    )
