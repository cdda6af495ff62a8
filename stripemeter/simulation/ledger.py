"""The ledger of a simulation: which events count, and how much of a meter that is; all by the product's own rules.

Belongs here: keeping events in memory as the ledger keeps them, when to judge late ones, counting a span. Does not:
those rules (`metering`), the clock (`playing`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Context, Decimal
from typing import Any

import polars as pl

from stripemeter.metering.aggregation import aggregate
from stripemeter.metering.answers import Part, answer
from stripemeter.metering.countings import counting_of, level_ends
from stripemeter.metering.days import day_of
from stripemeter.metering.events import UsageEvent, parse_event
from stripemeter.metering.frames import LEDGER_EVENTS
from stripemeter.metering.lateness import Track, candidates, late_events, late_status
from stripemeter.metering.parts import parts_of_frame
from stripemeter.metering.readings import read_meters
from stripemeter.metering.rulebook import Rulebook, TenantRules
from stripemeter.metering.segments import BillingPhase
from stripemeter.simulation.entries import Adjust
from stripemeter.simulation.traffic import LIMITS, TENANT, Delivery

_DELIVERED = ("accepted", "duplicates", "conflicts", "rejected")
_TICK = timedelta(microseconds=1)
_EXACT = Context(prec=200)
_SCHEMA: dict[str, Any] = {
    **{name: column.dtype.type for name, column in LEDGER_EVENTS.columns.items()},
    "quantity": pl.String,
}


@dataclass(frozen=True, slots=True)
class _Stored:
    event: UsageEvent
    received_at: datetime


class Ledger:
    """Events of one tenant, each once, in the order they came. `seq` is the place in it.

    Args:
        rules: what the tenant decided; the billing phases of customers may come later.
    """

    def __init__(self, rules: TenantRules) -> None:
        self.rules = rules
        self._stored: list[_Stored] = []
        self._payloads: dict[bytes, int] = {}
        self._folded = 0
        self._watermarks: dict[Track, datetime] = {}
        self._ahead: dict[Track, datetime] = {}
        """The watermarks once everything stored is folded."""
        self._late: set[int] = set()
        self._pending: set[int] = set()
        self._counts: Counter[str] = Counter()
        self._adjustments: list[Adjust] = []
        self._frame: pl.DataFrame | None = None
        self._parts: dict[tuple[str, datetime, datetime], list[Part]] = {}

    @property
    def counts(self) -> dict[str, int]:
        """How often deliveries were accepted or not, and how many events were too late: counted, or waiting."""
        return {
            **{name: self._counts[name] for name in _DELIVERED},
            "late": len(self._late),
            "pending": len(self._pending),
        }

    @property
    def metrics(self) -> set[str]:
        """Every metric there is an event or an adjustment of."""
        return {metric for _, _, metric in self._ahead} | {each.metric for each in self._adjustments}

    def cut(self, customer_ref: str, phase: BillingPhase) -> None:
        """Cut a customer's time from now on."""
        self.fold()
        self.rules = replace(self.rules, phases={**self.rules.phases, (customer_ref, ""): [phase]})
        self._parts.clear()

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
            self._store(event, delivery.at)
            self._counts["accepted"] += 1

    def fold(self) -> None:
        """Judge what came since the last fold: too late events count at once or wait, as the rules say."""
        fresh = self._stored[self._folded :]
        if not fresh:
            return
        rulebook = Rulebook(tenants={TENANT: self.rules})
        possible = candidates(self._frame_of(fresh, self._folded), rulebook, now=fresh[-1].received_at)
        for row in late_events(possible, rulebook, self._watermarks).iter_rows(named=True):
            segment = self.rules.segment_of(row["own_ref"], row["metric"], row["ts"])
            is_counted = late_status(self.rules.policy, segment, now=row["received_at"]) == "approved"
            (self._late if is_counted else self._pending).add(row["seq"])
        self._watermarks = dict(self._ahead)
        self._folded = len(self._stored)
        self._parts.clear()

    def approve(self) -> None:
        """Let every late event count that waits for a person."""
        self.fold()
        self._late |= self._pending
        self._pending.clear()
        self._parts.clear()

    def adjust(self, adjustment: Adjust) -> None:
        """Add an approved adjustment."""
        self._adjustments.append(adjustment)

    def usage(self, customer_ref: str, meter: str, span: tuple[datetime, datetime], now: datetime) -> Decimal | None:
        """What a meter counts of a customer in `[start, end)`; None where its aggregation has no number for nothing.

        Approved adjustments are added to it.
        """
        start, end = span
        counting = counting_of(self.rules, {}, meter, day_of(end - _TICK), now)
        number = answer(
            [part for part in self._parts_of(customer_ref, start, end) if part.meter == meter],
            [start, end],
            aggregation=counting.aggregation,
            percentile=counting.percentile,
            level_ends=level_ends(self.rules, meter),
            now=now,
        )[0].number
        for each in self._adjustments:
            if (each.customer_ref, each.metric) == (customer_ref, meter) and start <= each.effective_at < end:
                number = _EXACT.add(number or Decimal(0), each.delta)
        return number

    def _store(self, event: UsageEvent, at: datetime) -> None:
        track = TENANT, event.customer_ref, event.metric
        window = self.rules.window_of(event.metric)
        folded, ahead = self._watermarks.get(track), self._ahead.get(track)
        # The watermarks of a fold are those before it: fold first where those that are ahead would make it late.
        is_late_ahead = ahead is not None and event.ts < ahead - window
        if is_late_ahead and not (folded is not None and event.ts < folded - window):
            self.fold()
        self._stored.append(_Stored(event, at))
        self._ahead[track] = max(event.ts, ahead or event.ts)

    def _parts_of(self, customer_ref: str, start: datetime, end: datetime) -> list[Part]:
        self.fold()
        key = customer_ref, start, end
        if key not in self._parts:
            events = self._counting().filter((pl.col("customer_ref") == customer_ref) & (pl.col("ts") < end))
            rulebook = Rulebook(tenants={TENANT: self.rules})
            # Apart, because a state belongs to a whole day and the span may begin within one.
            halves = [events.filter(pl.col("ts") >= start)]
            if self.rules.meters:  # whose levels may last from before
                halves.append(events.filter(pl.col("ts") < start))
            self._parts[key] = [
                part
                for half in halves
                if not half.is_empty()
                for part in parts_of_frame(aggregate(read_meters(half, rulebook)))
            ]
        return self._parts[key]

    def _counting(self) -> pl.DataFrame:
        """The folded events that count now, shape LEDGER_EVENTS."""
        if self._frame is None:
            self._frame = self._frame_of(self._stored[: self._folded], 0)
        elif self._frame.height < self._folded:
            fresh = self._frame_of(self._stored[self._frame.height : self._folded], self._frame.height)
            self._frame = pl.concat([self._frame, fresh])
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
