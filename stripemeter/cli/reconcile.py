"""`stripemeter reconcile` and `stripemeter repair`: compare with Stripe, look at differences, make them go away.

Belongs here: options and how results look. Does not: comparing (`pipeline.reconcile`), repairing (`pipeline.repair`).
"""

from __future__ import annotations

import getpass
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import typer

from stripemeter.cli.stripe import (
    ACCOUNT_OPTION,
    JSON_OPTION,
    LIVE_OPTION,
    connected_accounts,
    open_parts,
    reconcile,
    show,
    witnesses,
)
from stripemeter.errors import InvalidInput

app = typer.Typer(help="Ours against Stripe's, day by day.", no_args_is_help=True)
repair = typer.Typer(help="Make Stripe hold what we counted.", no_args_is_help=True)

_TENANT = typer.Option("--tenant", help="Only this tenant.", show_default=False)

app.command("run")(reconcile)


@app.command("show")
def show_month(
    tenant: Annotated[str, typer.Option("--tenant", help="Whose.", show_default=False)],
    period: Annotated[str, typer.Option("--period", help="A UTC month, YYYY-MM; this month when absent.")] = "",
    *,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """A month by meter and customer, from the latest verdicts, and what awaits approval; Stripe is not asked."""
    from stripemeter.cli.counters import database_pool
    from stripemeter.pipeline.reconciliation_months import parse_month, read_months

    month = parse_month(period, field="period") if period else datetime.now(UTC).date().replace(day=1)
    with database_pool() as pool:
        found = read_months(pool, tenant, month, month)
    months = [
        {
            "meter": one.meter,
            "customer_ref": one.customer_ref,
            "mode": one.mode,
            "status": one.status,
            "local": one.local,
            "stripe": one.stripe,
            "drift": one.drift,
            "causes": ", ".join(one.causes),
        }
        for one in found.months
    ]
    show({"months": months, "suggested": found.suggested}, as_json=as_json)


@repair.command("plan")
def plan(
    tenant: Annotated[str | None, _TENANT] = None,
    *,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Each difference of the last reconciliation, its cause and what repairs it; nothing is sent or changed."""
    from stripemeter.cli.counters import database_pool
    from stripemeter.pipeline.repair import plan_repairs

    with database_pool() as pool:
        show({"steps": plan_repairs(pool, tenant_id=tenant, now=datetime.now(UTC))}, as_json=as_json)


@repair.command("apply")
def apply(
    approved: Annotated[
        list[UUID] | None,
        typer.Option("--approve", help="A suggestion's id, from `repair plan`; may be repeated.", show_default=False),
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why they are approved; goes with --approve.")] = "",
    *,
    live: Annotated[bool, LIVE_OPTION] = False,
    account: Annotated[str | None, ACCOUNT_OPTION] = None,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Push what Stripe lacks, take back what is approved, then compare. Exit 1 when something is left.

    Again changes nothing; what we counted never changes here.
    """
    from stripemeter.pipeline.push import push_usage
    from stripemeter.pipeline.reconcile import reconcile_and_record
    from stripemeter.pipeline.repair import approve_corrections

    ids = approved or []
    if ids and not reason:
        raise InvalidInput("--approve needs a --reason, for the record", field="reason")
    with open_parts(is_live=live, account=account) as (pool, sink):
        now = datetime.now(UTC)
        outcomes = (
            approve_corrections(pool, ids, tenant_id=None, actor=getpass.getuser(), reason=reason, now=now)
            if ids
            else []
        )
        pushed = push_usage(pool, sink, now=now, witnesses=witnesses(), connected_accounts=connected_accounts())
        report = reconcile_and_record(pool, sink, clock=lambda: datetime.now(UTC))
    show(
        {
            "approvals": outcomes,
            "accepted": pushed.accepted + pushed.already_accepted,
            "unexplained": report.unexplained,
            "unknown": report.unknown,
            "differences": report.rows,
        },
        as_json=as_json,
    )
    is_refused = any(one.outcome == "failed" for one in outcomes)
    if is_refused or pushed.rejected or pushed.blocked or pushed.stopped or report.unexplained or report.unknown:
        raise typer.Exit(1)
