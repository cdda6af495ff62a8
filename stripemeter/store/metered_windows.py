"""Usage of a tenant's own meters by window and group: from the counters where they know enough, else from the events.

Belongs here: which of the two a question needs, groups by a meter's dimensions. Does not: metrics that no definition
counts (`store.usage_windows`), the states themselves (`store.metered_usage`), making numbers (`metering.answers`).

The counters know tenant, customer, meter, its dimensions and UTC day; anything finer is read from the events by the
rules of now. A time-weighted meter is read from the counters alone: a level outlasts every filter.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import polars as pl
import psycopg
from psycopg_pool import ConnectionPool

from stripemeter.errors import InvalidInput, TookTooLong, Unavailable
from stripemeter.metering.aggregation import aggregate
from stripemeter.metering.answers import Answer, Part
from stripemeter.metering.averages import add
from stripemeter.metering.days import day_of
from stripemeter.metering.filters import EventView, look_up, text_of
from stripemeter.metering.frames import INSTANT
from stripemeter.metering.meters import OTHER, decode_meta
from stripemeter.metering.readings import read_meters
from stripemeter.metering.rulebook import Rulebook
from stripemeter.metering.segments import Segment
from stripemeter.store.dropped_months import refuse_dropped
from stripemeter.store.metered_usage import (
    Adjustment,
    Counting,
    Head,
    counting_of,
    finish,
    is_meter,
    load_adjustments,
    load_events,
    load_head,
    load_mapped,
    load_parts,
    metrics_of,
    parts_of_frame,
    read_one_snapshot,
)
from stripemeter.store.postgres import Tx, transaction
from stripemeter.store.rulebook import load_rulebook
from stripemeter.store.sql import load_queries
from stripemeter.store.usage import Freshness
from stripemeter.store.usage_windows import (
    MAX_LEDGER_EVENTS,
    TIMEOUT_SECONDS,
    Reader,
    UsageCell,
    UsageQuestion,
    UsageWindows,
    reader_of,
    refuse_too_much,
)

_TICK = timedelta(microseconds=1)
_Grouped = Mapping[str | None, list[Part]]


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
            read_one_snapshot(tx)
            if not is_meter(tx, question.tenant_id, question.metric):
                return None
            tx.execute(load_queries("usage_windows")["limit_time"], {"timeout": str(TIMEOUT_SECONDS * 1000)})
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
    head = load_head(tx, question.tenant_id)
    last_on = day_of(question.edges[-1] - _TICK)
    own = counting_of(rules, load_mapped(tx, question.tenant_id), question.metric, last_on, now)
    counting = _asked(question, own)
    chosen = reader or _reader(question, rulebook)
    grouped: dict[str | None, list[Part]] = {}
    pending = 0
    if chosen == "counters":
        grouped, pending = _from_counters(tx, question, rulebook, head)
        if None in grouped and question.group_by not in ("none", "customerRef") and _is_cut(grouped[None]):
            chosen = "ledger"  # some combinations of dimensions share a row
    if chosen == "ledger":
        if counting.aggregation == "time_weighted":
            raise InvalidInput(
                "a time-weighted meter is answered for whole UTC days, by customer or by its dimensions, without "
                "filters but customerRef and without asOf",
                field="metric",
            )
        grouped, pending = _from_ledger(tx, question, rulebook, head, most_events)
    adjustments: list[Adjustment] = []
    if counting == own and _is_adjustable(question):
        adjustments = load_adjustments(
            tx,
            rules,
            tenant_id=question.tenant_id,
            customers=_customers(question, rulebook),
            meters=[question.metric],
            span=Segment(start=question.edges[0], end=question.edges[-1]),
            known_at=question.known_at,
        )
    return UsageWindows(
        aggregation=counting.aggregation,
        reader=chosen,
        cells=_cells(question, counting, grouped, adjustments, now),
        freshness=Freshness(folded_at=head.folded_at, pending_count=pending, recount_days=head.recount_days),
    )


def _asked(question: UsageQuestion, own: Counting) -> Counting:
    if question.unique_of is not None:
        raise InvalidInput(
            "a meter counts the distinct values its definition says: leave out uniqueOf and aggregation",
            field="uniqueOf",
        )
    if question.aggregation is None or question.aggregation == own.aggregation:
        return own
    return Counting(aggregation=question.aggregation, percentile=None)


def _reader(question: UsageQuestion, rulebook: Rulebook) -> Reader:
    """The counters know the dimensions that every version of the meter in question has."""
    versions = rulebook.of(question.tenant_id).meters.get(question.metric, ())
    name = _group_name(question)
    if name is not None and all(name in version.definition.dimensions for version in versions):
        return reader_of(question, is_dimension=True)
    return reader_of(question)


def _group_name(question: UsageQuestion) -> str | None:
    match question.group_by:
        case "source" | "resourceId":
            return question.group_by
        case "meta":
            return ".".join(["meta", *question.group_path])
        case _:
            return None


def _from_counters(
    tx: Tx, question: UsageQuestion, rulebook: Rulebook, head: Head
) -> tuple[dict[str | None, list[Part]], int]:
    read = load_parts(
        tx,
        rulebook,
        head,
        tenant_id=question.tenant_id,
        customers=_customers(question, rulebook),
        meters=[question.metric],
        first_on=day_of(question.edges[0]),
        last_on=day_of(question.edges[-1] - _TICK),
    )
    name = _group_name(question)
    grouped: defaultdict[str | None, list[Part]] = defaultdict(list)
    for part in read.parts:
        if question.group_by == "customerRef":
            grouped[part.customer_ref].append(part)
        elif name is None or part.dimensions in ("", OTHER):
            grouped[None].append(part)
        else:
            grouped[json.loads(part.dimensions).get(name)].append(part)
    return dict(grouped), read.pending_count


def _is_cut(parts: Iterable[Part]) -> bool:
    return any(part.dimensions == OTHER for part in parts)


def _from_ledger(
    tx: Tx, question: UsageQuestion, rulebook: Rulebook, head: Head, most_events: int
) -> tuple[dict[str | None, list[Part]], int]:
    rules = rulebook.of(question.tenant_id)
    customers = _customers(question, rulebook)
    refuse_dropped(tx, day_of(question.edges[0]), day_of(question.edges[-1] - _TICK), field="from")
    filters = [[list(path), text] for path, text in question.meta_filters]
    reading = {
        "tenant_id": question.tenant_id,
        "refs": None if customers is None else sorted({ref for own in customers for ref in rules.refs_of(own)}),
        "metrics": metrics_of(rules, [question.metric]),
        "from_ts": question.edges[0],
        "until_ts": question.edges[-1],
        "known_at": question.known_at,
        "source": question.source,
        "resource_id": question.resource_id,
        "meta_filters": json.dumps(filters) if filters else None,
        "most": most_events + 1,
    }
    events = load_events(tx, reading | {"since_xid": "0"})
    refuse_too_much(question, events.height, 0, most_events)
    if events.is_empty():
        return {}, 0
    pending = load_events(tx, reading | {"since_xid": head.folded_below}).height
    edges = pl.DataFrame({"edge": pl.Series(list(question.edges), dtype=INSTANT)})
    groups = pl.DataFrame(
        [(row["seq"], json.dumps(_group(question, row))) for row in events.iter_rows(named=True)],
        schema={"seq": pl.Int64, "group": pl.String},
        orient="row",
    )
    readings = read_meters(events, rulebook).filter(pl.col("meter") == question.metric)
    columns = readings.columns
    cut = (
        readings.sort("ts")
        .join_asof(edges, left_on="ts", right_on="edge", strategy="backward")
        .join(groups, on="seq", how="left")
        .with_columns(
            segment_start=pl.col("edge"), dimensions=pl.col("group"), max_groups=pl.lit(0, pl.Int16), is_weighted=False
        )
        .select(columns)
    )
    grouped: defaultdict[str | None, list[Part]] = defaultdict(list)
    for part in parts_of_frame(aggregate(cut)):
        grouped[part.customer_ref if question.group_by == "customerRef" else json.loads(part.dimensions)].append(part)
    return dict(grouped), pending


def _group(question: UsageQuestion, event: Mapping[str, Any]) -> str | None:
    name = _group_name(question)
    if name is None:
        return None
    view = EventView(
        metric=event["metric"],
        resource_id=event["resource_id"],
        source=event["source"] or "",
        meta=decode_meta(event["meta"]),
    )
    return text_of(look_up(view, name))


def _customers(question: UsageQuestion, rulebook: Rulebook) -> list[str] | None:
    if question.customer_refs is None:
        return None
    rules = rulebook.of(question.tenant_id)
    return sorted({rules.customer_of(ref) for ref in question.customer_refs})


def _is_adjustable(question: UsageQuestion) -> bool:
    return (
        question.group_by in ("none", "customerRef")
        and question.source is None
        and question.resource_id is None
        and not question.meta_filters
    )


def _cells(
    question: UsageQuestion, counting: Counting, grouped: _Grouped, adjustments: list[Adjustment], now: datetime
) -> list[UsageCell]:
    is_grouped = question.group_by != "none"
    deltas: defaultdict[str | None, list[Adjustment]] = defaultdict(list)
    for each in adjustments:
        deltas[each.customer_ref if is_grouped else None].append(each)
    if counting.aggregation != "time_weighted":  # then only levels lie before the range
        first = question.edges[0]
        grouped = {group: parts for group, parts in grouped.items() if any(part.last_ts >= first for part in parts)}
    found = {*grouped, *deltas} if is_grouped else {None}
    groups = sorted(found, key=lambda group: (group is not None, group or ""))
    refuse_too_much(question, 0, len(groups), 0)
    answers = {group: finish(grouped.get(group, []), question.edges, counting, now) for group in groups}
    return [
        _cell(bounds, group, answers[group][slot], [each for each in deltas[group] if _is_in(each, bounds)])
        for slot, bounds in enumerate(pairwise(question.edges))
        for group in groups
    ]


def _is_in(each: Adjustment, bounds: tuple[datetime, datetime]) -> bool:
    return bounds[0] <= each.effective_at < bounds[1]


def _cell(bounds: tuple[datetime, datetime], group: str | None, made: Answer, deltas: list[Adjustment]) -> UsageCell:
    adjusted = Decimal(0)
    for each in deltas:
        adjusted = add(adjusted, each.delta)
    return UsageCell(
        start=bounds[0],
        end=bounds[1],
        group=group,
        quantity=add(made.number or Decimal(0), adjusted) if deltas else made.number,
        event_count=made.event_count,
        quantity_sum=made.quantity_sum,
        adjusted=adjusted,
    )
