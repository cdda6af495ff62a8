"""The shapes of the frames that cross functions, as pandera schemas.

Belongs here: column names, types and what must hold of every row. Does not: building or reading frames.
"""

from __future__ import annotations

import pandera.polars as pa
import polars as pl

QUANTITY = pl.Decimal(38, 12)
INSTANT = pl.Datetime("us", "UTC")

GROUP = ("tenant_id", "customer_ref", "meter", "day", "segment_start", "dimensions", "is_late")
"""What makes one counter: the key of the table `counters`."""

LEDGER_EVENTS = pa.DataFrameSchema(
    {
        "tenant_id": pa.Column(pl.String),
        "customer_ref": pa.Column(pl.String),
        "metric": pa.Column(pl.String),
        "ts": pa.Column(INSTANT),
        "seq": pa.Column(pl.Int64),
        "quantity": pa.Column(QUANTITY),
        "received_at": pa.Column(INSTANT),
        "is_history": pa.Column(pl.Boolean),
        "is_late": pa.Column(pl.Boolean),
        "source": pa.Column(pl.String, nullable=True),
        "resource_id": pa.Column(pl.String, nullable=True),
        "meta": pa.Column(pl.String, nullable=True),
    },
    strict=True,
    ordered=True,
    name="ledger_events",
)
"""One row per event that counts, any order. `is_history`: imported, so never late. `is_late`: its approved adjustment
counts it. The last three columns may be null for tenants without meters of their own, which need none of them."""

READINGS = pa.DataFrameSchema(
    {
        "tenant_id": pa.Column(pl.String),
        "customer_ref": pa.Column(pl.String),
        "meter": pa.Column(pl.String),
        "ts": pa.Column(INSTANT),
        "seq": pa.Column(pl.Int64),
        "quantity": pa.Column(QUANTITY),
        "segment_start": pa.Column(INSTANT),
        "dimensions": pa.Column(pl.String),
        "is_late": pa.Column(pl.Boolean),
        "is_primary": pa.Column(pl.Boolean),
        "is_weighted": pa.Column(pl.Boolean),
        "max_groups": pa.Column(pl.Int16),
        "item": pa.Column(pl.String, nullable=True),
    },
    strict=True,
    ordered=True,
    name="readings",
)
"""One row per event and meter that counts it, any order; `customer_ref` is the customer's own, never an alias.
`is_primary` marks one reading of each counted event; `max_groups` is 0 without dimensions."""

COUNTERS = pa.DataFrameSchema(
    {
        "tenant_id": pa.Column(pl.String),
        "customer_ref": pa.Column(pl.String),
        "meter": pa.Column(pl.String),
        "day": pa.Column(pl.Date),
        "segment_start": pa.Column(INSTANT),
        "dimensions": pa.Column(pl.String),
        "is_late": pa.Column(pl.Boolean),
        "event_count": pa.Column(pl.Int64, pa.Check.gt(0)),
        "primary_count": pa.Column(pl.Int64),
        "sum_whole": pa.Column(pl.Decimal(38, 0)),
        "sum_fraction": pa.Column(QUANTITY),
        "quantity_min": pa.Column(QUANTITY),
        "quantity_max": pa.Column(QUANTITY),
        "quantity_last": pa.Column(QUANTITY),
        "last_ts": pa.Column(INSTANT),
        "last_seq": pa.Column(pl.Int64),
        "first_ts": pa.Column(INSTANT, nullable=True),
        "unit_microseconds": pa.Column(pl.String, nullable=True),
    },
    unique=list(GROUP),
    strict=True,
    ordered=True,
    name="counters",
)
"""One row per counter; `sum_whole + sum_fraction` is the sum (see `aggregation`). The last two columns are those of
time-weighted meters: level times microseconds from `first_ts` to `last_ts`, as plain decimal text of any length."""

COUNTER_ITEMS = pa.DataFrameSchema(
    {
        "tenant_id": pa.Column(pl.String),
        "customer_ref": pa.Column(pl.String),
        "meter": pa.Column(pl.String),
        "day": pa.Column(pl.Date),
        "segment_start": pa.Column(INSTANT),
        "dimensions": pa.Column(pl.String),
        "is_late": pa.Column(pl.Boolean),
        "item": pa.Column(pl.String),
        "item_count": pa.Column(pl.Int64, pa.Check.gt(0)),
    },
    unique=[*GROUP, "item"],
    strict=True,
    ordered=True,
    name="counter_items",
)
"""One row per distinct value of a counter of a unique or percentile meter, and how often it came."""

ARCHIVED_EVENTS = pa.DataFrameSchema(
    {
        "tenant_id": pa.Column(pl.String),
        "metric": pa.Column(pl.String),
        "customer_ref": pa.Column(pl.String),
        "ts": pa.Column(INSTANT),
        "seq": pa.Column(pl.Int64, unique=True),
        "quantity": pa.Column(QUANTITY),
        "received_at": pa.Column(INSTANT),
        "source": pa.Column(pl.String),
        "idempotency_key": pa.Column(pl.String),
        "resource_id": pa.Column(pl.String, nullable=True),
        "meta": pa.Column(pl.String, nullable=True),
        "backfill_id": pa.Column(pl.String, nullable=True),
        "state": pa.Column(pl.String, pa.Check.isin(["counted", "late", "withheld", "voided"])),
    },
    strict=True,
    ordered=True,
    name="archived_events",
)
"""One row per event of one day as the lake keeps it, any order; meta as JSON text. `state` is whether it counts: `late`
in the late lane, `withheld` by its adjustment and `voided` not at all."""
