"""`stripemeter push`: what Stripe would be sent, and sending it.

Belongs here: options and how plans look. Does not: the protocol (`pipeline.push`), planning (`pipeline.push_preview`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from stripemeter.cli.stripe import ACCOUNT_OPTION, JSON_OPTION, LIVE_OPTION, open_parts, push, show
from stripemeter.errors import NotAllowed

app = typer.Typer(help="Sending Stripe what it lacks: first the plan, then the push.", no_args_is_help=True)


@app.command("plan")
def plan(
    *,
    live: Annotated[bool, LIVE_OPTION] = False,
    account: Annotated[str | None, ACCOUNT_OPTION] = None,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """What `push apply` would send now. Sends and writes nothing."""
    from stripemeter.pipeline.push_preview import plan_push

    with open_parts(is_live=live, account=account) as (pool, sink):
        planned = plan_push(pool, sink, now=datetime.now(UTC))
    show(planned, as_json=as_json)


@app.command("apply")
def apply(
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Really send.")] = False,
    live: Annotated[bool, LIVE_OPTION] = False,
    account: Annotated[str | None, ACCOUNT_OPTION] = None,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Send it: `stripemeter stripe push`, by the name that follows `plan`. Exit 1 when something needs an operator."""
    if not yes:
        raise NotAllowed("nothing was sent: look at `stripemeter push plan` first, then say --yes")
    push(live=live, account=account, as_json=as_json)
