"""`stripemeter restore-fence`: after a restore, bring the outbox to what Stripe holds before anything is pushed.

Belongs here: options and how the result looks. Does not: what is done (`pipeline.restore_fence`).
"""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from stripemeter.cli.stripe import JSON_OPTION, open_account, show
from stripemeter.errors import InvalidInput

if TYPE_CHECKING:
    from stripemeter.billing import BillingSink


def restore_fence(
    *,
    yes: Annotated[
        bool, typer.Option("--yes", help="Really do it; without it only what would be done is shown.")
    ] = False,
    stopped_at: Annotated[
        str,
        typer.Option(
            "--stopped-at",
            help="When the old database's last push had ended, as 2026-11-28T14:00:00Z; when absent, the fence's time.",
        ),
    ] = "",
    by_hand: Annotated[
        bool, typer.Option("--by-hand", help="Although nothing shows that the database was restored.")
    ] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the record.")] = "restore",
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """After a restore: read what Stripe holds, then let pushing go on. Stop what pushes from the old database first.

    May be killed and run again. Exit 1 while something is left; pushing stays blocked then.
    """
    from stripemeter.cli.counters import database_pool
    from stripemeter.pipeline.restore_fence import FenceOrder, find_contradiction, preview_fence
    from stripemeter.pipeline.restore_fence import restore_fence as fence
    from stripemeter.runtime.settings import load_settings

    order = FenceOrder(actor=getpass.getuser(), reason=reason, stopped_at=_instant(stopped_at), is_by_hand=by_hand)
    sinks = _every_account()
    with database_pool() as pool:
        gone_back = find_contradiction(pool, sinks, load_settings().witnesses)
        verb = fence if yes else preview_fence
        report = verb(pool, sinks, order=order, gone_back=gone_back, now=datetime.now(UTC))
    show(report, as_json=as_json)
    if report.outcome == "fenced" or report.failed:
        raise typer.Exit(1)


def _every_account() -> Sequence[BillingSink]:
    from stripemeter.billing import open_sinks
    from stripemeter.runtime.settings import load_settings

    settings = load_settings()
    return [open_account("shadow")] if settings.wants_emulator else open_sinks(settings)


def _instant(text: str) -> datetime | None:
    if not text:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(f"stopped-at must be like 2026-11-28T14:00:00Z, not {text!r}", field="stopped-at") from error
    if instant.tzinfo is None:
        raise InvalidInput(f"stopped-at needs a time zone, like 2026-11-28T14:00:00Z, not {text!r}", field="stopped-at")
    return instant.astimezone(UTC)
