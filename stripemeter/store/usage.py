"""Reading usage: counters plus the unfolded tail, as one snapshot.

Belongs here: a customer's usage now and by bucket. Does not: writing counters (`store.counters`), pricing, HTTP.

An event is in the answer from the moment its transaction has committed, and once only: every read is a single
statement, so cursor, counters and tail are of the same instant however often the fold runs beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal

from psycopg_pool import ConnectionPool

from stripemeter.errors import Unavailable
from stripemeter.store.postgres import transaction
from stripemeter.store.sql import load_queries

Step = Literal["day", "month"]
Aggregation = Literal["sum", "count", "min", "max", "last"]
DEFAULT_AGGREGATION: Aggregation = "sum"
"""How a metric counts while nothing maps it to a price."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a customer used of one metric over some days: every aggregation at once. `event_count` is at least 1."""

    aggregation: Aggregation
    event_count: int
    quantity_sum: Decimal
    quantity_min: Decimal
    quantity_max: Decimal
    quantity_last: Decimal

    @property
    def quantity(self) -> Decimal:
        """The one number its aggregation makes of it."""
        match self.aggregation:
            case "sum":
                return self.quantity_sum
            case "count":
                return Decimal(self.event_count)
            case "min":
                return self.quantity_min
            case "max":
                return self.quantity_max
            case "last":
                return self.quantity_last


@dataclass(frozen=True, slots=True, kw_only=True)
class Freshness:
    """How much of an answer the fold had counted; the rest was read from the ledger, so the answer itself is current.

    Args:
        folded_at: when the fold last advanced; None before its first time.
        pending_count: events of this answer that are not in the counters yet.
    """

    folded_at: datetime | None
    pending_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentUsage:
    """Usage by metric name, sorted; a metric without events is absent."""

    metrics: Mapping[str, Usage]
    freshness: Freshness


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageHistory:
    """Usage by the first day of its bucket, ascending; a bucket without events is absent."""

    aggregation: Aggregation
    buckets: Mapping[date, Usage]
    freshness: Freshness


def load_current_usage(
    pool: ConnectionPool,
    *,
    tenant_id: str,
    customer_ref: str,
    first_on: date,
    last_on: date,
    metric: str | None = None,
) -> CurrentUsage:
    """What a customer used over the UTC days `first_on` to `last_on`, both included.

    Raises:
        Unavailable: the database is down, or its counters belong to another cluster.
    """
    parameters = {
        "tenant_id": tenant_id,
        "customer_ref": customer_ref,
        "metric": metric,
        "first_on": first_on,
        "last_on": last_on,
    }
    freshness, _, found = _load(pool, "load_current_usage", parameters)
    return CurrentUsage(metrics=found, freshness=freshness)


def load_usage_history(
    pool: ConnectionPool,
    *,
    tenant_id: str,
    customer_ref: str,
    metric: str,
    first_on: date,
    last_on: date,
    step: Step,
) -> UsageHistory:
    """What a customer used of one metric over the UTC days `first_on` to `last_on`, both included, by bucket.

    A bucket is a whole UTC day or month but holds only events of the days asked for.

    Raises:
        Unavailable: the database is down, or its counters belong to another cluster.
    """
    parameters = {
        "tenant_id": tenant_id,
        "customer_ref": customer_ref,
        "metric": metric,
        "first_on": first_on,
        "last_on": last_on,
        "step": step,
    }
    freshness, aggregation, found = _load(pool, "load_usage_history", parameters)
    return UsageHistory(aggregation=aggregation, buckets=found, freshness=freshness)


def _load(
    pool: ConnectionPool, query: str, parameters: Mapping[str, object]
) -> tuple[Freshness, Aggregation, dict[Any, Usage]]:
    with transaction(pool) as tx:
        # Never prepared: a generic plan would forget which optional filters are given and which months are asked for.
        rows = tx.execute(load_queries("usage")[query], parameters, prepare=False).fetchall()
    folded_at, is_foreign = rows[0][0], rows[0][1]
    if is_foreign:
        raise Unavailable(
            "the fold cursor was written in another PostgreSQL cluster (a restored dump?): its transaction ids mean "
            "nothing here, so counted and uncounted events cannot be told apart until the counters are rebuilt"
        )
    found = {row[3]: _usage(row[2] or DEFAULT_AGGREGATION, row[4:9]) for row in rows if row[3] is not None}
    pending_count = sum(row[9] for row in rows if row[3] is not None)
    freshness = Freshness(folded_at=folded_at, pending_count=pending_count)
    return freshness, rows[0][2] or DEFAULT_AGGREGATION, found


def _usage(aggregation: Aggregation, row: Sequence[Any]) -> Usage:
    event_count, quantity_sum, quantity_min, quantity_max, quantity_last = row
    return Usage(
        aggregation=aggregation,
        event_count=event_count,
        quantity_sum=quantity_sum,
        quantity_min=quantity_min,
        quantity_max=quantity_max,
        quantity_last=quantity_last,
    )
