"""`stripemeter prices`: what a unit costs, as the account says or as a tenant says itself.

Belongs here: options, how results look. Does not: asking, storing (`pipeline.prices`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Annotated

import typer

from stripemeter.cli.stripe import open_account

app = typer.Typer(
    help="What usage is priced by: Stripe's prices as imported, and prices of your own.", no_args_is_help=True
)

_TENANT = typer.Option("--tenant", help="Whose.", show_default=False)


@app.command("sync")
def sync(tenant: Annotated[str, _TENANT]) -> None:
    """Ask Stripe for the price of every mapping that is not off and of every recorded item; exit 1 when one is gone."""
    from stripemeter.cli.counters import database_pool
    from stripemeter.pipeline.prices import import_prices

    with database_pool() as pool:
        asked = import_prices(pool, cache(open_account), tenant_id=tenant, now=datetime.now(UTC))
    for price in asked:
        whose = "" if price.customer_ref is None else f" for {price.customer_ref}"
        typer.echo(f"{price.outcome} {price.price_id} of {price.meter}{whose} at {price.stripe_account_id}")
    if any(price.outcome == "missing" for price in asked):
        raise typer.Exit(1)


@app.command("list")
def list_(tenant: Annotated[str, _TENANT]) -> None:
    """Every version: what it prices, since when, and what a unit costs."""
    from stripemeter.cli.counters import database_pool
    from stripemeter.pipeline.price_versions import describe_terms
    from stripemeter.pipeline.prices import list_known_prices

    with database_pool() as pool:
        versions = list_known_prices(pool, tenant_id=tenant)
    for version in versions:
        owner = version.stripe_account_id or "own"
        since = version.effective_from.isoformat().replace("+00:00", "Z")
        typer.echo(f"{version.price_id} {version.version[:12]} ({owner}) from {since}: {describe_terms(version)}")


@app.command("set")
def set_(
    metric: Annotated[
        str, typer.Argument(help="What is priced, where no mapping names a Stripe price.", show_default=False)
    ],
    file: Annotated[
        Path, typer.Argument(help="YAML or JSON: a priceConfig, or a Stripe Price with tiers.", show_default=False)
    ],
    tenant: Annotated[str, _TENANT],
    since: Annotated[
        str | None, typer.Option("--from", help="From when on, e.g. 2026-11-01T00:00:00Z; now when absent.")
    ] = None,
) -> None:
    """Say what a unit costs. A version that was said stays; a new one holds from later on."""
    from stripemeter.cli.counters import database_pool
    from stripemeter.cli.yaml_files import read_yaml
    from stripemeter.pipeline.prices import say_price
    from stripemeter.pricing.reading import parse_instant

    now = datetime.now(UTC)
    with database_pool() as pool:
        is_new = say_price(
            pool,
            read_yaml(file),
            tenant_id=tenant,
            meter=metric,
            effective_from=now if since is None else parse_instant(since, "--from"),
            now=now,
        )
    typer.echo(f"{metric}: {'priced' if is_new else 'unchanged'}")
