"""Schemas of frames: every rule is asked of every frame, however it is asked."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pandera.errors
import pandera.polars as pa
import polars as pl
import pytest

from stripemeter.metering.frames import (
    ARCHIVED_EVENTS,
    COUNTER_ITEMS,
    COUNTERS,
    LEDGER_EVENTS,
    READINGS,
    FrameSchema,
)

SCHEMAS = [LEDGER_EVENTS, READINGS, COUNTERS, COUNTER_ITEMS, ARCHIVED_EVENTS]
UNIQUE = [COUNTERS, COUNTER_ITEMS, ARCHIVED_EVENTS]
OTHER = {
    pl.String: "y",
    pl.Int64: 2,
    pl.Boolean: False,
    pl.Date: date(2026, 1, 2),
    pl.Datetime: datetime(2026, 1, 2, tzinfo=UTC),
}
VALUES: dict[Any, object] = {
    pl.String: "x",
    pl.Int64: 1,
    pl.Int16: 1,
    pl.Boolean: True,
    pl.Date: date(2026, 1, 1),
    pl.Datetime: datetime(2026, 1, 1, tzinfo=UTC),
    pl.Decimal: Decimal(1),
}


def frame_of(schema: FrameSchema, **values: object) -> pl.DataFrame:
    """One row that the schema takes, with these values instead."""
    kinds = {name: column.dtype.type for name, column in schema.columns.items()}
    row = {name: VALUES[kind.base_type()] for name, kind in kinds.items()}
    if schema is ARCHIVED_EVENTS:
        row["state"] = "counted"
    return pl.DataFrame([row | values], schema=kinds, orient="row")


def columns_of(schema: FrameSchema, *, nullable: bool) -> list[str]:
    """The columns that may be null, or those that may not."""
    return [name for name, column in schema.columns.items() if column.nullable is nullable]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.name)
def test_a_frame_that_keeps_every_rule_is_taken_as_it_is(schema: FrameSchema) -> None:
    """With rows, without any, and with nulls where they may be."""
    frame = frame_of(schema)
    nulls = frame_of(schema, **dict.fromkeys(columns_of(schema, nullable=True)))
    for taken in (frame, frame.clear(), nulls):
        assert schema.validate(taken) is taken


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.name)
def test_a_null_is_refused_wherever_none_may_be(schema: FrameSchema) -> None:
    """Column by column."""
    for name in columns_of(schema, nullable=False):
        with pytest.raises(pandera.errors.SchemaError, match=name):
            schema.validate(frame_of(schema, **{name: None}))


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.name)
def test_another_shape_is_refused(schema: FrameSchema) -> None:
    """A column more, one less, another order, another type."""
    frame = frame_of(schema)
    names = frame.columns
    for wrong in (
        frame.with_columns(more=pl.lit(1)),
        frame.drop(names[-1]),
        frame.select(reversed(names)),
        frame.with_columns(pl.lit(b"", pl.Binary).alias(names[0])),
        frame.with_columns(pl.col("ts" if "ts" in names else "segment_start").cast(pl.Datetime("ms", "UTC"))),
    ):
        with pytest.raises(pandera.errors.SchemaError):
            schema.validate(wrong)


@pytest.mark.parametrize("schema", UNIQUE, ids=lambda schema: schema.name)
def test_a_key_that_comes_twice_is_refused(schema: FrameSchema) -> None:
    """And one that differs in any part of it is not."""
    frame = frame_of(schema)
    with pytest.raises(pandera.errors.SchemaError, match=r"unique|duplicate"):
        schema.validate(pl.concat([frame, frame]))
    for name in schema.unique or ["seq"]:
        other = frame_of(schema, **{name: OTHER[frame.schema[name].base_type()]})
        assert schema.validate(pl.concat([frame, other])).height == 2


@pytest.mark.parametrize(
    ("schema", "name", "value"),
    [
        (COUNTERS, "event_count", 0),
        (COUNTER_ITEMS, "item_count", 0),
        (COUNTER_ITEMS, "item_count", -1),
        (ARCHIVED_EVENTS, "state", "lost"),
    ],
    ids=["counter", "item", "negative", "state"],
)
def test_a_value_that_cannot_be_is_refused(schema: FrameSchema, name: str, value: object) -> None:
    """A counter of nothing, a state nobody knows."""
    with pytest.raises(pandera.errors.SchemaError, match=name):
        schema.validate(frame_of(schema, **{name: value}))


def test_a_rule_that_only_pandera_knows_is_asked() -> None:
    """A check of another kind is not passed over."""
    schema = FrameSchema({"n": pa.Column(pl.Int64, pa.Check.lt(5))}, strict=True, ordered=True)
    assert schema.validate(pl.DataFrame({"n": [4]})).height == 1
    with pytest.raises(pandera.errors.SchemaError):
        schema.validate(pl.DataFrame({"n": [5]}))
