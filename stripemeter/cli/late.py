"""`stripemeter late`: usage that came after its invoice was final, billed as money.

Belongs here: options and how results look. Does not: charging (`pipeline.late_charges`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from stripemeter.cli.stripe import ACCOUNT_OPTION, JSON_OPTION, LIVE_OPTION, open_parts, show
from stripemeter.errors import NotFound

if TYPE_CHECKING:
    from stripemeter.store.late_charges import LateCharge

app = typer.Typer(help="Usage that came after its invoice was final: what it is charged.", no_args_is_help=True)

_TENANT = typer.Option("--tenant", help="Only this tenant.", show_default=False)
_CHARGE = typer.Argument(metavar="CHARGE", help="Its id, as `list` shows it.", show_default=False)
_INVOICE = typer.Option(
    "--invoice", help="Only this one's, although its proof failed: not when you billed it by hand.", show_default=False
)
MOST_LISTED = 1000


@app.command("list")
def list_charges(
    tenant: Annotated[str | None, _TENANT] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Those at Stripe too, with their derivation in JSON.")] = False,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Charges that are not at Stripe yet, or were refused and wait for a person; Stripe is not asked."""
    from stripemeter.cli.counters import database_pool
    from stripemeter.store.late_charges import list_charges as load_charges
    from stripemeter.store.postgres import transaction

    with database_pool() as pool, transaction(pool) as tx:
        found = load_charges(tx, tenant_id=tenant, is_every=every, limit=MOST_LISTED)
    show({"charges": [_row(one, is_whole=as_json) for one in found]}, as_json=as_json)


@app.command("apply")
def apply(
    *,
    invoice: Annotated[str | None, _INVOICE] = None,
    live: Annotated[bool, LIVE_OPTION] = False,
    account: Annotated[str | None, ACCOUNT_OPTION] = None,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Charge what is late now where its mapping says so, as a running stack does by itself.

    Exit 1 when Stripe refused a charge, or something stopped it.
    """
    from stripemeter.pipeline.late_charges import charge_late_usage
    from stripemeter.runtime.settings import load_settings

    with open_parts(is_live=live, account=account) as (pool, sink):
        report = charge_late_usage(
            pool, sink, now=datetime.now(UTC), witnesses=load_settings().witnesses, invoice_id=invoice
        )
    show(report, as_json=as_json)
    if report.rejected or report.stopped:
        raise typer.Exit(1)


@app.command("release")
def release(charge: Annotated[UUID, _CHARGE]) -> None:
    """Let the usage of a refused charge be charged anew, once the cause is gone."""
    from stripemeter.cli.counters import database_pool
    from stripemeter.store.late_charges import release as release_charge
    from stripemeter.store.postgres import transaction

    with database_pool() as pool, transaction(pool) as tx:
        if not release_charge(tx, charge, now=datetime.now(UTC)):
            raise NotFound(f"no charge {charge} was refused and waits for a person: see `stripemeter late list`")
    typer.echo(f"released {charge}")


def _row(charge: LateCharge, *, is_whole: bool) -> dict[str, object]:
    row: dict[str, object] = {
        "id": charge.id,
        "tenant": charge.tenant_id,
        "meter": charge.meter,
        "customer": charge.customer_ref,
        "invoice": charge.invoice_id,
        "kind": charge.kind,
        "from": charge.quantity_before,
        "to": charge.quantity_after,
        "amount_minor": charge.amount_minor,
        "currency": charge.currency,
        "state": charge.state,
        "planned_at": charge.planned_at,
        "stripe": charge.stripe_object_id,
        "message": charge.error_message,
    }
    return {**row, "identity": charge.identity, "derivation": charge.derivation} if is_whole else row
