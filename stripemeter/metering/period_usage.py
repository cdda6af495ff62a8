"""Period usage: counters' states added up over whole billing periods of many customers, and the number each makes.

Belongs here: merging states column by column, the number of the aggregations that a price can bill. Does not: states
of one customer over any windows (`answers`), reading (`store.period_states`), which aggregation holds (`countings`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from stripemeter.errors import InvalidInput
from stripemeter.metering.frames import INSTANT, QUANTITY

KEY = ("customer_ref", "meter", "segment_start")
STATES: Mapping[str, Any] = {
    "customer_ref": pl.String(),
    "meter": pl.String(),
    "segment_start": INSTANT,
    "event_count": pl.Int64(),
    "sum_whole": pl.Decimal(38, 0),
    "sum_fraction": QUANTITY,
    "quantity_min": QUANTITY,
    "quantity_max": QUANTITY,
    "quantity_last": QUANTITY,
    "last_ts": INSTANT,
    "last_seq": pl.Int64(),
}
"""Of a frame of states: what the events of a customer, meter and segment add up to, as counters keep it."""
ITEMS: Mapping[str, Any] = {
    "customer_ref": pl.String(),
    "meter": pl.String(),
    "segment_start": INSTANT,
    "item": pl.String(),
}
"""Of a frame of items: the distinct values a unique meter saw."""
BILLABLE = ("sum", "count", "min", "max", "last", "unique")


def merge_states(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """States of disjoint events as one frame, unique by KEY, sorted; columns STATES.

    Args:
        frames: columns STATES, any order, a key any number of times.
    """
    # Newest first: of equal instants the later row of the ledger has the last value, as everywhere.
    newest_first = pl.concat([pl.DataFrame(schema=STATES), *frames]).sort("last_ts", "last_seq", descending=True)
    return (
        newest_first.group_by(KEY, maintain_order=True)
        .agg(
            pl.col("event_count").sum(),
            pl.col("sum_whole").sum(),
            pl.col("sum_fraction").sum(),
            pl.col("quantity_min").min(),
            pl.col("quantity_max").max(),
            pl.col("quantity_last", "last_ts", "last_seq").first(),
        )
        .select(list(STATES))
        .sort(KEY)
    )


def count_items(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """How many distinct values each key has in all frames (columns ITEMS) together: KEY and `item_count`."""
    items = pl.concat([pl.DataFrame(schema=ITEMS), *frames]).unique()
    return items.group_by(KEY).agg(item_count=pl.len().cast(pl.Int64)).sort(KEY)


def finish_states(states: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """The states with `quantity`, the number of the aggregation in their column `aggregation`.

    Args:
        states: columns STATES and `aggregation`, each one of BILLABLE.
        items: columns KEY and `item_count`, of those that count distinct values.

    Raises:
        InvalidInput: a sum has more than 26 digits before the point.
    """
    how = pl.col("aggregation")
    total = pl.col("sum_whole").cast(QUANTITY, strict=False) + pl.col("sum_fraction")
    finished = states.join(items, on=KEY, how="left").with_columns(
        quantity=pl.when(how == "sum")
        .then(total)
        .when(how == "count")
        .then(pl.col("event_count").cast(QUANTITY))
        .when(how == "min")
        .then(pl.col("quantity_min"))
        .when(how == "max")
        .then(pl.col("quantity_max"))
        .when(how == "last")
        .then(pl.col("quantity_last"))
        .when(how == "unique")
        .then(pl.col("item_count").fill_null(0).cast(QUANTITY))
    )
    beyond = finished.filter(pl.col("quantity").is_null())
    if not beyond.is_empty():
        row = beyond.row(0, named=True)
        raise InvalidInput(
            f"{row['meter']} of {row['customer_ref']} in the period from {row['segment_start']:%Y-%m-%d} has more than"
            " 26 digits and cannot be priced",
            field="quantity",
        )
    return finished.select(*states.columns, "quantity")
