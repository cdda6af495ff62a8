"""`stripemeter migrate`."""

from __future__ import annotations

from typing import Annotated

import typer


def migrate(
    *, dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be applied.")] = False
) -> None:
    """Bring the database's tables up to this release. `stripemeter up` does it by itself."""
    from stripemeter.runtime.database import current_database_url
    from stripemeter.runtime.settings import load_settings
    from stripemeter.store import migrations

    names = migrations.migrate(current_database_url(load_settings()), dry_run=dry_run)
    for name in names:
        typer.echo(f"{'pending' if dry_run else 'applied'} {name}")
    if not names:
        typer.echo("nothing to apply")
