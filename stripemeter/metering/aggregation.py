"""Counting: the one implementation of turning readings into counters.

Belongs here: how readings become mergeable counter state. Does not: which meter reads an event (`readings`), reading,
writing or merging tables (the merge of two states is `sql/queries/counters.sql`, the same rules column by column).

The sum is kept as two columns, whole units and fraction. Polars adds decimals as 128-bit integers and a grouped sum
wraps around silently: two events of 9e25 with 12 decimals already overflow. Whole units and fractions summed apart
cannot, below 10**12 events in one frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Context, Decimal

import polars as pl

from stripemeter.metering.events import canonical_quantity
from stripemeter.metering.frames import COUNTER_ITEMS, COUNTERS, GROUP, INSTANT, READINGS
from stripemeter.metering.meters import OTHER, group_rank

_QUANTITY = pl.col("quantity")
_MICROSECOND = timedelta(microseconds=1)
_EXACT = Context(prec=200)
_COUNTER = [name for name in GROUP if name != "dimensions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """State of some readings alone: `counters` of shape COUNTERS, `items` of shape COUNTER_ITEMS, sorted by key."""

    counters: pl.DataFrame
    items: pl.DataFrame


def aggregate(readings: pl.DataFrame) -> Counted:
    """One counter per group the readings touch.

    Args:
        readings: shape READINGS, any order, each once.

    Returns:
        `quantity_last` is that of the greatest (ts, seq). Empty in, empty out. Of a meter with dimensions, each
        counter keeps the `max_groups` combinations that come first by hash; the others share the row OTHER.
    """
    frame = bounded(READINGS.validate(readings)).with_columns(day=pl.col("ts").dt.date())
    counters = (
        # Newest ledger row first: arg_max takes the first of equals, so a tie on ts goes to the later row.
        frame.sort("seq", descending=True)
        .with_columns(whole=_QUANTITY.floor())
        .group_by(GROUP)
        .agg(
            event_count=pl.len().cast(pl.Int64),
            primary_count=pl.col("is_primary").sum().cast(pl.Int64),
            sum_whole=pl.col("whole").cast(pl.Decimal(38, 0)).sum(),
            sum_fraction=(_QUANTITY - pl.col("whole")).sum(),
            quantity_min=_QUANTITY.min(),
            quantity_max=_QUANTITY.max(),
            quantity_last=_QUANTITY.get(pl.col("ts").arg_max()),
            last_ts=pl.col("ts").max(),
            last_seq=pl.col("seq").get(pl.col("ts").arg_max()),
        )
        .sort(GROUP)
    )
    return Counted(counters=COUNTERS.validate(_weighted(counters, frame)), items=COUNTER_ITEMS.validate(_items(frame)))


def bounded(readings: pl.DataFrame) -> pl.DataFrame:
    """The readings (shape READINGS), those of combinations beyond what a counter keeps apart with the dimensions OTHER.

    The cardinality guard: which combinations keep a row depends on the set of them alone, never on their order.
    """
    grouped = readings.filter(pl.col("max_groups") > 0).with_columns(day=pl.col("ts").dt.date())
    if grouped.is_empty():
        return readings
    combinations = (
        grouped.group_by(GROUP)
        .agg(max_groups=pl.col("max_groups").max())
        .with_columns(rank=pl.col("dimensions").map_elements(group_rank, return_dtype=pl.Binary))
        .sort(*_COUNTER, "rank")
        .with_columns(place=pl.int_range(pl.len()).over(_COUNTER))
    )
    beyond = combinations.filter(pl.col("place") >= pl.col("max_groups")).select(*GROUP)
    if beyond.is_empty():
        return readings
    dated = readings.with_columns(day=pl.col("ts").dt.date())
    marked = dated.join(beyond.with_columns(is_beyond=pl.lit(value=True)), on=list(GROUP), how="left")
    return marked.with_columns(
        dimensions=pl.when(pl.col("is_beyond")).then(pl.lit(OTHER)).otherwise(pl.col("dimensions"))
    ).select(readings.columns)


def _weighted(counters: pl.DataFrame, frame: pl.DataFrame) -> pl.DataFrame:
    """Adds first_ts and unit_microseconds, null but for time-weighted meters."""
    weighted = frame.filter(pl.col("is_weighted"))
    if weighted.is_empty():
        return counters.with_columns(first_ts=pl.lit(None, INSTANT), unit_microseconds=pl.lit(None, pl.String))
    groups = weighted.sort("ts", "seq").group_by(GROUP, maintain_order=True).agg("ts", "quantity")
    rows = [
        (
            *(row[name] for name in GROUP),
            row["ts"][0],
            canonical_quantity(_unit_microseconds(row["ts"], row["quantity"])),
        )
        for row in groups.iter_rows(named=True)
    ]
    schema = {name: frame.schema[name] for name in GROUP} | {"first_ts": INSTANT, "unit_microseconds": pl.String()}
    return counters.join(pl.DataFrame(rows, schema=schema, orient="row"), on=list(GROUP), how="left").sort(GROUP)


def _unit_microseconds(instants: Sequence[datetime], quantities: Sequence[Decimal]) -> Decimal:
    """Level times time from the first reading to the last; a level holds until the next reading."""
    total = Decimal(0)
    for at, until, level in zip(instants, instants[1:], quantities, strict=False):
        total = _EXACT.add(total, _EXACT.multiply(level, Decimal((until - at) // _MICROSECOND)))
    return total


def _items(frame: pl.DataFrame) -> pl.DataFrame:
    return (
        frame.filter(pl.col("item").is_not_null())
        .group_by(*GROUP, "item")
        .agg(item_count=pl.len().cast(pl.Int64))
        .sort(*GROUP, "item")
    )
