"""Usage by window and group: one question, answered from the counters where they know enough, else from the ledger.

Belongs here: which of the two a question needs, its bounds, one exact number per window and group. Does not: cutting
windows (`metering.windows`), a customer's usage now and by day (`store.usage`), HTTP.

Both readers are of one snapshot, and both hold every committed event once: they give the same numbers for the same
question, however far the fold is. What was voided, and what is late and not approved, is in neither.
A manual adjustment corrects the meter's own number, whatever its aggregation, of one customer: it is added where that
is asked for (`Adjusting`).
The counters (and their unfolded tail) know tenant, customer, metric and UTC day; anything finer is in the ledger's rows
alone, as is what was known at an earlier instant.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any, Literal

import psycopg
from psycopg_pool import ConnectionPool

from stripemeter.errors import InvalidInput, TookTooLong, Unavailable
from stripemeter.metering.averages import add, average
from stripemeter.metering.meters import Aggregation as AnyAggregation
from stripemeter.store.archived_rows import bring_rows
from stripemeter.store.metered_usage import load_head, read_one_snapshot
from stripemeter.store.postgres import transaction
from stripemeter.store.sql import load_queries
from stripemeter.store.usage import DEFAULT_AGGREGATION, Freshness

Aggregation = Literal["sum", "count", "min", "max", "last", "avg", "unique"]
UniqueOf = Literal["customerRef", "resourceId"]
GroupBy = Literal["none", "customerRef", "source", "resourceId", "meta"]
Reader = Literal["counters", "ledger"]
Adjusting = Literal["included", "other_aggregation", "grouped", "filtered"]
"""Whether approved manual adjustments are in the numbers, else why not: another aggregation than the meter's own,
groups finer than a customer, a filter on something else."""

MAX_CELLS = 10_000
"""Windows times groups of one answer, about 2 MB of JSON: a week of minutes, a year of hours, 27 years of days."""
MAX_GROUPS = 1_000
"""Groups of one answer: what a person can look at. More is refused, never cut, so no sum silently misses a group."""
MAX_LEDGER_EVENTS = 1_000_000
"""Matching ledger rows of one answer: seconds of work; the counters answer for any number."""
TIMEOUT_SECONDS = 15
"""As for listings: what takes longer is cut off instead of starving the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuestion:
    """What is asked: a metric's usage over `[edges[0], edges[-1])`, by window and group.

    Args:
        tenant_id: whose account.
        metric: its name.
        edges: instants cutting the windows, ascending, at least two (`metering.windows.window_edges`).
        aggregation: how events become a number; None: as the metric's price mapping says.
        unique_of: what `unique` counts the distinct values of; given with it and only with it.
        customer_refs: only these customers'; None: everybody's.
        source: only events reported by it; None: by any.
        resource_id: only events of it; None: of any and of none.
        meta_filters: (path, text) pairs: only events whose `meta` has exactly this text, number or boolean there.
        group_by: one number per value of this, besides per window.
        group_path: where in `meta`, for group_by `meta`; empty otherwise.
        known_at: only events received until then (included), voids, approvals and adjustments as they were then; None:
            as they are now. Other names of customers are always those of now.
    """

    tenant_id: str
    metric: str
    edges: Sequence[datetime]
    aggregation: Aggregation | None = None
    unique_of: UniqueOf | None = None
    customer_refs: Sequence[str] | None = None
    source: str | None = None
    resource_id: str | None = None
    meta_filters: Sequence[tuple[Sequence[str], str]] = ()
    group_by: GroupBy = "none"
    group_path: Sequence[str] = ()
    known_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageCell:
    """One window of one group.

    Args:
        start: first instant.
        end: first instant no longer in.
        group: value of what was grouped by; None: events without one, or nothing was grouped by.
        aggregation: what makes the number.
        quantity: the number, adjustments included; without both 0 for sum, count and unique, None for the others.
        event_count: events in it.
        quantity_sum: sum of their quantities, exact.
        adjusted: sum of the approved manual adjustments in the number.
    """

    start: datetime
    end: datetime
    group: str | None
    aggregation: AnyAggregation
    quantity: Decimal | None
    event_count: int
    quantity_sum: Decimal
    adjusted: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageWindows:
    """Every window of every group that has events or adjustments in the range, sorted.

    By window, then group: null first, then by code point. Without grouping there is one group, events or not.
    `aggregation` is that of the last window.
    """

    aggregation: AnyAggregation
    adjusting: Adjusting
    reader: Reader
    cells: Sequence[UsageCell]
    freshness: Freshness


def reader_of(question: UsageQuestion, *, is_dimension: bool = False) -> Reader:
    """Who answers: the counters when every window is whole UTC days and nothing finer than a customer is asked.

    `is_dimension` says that the counters know what is grouped by.
    """
    is_by_days = all(edge.utcoffset() == timedelta() and edge.time() == time.min for edge in question.edges)
    is_coarse = (
        (is_dimension or question.group_by in ("none", "customerRef"))
        and question.unique_of != "resourceId"
        and question.source is None
        and question.resource_id is None
        and not question.meta_filters
        and question.known_at is None
    )
    return "counters" if is_by_days and is_coarse else "ledger"


def adjusting_of(question: UsageQuestion, *, is_own: bool) -> Adjusting:
    """Whether manual adjustments belong to the numbers; `is_own`: the aggregation is the metric's own."""
    if not is_own:
        return "other_aggregation"
    if question.group_by not in ("none", "customerRef"):
        return "grouped"
    if question.source is not None or question.resource_id is not None or question.meta_filters:
        return "filtered"
    return "included"


def load_usage_windows(
    pool: ConnectionPool,
    question: UsageQuestion,
    *,
    reader: Reader | None = None,
    most_events: int = MAX_LEDGER_EVENTS,
    timeout_seconds: int = TIMEOUT_SECONDS,
    now: datetime | None = None,
) -> UsageWindows:
    """The numbers asked for, every committed event in them.

    Args:
        pool: where.
        question: what.
        reader: who answers; None: `reader_of(question)`. The ledger can answer every question.
        most_events: matching ledger rows allowed.
        timeout_seconds: time allowed.
        now: decides whether a fold would withhold an unfolded late event; the clock's when None.

    Raises:
        InvalidInput: more groups, cells or ledger rows than an answer may have.
        TookTooLong: the time allowed ran out, or too much of the range lives in the lake alone.
        Unavailable: the database or the lake is down, or the counters belong to another cluster.
    """
    chosen = reader or reader_of(question)
    rows = _read(pool, question, chosen, most_events, timeout_seconds, now or datetime.now(UTC))
    folded_at, is_foreign, mapped, read_count, group_count, pending, recount_days = rows[0][:7]
    if is_foreign:
        raise Unavailable("the fold cursor was written in another PostgreSQL cluster: the counters must be rebuilt")
    refuse_too_much(question, read_count, group_count, most_events)
    own: AnyAggregation = mapped or DEFAULT_AGGREGATION
    aggregation = question.aggregation or own
    adjusting = adjusting_of(question, is_own=aggregation == own)
    is_adjustable = adjusting == "included"
    # A group that has adjustments alone is none where they are left out.
    found = [row[7:] for row in rows if row[7] is not None and (is_adjustable or row[9])]
    return UsageWindows(
        aggregation=aggregation,
        adjusting=adjusting,
        reader=chosen,
        cells=_cells(question, aggregation, found, is_adjustable=is_adjustable),
        freshness=Freshness(folded_at=folded_at, pending_count=pending or 0, recount_days=recount_days),
    )


def _read(
    pool: ConnectionPool,
    question: UsageQuestion,
    reader: Reader,
    most_events: int,
    timeout_seconds: int,
    now: datetime,
) -> list[tuple[Any, ...]]:
    queries = load_queries("usage_windows")
    query = queries["load_from_counters" if reader == "counters" else "load_from_ledger"]
    try:
        with transaction(pool) as tx:
            read_one_snapshot(tx, timeout_seconds=timeout_seconds)
            head = load_head(tx, question.tenant_id, refs=None, metrics=[question.metric], now=now)
            if reader == "ledger":
                last = question.edges[-1] - timedelta(microseconds=1)
                bring_rows(
                    tx,
                    question.edges[0].astimezone(UTC).date(),
                    last.astimezone(UTC).date(),
                    tenant_id=question.tenant_id,
                    metrics=[question.metric],
                )
            # Never prepared: a generic plan would forget which filters are given and which months are asked for.
            parameters = {**_parameters(question, most_events), "withheld": list(head.withheld)}
            return tx.execute(query, parameters, prepare=False).fetchall()
    except Unavailable as error:
        if not isinstance(error.__cause__, psycopg.errors.QueryCanceled):
            raise
        raise TookTooLong(
            f"the query was given up after {timeout_seconds} s: ask for a shorter range, or for whole UTC days without "
            "filters on source, resourceId or meta"
        ) from error


def _parameters(question: UsageQuestion, most_events: int) -> Mapping[str, object]:
    filters = [[list(path), text] for path, text in question.meta_filters]
    return {
        "tenant_id": question.tenant_id,
        "metric": question.metric,
        "edges": list(question.edges),
        "from_ts": question.edges[0],
        "until_ts": question.edges[-1],
        "customer_refs": None if question.customer_refs is None else list(question.customer_refs),
        "source": question.source,
        "resource_id": question.resource_id,
        "meta_filters": json.dumps(filters) if filters else None,
        "group_by": question.group_by,
        "group_path": list(question.group_path),
        "unique_of": question.unique_of or "none",
        "is_last_asked": question.aggregation in (None, "last"),
        "known_at": question.known_at,
        "most_events": most_events + 1,
        "most_cells": MAX_CELLS + 1,
    }


def refuse_too_much(question: UsageQuestion, read_count: int, group_count: int, most_events: int) -> None:
    """Refuses an answer beyond the bounds; a count of 0 is within every one.

    Raises:
        InvalidInput: too many events, groups or numbers.
    """
    if read_count > most_events:
        raise InvalidInput(
            f"more than {most_events} events match, and this question is answered from the events themselves: ask for "
            "a shorter range, or for whole UTC days without filters on source, resourceId or meta",
            field="to",
        )
    if group_count > MAX_GROUPS:
        raise InvalidInput(
            f"groupBy finds {group_count} groups, at most {MAX_GROUPS} are answered: filter, or shorten the range",
            field="groupBy",
        )
    windows = len(question.edges) - 1
    if windows * group_count > MAX_CELLS:
        raise InvalidInput(
            f"{windows} windows of {group_count} groups are more than {MAX_CELLS} numbers: ask for a shorter range, "
            "longer windows or fewer groups",
            field="to",
        )


def _cells(
    question: UsageQuestion, aggregation: AnyAggregation, rows: Sequence[Sequence[Any]], *, is_adjustable: bool
) -> list[UsageCell]:
    found = {(row[0], row[1]): row[2:] for row in rows}
    is_grouped = question.group_by != "none"
    # None sorts first, as in the statement; Python compares text by code point, as the collation "C" does.
    groups = sorted({row[1] for row in rows}, key=lambda group: (group is not None, group)) if is_grouped else [None]
    return [
        _cell(bounds, group, aggregation, found.get((slot, group)), is_adjustable=is_adjustable)
        for slot, bounds in enumerate(pairwise(question.edges), start=1)
        for group in groups
    ]


def _cell(
    bounds: tuple[datetime, datetime],
    group: str | None,
    aggregation: AnyAggregation,
    row: Sequence[Any] | None,
    *,
    is_adjustable: bool,
) -> UsageCell:
    adjusted: Decimal = row[-1] if row and is_adjustable else Decimal(0)
    quantity = _quantity(aggregation, row if row and row[0] else None)
    return UsageCell(
        start=bounds[0],
        end=bounds[1],
        group=group,
        aggregation=aggregation,
        quantity=add(quantity or Decimal(0), adjusted) if row and is_adjustable else quantity,
        event_count=row[0] if row else 0,
        quantity_sum=row[1] if row else Decimal(0),
        adjusted=adjusted,
    )


def _quantity(aggregation: AnyAggregation, row: Sequence[Any] | None) -> Decimal | None:
    if row is None:
        return Decimal(0) if aggregation in ("sum", "count", "unique") else None
    event_count, quantity_sum, quantity_min, quantity_max, quantity_last, unique_count, _ = row
    numbers: Mapping[AnyAggregation, Decimal] = {
        "sum": quantity_sum,
        "count": Decimal(event_count),
        "min": quantity_min,
        "max": quantity_max,
        "last": quantity_last,
        "avg": average(quantity_sum, event_count),
        "unique": Decimal(unique_count or 0),
    }
    return numbers[aggregation]
