"""`stripemeter adjustments`: corrections of usage, and late events that wait for a person.

Belongs here: options and how an adjustment looks. Does not: what a decision moves (`stripemeter.pipeline.adjustments`).
"""

from __future__ import annotations

import getpass
import re
from datetime import UTC, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Literal
from uuid import UUID

import typer

from stripemeter.errors import InvalidInput

if TYPE_CHECKING:
    from stripemeter.pipeline.adjustments import Decision
    from stripemeter.store.adjustments import Adjustment

app = typer.Typer(help="Correct usage: create, approve, reject, revert; every step is audited.", no_args_is_help=True)

_ID = typer.Argument(metavar="ID", show_default=False)
_TENANT = typer.Option("--tenant", help="Whose.", show_default=False)
_NOTE = typer.Option("--note", help="Why, for the audit.", show_default=False)
_DELTA = re.compile(r"-?[0-9]{1,26}(\.[0-9]{1,12})?")
PAGE = 100


@app.command("list")
def list_adjustments(
    tenant: Annotated[str, _TENANT],
    status: Annotated[
        Literal["pending", "approved", "rejected", "reverted", "absorbed"] | None,
        typer.Option("--status", help="Only these.", show_default=False),
    ] = None,
    metric: Annotated[str | None, typer.Option("--metric", help="Only of this metric.", show_default=False)] = None,
    customer: Annotated[
        str | None, typer.Option("--customer", help="Only of this customer.", show_default=False)
    ] = None,
) -> None:
    """A tenant's adjustments, newest first; those of late events too."""
    from stripemeter.cli.counters import database_pool
    from stripemeter.pipeline.adjustments import list_page

    filters = {"status": status, "metric": metric, "customer_ref": customer}
    after, has_more = None, True
    with database_pool() as pool:
        while has_more:
            page, has_more = list_page(pool, tenant, filters, after=after, limit=PAGE)
            for adjustment in page:
                typer.echo(_line(adjustment))
                after = (adjustment.created_at, adjustment.id)


@app.command()
def show(adjustment_id: Annotated[UUID, _ID], tenant: Annotated[str, _TENANT]) -> None:
    """One adjustment, and every change of it."""
    from stripemeter.cli.counters import database_pool
    from stripemeter.pipeline.adjustments import find

    with database_pool() as pool:
        adjustment, transitions = find(pool, tenant, adjustment_id)
    typer.echo(_line(adjustment))
    for step in transitions:
        note = f"  {step.note}" if step.note else ""
        typer.echo(f"  {step.happened_at:%Y-%m-%dT%H:%M:%SZ} {step.action} by {step.actor}{note}")


@app.command()
def create(
    tenant: Annotated[str, _TENANT],
    metric: Annotated[str, typer.Option("--metric", help="The metric or meter.", show_default=False)],
    customer: Annotated[str, typer.Option("--customer", help="Whose usage.", show_default=False)],
    day: Annotated[str, typer.Option("--day", help="UTC day it changes, YYYY-MM-DD.", show_default=False)],
    delta: Annotated[str, typer.Option("--delta", help="Signed decimal, such as -5.", show_default=False)],
    reason: Annotated[
        Literal["backfill", "correction", "promo", "credit", "manual"], typer.Option("--reason", help="Why.")
    ] = "manual",
    request_id: Annotated[
        str | None, typer.Option("--request-id", help="A retry with the same is the same.", show_default=False)
    ] = None,
    note: Annotated[str | None, _NOTE] = None,
) -> None:
    """Ask for a correction: it counts once somebody approves it."""
    from stripemeter.cli.counters import database_pool
    from stripemeter.metering.days import parse_day
    from stripemeter.pipeline.adjustments import create_adjustment
    from stripemeter.runtime.settings import load_settings
    from stripemeter.store.adjustments import NewAdjustment

    if not _DELTA.fullmatch(delta):
        raise InvalidInput(
            f"--delta must be a decimal of at most 26 digits and 12 decimals, not {delta!r}", field="--delta"
        )
    on = parse_day(day, field="--day")
    said = (("--tenant", tenant, 255), ("--metric", metric, 100), ("--customer", customer, 255))
    for option, text, most in (*said, ("--request-id", request_id, 255), ("--note", note, 1000)):
        _check_text(text, option, most)
    new = NewAdjustment(
        tenant_id=tenant,
        metric=metric,
        customer_ref=customer,
        period="day",
        day=on,
        effective_at=datetime.combine(on, time(), UTC),
        delta=Decimal(delta),
        reason=reason,
        request_id=request_id,
        note=note,
        actor=_actor(),
    )
    with database_pool() as pool:
        adjustment, _ = create_adjustment(
            pool, new, now=datetime.now(UTC), max_delta=load_settings().max_adjustment_delta
        )
    typer.echo(_line(adjustment))


@app.command()
def approve(
    adjustment_id: Annotated[UUID, _ID], tenant: Annotated[str, _TENANT], note: Annotated[str | None, _NOTE] = None
) -> None:
    """Let it count from now on."""
    _decide(adjustment_id, tenant, note, "approved")


@app.command()
def reject(
    adjustment_id: Annotated[UUID, _ID], tenant: Annotated[str, _TENANT], note: Annotated[str | None, _NOTE] = None
) -> None:
    """Let it never count."""
    _decide(adjustment_id, tenant, note, "rejected")


@app.command()
def revert(
    adjustment_id: Annotated[UUID, _ID], tenant: Annotated[str, _TENANT], note: Annotated[str | None, _NOTE] = None
) -> None:
    """Take an approval back: every number is what it was without it."""
    _decide(adjustment_id, tenant, note, "reverted")


def _decide(adjustment_id: UUID, tenant: str, note: str | None, decision: Decision) -> None:
    from stripemeter.cli.counters import database_pool
    from stripemeter.pipeline.adjustments import decide

    _check_text(note, "--note", 1000)
    with database_pool() as pool:
        decided = decide(pool, tenant, adjustment_id, decision, actor=_actor(), now=datetime.now(UTC), note=note)
    typer.echo(_line(decided.adjustment) + ("  (it was before)" if decided.was_so_before else ""))


def _check_text(text: str | None, option: str, most: int) -> None:
    """The bounds of the same members over HTTP."""
    if text is not None and not 1 <= len(text) <= most:
        raise InvalidInput(f"{option} must have 1 to {most} characters, not {len(text)}", field=option)


def _actor() -> str:
    return f"cli:{getpass.getuser()}"


def _line(adjustment: Adjustment) -> str:
    delta = "-" if adjustment.delta is None else f"{adjustment.delta:+f}".rstrip("0").rstrip(".")
    return "\t".join(
        (
            str(adjustment.id),
            adjustment.status,
            adjustment.day.isoformat(),
            adjustment.customer_ref,
            adjustment.metric,
            delta,
            adjustment.reason,
        )
    )
