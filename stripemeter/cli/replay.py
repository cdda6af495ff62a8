"""`stripemeter replay`: count days again, or say what that would change; resumes after an interruption.

Belongs here: options, progress, the checkpoint's file. Does not: replaying (`stripemeter.pipeline.replay`).
"""

from __future__ import annotations

import hashlib
import json
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stripemeter.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg_pool import ConnectionPool

    from stripemeter.pipeline.replay import Mode, Replayed

PAGE_DAYS = 7
"""Days between two checkpoints."""


def replay(
    tenant: Annotated[str, typer.Option("--tenant", help="Whose days.", show_default=False)],
    since: Annotated[str, typer.Option("--from", help="First UTC day, YYYY-MM-DD.", show_default=False)],
    until: Annotated[str, typer.Option("--to", help="Last UTC day, included.", show_default=False)],
    metrics: Annotated[
        list[str] | None, typer.Option("--metric", help="Always show this one; repeatable.", show_default=False)
    ] = None,
    *,
    apply: Annotated[bool, typer.Option("--apply", help="Change what is wrong; default: only say it.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the same replay was interrupted.")] = False,
) -> None:
    """Compare a tenant's counters with what its ledger makes, and with --apply count them again.

    Exit 0: nothing differs, or it was applied. 1: a dry run found differences.
    """
    from stripemeter.cli.counters import database_pool
    from stripemeter.metering.days import parse_day
    from stripemeter.runtime.settings import load_settings

    first, last = parse_day(since, field="--from"), parse_day(until, field="--to")
    if last < first:
        raise InvalidInput(f"--to {last} is before --from {first}", field="--to")
    mode: Mode = "apply" if apply else "dry-run"
    checkpoint = _checkpoint(load_settings().state / "replays", tenant, first, last, metrics or [], mode)
    start = date.fromisoformat(json.loads(checkpoint.read_text())["next"]) if resume and checkpoint.exists() else first
    changed = 0
    with database_pool() as pool:
        for page in _pages(pool, tenant, start, last, metrics or [], mode):
            changed += page.changed_counters
            _show(page)
            _note(checkpoint, page, (first, last))
    if changed and not apply:
        raise typer.Exit(1)


def _pages(
    pool: ConnectionPool, tenant: str, start: date, last: date, metrics: list[str], mode: Mode
) -> Iterator[Replayed]:
    from stripemeter.metering.days import day_bounds
    from stripemeter.pipeline.replay import replay as replay_page

    next_day: date | None = start
    while next_day is not None:
        page = replay_page(
            pool,
            tenant,
            since=day_bounds(start)[0],
            until=day_bounds(last)[1],
            mode=mode,
            now=datetime.now(UTC),
            metrics=metrics,
            next_day=next_day,
            max_days=PAGE_DAYS,
        )
        next_day = page.next_day
        yield page


def _show(page: Replayed) -> None:
    for name, change in page.changes.items():
        if change.affected_count or change.late_events:
            typer.echo(
                f"{name or '(no meter)'}: {change.events_found} events, {change.late_events} late, "
                f"{change.counter_delta:+f}, {change.affected_count} customers"
            )


def _note(checkpoint: Path, page: Replayed, days: tuple[date, date]) -> None:
    """Remember where to go on; nothing when it is done. A bar on a terminal, a line elsewhere."""
    if page.next_day is None:
        checkpoint.unlink(missing_ok=True)
    else:
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        temporary = checkpoint.with_suffix(".tmp")
        temporary.write_text(json.dumps({"next": page.next_day.isoformat()}))
        temporary.replace(checkpoint)
    whole = (days[1] - days[0]).days + 1
    done = whole if page.next_day is None else (page.next_day - days[0]).days
    if sys.stderr.isatty():
        filled = "#" * (30 * done // whole)
        typer.echo(f"\r[{filled:<30}] {done}/{whole} days", err=True, nl=page.next_day is None)
    else:
        typer.echo(f"{done}/{whole} days", err=True)


def _checkpoint(folder: Path, tenant: str, first: date, last: date, metrics: list[str], mode: str) -> Path:
    asked = json.dumps([tenant, first.isoformat(), last.isoformat(), sorted(metrics), mode])
    return folder / f"{hashlib.blake2b(asked.encode(), digest_size=8).hexdigest()}.json"
