"""Laws of imports: whatever a backup lacks, afterwards the outbox says what Stripe holds."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from stripemeter.billing.sink import BillingSink
from stripemeter.metering.days import day_bounds, month_bounds
from stripemeter.metering.imports import SentRow, expected_at, explain_minutes
from stripemeter.pipeline.read_minutes import read_differences
from stripemeter.store.push_entries import PushTarget

DAY = date(2026, 11, 22)
START = day_bounds(DAY)[0]
SEGMENT = month_bounds(DAY)[0]
TARGET = PushTarget(
    mapping_id=uuid.UUID(int=1),
    tenant_id="t",
    meter="calls",
    customer_ref="ada",
    stripe_account_id="acct_1",
    stripe_event_name="calls",
    stripe_meter_id="mtr_1",
    stripe_customer_id="cus_1",
)
QUANTITIES = st.integers(-9, 9).filter(bool).map(Decimal)
KINDS = st.sampled_from(["kept", "kept", "arrived", "absent", "lost", "lost", "corrected"])


@dataclass(frozen=True, slots=True, kw_only=True)
class MinuteSink:
    """Stripe as a table of minutes; `asked` counts its readings."""

    minutes: Mapping[datetime, Decimal]
    asked: list[str]

    def read_quantity(self, *, start: datetime, end: datetime, **_: object) -> Decimal:
        """What is in `[start, end)`."""
        self.asked.append("range")
        return sum((held for minute, held in self.minutes.items() if start <= minute < end), Decimal(0))

    def read_daily_quantities(self, **_: object) -> Mapping[date, Decimal]:
        """What is in the day."""
        self.asked.append("days")
        return {DAY: sum(self.minutes.values(), Decimal(0))}

    def read_hourly_quantities(self, **_: object) -> Mapping[datetime, Decimal]:
        """What is in each hour."""
        self.asked.append("hours")
        found: dict[datetime, Decimal] = {}
        for minute, held in self.minutes.items():
            hour = minute.replace(minute=0)
            found[hour] = found.get(hour, Decimal(0)) + held
        return found


def row_at(minute: datetime, delta: Decimal, state: str) -> SentRow:
    """A row of the outbox."""
    return SentRow(
        id=uuid.uuid4(),
        segment_start=SEGMENT,
        day=DAY,
        stamped_at=minute,
        delta=delta,
        state=state,
        last_attempt_at=None,
    )


@given(
    st.dictionaries(st.integers(0, 1439), st.tuples(KINDS, QUANTITIES), max_size=40),
    st.sampled_from(["planned", "sending"]),
)
def test_afterwards_the_outbox_says_what_stripe_holds(world: dict[int, tuple[str, Decimal]], in_flight: str) -> None:
    """Rows kept, in flight and lost, and what others wrote and a person approved to take back, in any minutes."""
    rows: list[SentRow] = []
    at_stripe: dict[datetime, Decimal] = {}
    corrected: list[Decimal] = []
    for number, (kind, quantity) in sorted(world.items()):
        minute = START + timedelta(minutes=number)
        if kind == "corrected":
            corrected.append(abs(quantity))
            at_stripe[minute] = abs(quantity)
            continue
        if kind != "absent":
            at_stripe[minute] = quantity
        if kind != "lost":
            rows.append(row_at(minute, quantity, "accepted" if kind == "kept" else in_flight))
    corrections = {(SEGMENT, DAY): corrected} if corrected else {}
    sink = MinuteSink(minutes=at_stripe, asked=[])
    reading = read_differences(cast("BillingSink", sink), TARGET, rows, corrections, first=DAY, last=DAY)
    changes = explain_minutes(rows, reading, corrections, [])
    by_id = {row.id: row for row in rows}
    accepted = sum((expected_at(row) for row in rows), Decimal(0))
    accepted += sum((by_id[one].delta for one in changes.arrived), Decimal(0))
    accepted += sum((found.delta for found in changes.found), Decimal(0))
    assert accepted + sum(corrected) == sum(at_stripe.values(), Decimal(0))
    assert {by_id[one].stamped_at for one in changes.arrived} | {by_id[one].stamped_at for one in changes.absent} == {
        row.stamped_at for row in rows if row.state == in_flight
    }
    assert (changes.dropped, changes.doubtful, changes.unexplained) == ((), (), 0)
    assert not {found.stamped_at for found in changes.found} & {row.stamped_at for row in rows}


@given(st.dictionaries(st.integers(0, 1439), QUANTITIES, min_size=1, max_size=30))
def test_a_day_as_the_outbox_says_costs_one_reading(world: dict[int, Decimal]) -> None:
    """Nothing was lost: the days are read once and nothing changes."""
    minutes = {START + timedelta(minutes=number): quantity for number, quantity in world.items()}
    rows = [row_at(minute, quantity, "confirmed") for minute, quantity in sorted(minutes.items())]
    sink = MinuteSink(minutes=minutes, asked=[])
    assert read_differences(cast("BillingSink", sink), TARGET, rows, {}, first=DAY, last=DAY).minutes == {}
    assert sink.asked == ["days"]


@given(st.integers(0, 1439), QUANTITIES, st.sets(st.integers(0, 1439), max_size=50))
def test_one_lost_row_is_found_in_eight_readings(lost: int, quantity: Decimal, kept: set[int]) -> None:
    """Days, hours, then halves of an hour: the minute itself, whatever else is in the day."""
    rows = [row_at(START + timedelta(minutes=number), Decimal(3), "accepted") for number in sorted(kept - {lost})]
    at_stripe = {row.stamped_at: row.delta for row in rows} | {START + timedelta(minutes=lost): quantity}
    sink = MinuteSink(minutes=at_stripe, asked=[])
    reading = read_differences(cast("BillingSink", sink), TARGET, rows, {}, first=DAY, last=DAY)
    assert reading.minutes == {START.astimezone(UTC) + timedelta(minutes=lost): quantity}
    assert len(sink.asked) <= 8
