"""Countings: how a meter's states become the number of a window, also where the meter changed within it.

Belongs here: which version's aggregation a window has, which days need to be read again for it, where levels end. Does
not: the number of one counting (`answers`), reading (`store.metered_usage`).

A window counts by the aggregation of its last day's version, or of today's when that is earlier. Each of its days is
read as that day's own version says: its metrics, filter, value and dimensions.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

from stripemeter.metering.answers import Answer, Part, answer
from stripemeter.metering.days import day_bounds, day_of
from stripemeter.metering.meter_changes import FROM_THE_BEGINNING
from stripemeter.metering.meters import Aggregation, MeterDefinition, MeterVersion, parse_meter
from stripemeter.metering.rulebook import Rulebook, TenantRules

_TICK = timedelta(microseconds=1)
_OF_ITS_OWN = ("unique", "percentile", "time_weighted")
"""What these make numbers of, only their own counters keep; count, total, extremes and last value are in every one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counting:
    """How a meter's states become a number."""

    aggregation: Aggregation
    percentile: Decimal | None


def counting_of(rules: TenantRules, mapped: Mapping[str, str], meter: str, last_on: date, now: datetime) -> Counting:
    """How a window counts whose last day this is: as defined then or now, else as the mapping says, else by the sum."""
    definition = rules.meter_on(meter, min(last_on, day_of(now)))
    if definition is not None:
        return Counting(aggregation=definition.aggregation, percentile=definition.percentile)
    aggregation: Any = mapped.get(meter, "sum")
    return Counting(aggregation=aggregation, percentile=None)


def countings_of(
    rules: TenantRules, mapped: Mapping[str, str], meter: str, edges: Sequence[datetime], now: datetime
) -> list[Counting]:
    """How each window counts that the edges cut."""
    days = [day_of(end - _TICK) for end in edges[1:]]
    found = {day: counting_of(rules, mapped, meter, day, now) for day in set(days)}
    return [found[day] for day in days]


def finish(
    parts: Mapping[Counting, Iterable[Part]],
    edges: Sequence[datetime],
    countings: Sequence[Counting],
    *,
    ends: Sequence[datetime],
    now: datetime,
) -> list[Answer]:
    """One answer for each window that the edges cut, each by its own counting.

    Args:
        parts: states by one meter, as each counting that is asked for needs them.
        edges: as of `answers.answer`.
        countings: one a window.
        ends: `level_ends` of the meter.
        now: until when a level is known to hold.
    """
    answers = {
        counting: answer(
            parts.get(counting, ()),
            edges,
            aggregation=counting.aggregation,
            percentile=counting.percentile,
            level_ends=ends,
            now=now,
        )
        for counting in set(countings)
    }
    return [answers[counting][slot] for slot, counting in enumerate(countings)]


def counted_otherwise(
    rules: TenantRules,
    meter: str,
    counting: Counting,
    days: Iterable[date],
    edges: Sequence[datetime],
    countings: Sequence[Counting],
) -> set[date]:
    """Those of the days, in windows of a counting, whose counters lack what it makes numbers of.

    Another aggregation counts them, or the implicit meter does.
    """
    if counting.aggregation not in _OF_ITS_OWN:
        return set()
    found = set()
    for day in days:
        start, end = day_bounds(day)
        first, last = bisect_right(edges, start) - 1, bisect_left(edges, end)
        definition = rules.meter_on(meter, day)
        is_own = definition is not None and definition.aggregation == counting.aggregation
        if not is_own and counting in countings[max(first, 0) : last]:
            found.add(day)
    return found


def counted_as(rulebook: Rulebook, tenant_id: str, meter: str, counting: Counting) -> Rulebook:
    """The rules, but every version of a meter has this counting; the implicit meter of its name is one of them."""
    rules = rulebook.of(tenant_id)
    implicit = parse_meter({"name": meter})
    first = MeterVersion(definition=_as(implicit, counting), version=0, effective_on=FROM_THE_BEGINNING, is_active=True)
    versions = [
        replace(each, definition=_as(each.definition if each.is_active else implicit, counting), is_active=True)
        for each in rules.meters.get(meter, ())
    ]
    changed = replace(rules, meters={**rules.meters, meter: [first, *versions]})
    return Rulebook(tenants={**rulebook.tenants, tenant_id: changed})


def level_ends(rules: TenantRules, meter: str) -> list[datetime]:
    """Where the levels of a time-weighted meter end, ascending: it gets other dimensions, or nothing counts any more.

    A level is that of a combination of dimensions; one that can never be read again would hold for ever.
    """
    versions = rules.meters.get(meter, ())
    days = sorted({version.effective_on for version in versions} - {FROM_THE_BEGINNING})
    spans = [_span(rules, meter, FROM_THE_BEGINNING), *(_span(rules, meter, day) for day in days)]
    return [day_bounds(day)[0] for day, (before, after) in zip(days, pairwise(spans), strict=True) if before != after]


def _span(rules: TenantRules, meter: str, day: date) -> tuple[str, ...] | None:
    """The dimensions on a day; None when the meter was ended. Before its first version it is the implicit one."""
    definition = rules.meter_on(meter, day)
    if definition is not None:
        return definition.dimensions
    return None if any(version.effective_on <= day for version in rules.meters.get(meter, ())) else ()


def _as(definition: MeterDefinition, counting: Counting) -> MeterDefinition:
    return replace(definition, aggregation=counting.aggregation, percentile=counting.percentile)
