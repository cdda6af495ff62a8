"""`stripemeter stripe`: map meters, bind customers, push, reconcile, look.

Belongs here: options and how results look. Does not: what they do (`stripemeter.pipeline`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from stripemeter.errors import InvalidInput, NotAllowed

if TYPE_CHECKING:
    from psycopg_pool import ConnectionPool

    from stripemeter.billing import BillingSink, Mode

app = typer.Typer(help="What Stripe is told, and whether it holds it.", no_args_is_help=True)

_TENANT = typer.Option("--tenant", help="Whose.", show_default=False)
LIVE_OPTION = typer.Option("--live", help="The live account (needs STRIPEMETER_ALLOW_LIVE=1), not the test account.")
ACCOUNT_OPTION = typer.Option(
    "--account", help="acct_... connected to the key's own account; that one when absent.", show_default=False
)
JSON_OPTION = typer.Option("--json", help="Print JSON.")


@app.command("map")
def map_meter(
    meter: Annotated[str, typer.Argument(help="Our meter, e.g. api_calls.", show_default=False)],
    tenant: Annotated[str, _TENANT],
    event_name: Annotated[
        str | None, typer.Option("--event-name", help="The Stripe meter's event name; the meter's own when absent.")
    ] = None,
    aggregation: Annotated[str, typer.Option("--aggregation", help="sum, count, min, max, last or unique.")] = "sum",
    *,
    off: Annotated[bool, typer.Option("--off", help="Stop sending instead.")] = False,
    live: Annotated[bool, LIVE_OPTION] = False,
    account: Annotated[str | None, ACCOUNT_OPTION] = None,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Feed a Stripe meter from one of ours; the Stripe meter is created when there is none."""
    from stripemeter.pipeline import stripe_setup

    with open_parts(is_live=live, account=account) as (pool, sink):
        if off:
            stripe_setup.unmap_meter(pool, sink, tenant_id=tenant, meter=meter)
            typer.echo(f"{meter}: off")
            return
        mapping = stripe_setup.map_meter(
            pool,
            sink,
            tenant_id=tenant,
            meter=meter,
            event_name=event_name or meter,
            aggregation=aggregation,
            now=datetime.now(UTC),
        )
    show(mapping, as_json=as_json)


@app.command("bind")
def bind_customer(
    customer: Annotated[str, typer.Argument(help="Our customer reference.", show_default=False)],
    tenant: Annotated[str, _TENANT],
    stripe_customer: Annotated[
        str | None, typer.Option("--stripe-customer", help="cus_...; a new one is made when absent.")
    ] = None,
    *,
    live: Annotated[bool, LIVE_OPTION] = False,
    account: Annotated[str | None, ACCOUNT_OPTION] = None,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Say which Stripe customer a customer is."""
    from stripemeter.pipeline import stripe_setup

    with open_parts(is_live=live, account=account) as (pool, sink):
        binding = stripe_setup.bind(
            pool,
            sink,
            tenant_id=tenant,
            customer_ref=customer,
            stripe_customer_id=stripe_customer,
            now=datetime.now(UTC),
        )
    show(binding, as_json=as_json)


@app.command("push")
def push(
    *,
    live: Annotated[bool, LIVE_OPTION] = False,
    account: Annotated[str | None, ACCOUNT_OPTION] = None,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Send Stripe what it lacks. A running stack does it by itself. Exit 1 when something needs an operator."""
    from stripemeter.pipeline.push import push_usage

    with open_parts(is_live=live, account=account) as (pool, sink):
        report = push_usage(
            pool, sink, now=datetime.now(UTC), witnesses=witnesses(), connected_accounts=connected_accounts()
        )
    show(report, as_json=as_json)
    if report.rejected or report.blocked or report.stopped:
        raise typer.Exit(1)


@app.command("reconcile")
def reconcile(
    *,
    live: Annotated[bool, LIVE_OPTION] = False,
    account: Annotated[str | None, ACCOUNT_OPTION] = None,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Compare every open day with Stripe. Exit 1 when a difference is unexplained or Stripe could not be read."""
    from stripemeter.pipeline.reconcile import reconcile_and_record

    with open_parts(is_live=live, account=account) as (pool, sink):
        report = reconcile_and_record(pool, sink, clock=lambda: datetime.now(UTC))
    show(report, as_json=as_json)
    if report.unexplained or report.unknown:
        raise typer.Exit(1)


@app.command("release")
def release(
    entry: Annotated[str, typer.Argument(help="The rejected row's id, from `status`.", show_default=False)],
    tenant: Annotated[str, _TENANT],
) -> None:
    """Let a refused customer go on, once the cause is repaired."""
    from stripemeter.pipeline.stripe_setup import release_entry

    try:
        entry_id = UUID(entry)
    except ValueError as error:
        raise InvalidInput(f"a push entry's id is a UUID, not {entry!r}", field="entry") from error
    with _pool() as pool:
        release_entry(pool, tenant_id=tenant, entry_id=entry_id, now=datetime.now(UTC))
    typer.echo(f"released {entry_id}")


@app.command("status")
def status(
    tenant: Annotated[str | None, typer.Option("--tenant", help="Only this tenant.")] = None,
    *,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Mappings, bindings, the outbox and the last verdicts, from our tables; Stripe is not asked."""
    from stripemeter.store import late_usage, mappings, push_doubts, push_entries, reconciliations, stripe_events
    from stripemeter.store.postgres import transaction

    with _pool() as pool, transaction(pool) as tx:
        found: dict[str, Any] = {
            "mappings": mappings.list_mappings(tx, tenant_id=tenant),
            "bindings": mappings.list_bindings(tx, tenant_id=tenant),
            "outbox": push_entries.count_states(tx, tenant_id=tenant),
            "waiting_for_an_operator": [
                entry for entry in push_entries.list_blocking(tx) if tenant in (None, entry.tenant_id)
            ],
            "late_usage_carried": late_usage.list_carries(tx, tenant_id=tenant),
            "days": reconciliations.count_verdicts(tx, tenant_id=tenant),
            "differences": reconciliations.list_verdicts(tx, tenant_id=tenant),
            "rows_doubted": push_doubts.count_open(tx),
            "events_waiting": stripe_events.count_waiting(tx).count,
        }
    show(found, as_json=as_json)


def open_account(mode: Mode, account: str | None = None) -> BillingSink:
    """The account of a mode: the settings' own, else for shadow pushes the emulator of the stack that runs here.

    `account` opens that one, where it is connected to the key's own; the caller compares.

    Raises:
        NotAllowed: there is none.
    """
    from pydantic import SecretStr

    from stripemeter.billing import open_sink
    from stripemeter.runtime.settings import load_settings
    from stripemeter.runtime.stack import EMULATOR_KEY
    from stripemeter.runtime.stack_record import read_record

    settings = load_settings()
    if settings.wants_emulator and mode == "shadow":
        record = read_record(settings.state)
        url = record.urls.get("emulator") if record is not None and record.is_supervised else None
        if url is None:
            raise NotAllowed("no Stripe key is set and no emulator runs here: set STRIPE_TEST_SECRET_KEY")
        settings = settings.model_copy(
            update={"stripe_test_secret_key": SecretStr(EMULATOR_KEY), "stripe_api_base": url}
        )
    return open_sink(settings, mode=mode, account=account)


def witnesses() -> Path:
    """Where it is remembered, outside the database, what was pushed."""
    from stripemeter.runtime.settings import load_settings

    return load_settings().witnesses


def connected_accounts() -> tuple[str, ...]:
    """Accounts connected to the keys' own."""
    from stripemeter.runtime.settings import load_settings

    return load_settings().connected_accounts


@contextmanager
def open_parts(*, is_live: bool, account: str | None = None) -> Iterator[tuple[ConnectionPool, BillingSink]]:
    """The database, and the account of a mode: the key's own, or that one.

    Raises:
        NotAllowed: there is no key for the mode, or `account` is not reached with it.
    """
    sink = open_account("live" if is_live else "shadow", account)
    if account is not None and sink.account_id() != account:
        raise NotAllowed(
            f"the key for {sink.mode} is of {sink.account_id()}, not of {account}: connect {account} to it and name it "
            "in STRIPEMETER_STRIPE_CONNECTED_ACCOUNTS, or set the key of that account"
        )
    with _pool() as pool:
        yield pool, sink


@contextmanager
def _pool() -> Iterator[ConnectionPool]:
    from stripemeter.runtime.database import current_database_url
    from stripemeter.runtime.settings import load_settings
    from stripemeter.store.postgres import open_pool

    with open_pool(current_database_url(load_settings())) as pool:
        yield pool


def show(value: object, *, as_json: bool) -> None:
    """Print a value: its members a line each, rows of a list indented; or JSON."""
    plain = _plain(value)
    if as_json:
        typer.echo(json.dumps(plain, indent=2))
        return
    for name, member in plain.items():
        if isinstance(member, list):
            typer.echo(f"{name}: {len(member)}")
            for row in member:
                typer.echo("  " + "  ".join(f"{key}={text}" for key, text in row.items() if text not in (None, "")))
        else:
            typer.echo(f"{name}: {member}")


def _plain(value: Any) -> Any:  # noqa: ANN401 - anything we print
    match value:
        case Decimal():
            return f"{value:f}"
        case datetime() | date():
            return value.isoformat()
        case UUID():
            return str(value)
        case Mapping():
            return {key: _plain(member) for key, member in value.items()}
        case Sequence() if not isinstance(value, str):
            return [_plain(member) for member in value]
        case _ if dataclasses.is_dataclass(value):
            return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        case _:
            return value
