"""Counting: the one implementation of turning events into counters.

Belongs here: how events become mergeable counter state. Does not: reading, writing or merging tables (the merge of
two states is `sql/queries/counters.sql`, the same rules column by column).

The sum is kept as two columns, whole units and fraction. Polars adds decimals as 128-bit integers and a grouped sum
wraps around silently: two events of 9e25 with 12 decimals already overflow. Whole units and fractions summed apart
cannot, below 10**12 events in one frame.
"""

from __future__ import annotations

import polars as pl

from stripemeter.metering.frames import COUNTERS, GROUP, LEDGER_EVENTS

_QUANTITY = pl.col("quantity")


def aggregate(events: pl.DataFrame) -> pl.DataFrame:
    """One row per counter the events touch, sorted by its key.

    Args:
        events: shape LEDGER_EVENTS, any order, each event once.

    Returns:
        Shape COUNTERS: state of these events alone. `quantity_last` is that of the greatest (ts, seq). Empty in,
        empty out.
    """
    frame = LEDGER_EVENTS.validate(events)
    counters = (
        # Newest ledger row first: arg_max takes the first of equals, so a tie on ts goes to the later row.
        frame.sort("seq", descending=True)
        .with_columns(
            day=pl.col("ts").dt.date(),
            segment_start=pl.col("ts").dt.truncate("1mo"),
            whole=_QUANTITY.floor(),
        )
        .group_by(GROUP)
        .agg(
            event_count=pl.len().cast(pl.Int64),
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
    return COUNTERS.validate(counters)
