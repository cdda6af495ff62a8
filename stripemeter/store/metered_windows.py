"""Usage of a tenant's own meters by window and group: from the counters where they know enough, else from the events.

Belongs here: which of the two a question needs, the numbers of windows and groups. Does not: metrics that no definition
counts (`store.usage_windows`), states from the events (`store.metered_events`) or counters (`store.metered_usage`).

The counters know tenant, customer, meter, its dimensions and UTC day; anything finer is read from the events by the
rules of now.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import psycopg
from psycopg_pool import ConnectionPool

from stripemeter.errors import InvalidInput, TookTooLong, Unavailable
from stripemeter.metering.answers import Answer, Part
from stripemeter.metering.averages import add
from stripemeter.metering.countings import Counting, countings_of, finish, level_ends
from stripemeter.metering.days import day_of
from stripemeter.metering.rulebook import Rulebook
from stripemeter.metering.segments import Segment
from stripemeter.store.metered_events import (
    Grouped,
    customers_of,
    group_of,
    is_cut,
    is_dimension,
    load_grouped,
)
from stripemeter.store.metered_usage import (
    Adjustment,
    Head,
    counted_again,
    is_meter,
    load_adjustments,
    load_head,
    load_mapped,
    load_parts,
    metrics_of,
    read_one_snapshot,
    refs_of,
)
from stripemeter.store.postgres import Tx, transaction
from stripemeter.store.rulebook import load_rulebook
from stripemeter.store.usage import Freshness
from stripemeter.store.usage_windows import (
    MAX_LEDGER_EVENTS,
    TIMEOUT_SECONDS,
    Reader,
    UsageCell,
    UsageQuestion,
    UsageWindows,
    adjusting_of,
    reader_of,
    refuse_too_much,
)

_TICK = timedelta(microseconds=1)


def load_metered_windows(
    pool: ConnectionPool,
    question: UsageQuestion,
    *,
    now: datetime,
    reader: Reader | None = None,
    most_events: int = MAX_LEDGER_EVENTS,
) -> UsageWindows | None:
    """The numbers asked for, when the metric names a meter that the tenant defined; else None.

    Args:
        pool: where.
        question: what; its aggregation may be another than the definition's, as long as every counter knows it.
        now: until when the level of a time-weighted meter is known to hold.
        reader: who answers; None: the counters where they can.
        most_events: matching ledger rows allowed.

    Raises:
        InvalidInput: more than an answer may have, or what this meter cannot be asked.
        TookTooLong: the time allowed ran out.
        Unavailable: the database is down, or its counters belong to another cluster.
    """
    try:
        with transaction(pool) as tx:
            read_one_snapshot(tx, timeout_seconds=TIMEOUT_SECONDS)
            if not is_meter(tx, question.tenant_id, question.metric):
                return None
            return _load(tx, question, now, reader, most_events)
    except Unavailable as error:
        if not isinstance(error.__cause__, psycopg.errors.QueryCanceled):
            raise
        raise TookTooLong(
            f"the query was given up after {TIMEOUT_SECONDS} s: ask for a shorter range, or for whole UTC days without "
            "filters on source, resourceId or meta"
        ) from error


def _load(tx: Tx, question: UsageQuestion, now: datetime, reader: Reader | None, most_events: int) -> UsageWindows:
    rulebook = load_rulebook(tx, [question.tenant_id])
    rules = rulebook.of(question.tenant_id)
    head = load_head(
        tx,
        question.tenant_id,
        refs=refs_of(rules, customers_of(question, rules)),
        metrics=metrics_of(rules, [question.metric]),
        now=now,
    )
    own = countings_of(rules, load_mapped(tx, question.tenant_id), question.metric, question.edges, now)
    countings = _asked(question, own)
    chosen = reader or reader_of(question, is_dimension=is_dimension(rules, question))
    found = _from_counters(tx, question, rulebook, head, countings) if chosen == "counters" else None
    if found is None:
        chosen = "ledger"
        found = load_grouped(tx, question, rulebook, head, countings, most_events=most_events)
    states, pending = found
    adjustments: list[Adjustment] = []
    adjusting = adjusting_of(question, is_own=countings == own)
    if adjusting == "included":
        adjustments = load_adjustments(
            tx,
            rules,
            tenant_id=question.tenant_id,
            customers=customers_of(question, rules),
            meters=[question.metric],
            span=Segment(start=question.edges[0], end=question.edges[-1]),
            known_at=question.known_at,
        )
    # What was known then did not know how long a level would hold.
    until = now if question.known_at is None else min(now, question.known_at)
    return UsageWindows(
        aggregation=countings[-1].aggregation,
        adjusting=adjusting,
        reader=chosen,
        cells=_cells(question, countings, states, adjustments, level_ends(rules, question.metric), until),
        freshness=Freshness(folded_at=head.folded_at, pending_count=pending, recount_days=head.recount_days),
    )


def _asked(question: UsageQuestion, own: Sequence[Counting]) -> Sequence[Counting]:
    if question.unique_of is not None:
        raise InvalidInput(
            "a meter counts the distinct values its definition says: leave out uniqueOf and aggregation",
            field="uniqueOf",
        )
    if question.aggregation is None:
        return own
    return [
        counting
        if counting.aggregation == question.aggregation
        else Counting(aggregation=question.aggregation, percentile=None)
        for counting in own
    ]


def _from_counters(
    tx: Tx, question: UsageQuestion, rulebook: Rulebook, head: Head, countings: Sequence[Counting]
) -> tuple[dict[Counting, Grouped], int] | None:
    """States by counting and group, and how many of their events are not folded yet; None when groups share a row."""
    customers = customers_of(question, rulebook.of(question.tenant_id))
    read = load_parts(
        tx,
        rulebook,
        head,
        tenant_id=question.tenant_id,
        customers=customers,
        meters=[question.metric],
        first_on=day_of(question.edges[0]),
        last_on=day_of(question.edges[-1] - _TICK),
    )
    states = counted_again(
        tx,
        rulebook,
        head,
        read.parts,
        tenant_id=question.tenant_id,
        customers=customers,
        meter=question.metric,
        edges=question.edges,
        countings=countings,
    )
    if any(is_cut(question, parts) for parts in states.values()):
        return None
    return {counting: _by_group(question, parts) for counting, parts in states.items()}, read.pending_count


def _by_group(question: UsageQuestion, parts: Sequence[Part]) -> Grouped:
    grouped: defaultdict[str | None, list[Part]] = defaultdict(list)
    for part in parts:
        grouped[group_of(question, part)].append(part)
    return grouped


def _cells(
    question: UsageQuestion,
    countings: Sequence[Counting],
    states: Mapping[Counting, Grouped],
    adjustments: Sequence[Adjustment],
    ends: Sequence[datetime],
    until: datetime,
) -> list[UsageCell]:
    is_grouped = question.group_by != "none"
    deltas: defaultdict[str | None, list[Adjustment]] = defaultdict(list)
    for each in adjustments:
        deltas[each.customer_ref if is_grouped else None].append(each)
    found: set[str | None] = {*deltas} if is_grouped else {None}
    if is_grouped:
        for counting, grouped in states.items():
            is_weighted = counting.aggregation == "time_weighted"  # of others, what lies before the range is nothing
            found |= {
                group
                for group, parts in grouped.items()
                if is_weighted or any(part.last_ts >= question.edges[0] for part in parts)
            }
    groups = sorted(found, key=lambda group: (group is not None, group or ""))
    refuse_too_much(question, 0, len(groups), 0)
    answers = {
        group: finish(
            {counting: grouped.get(group, []) for counting, grouped in states.items()},
            question.edges,
            countings,
            ends=ends,
            now=until,
        )
        for group in groups
    }
    return [
        _cell(bounds, group, counting, answers[group][slot], [each for each in deltas[group] if _is_in(each, bounds)])
        for slot, (bounds, counting) in enumerate(zip(pairwise(question.edges), countings, strict=True))
        for group in groups
    ]


def _is_in(each: Adjustment, bounds: tuple[datetime, datetime]) -> bool:
    return bounds[0] <= each.effective_at < bounds[1]


def _cell(
    bounds: tuple[datetime, datetime],
    group: str | None,
    counting: Counting,
    made: Answer,
    deltas: Sequence[Adjustment],
) -> UsageCell:
    adjusted = Decimal(0)
    for each in deltas:
        adjusted = add(adjusted, each.delta)
    return UsageCell(
        start=bounds[0],
        end=bounds[1],
        group=group,
        aggregation=counting.aggregation,
        quantity=add(made.number or Decimal(0), adjusted) if deltas else made.number,
        event_count=made.event_count,
        quantity_sum=made.quantity_sum,
        adjusted=adjusted,
    )
