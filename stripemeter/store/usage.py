"""Reading usage: counters plus the unfolded tail plus what people adjusted, as one snapshot.

Belongs here: a customer's usage now and by bucket. Does not: writing counters (`store.counters`), pricing, HTTP.

A manual adjustment changes the finished number, whatever the aggregation: it counts while it is approved, on its day.
A reference that is another name of a customer reads that customer.

An event is in the answer from the moment its transaction has committed, and once only: every read is a single
statement, so cursor, counters and tail are of the same instant however often the fold runs beside it. Where meters or
billing phases have a say, it is several statements of one snapshot (`store.metered_usage`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import reduce
from typing import Any, Literal, TypedDict

from psycopg_pool import ConnectionPool

from stripemeter.errors import Unavailable
from stripemeter.metering.answers import Answer, Part
from stripemeter.metering.averages import add
from stripemeter.metering.countings import Counting, countings_of, finish, level_ends
from stripemeter.metering.days import LATENESS_WINDOW, day_bounds, day_of
from stripemeter.metering.events import MAX_AHEAD
from stripemeter.metering.meters import Aggregation
from stripemeter.metering.segments import DEFAULT_PHASES, Segment, segment_at
from stripemeter.store.metered_usage import (
    counted_again,
    load_adjustments,
    load_head,
    load_mapped,
    load_parts,
    metrics_of,
    read_one_snapshot,
)
from stripemeter.store.postgres import transaction
from stripemeter.store.rulebook import load_rulebook
from stripemeter.store.sql import load_queries
from stripemeter.store.values_in_force import load_values_in_force

_TICK = timedelta(microseconds=1)
Step = Literal["day", "month"]
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
        quantity: the one number its aggregation makes of the events, adjustments included; of no events it makes 0, but
            of a billing window `last` makes the value in force: the last one reported before it.
        segment: the billing window asked for, where the metric has another than its customer.
    """

    aggregation: Aggregation
    event_count: int
    quantity_sum: Decimal
    quantity_min: Decimal | None
    quantity_max: Decimal | None
    quantity_last: Decimal | None
    adjusted: Decimal
    quantity: Decimal
    segment: Segment | None = None


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

    `customer_ref` is the customer's own, whichever of its references was asked for; `segment` its billing window.
    """

    customer_ref: str
    segment: Segment
    metrics: Mapping[str, Usage]
    freshness: Freshness


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageHistory:
    """Usage by the first day of its bucket, ascending; a bucket without events and adjustments is absent.

    `aggregations` say of every bucket how it counts.
    """

    aggregations: Sequence[Aggregation]
    buckets: Mapping[date, Usage]
    freshness: Freshness


def load_current_usage(
    pool: ConnectionPool,
    *,
    tenant_id: str,
    customer_ref: str,
    at: datetime,
    now: datetime,
    metric: str | None = None,
) -> CurrentUsage:
    """What a customer used in the billing window that holds an instant.

    Args:
        pool: where.
        tenant_id: whose account.
        customer_ref: any reference of the customer.
        at: which window: the customer's, and of a metric with phases of its own that metric's.
        now: until when the level of a time-weighted meter is known to hold.
        metric: only this one.

    Raises:
        Unavailable: the database is down, or its counters belong to another cluster.
    """
    segment = segment_at(DEFAULT_PHASES, at)
    parameters = {
        "tenant_id": tenant_id,
        "customer_ref": customer_ref,
        "metric": metric,
        "first_on": day_of(segment.start),
        "last_on": day_of(segment.end - _TICK),
    }
    read = _load(pool, "load_current_usage", parameters, now)
    if read.has_rules:
        return _current_by_rules(pool, tenant_id, customer_ref, at, now, metric)
    return CurrentUsage(customer_ref=read.customer_ref, segment=segment, metrics=read.found, freshness=read.freshness)


def load_usage_history(
    pool: ConnectionPool,
    *,
    tenant_id: str,
    customer_ref: str,
    metric: str,
    buckets: Sequence[date],
    last_on: date,
    step: Step,
    now: datetime,
) -> UsageHistory:
    """What a customer used of one metric by bucket.

    Args:
        pool: where.
        tenant_id: whose account.
        customer_ref: any reference of the customer.
        metric: its name.
        buckets: first days of the buckets, ascending; the first may lie within its bucket, which then begins with it.
        last_on: last UTC day of the last bucket.
        step: a bucket is a whole UTC day or month but holds only events of the days asked for.
        now: until when the level of a time-weighted meter is known to hold.

    Raises:
        Unavailable: the database is down, or its counters belong to another cluster.
    """
    parameters = {
        "tenant_id": tenant_id,
        "customer_ref": customer_ref,
        "metric": metric,
        "first_on": buckets[0],
        "last_on": last_on,
        "step": step,
    }
    read = _load(pool, "load_usage_history", parameters, now)
    if read.has_rules:
        return _history_by_rules(pool, tenant_id, customer_ref, metric, buckets, last_on, now)
    found = {max(bucket, buckets[0]): usage for bucket, usage in read.found.items()}
    aggregations = [read.aggregation] * len(buckets)
    return UsageHistory(aggregations=aggregations, buckets=found, freshness=read.freshness)


def _current_by_rules(
    pool: ConnectionPool, tenant_id: str, customer_ref: str, at: datetime, now: datetime, metric: str | None
) -> CurrentUsage:
    with transaction(pool) as tx:
        read_one_snapshot(tx)
        rulebook = load_rulebook(tx, [tenant_id])
        rules = rulebook.of(tenant_id)
        own = rules.customer_of(customer_ref)
        meters = None if metric is None else [metric]
        head = load_head(tx, tenant_id, refs=rules.refs_of(own), metrics=metrics_of(rules, meters), now=now)
        common = rules.segment_of(own, "", at)
        special = {
            meter: rules.segment_of(own, meter, at)
            for ref, meter in rules.phases
            if ref == own and meter and metric in (None, meter)
        }
        span = _around([common, *special.values()])
        scope: _Scope = {"tenant_id": tenant_id, "customers": [own], "meters": meters}
        read = load_parts(tx, rulebook, head, **scope, first_on=day_of(span.start), last_on=day_of(span.end - _TICK))
        adjustments = load_adjustments(tx, rules, **scope, span=span)
        mapped = load_mapped(tx, tenant_id)
        in_force = load_values_in_force(
            tx, rulebook, head, read.parts, mapped, tenant_id=tenant_id, customer_ref=own, metric=metric, at=at, now=now
        )
        counted: dict[str, tuple[Segment, list[Counting], dict[Counting, list[Part]]]] = {}
        named = {part.meter for part in read.parts} | {each.meter for each in adjustments} | set(in_force)
        for meter in sorted(named):
            segment = special.get(meter, common)
            bounds = [segment.start, segment.end]
            countings = countings_of(rules, mapped, meter, bounds, now)
            parts = counted_again(
                tx,
                rulebook,
                head,
                read.parts,
                tenant_id=tenant_id,
                customers=[own],
                meter=meter,
                edges=bounds,
                countings=countings,
            )
            counted[meter] = segment, countings, parts
    metrics = {}
    for meter, (segment, countings, parts) in counted.items():
        (made,) = finish(parts, [segment.start, segment.end], countings, ends=level_ends(rules, meter), now=now)
        (counting,) = countings
        deltas = [
            each.delta
            for each in adjustments
            if each.meter == meter and segment.start <= each.effective_at < segment.end
        ]
        if counting.aggregation == "last" and not made.event_count:
            made = replace(made, number=in_force.get(meter))
        if made.event_count or deltas or (counting.aggregation in ("last", "time_weighted") and made.number):
            metrics[meter] = _finished(made, counting, deltas, special.get(meter))
    return CurrentUsage(
        customer_ref=own,
        segment=common,
        metrics=metrics,
        freshness=Freshness(folded_at=head.folded_at, pending_count=read.pending_count, recount_days=head.recount_days),
    )


def _history_by_rules(
    pool: ConnectionPool,
    tenant_id: str,
    customer_ref: str,
    metric: str,
    buckets: Sequence[date],
    last_on: date,
    now: datetime,
) -> UsageHistory:
    edges = [*(day_bounds(bucket)[0] for bucket in buckets), day_bounds(last_on)[1]]
    with transaction(pool) as tx:
        read_one_snapshot(tx)
        rulebook = load_rulebook(tx, [tenant_id])
        rules = rulebook.of(tenant_id)
        own = rules.customer_of(customer_ref)
        scope: _Scope = {"tenant_id": tenant_id, "customers": [own], "meters": [metric]}
        head = load_head(tx, tenant_id, refs=rules.refs_of(own), metrics=metrics_of(rules, [metric]), now=now)
        read = load_parts(tx, rulebook, head, **scope, first_on=buckets[0], last_on=last_on)
        adjustments = load_adjustments(tx, rules, **scope, span=Segment(start=edges[0], end=edges[-1]))
        countings = countings_of(rules, load_mapped(tx, tenant_id), metric, edges, now)
        parts = counted_again(
            tx,
            rulebook,
            head,
            read.parts,
            tenant_id=tenant_id,
            customers=[own],
            meter=metric,
            edges=edges,
            countings=countings,
        )
    answers = finish(parts, edges, countings, ends=level_ends(rules, metric), now=now)
    deltas: defaultdict[date, list[Decimal]] = defaultdict(list)
    for each in adjustments:
        deltas[buckets[bisect_right(buckets, each.day) - 1]].append(each.delta)
    found = {
        bucket: _finished(made, counting, deltas[bucket], None)
        for bucket, made, counting in zip(buckets, answers, countings, strict=True)
        if made.event_count or deltas[bucket] or counting.aggregation == "time_weighted"
    }
    return UsageHistory(
        aggregations=[counting.aggregation for counting in countings],
        buckets=found,
        freshness=Freshness(folded_at=head.folded_at, pending_count=read.pending_count, recount_days=head.recount_days),
    )


def _around(segments: Sequence[Segment]) -> Segment:
    return Segment(start=min(each.start for each in segments), end=max(each.end for each in segments))


def _finished(made: Answer, counting: Counting, deltas: Sequence[Decimal], segment: Segment | None) -> Usage:
    adjusted = reduce(add, deltas, Decimal(0))
    return Usage(
        aggregation=counting.aggregation,
        event_count=made.event_count,
        quantity_sum=made.quantity_sum,
        quantity_min=made.quantity_min,
        quantity_max=made.quantity_max,
        quantity_last=made.quantity_last,
        adjusted=adjusted,
        quantity=add(made.number or Decimal(0), adjusted),
        segment=segment,
    )


class _Scope(TypedDict):
    tenant_id: str
    customers: list[str]
    meters: list[str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    customer_ref: str
    aggregation: Aggregation
    found: dict[Any, Usage]
    freshness: Freshness
    has_rules: bool
    """Only the rulebook can answer: meters, phases, or an unfolded event that may be late."""


def _load(pool: ConnectionPool, query: str, parameters: Mapping[str, object], now: datetime) -> _Read:
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
    has_rules = rows[0][13] or any(_may_be_late(row[14], row[15], now) for row in present)
    return _Read(
        customer_ref=customer_ref,
        aggregation=aggregation or DEFAULT_AGGREGATION,
        found={} if has_rules else {row[5]: _usage(row[4] or DEFAULT_AGGREGATION, row[6:12]) for row in present},
        freshness=Freshness(
            folded_at=folded_at, pending_count=sum(row[12] for row in present), recount_days=recount_days
        ),
        has_rules=has_rules,
    )


def _may_be_late(oldest_at: datetime | None, window_seconds: int | None, now: datetime) -> bool:
    """Whether the fold may find an unfolded event late: only the rulebook knows (`metering.lateness`)."""
    if oldest_at is None:
        return False
    shortest = LATENESS_WINDOW if window_seconds is None else min(LATENESS_WINDOW, timedelta(seconds=window_seconds))
    return oldest_at < now + MAX_AHEAD - shortest


def _usage(aggregation: Aggregation, row: Sequence[Any]) -> Usage:
    event_count, quantity_sum, quantity_min, quantity_max, quantity_last, adjusted = row
    numbers: Mapping[Aggregation, Decimal | None] = {
        "sum": quantity_sum,
        "count": Decimal(event_count),
        "min": quantity_min,
        "max": quantity_max,
        "last": quantity_last,
    }
    return Usage(
        aggregation=aggregation,
        event_count=event_count,
        quantity_sum=quantity_sum,
        quantity_min=quantity_min,
        quantity_max=quantity_max,
        quantity_last=quantity_last,
        adjusted=adjusted,
        quantity=add(numbers[aggregation] or Decimal(0), adjusted),
    )
