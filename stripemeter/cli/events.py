"""`stripemeter events`: take one event back, and put another in its place.

Belongs here: options and what is shown. Does not: what voiding brings about (`pipeline.void`).
"""

from __future__ import annotations

import getpass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated

import typer

from stripemeter.errors import InvalidInput

if TYPE_CHECKING:
    from stripemeter.metering.events import UsageEvent

app = typer.Typer(help="Single events.", no_args_is_help=True)


@app.callback()
def root() -> None:
    """Single events."""


@app.command("void")
def void(
    key: Annotated[str, typer.Argument(help="The event's idempotency key.", show_default=False)],
    tenant: Annotated[str, typer.Option("--tenant", help="Whose.", show_default=False)],
    reason: Annotated[str, typer.Option("--reason", help="Why, for the record.", show_default=False)],
    replacement: Annotated[
        str | None,
        typer.Option("--replacement", help="Event in its place, as JSON without tenantId; default: none."),
    ] = None,
) -> None:
    """Let an event count nowhere from now on. It stays in the ledger, and its key stays taken."""
    from stripemeter.cli.counters import database_pool
    from stripemeter.pipeline.void import void_event

    if not 1 <= len(reason) <= 500:
        raise InvalidInput("--reason must have 1 to 500 characters", field="--reason")
    now = datetime.now(UTC)
    event = None if replacement is None else _parse(replacement, tenant, key, now)
    with database_pool() as pool:
        voided = void_event(
            pool, tenant, key, reason=reason, actor=f"cli:{getpass.getuser()}", now=now, replacement=event
        )
    when = voided.void.voided_at.isoformat(timespec="seconds")
    typer.echo(f"{key}: voided" if voided.is_new else f"{key}: was voided already, {when}, by {voided.void.actor}")
    if voided.replacement is not None:
        typer.echo(f"{voided.replacement.idempotency_key}: {voided.replacement.outcome.value}")


def _parse(text: str, tenant: str, key: str, now: datetime) -> UsageEvent:
    import msgspec

    from stripemeter.metering.events import IngestLimits
    from stripemeter.metering.replacements import parse_replacement
    from stripemeter.runtime.settings import load_settings

    try:
        document = msgspec.json.Decoder(float_hook=Decimal).decode(text.encode())
    except (ValueError, ArithmeticError, RecursionError, msgspec.DecodeError) as error:
        raise InvalidInput(f"--replacement is not JSON: {error}", field="--replacement") from error
    settings = load_settings()
    limits = IngestLimits(max_meta_bytes=settings.max_event_meta_bytes, is_tenant_uuid=settings.strict_tenant_id_uuid)
    return parse_replacement(document, tenant_id=tenant, voided_key=key, now=now, limits=limits)
