"""The shapes of the frames that cross functions, as pandera schemas.

Belongs here: column names, types and what must hold of every row. Does not: building or reading frames.
"""

from __future__ import annotations

import pandera.polars as pa
import polars as pl

QUANTITY = pl.Decimal(38, 12)
INSTANT = pl.Datetime("us", "UTC")

GROUP = ("tenant_id", "customer_ref", "meter", "day", "segment_start")
"""What makes one counter: the key of the table `counters`."""

LEDGER_EVENTS = pa.DataFrameSchema(
    {
        "tenant_id": pa.Column(pl.String),
        "customer_ref": pa.Column(pl.String),
        "meter": pa.Column(pl.String),
        "ts": pa.Column(INSTANT),
        "seq": pa.Column(pl.Int64),
        "quantity": pa.Column(QUANTITY),
        "received_at": pa.Column(INSTANT),
    },
    strict=True,
    ordered=True,
    name="ledger_events",
)
"""One row per event, any order; nulls never."""

COUNTERS = pa.DataFrameSchema(
    {
        "tenant_id": pa.Column(pl.String),
        "customer_ref": pa.Column(pl.String),
        "meter": pa.Column(pl.String),
        "day": pa.Column(pl.Date),
        "segment_start": pa.Column(INSTANT),
        "event_count": pa.Column(pl.Int64, pa.Check.gt(0)),
        "sum_whole": pa.Column(pl.Decimal(38, 0)),
        "sum_fraction": pa.Column(QUANTITY),
        "quantity_min": pa.Column(QUANTITY),
        "quantity_max": pa.Column(QUANTITY),
        "quantity_last": pa.Column(QUANTITY),
        "last_ts": pa.Column(INSTANT),
        "last_seq": pa.Column(pl.Int64),
    },
    unique=list(GROUP),
    strict=True,
    ordered=True,
    name="counters",
)
"""One row per counter; `sum_whole + sum_fraction` is the sum (see `aggregation`)."""

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
    },
    strict=True,
    ordered=True,
    name="archived_events",
)
"""One row per event of one day as the lake keeps it, any order; meta as JSON text."""
