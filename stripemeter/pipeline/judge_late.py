"""Judging late events: which of a fold's events are too late, whether they count at once, what they change.

Belongs here: asking the store and applying `metering.lateness`, in the order of the ledger. Does not: writing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import polars as pl

from stripemeter.metering.days import day_of
from stripemeter.metering.lateness import (
    STANDING_AGGREGATIONS,
    Track,
    candidates,
    late_delta,
    late_events,
    late_status,
)
from stripemeter.metering.meters import MeterDefinition, Reading, decode_meta, read_event
from stripemeter.metering.rulebook import Rulebook
from stripemeter.metering.segments import Segment
from stripemeter.store.lateness import LateEvent, Place, load_aggregations, load_standing, load_watermarks
from stripemeter.store.postgres import Tx


def judge(tx: Tx, events: pl.DataFrame, rulebook: Rulebook, *, now: datetime) -> list[LateEvent]:
    """The late ones of the events a fold is about to count (shape LEDGER_EVENTS), in ledger order.

    Watermarks are those before the fold, so the order of events within one fold does not matter.
    """
    possible = candidates(events, rulebook, now=now)
    if possible.is_empty():
        return []
    tracks = {
        (tenant, rulebook.of(tenant).customer_of(ref), metric)
        for tenant, ref, metric in possible.select("tenant_id", "customer_ref", "metric").unique().iter_rows()
    }
    late = late_events(possible, rulebook, load_watermarks(tx, tracks))
    if late.is_empty():
        return []
    found = _find(late, rulebook, load_aggregations(tx, late["tenant_id"].unique().to_list()))
    standing = load_standing(tx, {each.place for each in found if each.aggregation in STANDING_AGGREGATIONS})
    judged: list[LateEvent] = []
    for each in found:
        tenant, customer, metric, _, _ = each.place
        status = late_status(rulebook.of(tenant).policy, each.segment, now=now)
        delta: Decimal | None = Decimal(0)
        if each.quantity is not None:
            delta, after = late_delta(standing.get(each.place), each.aggregation, each.quantity, (each.ts, each.seq))
            if status == "approved" and each.aggregation in STANDING_AGGREGATIONS:
                standing[each.place] = after
        judged.append(
            LateEvent(
                tenant_id=tenant,
                customer_ref=customer,
                metric=metric,
                ts=each.ts,
                seq=each.seq,
                delta=delta,
                status=status,
            )
        )
    return judged


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """Where a late event's usage lies, and what the meter of the metric's own name reads of it (None: nothing)."""

    place: Place
    segment: Segment
    aggregation: str
    quantity: Decimal | None
    ts: datetime
    seq: int


def _find(late: pl.DataFrame, rulebook: Rulebook, mapped: Mapping[tuple[str, str], str]) -> list[_Found]:
    """The late events in their order. Rules are asked once per track and day: there are few of those, and many rows."""
    segments: dict[Track, Segment] = {}
    definitions: dict[tuple[str, str, date], MeterDefinition | None] = {}
    found: list[_Found] = []
    for row in late.iter_rows(named=True):
        tenant, metric, ts = row["tenant_id"], row["metric"], row["ts"]
        rules = rulebook.of(tenant)
        track = tenant, rules.customer_of(row["customer_ref"]), metric
        segment = segments.get(track)
        if segment is None or not segment.start <= ts < segment.end:
            segment = segments[track] = rules.segment_of(track[1], metric, ts)
        day = day_of(ts)
        named = tenant, metric, day
        if named not in definitions:
            definitions[named] = rules.meter_on(metric, day)
        definition = definitions[named]
        found.append(
            _Found(
                place=(*track, day, segment.start),
                segment=segment,
                aggregation=mapped.get(named[:2], "sum") if definition is None else definition.aggregation,
                quantity=row["quantity"] if definition is None else _read(definition, row),
                ts=ts,
                seq=row["seq"],
            )
        )
    return found


def _read(definition: MeterDefinition, row: Mapping[str, Any]) -> Decimal | None:
    reading = read_event(
        definition,
        metric=row["metric"],
        quantity=row["quantity"],
        resource_id=row["resource_id"],
        source=row["source"] or "",
        meta=decode_meta(row["meta"]),
    )
    return reading.quantity if isinstance(reading, Reading) else None
