"""`stripemeter mappings`: which prices bill a tenant's metrics, as a file in YAML.

Belongs here: options, how changes look. Does not: planning (`metering.mapping_files`), changing
(`pipeline.mapping_files`).
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stripemeter.cli.stripe import open_account

if TYPE_CHECKING:
    from psycopg_pool import ConnectionPool

    from stripemeter.metering.mapping_files import Binding, MappingChange, MappingFile

app = typer.Typer(
    help="What is billed: price mappings, customers' Stripe ids, and files of them.", no_args_is_help=True
)

_TENANT = typer.Option("--tenant", help="Whose.", show_default=False)
_FILE = typer.Argument(
    help="YAML: `tenant: NAME`, `mappings: [...]` and `customers: [...]`, as `export` writes it.", show_default=False
)
_PRUNE = typer.Option("--prune", help="Switch off the mappings that the file does not name.")


@app.command("export")
def export(tenant: Annotated[str, _TENANT]) -> None:
    """What is so as a file on standard output; applying it changes nothing."""
    from stripemeter.cli.counters import database_pool
    from stripemeter.cli.yaml_files import to_yaml
    from stripemeter.metering.mapping_files import mapping_file_document
    from stripemeter.pipeline.mapping_files import load_recorded

    with database_pool() as pool:
        recorded = load_recorded(pool, tenant)
    typer.echo(to_yaml(mapping_file_document(tenant, recorded.statements, recorded.bindings)), nl=False)


@app.command("diff")
def diff(file: Annotated[Path, _FILE], *, prune: Annotated[bool, _PRUNE] = False) -> None:
    """What `apply` would do, without asking Stripe. Exit 1 when that is anything, 0 when all is so already."""
    from stripemeter.cli.counters import database_pool

    said = _read(file)
    with database_pool() as pool:
        changes, bindings = _plan(pool, said, prune=prune)
    for change in changes:
        _show(change)
    for binding in bindings:
        _show_binding(binding)
    if changes or bindings:
        raise typer.Exit(1)


@app.command("apply")
def apply(file: Annotated[Path, _FILE], *, prune: Annotated[bool, _PRUNE] = False) -> None:
    """Record a file's mappings and customers, each once its account agrees. Saying the same again changes nothing.

    Each is changed by itself: where one is refused, those before it stand and the rest is as it was.
    """
    from stripemeter.cli.counters import database_pool
    from stripemeter.pipeline.mapping_files import apply_binding, apply_mapping

    said, opened = _read(file), cache(open_account)
    with database_pool() as pool:
        changes, bindings = _plan(pool, said, prune=prune)
        for change in changes:
            apply_mapping(pool, opened, tenant_id=said.tenant_id, change=change, now=datetime.now(UTC))
            _show(change)
        for binding in bindings:
            apply_binding(pool, opened, tenant_id=said.tenant_id, binding=binding, now=datetime.now(UTC))
            _show_binding(binding)


def _read(file: Path) -> MappingFile:
    from stripemeter.cli.yaml_files import read_yaml
    from stripemeter.metering.mapping_files import parse_mapping_file

    return parse_mapping_file(read_yaml(file))


def _plan(pool: ConnectionPool, said: MappingFile, *, prune: bool) -> tuple[list[MappingChange], list[Binding]]:
    from stripemeter.metering.mapping_files import plan_bindings, plan_mappings
    from stripemeter.pipeline.mapping_files import load_recorded

    recorded = load_recorded(pool, said.tenant_id)
    changes = plan_mappings(said, recorded.statements, is_pruning=prune)
    return changes, plan_bindings(said, recorded.bindings)


def _show(change: MappingChange) -> None:
    said = change.statement
    mode = "off" if change.action == "off" else said.mode
    fed = said.target_price[0] or said.event_name
    typer.echo(f"{change.action} {said.metric} at {said.target_account_id} ({mode}, {said.aggregation} to {fed})")
    for name, before, after in change.members:
        typer.echo(f"  {name}: {json.dumps(before)} -> {json.dumps(after)}")


def _show_binding(binding: Binding) -> None:
    typer.echo(f"bind {binding.customer_ref} to {binding.stripe_customer_id} at {binding.stripe_account_id}")
