"""A meter's usage by window and group, from the events themselves.

Belongs here: which events a question needs, their states by window and group. Does not: which questions the counters
answer (`store.metered_windows`), making numbers of states (`metering.countings`).

A filter or group is answered as if no other events had come. So is a time-weighted meter: a level is that of the last
reading among these events, however long ago. Where nothing but customers and the meter's dimensions is asked for, the
counters know the levels before the first day; else every matching event before the range is read.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import polars as pl

from stripemeter.errors import InvalidInput
from stripemeter.metering.aggregation import aggregate, bounded
from stripemeter.metering.answers import Part
from stripemeter.metering.countings import Counting, counted_as, counted_otherwise
from stripemeter.metering.days import day_bounds, day_of
from stripemeter.metering.filters import EventView, look_up, text_of
from stripemeter.metering.frames import INSTANT
from stripemeter.metering.meters import OTHER, decode_meta
from stripemeter.metering.parts import parts_of_frame
from stripemeter.metering.readings import read_meters
from stripemeter.metering.rulebook import Rulebook, TenantRules
from stripemeter.metering.segments import BEGINNING
from stripemeter.store.metered_usage import Head, load_events, load_levels, metrics_of, refs_of
from stripemeter.store.postgres import Tx
from stripemeter.store.usage_windows import UsageQuestion, refuse_too_much

Grouped = Mapping[str | None, list[Part]]
"""States by group."""
_TICK = timedelta(microseconds=1)


def group_name(question: UsageQuestion) -> str | None:
    """The member of events that is grouped by, as meters write dimensions; None: none."""
    match question.group_by:
        case "source" | "resourceId":
            return question.group_by
        case "meta":
            return ".".join(["meta", *question.group_path])
        case _:
            return None


def is_dimension(rules: TenantRules, question: UsageQuestion) -> bool:
    """Whether every version of the meter keeps apart what is grouped by."""
    name = group_name(question)
    versions = rules.meters.get(question.metric, ())
    return name is not None and all(name in version.definition.dimensions for version in versions)


def group_of(question: UsageQuestion, part: Part) -> str | None:
    """The group a counter's state belongs to, when nothing finer than customers and dimensions is grouped by."""
    if question.group_by == "customerRef":
        return part.customer_ref
    return _dimension(question, part.dimensions)


def is_cut(question: UsageQuestion, parts: Iterable[Part]) -> bool:
    """Whether some combinations of the dimensions grouped by share a state."""
    return group_name(question) is not None and any(part.dimensions == OTHER for part in parts)


def customers_of(question: UsageQuestion, rules: TenantRules) -> list[str] | None:
    """The customers asked for, by their own references; None: all."""
    if question.customer_refs is None:
        return None
    return sorted({rules.customer_of(ref) for ref in question.customer_refs})


def load_grouped(
    tx: Tx, question: UsageQuestion, rulebook: Rulebook, head: Head, countings: Sequence[Counting], *, most_events: int
) -> tuple[dict[Counting, Grouped], int]:
    """States by counting and group, and how many of the range's events are not folded yet.

    Each state lies within one window; those before the range are levels, and of time-weighted countings alone.

    Raises:
        InvalidInput: more events match than may be read, or some live in the lake alone.
    """
    rules = rulebook.of(question.tenant_id)
    first_at, until_at = question.edges[0], question.edges[-1]
    levels: list[Part] = []
    is_whole = True
    if any(counting.aggregation == "time_weighted" for counting in countings):
        # Whole days: which combinations of dimensions share a level is decided by the day.
        first_on, until_at = day_of(first_at), day_bounds(day_of(until_at - _TICK))[1]
        first_at = day_bounds(first_on)[0]
        if _is_counted(question, rules):
            levels = load_levels(
                tx,
                rulebook,
                head,
                tenant_id=question.tenant_id,
                customers=customers_of(question, rules),
                meter=question.metric,
                before=first_on,
            )
            is_whole = not is_cut(question, levels)
        else:
            is_whole = False
        if not is_whole:
            levels, first_at = [], BEGINNING
    reading = _reading(question, rules, head, most_events)
    events = load_events(tx, reading | {"since_xid": "0", "from_ts": first_at, "until_ts": until_at})
    _refuse_too_many(question, events.height, most_events, has_history=not is_whole)
    inside = {"since_xid": head.folded_below, "from_ts": question.edges[0], "until_ts": question.edges[-1]}
    pending = load_events(tx, reading | inside).height
    found = {}
    for counting in set(countings):
        grouped = _group(
            question,
            _rules_for(question, rulebook, counting, countings, events),
            events,
            counting,
            is_by_dimension=bool(levels),
        )
        if counting.aggregation == "time_weighted":
            for part in levels:
                grouped[group_of(question, part)].append(part)
        found[counting] = grouped
    return dict(found), pending


def _is_counted(question: UsageQuestion, rules: TenantRules) -> bool:
    """Whether counters could answer, were the windows whole days."""
    return (
        (question.group_by in ("none", "customerRef") or is_dimension(rules, question))
        and question.source is None
        and question.resource_id is None
        and not question.meta_filters
        and question.known_at is None
    )


def _reading(question: UsageQuestion, rules: TenantRules, head: Head, most_events: int) -> dict[str, object]:
    filters = [[list(path), text] for path, text in question.meta_filters]
    return {
        "tenant_id": question.tenant_id,
        "refs": refs_of(rules, customers_of(question, rules)),
        "metrics": metrics_of(rules, [question.metric]),
        "withheld": list(head.withheld),
        "known_at": question.known_at,
        "source": question.source,
        "resource_id": question.resource_id,
        "meta_filters": json.dumps(filters) if filters else None,
        "most": most_events + 1,
    }


def _refuse_too_many(question: UsageQuestion, count: int, most_events: int, *, has_history: bool) -> None:
    if has_history and count > most_events:
        raise InvalidInput(
            f"a level is that of the last reading however long ago, and more than {most_events} events match before "
            "the end of the range: ask for fewer customers, or without asOf, filters and groups but customerRef and "
            "the meter's dimensions",
            field="customerRef",
        )
    refuse_too_much(question, count, 0, most_events)


def _rules_for(
    question: UsageQuestion,
    rulebook: Rulebook,
    counting: Counting,
    countings: Sequence[Counting],
    events: pl.DataFrame,
) -> Rulebook:
    days = events["ts"].dt.date().unique().to_list()
    rules = rulebook.of(question.tenant_id)
    if counted_otherwise(rules, question.metric, counting, days, question.edges, countings):
        return counted_as(rulebook, question.tenant_id, question.metric, counting)
    return rulebook


def _group(
    question: UsageQuestion, rulebook: Rulebook, events: pl.DataFrame, counting: Counting, *, is_by_dimension: bool
) -> defaultdict[str | None, list[Part]]:
    grouped: defaultdict[str | None, list[Part]] = defaultdict(list)
    if events.is_empty():
        return grouped
    is_weighted = counting.aggregation == "time_weighted"
    readings = read_meters(events, rulebook).filter(pl.col("meter") == question.metric)
    if is_weighted and group_name(question) is None:
        readings = bounded(readings)
    readings = readings.filter(pl.col("ts") < pl.lit(question.edges[-1], INSTANT))
    columns = readings.columns
    edges = pl.DataFrame({"edge": pl.Series([BEGINNING, *question.edges], dtype=INSTANT)})
    groups = {} if is_by_dimension else _groups(question, events)
    labels = [
        json.dumps(
            [
                _dimension(question, dimensions) if is_by_dimension else groups.get(seq),
                dimensions if is_weighted else "",
            ]
        )
        for seq, dimensions in readings.select("seq", "dimensions").iter_rows()
    ]
    cut = (
        readings.with_columns(dimensions=pl.Series(labels, dtype=pl.String))
        .sort("ts")
        .join_asof(edges, left_on="ts", right_on="edge", strategy="backward")
        .with_columns(
            segment_start=pl.col("edge"), max_groups=pl.lit(0, pl.Int16), is_weighted=pl.lit(value=is_weighted)
        )
        .select(columns)
    )
    for part in parts_of_frame(aggregate(cut)):
        group, dimensions = json.loads(part.dimensions)
        key = part.customer_ref if question.group_by == "customerRef" else group
        grouped[key].append(replace(part, dimensions=dimensions))
    return grouped


def _dimension(question: UsageQuestion, dimensions: str) -> str | None:
    name = group_name(question)
    if name is None or dimensions in ("", OTHER):
        return None
    value: str | None = json.loads(dimensions).get(name)
    return value


def _groups(question: UsageQuestion, events: pl.DataFrame) -> Mapping[int, str | None]:
    name = group_name(question)
    if name is None:
        return {}
    return {event["seq"]: _text(name, event) for event in events.iter_rows(named=True)}


def _text(name: str, event: Mapping[str, Any]) -> str | None:
    view = EventView(
        metric=event["metric"],
        resource_id=event["resource_id"],
        source=event["source"] or "",
        meta=decode_meta(event["meta"]),
    )
    return text_of(look_up(view, name))
