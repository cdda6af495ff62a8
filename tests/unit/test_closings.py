"""The rules of closing an invoice, to the second and to the digit."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from stripemeter.metering.closings import (
    GO,
    BilledWindow,
    WindowDay,
    days_inside,
    evidence_text,
    inner_minutes,
    is_grace_short,
    is_whole,
    judge_drained,
    judge_reconciled,
    outer_minutes,
    settles_at,
    twice_billed,
)
from stripemeter.metering.rulebook import Policy, TenantRules
from stripemeter.metering.segments import parse_phase

START, END = datetime(2026, 11, 3, 12, 0, 30, tzinfo=UTC), datetime(2026, 11, 10, 12, 0, 30, tzinfo=UTC)
NOW = END + timedelta(hours=50)


def window(start: datetime = START, end: datetime = END, item: str = "si_1") -> BilledWindow:
    """An item's window."""
    return BilledWindow(stripe_item_id=item, price_id="price_1", starts_at=start, ends_at=end)


def day(
    on: date,
    counted: str,
    planned: str | None = None,
    accepted: str | None = None,
    *,
    segment: datetime = START,
    accepted_at: datetime | None = START,
) -> WindowDay:
    """A day; all of it at Stripe unless told otherwise."""
    sent = planned or counted
    return WindowDay(
        segment_start=segment,
        day=on,
        counted=Decimal(counted),
        planned=Decimal(sent),
        accepted=Decimal(accepted or sent),
        last_accepted_at=accepted_at,
    )


@pytest.mark.parametrize(
    ("rules", "hours"),
    [
        (TenantRules(), 48),
        (TenantRules(windows={"calls": timedelta(hours=72)}), 72),
        (TenantRules(windows={"calls": timedelta(hours=1)}), 48),
        (TenantRules(windows={"other": timedelta(hours=99)}), 48),
        (TenantRules(windows={"calls": timedelta(hours=1)}, policy=Policy(close_after=timedelta(hours=2))), 2),
        (TenantRules(windows={"calls": timedelta(hours=1)}, policy=Policy(late_approval="never")), 1),
    ],
)
def test_usage_settles_when_neither_punctual_nor_late_events_count_by_themselves(
    rules: TenantRules, hours: int
) -> None:
    """The lateness window of the metric, or as long as late events count at once: whichever is longer."""
    assert settles_at(rules, "calls", END) == END + timedelta(hours=hours)


@pytest.mark.parametrize(("minutes", "is_short"), [(29, True), (30, False)])
def test_a_grace_must_hold_settling_and_safety(minutes: int, is_short: bool) -> None:
    """A quarter of an hour for Stripe's summaries and one to be safe; what Stripe never finalizes has time."""
    assert is_grace_short(END, END + timedelta(minutes=minutes)) is is_short
    assert not is_grace_short(END, None)


def test_a_window_is_whole_when_our_segments_begin_and_end_there() -> None:
    """One segment or several; a second beside a boundary is not one."""
    phases = [parse_phase(cadence="week", starts_at=START, anchor_at=START)]
    assert is_whole(phases, window())
    assert is_whole(phases, window(end=END + timedelta(days=7)))
    assert not is_whole(phases, window(start=START + timedelta(seconds=1)))
    assert not is_whole(phases, window(end=END - timedelta(seconds=1)))


def test_of_a_day_that_a_boundary_cuts_the_windows_part_is_taken() -> None:
    """By the segment it was counted under: before, inside, after."""
    before = day(START.date(), "1", segment=START - timedelta(days=7))
    first, last = day(START.date(), "2"), day(END.date(), "3")
    after = day(END.date(), "4", segment=END)
    assert days_inside([before, first, last, after], window()) == [first, last]


def test_minutes_inside_and_around() -> None:
    """Whole minutes inside; around, those that the ends cut too; the same for whole minutes."""
    assert inner_minutes(window()) == (START.replace(minute=1, second=0), END.replace(second=0))
    assert outer_minutes(window()) == (START.replace(second=0), END.replace(minute=1, second=0))
    even = window(START.replace(second=0), END.replace(second=0))
    assert inner_minutes(even) == outer_minutes(even) == (even.starts_at, even.ends_at)


def test_drained_is_counted_planned_and_acknowledged() -> None:
    """What lacks is waited for, unless Stripe refused it or takes it no more."""
    today = END.date()
    assert judge_drained([day(today, "5")], is_blocked=False, now=NOW) == GO
    assert judge_drained([], is_blocked=False, now=NOW) == GO
    assert judge_drained([day(today, "5")], is_blocked=True, now=NOW).step == "fail"
    assert judge_drained([day(today, "5", "4")], is_blocked=False, now=NOW).step == "wait"
    assert judge_drained([day(today, "5", "5", "4")], is_blocked=False, now=NOW).step == "wait"
    later = NOW + timedelta(days=40)
    assert judge_drained([day(today, "5", "4")], is_blocked=False, now=later).step == "fail"
    assert judge_drained([day(today, "5")], is_blocked=False, now=later) == GO


@pytest.mark.parametrize(
    ("inner", "outer", "minutes_ago", "step"),
    [
        ("5", "5", 0, "go"),
        ("5.000000000001", "5.000000000001", 60, "fail"),
        ("4", "4", 60, "fail"),
        ("4", "4", 14, "wait"),
        ("5", "6", 0, "fail"),
    ],
)
def test_reconciled_is_to_the_last_digit(inner: str, outer: str, minutes_ago: int, step: str) -> None:
    """Less may be Stripe's lag for a quarter of an hour; usage in a cut minute is nobody's."""
    days = [day(END.date(), "5", accepted_at=NOW - timedelta(minutes=minutes_ago))]
    assert judge_reconciled(days, inner=Decimal(inner), outer=Decimal(outer), now=NOW).step == step


def test_two_items_bill_twice_only_over_the_same_time() -> None:
    """A price change makes two windows in turn; other meters are others."""
    middle = START + timedelta(days=3)
    assert twice_billed([("calls", window()), ("calls", window(item="si_2"))]) == "calls"
    assert twice_billed([("calls", window()), ("seats", window(item="si_2"))]) == ""
    assert twice_billed([("calls", window(middle, END)), ("calls", window(START, middle))]) == ""


def test_evidence_is_one_text_for_one_content() -> None:
    """Whatever the order of members and the zeros of a number."""
    first = evidence_text({"b": Decimal("5.10"), "a": [END, END.date()]})
    assert first == evidence_text({"a": [END, END.date()], "b": Decimal("5.1")})
    assert first[0] == '{"a":["2026-11-10T12:00:30+00:00","2026-11-10"],"b":"5.1"}'
    with pytest.raises(TypeError, match="no JSON for set"):
        evidence_text({"b": {1}})
