"""Judging late events: which of a fold's events are too late, whether they count at once, what they change.

Belongs here: asking the store and applying `metering.lateness`, in the order of the ledger. Does not: writing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import NamedTuple

import polars as pl

from stripemeter.metering.days import day_of
from stripemeter.metering.lateness import (
    STANDING_AGGREGATIONS,
    LateStatus,
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
    mapped = load_aggregations(tx, late["tenant_id"].unique().to_list())
    found = list(_find(late, rulebook, mapped, now=now))
    standing = load_standing(tx, {each.place for each in found if each.aggregation in STANDING_AGGREGATIONS})
    judged: list[LateEvent] = []
    for each in found:
        delta: Decimal | None = Decimal(0)
        if each.quantity is not None:
            before = standing.get(each.place)
            delta, after = late_delta(before, each.aggregation, each.quantity, (each.ts, each.seq))
            if each.status == "approved" and each.aggregation in STANDING_AGGREGATIONS:
                standing[each.place] = after
        judged.append(LateEvent(seq=each.seq, delta=delta, status=each.status))
    return judged


class _Found(NamedTuple):
    """Where a late event's usage lies, and what the meter of the metric's own name reads of it (None: nothing)."""

    place: Place
    status: LateStatus
    aggregation: str
    quantity: Decimal | None
    ts: datetime
    seq: int


def _find(
    late: pl.DataFrame, rulebook: Rulebook, mapped: Mapping[tuple[str, str], str], *, now: datetime
) -> Iterator[_Found]:
    """The late events in their order. Rules are asked once per track and day: there are few of those, and many rows."""
    segments: dict[Track, tuple[Segment, LateStatus]] = {}
    definitions: dict[tuple[str, str, date], MeterDefinition | None] = {}
    for row in late.select(*_ASKED).iter_rows():
        tenant, own_ref, metric, ts, seq, quantity, *read = row
        rules = rulebook.of(tenant)
        track = tenant, own_ref, metric
        known = segments.get(track)
        if known is None or not known[0].start <= ts < known[0].end:
            segment = rules.segment_of(own_ref, metric, ts)
            known = segments[track] = segment, late_status(rules.policy, segment, now=now)
        day = day_of(ts)
        named = tenant, metric, day
        if named not in definitions:
            definitions[named] = rules.meter_on(metric, day)
        definition = definitions[named]
        yield _Found(
            place=(tenant, own_ref, metric, day, known[0].start),
            status=known[1],
            aggregation=mapped.get((tenant, metric), "sum") if definition is None else definition.aggregation,
            quantity=quantity if definition is None else _read(definition, metric, quantity, *read),
            ts=ts,
            seq=seq,
        )


_ASKED = ("tenant_id", "own_ref", "metric", "ts", "seq", "quantity", "resource_id", "source", "meta")


def _read(
    definition: MeterDefinition,
    metric: str,
    quantity: Decimal,
    resource_id: str | None,
    source: str | None,
    meta: str | None,
) -> Decimal | None:
    reading = read_event(
        definition,
        metric=metric,
        quantity=quantity,
        resource_id=resource_id,
        source=source or "",
        meta=decode_meta(meta),
    )
    return reading.quantity if isinstance(reading, Reading) else None
