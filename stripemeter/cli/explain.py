"""`stripemeter explain`: where a number comes from, and where an event went.

Belongs here: options and how an explanation reads. Does not: explaining (`pipeline.explain`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from stripemeter.metering.explanations import CountedReading
    from stripemeter.pipeline.explain import ExplainedEvent, ExplainedUsage, UsageEventRow

app = typer.Typer(help="Where a number comes from, and where an event went.", no_args_is_help=True)

_TENANT = typer.Option("--tenant", help="Whose.", show_default=False)
PAGE = 500


@app.command("event")
def event(
    key: Annotated[str, typer.Argument(help="The event's idempotency key.", show_default=False)],
    tenant: Annotated[str, _TENANT],
) -> None:
    """Where an event counts, or why it does not."""
    from stripemeter.cli.counters import database_pool
    from stripemeter.pipeline import explain

    with database_pool() as pool:
        found = explain.explain_event(pool, tenant, key)
    for line in _event_lines(found):
        typer.echo(line)


@app.command("usage")
def usage(
    customer: Annotated[str, typer.Argument(help="Our customer reference.", show_default=False)],
    metric: Annotated[str, typer.Argument(help="The metric or meter.", show_default=False)],
    day: Annotated[str, typer.Argument(help="The UTC day, YYYY-MM-DD.", show_default=False)],
    tenant: Annotated[str, _TENANT],
) -> None:
    """What a customer's usage of a day is made of: counters, adjustments, and every event."""
    from stripemeter.cli.counters import database_pool
    from stripemeter.metering.days import parse_day
    from stripemeter.pipeline import explain

    on = parse_day(day)
    after, has_more, is_first = None, True, True
    with database_pool() as pool:
        while has_more:
            found = explain.explain_usage(
                pool,
                tenant_id=tenant,
                customer_ref=customer,
                meter=metric,
                first_on=on,
                last_on=on,
                limit=PAGE,
                after=after,
            )
            for line in _usage_lines(found) if is_first else ():
                typer.echo(line)
            for row in found.events:
                typer.echo(_row(row))
                after = (row.event.ts, row.event.seq)
            has_more, is_first = found.has_more, False


def _event_lines(found: ExplainedEvent) -> Iterator[str]:
    stored = found.event
    yield f"{stored.idempotency_key}: {_state(found.state, stored.late_status)}"
    yield f"  {stored.metric} of {stored.customer_ref}: {stored.quantity:f} at {stored.ts.isoformat()}"
    yield f"  received {stored.received_at.isoformat()}, batch {stored.batch or 'in the lake'}" + (
        "" if stored.backfill_id is None else f", backfill {stored.backfill_id}"
    )
    if stored.voided_at is not None:
        yield f"  voided {stored.voided_at.isoformat()} by {stored.void_actor}: {stored.void_reason}"
        if stored.replacement_key is not None:
            yield f"  replaced by {stored.replacement_key}"
    verb = "counts" if found.is_counting else "would count"
    for reading in found.readings:
        yield f"  {verb} in {_reading(reading)}"
    for refusal in found.refusals:
        yield f"  not in {refusal.meter} version {refusal.version}: {refusal.reason}"
    for refused in found.refused:
        yield f"  refused under its key, {refused.times_refused} times: {refused.metric} {refused.quantity:f}"
    if found.is_recount_pending:
        yield "  its day waits to be counted again"


def _usage_lines(found: ExplainedUsage) -> Iterator[str]:
    yield f"{', '.join(found.refs)}: {found.aggregation}"
    for span in found.versions:
        yield "  implicit meter" if span.version is None else f"  version {span.version.version}"
    for counter, segment in found.counters:
        lane = "late lane" if counter.is_late else "counter"
        yield (
            f"  {lane}, segment from {segment.start.isoformat()} {counter.dimensions}: {counter.event_count} events, "
            f"sum {counter.quantity_sum:f}, min {counter.quantity_min:f}, max {counter.quantity_max:f}, "
            f"last {counter.quantity_last:f}"
        )
    for adjustment in found.adjustments:
        delta = "" if adjustment.delta is None else f" {adjustment.delta:+f}"
        yield f"  adjustment {adjustment.id}, {adjustment.reason}, {adjustment.status}{delta}"
    if found.has_more_adjustments:
        yield "  and more adjustments: `stripemeter adjustments list` has all of them"
    if found.is_in_lake:
        yield "  the lake alone has events of the month"
    if found.is_recount_pending:
        yield "  the day waits to be counted again"


def _row(row: UsageEventRow) -> str:
    read = f"not read: {row.reason}" if row.reading is None else f"{row.reading.quantity:f}"
    stored = row.event
    return "\t".join(
        (stored.idempotency_key, stored.ts.isoformat(), _state(row.state, stored.late_status), read, stored.batch or "")
    )


def _state(state: str, late_status: str | None) -> str:
    return f"{state} ({late_status})" if state == "late" else state


def _reading(reading: CountedReading) -> str:
    version = "" if reading.version is None else f" version {reading.version}"
    dimensions = f" {reading.dimensions}" if reading.dimensions else ""
    return (
        f"{reading.meter}{version} of {reading.customer_ref}, segment from {reading.segment.start.isoformat()}"
        f"{dimensions}, {reading.lane} lane: {reading.quantity:f}"
    )
