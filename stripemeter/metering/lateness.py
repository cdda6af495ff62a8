"""Lateness: which folded events become adjustments, whether those count at once, and by how much.

Belongs here: comparing with watermarks and segments' ends, the delta by the aggregation's own rule. Does not: reading
watermarks (`store.lateness`), writing adjustments (`store.adjustments`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Context, Decimal
from typing import Literal

import polars as pl

from stripemeter.metering.events import MAX_AHEAD
from stripemeter.metering.frames import INSTANT
from stripemeter.metering.rulebook import Policy, Rulebook
from stripemeter.metering.segments import Segment

LateStatus = Literal["approved", "pending"]
Track = tuple[str, str, str]
"""(tenant, customer, metric): what a watermark is kept of."""

STANDING_AGGREGATIONS = frozenset({"min", "max", "last"})
"""What one event changes these numbers by depends on what the counter holds; the others need no `Standing`."""

_EXACT = Context(prec=200)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a counter holds when a late event comes to it."""

    event_count: int
    quantity_min: Decimal
    quantity_max: Decimal
    quantity_last: Decimal
    last_at: tuple[datetime, int]


def candidates(events: pl.DataFrame, rulebook: Rulebook, *, now: datetime) -> pl.DataFrame:
    """Of the events (shape LEDGER_EVENTS), those that can be late at all: nobody's watermark is ahead of the clock.

    Imported history never is.
    """
    shortest = min((window for rules in rulebook.tenants.values() for window in rules.windows.values()), default=None)
    default = rulebook.of("").window_of("")
    window = default if shortest is None else min(default, shortest)
    return events.filter(~pl.col("is_history") & (pl.col("ts") < _instant(now + MAX_AHEAD - window)))


def late_events(possible: pl.DataFrame, rulebook: Rulebook, watermarks: Mapping[Track, datetime]) -> pl.DataFrame:
    """Of the candidates, those further behind their watermark than their window, with `own_ref`: whose usage each is.

    A track without watermark has none. In ledger order.
    """
    if possible.is_empty() or not watermarks:
        return possible.clear().with_columns(own_ref=pl.lit("", pl.String))
    limits = [
        (*track, watermark - rulebook.of(track[0]).window_of(track[2])) for track, watermark in watermarks.items()
    ]
    limit_schema = {"tenant_id": pl.String(), "own_ref": pl.String(), "metric": pl.String(), "limit": INSTANT}
    refs = [
        (tenant, ref, rulebook.of(tenant).customer_of(ref))
        for tenant, ref in possible.select("tenant_id", "customer_ref").unique().iter_rows()
    ]
    own = pl.DataFrame(refs, schema=dict.fromkeys(("tenant_id", "customer_ref", "own_ref"), pl.String()), orient="row")
    return (
        possible.join(own, on=["tenant_id", "customer_ref"], how="inner")
        .join(pl.DataFrame(limits, schema=limit_schema, orient="row"), on=["tenant_id", "own_ref", "metric"])
        .filter(pl.col("ts") < pl.col("limit"))
        .drop("limit")
        .sort("seq")
    )


def late_status(policy: Policy, segment: Segment, *, now: datetime) -> LateStatus:
    """Whether a late event of the segment counts at once or waits for a person."""
    match policy.late_approval:
        case "always":
            return "approved"
        case "never":
            return "pending"
        case "while_open":
            return "approved" if is_open(policy, segment, now=now) else "pending"


def is_open(policy: Policy, segment: Segment, *, now: datetime) -> bool:
    """Whether a segment may still change by itself."""
    return now - segment.end < policy.close_after


def late_delta(
    standing: Standing | None, aggregation: str, quantity: Decimal, at: tuple[datetime, int]
) -> tuple[Decimal | None, Standing]:
    """What one more event changes a counter's number by, and the counter with it.

    The delta is None where an aggregation's numbers do not differ by one event's own (avg, unique, percentile,
    time_weighted). The standing matters for STANDING_AGGREGATIONS alone.
    """
    if standing is None:
        after = Standing(
            event_count=1, quantity_min=quantity, quantity_max=quantity, quantity_last=quantity, last_at=at
        )
        return (_first(aggregation, quantity), after)
    after = replace(
        standing,
        event_count=standing.event_count + 1,
        quantity_min=min(standing.quantity_min, quantity),
        quantity_max=max(standing.quantity_max, quantity),
        quantity_last=quantity if at > standing.last_at else standing.quantity_last,
        last_at=max(at, standing.last_at),
    )
    match aggregation:
        case "sum":
            return quantity, after
        case "count":
            return Decimal(1), after
        case "min":
            return _EXACT.subtract(after.quantity_min, standing.quantity_min), after
        case "max":
            return _EXACT.subtract(after.quantity_max, standing.quantity_max), after
        case "last":
            return _EXACT.subtract(after.quantity_last, standing.quantity_last), after
        case _:
            return None, after


def _first(aggregation: str, quantity: Decimal) -> Decimal | None:
    match aggregation:
        case "sum" | "min" | "max" | "last":
            return quantity
        case "count":
            return Decimal(1)
        case _:
            return None


def _instant(at: datetime) -> pl.Expr:
    return pl.lit(at, INSTANT)
