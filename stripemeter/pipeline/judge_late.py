"""Judging late events: which of a fold's events are too late, whether they count at once, what they change.

Belongs here: asking the store and applying `metering.lateness`, in the order of the ledger. Does not: writing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

import polars as pl

from stripemeter.metering.days import day_of
from stripemeter.metering.lateness import candidates, late_delta, late_events, late_status
from stripemeter.metering.meters import Reading, decode_meta, read_event
from stripemeter.metering.rulebook import Rulebook
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
    rows = list(late.iter_rows(named=True))
    places = [_place(row, rulebook) for row in rows]
    standing = load_standing(tx, set(places))
    aggregations = load_aggregations(tx, {row["tenant_id"] for row in rows}) if rows else {}
    judged: list[LateEvent] = []
    for row, place in zip(rows, places, strict=True):
        rules = rulebook.of(place[0])
        status = late_status(rules.policy, rules.segment_of(place[1], place[2], row["ts"]), now=now)
        delta: Decimal | None = Decimal(0)
        quantity = _quantity(row, rulebook)
        if quantity is not None:
            delta, after = late_delta(
                standing.get(place), _aggregation(place, rulebook, aggregations), quantity, (row["ts"], row["seq"])
            )
            if status == "approved":
                standing[place] = after
        judged.append(
            LateEvent(
                tenant_id=place[0],
                customer_ref=place[1],
                metric=place[2],
                ts=row["ts"],
                seq=row["seq"],
                delta=delta,
                status=status,
            )
        )
    return judged


def _place(row: Mapping[str, Any], rulebook: Rulebook) -> Place:
    tenant, metric = row["tenant_id"], row["metric"]
    rules = rulebook.of(tenant)
    customer = rules.customer_of(row["customer_ref"])
    return tenant, customer, metric, day_of(row["ts"]), rules.segment_of(customer, metric, row["ts"]).start


def _quantity(row: Mapping[str, Any], rulebook: Rulebook) -> Decimal | None:
    """What the meter of the metric's own name reads of the event; None when it reads nothing."""
    quantity: Decimal = row["quantity"]
    definition = rulebook.of(row["tenant_id"]).meter_on(row["metric"], day_of(row["ts"]))
    if definition is None:
        return quantity
    reading = read_event(
        definition,
        metric=row["metric"],
        quantity=quantity,
        resource_id=row["resource_id"],
        source=row["source"] or "",
        meta=decode_meta(row["meta"]),
    )
    return reading.quantity if isinstance(reading, Reading) else None


def _aggregation(place: Place, rulebook: Rulebook, mapped: Mapping[tuple[str, str], str]) -> str:
    definition = rulebook.of(place[0]).meter_on(place[2], place[3])
    return mapped.get((place[0], place[2]), "sum") if definition is None else definition.aggregation
