"""The ledger of a simulation: which events count, and how much of a meter that is; all by the product's own rules.

Belongs here: keeping events in memory as the ledger keeps them, judging late ones, counting a window. Does not: those
rules (`metering`), the clock (`runner`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import polars as pl

from stripemeter.metering.aggregation import aggregate
from stripemeter.metering.answers import answer
from stripemeter.metering.countings import counting_of, level_ends
from stripemeter.metering.days import day_of
from stripemeter.metering.events import UsageEvent, parse_event
from stripemeter.metering.frames import LEDGER_EVENTS
from stripemeter.metering.lateness import Track, candidates, late_events, late_status
from stripemeter.metering.parts import parts_of_frame
from stripemeter.metering.readings import read_meters
from stripemeter.metering.rulebook import Rulebook, TenantRules
from stripemeter.simulation.traffic import LIMITS, TENANT, Delivery

OUTCOMES = ("accepted", "duplicates", "conflicts", "rejected", "late", "pending")
_TICK = timedelta(microseconds=1)
_SCHEMA: dict[str, Any] = {
    **{name: column.dtype.type for name, column in LEDGER_EVENTS.columns.items()},
    "quantity": pl.String,
}


@dataclass(frozen=True, slots=True)
class _Stored:
    event: UsageEvent
    received_at: datetime


class Ledger:
    """Events of one tenant, each once, in the order they came. `seq` is the place in it."""

    def __init__(self) -> None:
        self._stored: list[_Stored] = []
        self._payloads: dict[bytes, int] = {}
        self._folded = 0
        self._watermarks: dict[Track, datetime] = {}
        self._late: set[int] = set()
        self._pending: set[int] = set()
        self._counts: Counter[str] = Counter()
        self._frame: pl.DataFrame | None = None

    @property
    def counts(self) -> dict[str, int]:
        """How often each of OUTCOMES came: of deliveries the first four, of accepted events the last two."""
        return {
            **{name: self._counts[name] for name in OUTCOMES},
            "late": len(self._late),
            "pending": len(self._pending),
        }

    def accept(self, delivery: Delivery) -> None:
        """Take a delivery as ingest would: once by its key."""
        event = parse_event(delivery.document, now=delivery.at, limits=LIMITS)
        if not isinstance(event, UsageEvent):
            self._counts["rejected"] += 1
        elif event.key_hash in self._payloads:
            is_same = self._payloads[event.key_hash] == event.payload_hash
            self._counts["duplicates" if is_same else "conflicts"] += 1
        else:
            self._payloads[event.key_hash] = event.payload_hash
            self._stored.append(_Stored(event, delivery.at))
            self._counts["accepted"] += 1

    def fold(self, rules: TenantRules, now: datetime) -> None:
        """Judge what came since the last fold: too late events count at once or wait, as the rules say."""
        fresh = self._stored[self._folded :]
        if not fresh:
            return
        rulebook = Rulebook(tenants={TENANT: rules})
        frame = self._frame_of(fresh, self._folded)
        possible = candidates(frame, rulebook, now=now)
        for row in late_events(possible, rulebook, self._watermarks).iter_rows(named=True):
            segment = rules.segment_of(row["own_ref"], row["metric"], row["ts"])
            is_counted = late_status(rules.policy, segment, now=now) == "approved"
            (self._late if is_counted else self._pending).add(row["seq"])
        for stored in fresh:
            track = TENANT, rules.customer_of(stored.event.customer_ref), stored.event.metric
            self._watermarks[track] = max(stored.event.ts, self._watermarks.get(track, stored.event.ts))
        self._folded = len(self._stored)

    def approve(self) -> None:
        """Let every late event count that waits for a person."""
        self._late |= self._pending
        self._pending.clear()

    def usage(
        self, rules: TenantRules, customer_ref: str, meter: str, span: tuple[datetime, datetime], now: datetime
    ) -> Decimal | None:
        """What a meter counts of a customer in `[start, end)`; None where its aggregation has no number for nothing."""
        start, end = span
        events = self._counting().filter(pl.col("ts") < end)
        rulebook = Rulebook(tenants={TENANT: rules})
        # Apart, because a state belongs to a whole day and the span may begin within one.
        halves = (events.filter(pl.col("ts") < start), events.filter(pl.col("ts") >= start))
        parts = [
            part
            for half in halves
            for part in parts_of_frame(aggregate(read_meters(half, rulebook)))
            if part.customer_ref == customer_ref and part.meter == meter
        ]
        counting = counting_of(rules, {}, meter, day_of(end - _TICK), now)
        return answer(
            parts,
            [start, end],
            aggregation=counting.aggregation,
            percentile=counting.percentile,
            level_ends=level_ends(rules, meter),
            now=now,
        )[0].number

    def _counting(self) -> pl.DataFrame:
        """The folded events that count now, shape LEDGER_EVENTS."""
        if self._frame is None or self._frame.height != self._folded:
            self._frame = self._frame_of(self._stored[: self._folded], 0)
        is_late = pl.col("seq").is_in(list(self._late))
        return self._frame.filter(~pl.col("seq").is_in(list(self._pending))).with_columns(is_late=is_late)

    def _frame_of(self, stored: Sequence[_Stored], first: int) -> pl.DataFrame:
        rows = [
            (
                TENANT,
                each.event.customer_ref,
                each.event.metric,
                each.event.ts,
                first + number,
                each.event.quantity,
                each.received_at,
                False,
                False,
                each.event.source,
                each.event.resource_id,
                each.event.meta,
            )
            for number, each in enumerate(stored)
        ]
        # Through text, as the ledger is read: from Python's Decimal the frame would guess a scale.
        frame = pl.DataFrame(rows, schema=_SCHEMA, orient="row")
        return LEDGER_EVENTS.validate(frame.with_columns(pl.col("quantity").str.to_decimal(scale=12)))
