"""Reading usage: counters plus the unfolded tail plus what people adjusted, as one snapshot.

Belongs here: a customer's usage now and by bucket. Does not: writing counters (`store.counters`), pricing, HTTP.

A manual adjustment changes the finished number, whatever the aggregation: it counts while it is approved, on its day.
A reference that is another name of a customer reads that customer.

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
from stripemeter.metering.averages import add
from stripemeter.store.postgres import transaction
from stripemeter.store.sql import load_queries

Step = Literal["day", "month"]
Aggregation = Literal["sum", "count", "min", "max", "last"]
DEFAULT_AGGREGATION: Aggregation = "sum"
"""How a metric counts while nothing maps it to a price."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a customer used of one metric over some days: every aggregation at once, as the events make it.

    Args:
        aggregation: how the metric counts.
        event_count: events; 0 where there are adjustments alone, and then there is no min, max or last.
        quantity_sum: sum of their quantities.
        quantity_min: the least.
        quantity_max: the greatest.
        quantity_last: that of the latest.
        adjusted: sum of the approved manual adjustments.
    """

    aggregation: Aggregation
    event_count: int
    quantity_sum: Decimal
    quantity_min: Decimal | None
    quantity_max: Decimal | None
    quantity_last: Decimal | None
    adjusted: Decimal

    @property
    def quantity(self) -> Decimal:
        """The one number its aggregation makes of the events, adjustments included; of no events it makes 0."""
        numbers: Mapping[Aggregation, Decimal | None] = {
            "sum": self.quantity_sum,
            "count": Decimal(self.event_count),
            "min": self.quantity_min,
            "max": self.quantity_max,
            "last": self.quantity_last,
        }
        return add(numbers[self.aggregation] or Decimal(0), self.adjusted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Freshness:
    """How much of an answer the fold had counted; the rest was read from the ledger, so the answer itself is current.

    Args:
        folded_at: when the fold last advanced; None before its first time.
        pending_count: events of this answer that are not in the counters yet.
        recount_days: days of the tenant that wait to be counted again, because a rule they were counted by changed.
    """

    folded_at: datetime | None
    pending_count: int
    recount_days: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentUsage:
    """Usage by metric name, sorted; a metric without events and adjustments is absent.

    `customer_ref` is the customer's own, whichever of its references was asked for.
    """

    customer_ref: str
    metrics: Mapping[str, Usage]
    freshness: Freshness


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageHistory:
    """Usage by the first day of its bucket, ascending; a bucket without events and adjustments is absent."""

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
    read = _load(pool, "load_current_usage", parameters)
    return CurrentUsage(customer_ref=read.customer_ref, metrics=read.found, freshness=read.freshness)


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
    read = _load(pool, "load_usage_history", parameters)
    return UsageHistory(aggregation=read.aggregation, buckets=read.found, freshness=read.freshness)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    customer_ref: str
    aggregation: Aggregation
    found: dict[Any, Usage]
    freshness: Freshness


def _load(pool: ConnectionPool, query: str, parameters: Mapping[str, object]) -> _Read:
    with transaction(pool) as tx:
        # Never prepared: a generic plan would forget which optional filters are given and which months are asked for.
        rows = tx.execute(load_queries("usage")[query], parameters, prepare=False).fetchall()
    folded_at, is_foreign, recount_days, customer_ref, aggregation = rows[0][:5]
    if is_foreign:
        raise Unavailable(
            "the fold cursor was written in another PostgreSQL cluster (a restored dump?): its transaction ids mean "
            "nothing here, so counted and uncounted events cannot be told apart until the counters are rebuilt"
        )
    present = [row for row in rows if row[5] is not None]
    return _Read(
        customer_ref=customer_ref,
        aggregation=aggregation or DEFAULT_AGGREGATION,
        found={row[5]: _usage(row[4] or DEFAULT_AGGREGATION, row[6:12]) for row in present},
        freshness=Freshness(
            folded_at=folded_at, pending_count=sum(row[12] for row in present), recount_days=recount_days
        ),
    )


def _usage(aggregation: Aggregation, row: Sequence[Any]) -> Usage:
    event_count, quantity_sum, quantity_min, quantity_max, quantity_last, adjusted = row
    return Usage(
        aggregation=aggregation,
        event_count=event_count,
        quantity_sum=quantity_sum,
        quantity_min=quantity_min,
        quantity_max=quantity_max,
        quantity_last=quantity_last,
        adjusted=adjusted,
    )
