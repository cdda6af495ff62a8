"""`stripemeter close`: invoices with our usage on them, how far each is, and the proofs.

Belongs here: options and how results look. Does not: closing (`pipeline.closing`).
"""

from __future__ import annotations

import getpass
from datetime import UTC, datetime
from typing import Annotated

import typer

from stripemeter.cli.stripe import ACCOUNT_OPTION, JSON_OPTION, LIVE_OPTION, open_parts, show
from stripemeter.errors import NotFound

app = typer.Typer(help="Invoices: held until they are right, or watched; each with a proof.", no_args_is_help=True)

_INVOICE = typer.Argument(metavar="INVOICE", help="Stripe's id, in_...", show_default=False)
_TENANT = typer.Option("--tenant", help="Only this tenant.", show_default=False)
MOST_LISTED = 1000


@app.command("list")
def list_invoices(
    tenant: Annotated[str | None, _TENANT] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="The closed ones too.")] = False,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Invoices that are not closed yet, or failed and wait for a person; Stripe is not asked."""
    from stripemeter.cli.counters import database_pool
    from stripemeter.store.closings import list_closings
    from stripemeter.store.postgres import transaction

    with database_pool() as pool, transaction(pool) as tx:
        found = list_closings(tx, tenant_id=tenant, is_open=not every, limit=MOST_LISTED)
    rows = [
        {
            "invoice": one.invoice_id,
            "tenant": one.tenant_id,
            "customer": one.customer_ref,
            "state": one.state,
            "control": one.control,
            "created_at": one.created_at,
            "settles_at": one.settles_at,
            "finalizes_at": one.finalizes_at,
            "grace": "too short" if one.is_grace_short and one.control == "observe" else "",
            "released_by": one.released_by,
            "message": one.message,
        }
        for one in found
    ]
    show({"invoices": rows}, as_json=as_json)


@app.command("run")
def run(
    *,
    live: Annotated[bool, LIVE_OPTION] = False,
    account: Annotated[str | None, ACCOUNT_OPTION] = None,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Look at every invoice now, as a running stack does by itself. Exit 1 when one has failed.

    STRIPEMETER_CLOSING=control takes drafts under control; without it nothing at Stripe is touched but what is under
    control already.
    """
    from stripemeter.pipeline.closing import close_invoices
    from stripemeter.runtime.settings import load_settings

    settings = load_settings()
    with open_parts(is_live=live, account=account) as (pool, sink):
        report = close_invoices(
            pool, sink, now=datetime.now(UTC), control=settings.closing, witnesses=settings.witnesses
        )
    show(report, as_json=as_json)
    if report.failed:
        raise typer.Exit(1)


@app.command("show")
def show_invoice(
    invoice: Annotated[str, _INVOICE],
    *,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """One invoice and its proof: what it bills, line by line, against what we counted and sent."""
    from stripemeter.cli.counters import database_pool
    from stripemeter.store.closings import list_closings
    from stripemeter.store.parity_proofs import list_proofs
    from stripemeter.store.postgres import transaction

    with database_pool() as pool, transaction(pool) as tx:
        found = list_closings(tx, invoice_id=invoice, limit=1)
        proofs = list_proofs(tx, invoice_id=invoice, limit=1)
    if not found:
        raise NotFound(f"no usage of ours is known on invoice {invoice!r}: see `stripemeter close list --all`")
    closing = {name: getattr(found[0], name) for name in found[0].__dataclass_fields__}
    proof: dict[str, object] = {"lines": proofs[0].lines if proofs else []}
    if proofs:
        names = ("is_equal", "finalized_at", "proven_at", "evidence_sha256", "evidence")
        proof |= {"amounts": proofs[0].amounts()}
        proof |= {f"proof_{name}": getattr(proofs[0], name) for name in names}
    show({**closing, **proof}, as_json=as_json)


@app.command("release")
def release(
    invoice: Annotated[str, _INVOICE],
    reason: Annotated[str, typer.Option("--reason", help="Why its difference is accepted; kept.", show_default=False)],
) -> None:
    """Let a failed invoice be finalized as it is, or accept a final one's difference; in your name, with a reason."""
    from stripemeter.cli.counters import database_pool
    from stripemeter.pipeline.closing import release_invoice

    with database_pool() as pool:
        release_invoice(pool, invoice, actor=getpass.getuser(), reason=reason, now=datetime.now(UTC))
    typer.echo(f"released {invoice}")
