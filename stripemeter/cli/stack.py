"""`stripemeter up`, `down`, `status`: the stack of one state directory."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from stripemeter.cli.logs import show_line

if TYPE_CHECKING:
    from pathlib import Path

    from stripemeter.runtime.log_files import Follower
    from stripemeter.runtime.run import Listener
    from stripemeter.runtime.stack_record import StackRecord
    from stripemeter.runtime.supervisor import Supervised

NOT_RUNNING = 3
"""Exit status of `status` unless every service runs."""


def up(
    *,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Run in the background.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="With -d: return only when every service is healthy.")] = False,
    timeout: Annotated[float, typer.Option(min=1, help="With --wait: seconds until it is given up and stopped.")] = 300,
) -> None:
    """Start everything: PostgreSQL, migrations, Stripe emulator, API, Dagster. Ctrl-C stops it in order."""
    from stripemeter.runtime.detached import start_detached
    from stripemeter.runtime.run import run_stack
    from stripemeter.runtime.settings import load_settings

    settings = load_settings()
    if not detach:
        existing = run_stack(settings, _foreground())
        if existing is not None:
            _show_urls("StripeMeter is already running", existing)
        return
    started = start_detached(settings.state, wait_seconds=timeout if wait else None)
    if started.was_running:
        _show_urls("StripeMeter is already running", started.record)
    else:
        _show_urls("StripeMeter is up" if wait else "StripeMeter is starting", started.record)
        typer.echo("Stop it with: stripemeter down")


def down(*, timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for an orderly end.")] = 180) -> None:
    """Stop everything in order and wait until all of it is gone."""
    from stripemeter.runtime.detached import stop_stack
    from stripemeter.runtime.settings import load_settings

    state = load_settings().state
    was_running = stop_stack(state, timeout_seconds=timeout)
    typer.echo("StripeMeter is stopped" if was_running else f"StripeMeter was not running in {state}")


def status(
    *, as_json: Annotated[bool, typer.Option("--json", help="For programs; with the password.")] = False
) -> None:
    """Show every service: exit 0 when all of them run, 3 otherwise."""
    from stripemeter.runtime.settings import load_settings
    from stripemeter.runtime.stack_record import read_record

    state = load_settings().state
    record = read_record(state)
    is_alive = record is not None and record.is_supervised
    if as_json:
        typer.echo(json.dumps(_as_json(state, record, is_alive=is_alive), indent=2))
    elif record is None or not is_alive:
        typer.echo(f"StripeMeter is not running in {state}. Start it with: stripemeter up -d --wait")
        if record is not None and record.failure is not None:
            typer.echo(f"The last start failed: {record.failure}")
    else:
        _show_status(state, record)
    if not is_alive or record is None or record.state != "running":
        raise typer.Exit(NOT_RUNNING)


def _as_json(state: Path, record: StackRecord | None, *, is_alive: bool) -> dict[str, object]:
    if record is None:
        return {"home": str(state), "state": "stopped", "services": []}
    shown = {
        name: value for name, value in asdict(record).items() if name not in ("mark", "supervisor_ticks", "postgres")
    }
    if not is_alive:
        return {"home": str(state), **shown, "state": "failed" if record.failure else "stopped", "services": []}
    return {"home": str(state), **shown}


def _show_status(state: Path, record: StackRecord) -> None:
    from stripemeter.runtime.preflight import masked

    typer.echo(
        f"StripeMeter is {record.state} in {state} since {record.started_at} (supervisor {record.supervisor_pid})"
    )
    typer.echo(f"{'service':<18} {'pid':>8} {'state':<11} {'restarts':>8}  url")
    for service in record.services:
        pid = "-" if service.pid is None else str(service.pid)
        typer.echo(f"{service.name:<18} {pid:>8} {service.state:<11} {service.restarts:>8}  {service.url or '-'}")
    typer.echo(f"database: {masked(record.database_url)}")


def _foreground() -> Listener:
    from stripemeter.runtime.run import Listener

    followers: list[Follower] = []

    def accepted(record: StackRecord) -> None:
        from pathlib import Path

        from stripemeter.runtime.log_files import Follower

        typer.echo("StripeMeter is starting. Ctrl-C stops it.")
        followers.extend(Follower(path=Path(service.log)) for service in record.services)

    def changed(one: Supervised) -> None:
        pid = f" (pid {one.pid})" if one.pid is not None else ""
        show_line(one.service.name, typer.style(f"{one.state.value}{pid}", bold=True), of=2)

    def tick() -> None:
        for follower in followers:
            for line in follower.new_lines():
                show_line(follower.path.stem, line, of=2)

    return Listener(
        accepted=accepted, changed=changed, ready=lambda record: _show_urls("StripeMeter is up", record), tick=tick
    )


def _show_urls(headline: str, record: StackRecord) -> None:
    labels = {"api": "API", "docs": "API docs", "dagster": "Dagster", "emulator": "Stripe emulator"}
    typer.echo(f"\n{headline}")
    for name, url in record.urls.items():
        typer.echo(f"  {labels[name]:<16} {url}")
    event = {
        "tenantId": "acme",
        "metric": "api_calls",
        "customerRef": "cust_123",
        "quantity": 5,
        "ts": dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    typer.echo("Try:")
    typer.echo(
        f"  curl -s {record.urls['api']}/v1/events/ingest -H 'content-type: application/json' "
        f"-d '{json.dumps({'events': [event]})}'\n"
    )
