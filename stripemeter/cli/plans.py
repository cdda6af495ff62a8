"""`stripemeter plans`: plans as files: checked, compared, and today's as one to begin with.

Belongs here: reading a file, how results look, exit statuses. Does not: what a plan means (`stripemeter.pricing`).
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from stripemeter.pricing.plans import Plan

app = typer.Typer(help="Plans as code: check a file, compare two, begin with today's prices.", no_args_is_help=True)

_FILE = typer.Argument(help="A plan, a YAML or JSON file.", show_default=False)


class Form(Enum):
    """How a comparison is written."""

    TEXT = "text"
    JSON = "json"


@app.command()
def validate(files: Annotated[list[Path], _FILE]) -> None:
    """Read plans and say what is wrong with each, by member. Exit 0: all can be right; 1: one cannot."""
    from stripemeter.errors import InvalidInput

    failed = False
    for file in files:
        try:
            plan = read_plan(file)
        except InvalidInput as error:
            failed = True
            typer.echo(str(error), err=True)
            continue
        counts = f"{len(plan.metrics)} metrics, {len(plan.fees)} fees, {len(plan.minimums)} minimums"
        typer.echo(f"{file}: {plan.name} in {plan.currency}: {counts}")
    if failed:
        raise typer.Exit(1)


@app.command()
def diff(
    first: Annotated[Path, _FILE],
    second: Annotated[Path, _FILE],
    form: Annotated[Form, typer.Option("--format", help="How the changes are written.")] = Form.TEXT,
    *,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit 3 when they charge otherwise.")] = False,
) -> None:
    """What the second plan changes, per metric and tier. Exit 0: compared; 1: a plan cannot be read."""
    from dataclasses import asdict

    from stripemeter.pricing.plan_diffs import diff_plans, render_changes

    changes = diff_plans(read_plan(first), read_plan(second))
    if form is Form.JSON:
        typer.echo(json.dumps([asdict(change) for change in changes], indent=2, ensure_ascii=False))
    else:
        typer.echo(render_changes(changes))
    if changes and exit_code:
        raise typer.Exit(3)


@app.command()
def show(
    tenant: Annotated[str, typer.Option("--tenant", help="Whose.", show_default=False)],
    currency: Annotated[str | None, typer.Option("--currency", help="Which, where several have prices.")] = None,
) -> None:
    """Today's plan as a file to begin with: prices in force of customers without prices of their own."""
    from stripemeter.cli.counters import database_pool
    from stripemeter.cli.yaml_files import to_yaml
    from stripemeter.pipeline.current_plans import Standing, load_current_plans, only_plan
    from stripemeter.pricing.plans import plan_document
    from stripemeter.store.postgres import transaction

    with database_pool() as pool, transaction(pool) as tx:
        current = load_current_plans(tx, tenant_id=tenant, now=datetime.now(UTC))
    plan = only_plan(current.plans[Standing()], currency and currency.upper())
    for metric, reason in sorted(current.unpriced[Standing()].items()):
        typer.echo(f"{metric} has no price: {reason}", err=True)
    typer.echo(to_yaml(plan_document(plan)).rstrip())


def read_plan(file: Path) -> Plan:
    """The plan of a file.

    Raises:
        InvalidInput: it cannot be read, or cannot be right; names the file and the member.
    """
    from stripemeter.cli.yaml_files import read_yaml
    from stripemeter.errors import InvalidInput
    from stripemeter.pricing.plans import parse_plan

    document = read_yaml(file)
    try:
        return parse_plan(document)
    except InvalidInput as error:
        raise InvalidInput(f"{file}: {error}", field=error.field) from error
