"""`stripemeter stripe recheck`: read back what Stripe acknowledged, and find what it dropped.

Belongs here: options and how the result looks. Does not: reading back (`pipeline.push_doubts`), error reports
(`pipeline.stripe_error_reports`).
"""

from __future__ import annotations

import getpass
from datetime import UTC, date, datetime
from typing import Annotated

import typer

from stripemeter.cli.stripe import ACCOUNT_OPTION, JSON_OPTION, LIVE_OPTION, open_parts, show
from stripemeter.errors import InvalidInput


def recheck(
    tenant: Annotated[str | None, typer.Option("--tenant", help="Whose rows to doubt.", show_default=False)] = None,
    day: Annotated[str | None, typer.Option("--day", help="Of which UTC day, YYYY-MM-DD.", show_default=False)] = None,
    meter: Annotated[str | None, typer.Option("--meter", help="Only of this meter.", show_default=False)] = None,
    customer: Annotated[str | None, typer.Option("--customer", help="Only of this one.", show_default=False)] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why; goes with --day, for the record.")] = "",
    *,
    live: Annotated[bool, LIVE_OPTION] = False,
    account: Annotated[str | None, ACCOUNT_OPTION] = None,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Read back rows that Stripe acknowledged and may not have counted. A running stack goes on with it by itself.

    With --tenant, --day and --reason every accepted row of the day is doubted, and you let those that are absent be
    sent again. Without them: the reports that wait are read, and the rows that are due are read back. A row is absent
    when its minute was empty twice, ten minutes apart, an hour after it was sent. Exit 1 when something is absent.
    """
    from stripemeter.pipeline.push_doubts import recheck_day, settle_doubts
    from stripemeter.pipeline.stripe_error_reports import read_reports
    from stripemeter.store.push_doubts import DayRows

    chosen = _parse_day(day)
    if (tenant is None) != (chosen is None) or ((meter or customer or reason) and chosen is None):
        raise InvalidInput("--tenant and --day go together, and with --reason; --meter and --customer narrow them")
    with open_parts(is_live=live, account=account) as (pool, sink):
        now = datetime.now(UTC)
        doubted = 0
        if tenant is not None and chosen is not None:
            rows = DayRows(tenant_id=tenant, day=chosen, meter=meter, customer_ref=customer)
            doubted = recheck_day(pool, sink, rows, actor=getpass.getuser(), reason=reason, now=now)
        reports = read_reports(pool, sink, now=now)
        found = settle_doubts(pool, sink, now=now)
    show(
        {
            "doubted": doubted + reports.doubted,
            "reports": reports.reports,
            "reports_waiting": len(reports.waiting),
            "present": found.present,
            "absent": found.absent,
            "otherwise": found.otherwise,
            "unreadable": found.unreadable,
            "still_doubted": found.waiting,
            "rows": found.rows,
        },
        as_json=as_json,
    )
    if found.absent or found.otherwise or found.unreadable or reports.waiting or reports.failed:
        raise typer.Exit(1)


def _parse_day(text: str | None) -> date | None:
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(f"--day must be a UTC day, YYYY-MM-DD, not {text!r}", field="day") from error
