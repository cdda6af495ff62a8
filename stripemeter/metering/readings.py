"""Readings: which meters count an event, as what, for whom, in which segment.

Belongs here: applying the rulebook to ledger events. Does not: the rules of one meter (`meters`), adding up
(`aggregation`).

Most events are counted by the implicit meter of their metric alone and stay in the frame from end to end; only those
that an explicit meter reads are looked at one by one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import polars as pl

from stripemeter.metering.frames import INSTANT, LEDGER_EVENTS, READINGS
from stripemeter.metering.meters import MeterDefinition, Reading, decode_meta, read_event
from stripemeter.metering.rulebook import Rulebook
from stripemeter.metering.segments import segment_starts

UNMATCHED = ""
"""The meter of events that no meter counts: they are kept apart, so that nothing accepted ever vanishes."""

MAX_KEY_BYTES = 2_600
"""Of the texts in a counter's key. Source: PostgreSQL, B-tree: an index row has at most 2704 bytes; the rest is for the
key's other columns."""

_EVENT = ("tenant_id", "metric", "day")
_Key = tuple[str, str, date]
_COLUMNS = list(READINGS.columns)
_SCHEMA: dict[str, pl.DataType] = {name: column.dtype.type for name, column in READINGS.columns.items()}
_BEFORE_SEGMENTS = {name: kind for name, kind in _SCHEMA.items() if name != "segment_start"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Readers:
    """Who reads a metric's events of a day: explicit meters, and perhaps the implicit one."""

    definitions: Sequence[MeterDefinition]
    has_implicit: bool


def read_meters(events: pl.DataFrame, rulebook: Rulebook) -> pl.DataFrame:
    """Every reading of the events.

    Args:
        events: shape LEDGER_EVENTS, any order, each event once; source, resource_id and meta of every tenant with
            meters must be there.
        rulebook: the rules of every tenant in the frame.

    Returns:
        Shape READINGS, any order. An event that no meter counts has one, of the meter UNMATCHED.
    """
    frame = _with_customers(LEDGER_EVENTS.validate(events), rulebook)
    explicit = _explicit(frame, rulebook)
    if not explicit:
        return READINGS.validate(_with_segments(_implicit(frame), rulebook).select(_COLUMNS))
    keys = pl.DataFrame(
        list(explicit), schema=dict(zip(_EVENT, (pl.String, pl.String, pl.Date), strict=True)), orient="row"
    )
    dated = frame.with_columns(day=pl.col("ts").dt.date())
    plain = dated.join(keys, on=_EVENT, how="anti").drop("day")
    looked_at = dated.join(keys, on=_EVENT, how="semi").iter_rows(named=True)
    rows = [
        row for event in looked_at for row in _read(event, explicit[event["tenant_id"], event["metric"], event["day"]])
    ]
    read = pl.DataFrame(rows, schema=_BEFORE_SEGMENTS, orient="row")
    readings = pl.concat([_implicit(plain).select(list(_BEFORE_SEGMENTS)), read])
    return READINGS.validate(_with_segments(readings, rulebook).select(_COLUMNS))


def _with_customers(frame: pl.DataFrame, rulebook: Rulebook) -> pl.DataFrame:
    aliases = [(tenant, ref, own) for tenant, rules in rulebook.tenants.items() for ref, own in rules.aliases.items()]
    if not aliases:
        return frame
    names = pl.DataFrame(
        aliases, schema={"tenant_id": pl.String, "customer_ref": pl.String, "own_ref": pl.String}, orient="row"
    )
    joined = frame.join(names, on=["tenant_id", "customer_ref"], how="left")
    return joined.with_columns(customer_ref=pl.coalesce("own_ref", "customer_ref")).drop("own_ref")


def _explicit(frame: pl.DataFrame, rulebook: Rulebook) -> dict[_Key, _Readers]:
    """Who reads events, by tenant, metric and day; combinations that the implicit meter alone reads are absent."""
    tenants = [tenant for tenant, rules in rulebook.tenants.items() if rules.meters]
    if not tenants:
        return {}
    combinations = (
        frame.filter(pl.col("tenant_id").is_in(tenants))
        .select("tenant_id", "metric", day=pl.col("ts").dt.date())
        .unique()
        .iter_rows()
    )
    found = {
        (tenant, metric, day): _Readers(
            definitions=rulebook.of(tenant).meters_reading(metric, day),
            has_implicit=rulebook.of(tenant).meter_on(metric, day) is None,
        )
        for tenant, metric, day in combinations
    }
    return {key: readers for key, readers in found.items() if readers.definitions or not readers.has_implicit}


def _implicit(frame: pl.DataFrame) -> pl.DataFrame:
    """One reading an event, of the meter its metric is."""
    return frame.select(
        "tenant_id",
        "customer_ref",
        pl.col("metric").alias("meter"),
        "ts",
        "seq",
        "quantity",
        pl.lit("").alias("dimensions"),
        "is_late",
        pl.lit(value=True).alias("is_primary"),
        pl.lit(value=False).alias("is_weighted"),
        pl.lit(0, pl.Int16).alias("max_groups"),
        pl.lit(None, pl.String).alias("item"),
    )


def _read(event: dict[str, Any], readers: _Readers) -> Iterator[tuple[object, ...]]:
    """The event's readings, without their segment."""
    metric = event["metric"]
    meta = decode_meta(event["meta"])
    is_primary = True
    if readers.has_implicit:
        yield _row(event, metric, None, Reading(event["quantity"], None, ""), is_primary=True)
        is_primary = False
    for definition in readers.definitions:
        reading = read_event(
            definition,
            metric=metric,
            quantity=event["quantity"],
            resource_id=event["resource_id"],
            source=event["source"] or "",
            meta=meta,
        )
        if isinstance(reading, Reading):
            storable = _storable(event, definition.name, reading)
            yield _row(event, definition.name, definition, storable, is_primary=is_primary)
            is_primary = False
    if is_primary:
        yield _row(event, UNMATCHED, None, Reading(event["quantity"], None, ""), is_primary=False)


def _storable(event: dict[str, Any], meter: str, reading: Reading) -> Reading:
    """The reading with texts that fit into a key: longest names leave no room for long values, which become hashes.

    A function of the event alone, so running count and recount agree; an event must never be able to stop the fold.
    """
    texts = (event["tenant_id"], event["customer_ref"], meter, reading.dimensions, reading.item or "")
    if sum(map(len, texts)) * 4 <= MAX_KEY_BYTES or sum(len(text.encode()) for text in texts) <= MAX_KEY_BYTES:
        return reading
    dimensions = f'{{"#":"{_hash(reading.dimensions)}"}}' if reading.dimensions else ""
    names = sum(len(text.encode()) for text in (*texts[:3], dimensions))
    item = reading.item
    if item is not None and names + len(item.encode()) > MAX_KEY_BYTES:
        item = f"#{_hash(item)}"
    return Reading(reading.quantity, item, dimensions)


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _row(
    event: dict[str, Any], meter: str, definition: MeterDefinition | None, reading: Reading, *, is_primary: bool
) -> tuple[object, ...]:
    is_weighted = definition is not None and definition.aggregation == "time_weighted"
    return (
        event["tenant_id"],
        event["customer_ref"],
        meter,
        event["ts"],
        event["seq"],
        reading.quantity,
        reading.dimensions,
        # The level between two readings depends on both, so a late one cannot stand in a lane of its own.
        event["is_late"] and not is_weighted,
        is_primary,
        is_weighted,
        definition.max_groups if definition is not None and definition.dimensions else 0,
        reading.item,
    )


def _with_segments(readings: pl.DataFrame, rulebook: Rulebook) -> pl.DataFrame:
    """Adds segment_start: by the customer's billing phases, else the UTC month."""
    month = readings.with_columns(segment_start=pl.col("ts").dt.truncate("1mo"))
    customers = [(tenant, ref) for tenant, rules in rulebook.tenants.items() for ref, _ in rules.phases]
    if not customers or readings.is_empty():
        return month
    key = ["tenant_id", "customer_ref"]
    phased = pl.DataFrame(list(dict.fromkeys(customers)), schema=dict.fromkeys(key, pl.String), orient="row")
    own = month.join(phased, on=key, how="semi")
    if own.is_empty():
        return month
    group = [*key, "meter"]
    spans = own.group_by(group).agg(first=pl.col("ts").min(), last=pl.col("ts").max()).iter_rows(named=True)
    starts = [
        (span["tenant_id"], span["customer_ref"], span["meter"], start)
        for span in spans
        for start in segment_starts(
            rulebook.of(span["tenant_id"]).phases_of(span["customer_ref"], span["meter"]), span["first"], span["last"]
        )
    ]
    boundaries = pl.DataFrame(
        starts, schema={**dict.fromkeys(group, pl.String), "segment_start": INSTANT}, orient="row"
    ).sort("segment_start")
    cut = (
        own.drop("segment_start")
        .sort("ts")
        .join_asof(
            boundaries, left_on="ts", right_on="segment_start", by=group, strategy="backward", check_sortedness=False
        )
    )
    rest = month.join(phased, on=key, how="anti")
    return pl.concat([rest, cut.select(rest.columns)])
