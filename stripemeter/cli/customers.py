"""`stripemeter customers`: time zones, other references, billing windows.

Belongs here: options and how a customer looks. Does not: what a change moves (`stripemeter.pipeline.customers`).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from stripemeter.errors import InvalidInput

if TYPE_CHECKING:
    from stripemeter.metering.segments import BillingPhase
    from stripemeter.pipeline.customers import ChangedCustomer
    from stripemeter.store.customers import Customer

app = typer.Typer(help="Time zones, aliases, billing windows and Stripe customers.", no_args_is_help=True)

_CUSTOMER = typer.Argument(help="Our customer reference.", show_default=False)
_TENANT = typer.Option("--tenant", help="Whose.", show_default=False)
_METER = typer.Option("--meter", help="Default: every meter without phases of its own.", show_default=False)
PAGE = 100


@app.command("list")
def list_customers(tenant: Annotated[str, _TENANT]) -> None:
    """Customers somebody said something about; others exist from their first event."""
    from stripemeter.cli.counters import database_pool
    from stripemeter.pipeline import customers

    after, has_more = None, True
    with database_pool() as pool:
        while has_more:
            page, has_more = customers.list_customers(pool, tenant_id=tenant, after=after, limit=PAGE)
            for customer in page:
                typer.echo("\t".join((customer.customer_ref, customer.time_zone, *customer.aliases)))
                after = customer.customer_ref


@app.command("show")
def show(
    customer: Annotated[str, _CUSTOMER],
    tenant: Annotated[str, _TENANT],
    at: Annotated[str | None, typer.Option("--at", help="Instant of the segment; default: now.")] = None,
    meter: Annotated[str, _METER] = "",
) -> None:
    """What is said of a customer, and its segment. An alias shows its customer."""
    from stripemeter.cli.counters import database_pool
    from stripemeter.pipeline import customers

    when = datetime.now(UTC) if at is None else parse_instant(at, field="--at")
    with database_pool() as pool:
        found = customers.find_customer(pool, tenant_id=tenant, ref=customer)
    _show(found, when, meter)


@app.command("set")
def set_customer(
    customer: Annotated[str, _CUSTOMER],
    tenant: Annotated[str, _TENANT],
    time_zone: Annotated[str | None, typer.Option("--time-zone", help="IANA name, like Europe/Berlin.")] = None,
    cadence: Annotated[str | None, typer.Option("--cadence", help="day, week, month, quarter or year.")] = None,
    count: Annotated[int, typer.Option("--count", help="Cadences of one segment.")] = 1,
    anchor: Annotated[
        str | None, typer.Option("--anchor", help="A boundary, like 2026-01-31T09:30:00Z; default: the calendar.")
    ] = None,
    stripe_customer: Annotated[
        str | None, typer.Option("--stripe-customer", help="cus_...; Stripe is not asked.")
    ] = None,
    account: Annotated[str | None, typer.Option("--account", help="acct_...; default: the tenant's only one.")] = None,
) -> None:
    """Say something of a customer; what is not said stays."""
    from stripemeter.cli.counters import database_pool
    from stripemeter.metering.windows import parse_time_zone
    from stripemeter.pipeline import customers

    if time_zone is not None:
        parse_time_zone(time_zone, field="--time-zone")
    link = None
    if stripe_customer is not None:
        link = customers.StripeLink(account_id=account, customer_id=stripe_customer)
    change = customers.CustomerChange(time_zone=time_zone, billing=_billing(cadence, count, anchor), stripe=link)
    now = datetime.now(UTC)
    with database_pool() as pool:
        changed = customers.put_customer(pool, tenant_id=tenant, customer_ref=customer, change=change, now=now)
    _show_changed(changed, now)


@app.command("alias")
def alias(
    customer: Annotated[str, _CUSTOMER],
    other: Annotated[str, typer.Argument(help="The other reference.", show_default=False)],
    tenant: Annotated[str, _TENANT],
    *,
    remove: Annotated[bool, typer.Option("--remove", help="Make it a customer of its own again.")] = False,
) -> None:
    """Count another reference's events, past ones too, for the customer."""
    from stripemeter.cli.counters import database_pool
    from stripemeter.pipeline import customers

    verb = customers.remove_alias if remove else customers.add_alias
    now = datetime.now(UTC)
    with database_pool() as pool:
        changed = verb(pool, tenant_id=tenant, customer_ref=customer, alias_ref=other, now=now)
    _show_changed(changed, now)


@app.command("split")
def split(
    customer: Annotated[str, _CUSTOMER],
    at: Annotated[str, typer.Argument(help="First instant of the new segment, with its zone.", show_default=False)],
    tenant: Annotated[str, _TENANT],
    reason: Annotated[str, typer.Option("--reason", help="Why, for the record.")] = "price change",
    meter: Annotated[str, _METER] = "",
) -> None:
    """Cut the segment that holds an instant, as a price change does; the rhythm goes on."""
    from stripemeter.cli.counters import database_pool
    from stripemeter.metering.segments import parse_boundary
    from stripemeter.pipeline import customers

    boundary = parse_boundary(parse_instant(at, field="at"), field="at")
    with database_pool() as pool:
        changed = customers.split_segment(
            pool,
            tenant_id=tenant,
            customer_ref=customer,
            at=boundary,
            meter=meter,
            reason=reason,
            now=datetime.now(UTC),
        )
    _show_changed(changed, boundary, meter)


def parse_instant(text: str, *, field: str) -> datetime:
    """The instant somebody typed.

    Raises:
        InvalidInput: it is none, or says no zone.
    """
    try:
        at = datetime.fromisoformat(text)
        at.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(
            f"{field} must be an instant like 2026-01-31T09:30:00Z, not {text!r}", field=field
        ) from error
    if at.tzinfo is None:
        raise InvalidInput(f"{field} needs a time zone, like 2026-01-31T09:30:00Z", field=field)
    return at.astimezone(UTC)


def _billing(cadence: str | None, count: int, anchor: str | None) -> BillingPhase | None:
    from stripemeter.metering.segments import parse_phase

    if cadence is None:
        if anchor is not None or count != 1:
            raise InvalidInput("--anchor and --count need --cadence", field="--cadence")
        return None
    anchor_at = None if anchor is None else parse_instant(anchor, field="--anchor")
    return parse_phase(cadence=cadence, count=count, anchor_at=anchor_at)


def _show_changed(changed: ChangedCustomer, at: datetime, meter: str = "") -> None:
    _show(changed.customer, at, meter)
    if changed.pending_days:
        typer.echo(f"{changed.pending_days} days still wait to be counted again: a running stack does it")


def _show(customer: Customer, at: datetime, meter: str) -> None:
    for line in _lines(customer, at, meter):
        typer.echo(line)


def _lines(customer: Customer, at: datetime, meter: str) -> Iterator[str]:
    from stripemeter.metering.segments import BEGINNING, segment_at

    segment = segment_at(customer.phases_of(meter), at)
    yield f"customer   {customer.customer_ref}"
    yield f"time zone  {customer.time_zone}"
    yield f"segment    {segment.start.isoformat()} to {segment.end.isoformat()}"
    for other in customer.aliases:
        yield f"alias      {other}"
    for each in customer.phases:
        since = "always" if each.phase.starts_at == BEGINNING else f"from {each.phase.starts_at.isoformat()}"
        every = f"{each.phase.cadence_count} {each.phase.cadence}"
        anchor = each.phase.anchor_at.isoformat()
        yield f"phase      {each.meter or 'every meter'}: {since}, every {every}, anchor {anchor}, {each.reason}"
    for binding in customer.bindings:
        yield f"stripe     {binding.stripe_customer_id} at {binding.stripe_account_id}"
    for item in customer.items:
        yield f"item       {item.meter}: {item.stripe_item_id} of {item.stripe_subscription_id}"
