"""Days as Dagster partitions: the definition, and which days a run or a request is about.

Belongs here: partition keys, ranges of days, the run tags that carry them. Does not: which days are dirty or open.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import date
from itertools import pairwise

import dagster as dg

from stripemeter.metering.days import days_between

# Source: measured on Dagster 1.13.27. Listing every key since 2000 (9 824 of them) takes 60 ms, since 2015 27 ms, so
# the start is the ledger's own (`events_before_2000` holds what is older) and an import of any history has a partition.
# end_offset=1: without it today is no partition until midnight.
DAYS = dg.DailyPartitionsDefinition(start_date="2000-01-01", end_offset=1)

PARTITION_TAG = "dagster/partition"
RANGE_START_TAG = "dagster/asset_partition_range_start"
RANGE_END_TAG = "dagster/asset_partition_range_end"

MAX_RANGES = 8
"""Most runs one request for many days may become: a run costs seconds of process start, a clean day milliseconds."""
NEARBY_DAYS = 7
"""Dirty days at most this far apart always share a run."""


def has_partition(day: date) -> bool:
    """Whether the day is a partition now: not before 2000, not after today."""
    return DAYS.has_partition_key(day.isoformat())


def days_of(tags: Mapping[str, str]) -> list[date]:
    """The days a run was asked for, by its tags; empty for a run without partitions."""
    first = tags.get(RANGE_START_TAG) or tags.get(PARTITION_TAG)
    last = tags.get(RANGE_END_TAG) or first
    return days_between(date.fromisoformat(first), date.fromisoformat(last)) if first and last else []


def tags_for(days: tuple[date, date]) -> dict[str, str]:
    """The run tags that ask for every day from the first to the last, both included."""
    first, last = days
    if first == last:
        return {PARTITION_TAG: first.isoformat()}
    return {RANGE_START_TAG: first.isoformat(), RANGE_END_TAG: last.isoformat()}


def covering_ranges(days: Collection[date], *, avoiding: Collection[date] = ()) -> list[tuple[date, date]]:
    """At most MAX_RANGES ranges of days, first and last included, that hold every one of `days`.

    Ranges break at the widest gaps and never at one of NEARBY_DAYS or less. A range that would hold a day of
    `avoiding` is broken there too, beyond MAX_RANGES if need be.
    """
    gaps = sorted(pairwise(sorted(days)), key=_width, reverse=True)
    wide = [gap for gap in gaps[: MAX_RANGES - 1] if _width(gap) > NEARBY_DAYS]
    return _broken_at({*wide, *(gap for gap in gaps if _holds_any(gap, avoiding))}, days)


def _broken_at(gaps: Collection[tuple[date, date]], days: Iterable[date]) -> list[tuple[date, date]]:
    ordered = sorted(days)
    firsts = [day for day in ordered if day == ordered[0] or any(day == right for _, right in gaps)]
    lasts = [day for day in ordered if day == ordered[-1] or any(day == left for left, _ in gaps)]
    return list(zip(firsts, lasts, strict=True))


def _width(gap: tuple[date, date]) -> int:
    return (gap[1] - gap[0]).days


def _holds_any(gap: tuple[date, date], days: Collection[date]) -> bool:
    return any(gap[0] < day < gap[1] for day in days)
