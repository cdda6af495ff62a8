"""The counters, written: merged by the fold, replaced by a recount, compared by a proof.

Belongs here: moving frames of counters into Postgres under the day's lock. Does not: computing them
(`metering.aggregation`), reading usage (`store.usage`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

import polars as pl

from stripemeter.metering.aggregation import Counted
from stripemeter.metering.frames import COUNTER_ITEMS, COUNTERS
from stripemeter.metering.meters import OTHER
from stripemeter.store.copy_text import as_copy_text
from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries

_Q = load_queries("counters")


CustomerDay = tuple[str, str, date]
"""(tenant, customer, day)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterMismatch:
    """A counter whose stored state is not what the ledger makes; a missing side is the empty text."""

    day: date
    tenant_id: str
    customer_ref: str
    meter: str
    segment_start: datetime
    counted: str
    ledger: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterTotal:
    """Counted usage of one meter on one day, over all tenants and customers."""

    meter: str
    events: int
    counters: int
    quantity: Decimal


def lock_days(tx: Tx, days: Iterable[date]) -> None:
    """Become the only writer of these days' counters until the transaction ends; ascending, so nobody deadlocks."""
    for day in sorted(days):
        tx.execute(_Q["lock_day"], {"day": day})


def merge_counters(tx: Tx, counted: Counted, bounds: Mapping[tuple[str, str], int]) -> set[CustomerDay]:
    """Add the states of newly folded events to what is stored. The days must be locked.

    Args:
        tx: the fold's transaction.
        counted: the new states.
        bounds: `max_groups` of meters with dimensions, by (tenant, meter).

    Returns:
        What does not simply add and must be counted again from the ledger in this transaction, once the cursor is
        past the new events.
    """
    _stage(tx, counted)
    again = set(tx.execute(_Q["load_overlapping"]))
    tx.execute(_Q["merge_incoming"])
    tx.execute(_Q["merge_incoming_items"])
    if bounds:
        parameters = {
            "tenants": [tenant for tenant, _ in bounds],
            "meters": [meter for _, meter in bounds],
            "bounds": list(bounds.values()),
            "other": OTHER,
        }
        again |= set(tx.execute(_Q["load_overfull"], parameters))
    return again


def replace_day(
    tx: Tx,
    day: date,
    counted: Counted,
    *,
    tenant_id: str | None = None,
    customer_refs: Collection[str] | None = None,
) -> int:
    """Make the day's counters exactly these; returns how many rows changed. The day must be locked.

    With a tenant only its counters are replaced, with customers only theirs; `counted` then holds no others.
    """
    _stage(tx, counted)
    scope = {
        "day": day,
        "tenant_id": tenant_id,
        "customer_refs": None if customer_refs is None else sorted(customer_refs),
    }
    deleted = sum(tx.execute(_Q[name], scope).rowcount for name in ("delete_surplus", "delete_surplus_items"))
    return deleted + sum(tx.execute(_Q[name], {"day": day}).rowcount for name in ("replace_day", "replace_items"))


def compare_day(tx: Tx, day: date, counted: Counted) -> list[CounterMismatch]:
    """Where the day's stored counters differ from these; empty when they are equal."""
    _stage(tx, counted)
    return [
        CounterMismatch(
            day=day,
            tenant_id=row[0],
            customer_ref=row[1],
            meter=row[2],
            segment_start=row[3],
            counted=row[4],
            ledger=row[5],
        )
        for name in ("compare_day", "compare_items")
        for row in tx.execute(_Q[name], {"day": day})
    ]


def load_day_totals(tx: Tx, day: date) -> tuple[MeterTotal, ...]:
    """Counted usage per meter of a day, most events first."""
    return tuple(
        MeterTotal(meter=row[0], events=row[1], counters=row[2], quantity=row[3])
        for row in tx.execute(_Q["load_day_totals"], {"day": day})
    )


def _stage(tx: Tx, counted: Counted) -> None:
    tx.execute(_Q["drop_incoming"])
    tx.execute(_Q["create_incoming"])
    tx.execute(_Q["create_incoming_items"])
    _copy(tx, "copy_incoming", COUNTERS.validate(counted.counters))
    if not counted.items.is_empty():
        _copy(tx, "copy_incoming_items", COUNTER_ITEMS.validate(counted.items))
    tx.execute(_Q["analyze_incoming"])


def _copy(tx: Tx, name: str, frame: pl.DataFrame) -> None:
    with tx.cursor() as cursor, cursor.copy(_Q[name]) as copy:
        copy.write(as_copy_text(frame))
