"""What a minute at Stripe says about the row that is stamped with it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from stripemeter.metering.imports import Changes, Reading, SentRow, explain_minutes

DAY = date(2026, 11, 22)
MINUTE = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
BEFORE = MINUTE - timedelta(minutes=90)
SEGMENT = datetime(2026, 11, 1, tzinfo=UTC)


def read(minutes: Mapping[datetime, int]) -> Reading:
    """What these minutes hold, and that their days were read."""
    return Reading(
        days=frozenset({DAY, *(minute.date() for minute in minutes)}),
        minutes={minute: Decimal(held) for minute, held in minutes.items()},
    )


def row(state: str) -> SentRow:
    """A row of 5 at MINUTE."""
    return SentRow(
        id=uuid.UUID(int=7),
        segment_start=SEGMENT,
        day=DAY,
        stamped_at=MINUTE,
        delta=Decimal(5),
        state=state,
        last_attempt_at=None,
    )


@pytest.mark.parametrize(
    ("state", "held", "became"),
    [
        ("planned", 5, "arrived"),
        ("planned", 0, "absent"),
        ("planned", 3, "doubtful"),
        ("sending", 5, "arrived"),
        ("sending", 0, "absent"),
        ("sending", -5, "doubtful"),
        ("rejected", 5, "arrived"),
        ("rejected", 0, None),
        ("accepted", 0, None),
        ("confirmed", 0, None),
        ("cancelled", 5, None),
        ("quarantined", 4, None),
    ],
)
def test_a_row_and_its_minute(state: str, held: int, became: str | None) -> None:
    """In flight it arrived, is absent or doubtful; refused it may have arrived; settled it stays as it is."""
    changes = explain_minutes([row(state)], read({MINUTE: held}), {}, [])
    told = {name for name in ("arrived", "absent", "dropped", "doubtful") if getattr(changes, name)}
    assert told == ({became} if became else set())
    assert changes.found == ()


def test_an_absent_row_beside_something_found_waits_for_an_operator() -> None:
    """What was found may have been sent in its place; on another day it cannot."""
    beside = explain_minutes([row("accepted")], read({MINUTE: 0, BEFORE: 5}), {}, [])
    assert (len(beside.found), len(beside.dropped)) == (1, 1)
    elsewhere = MINUTE - timedelta(days=1)
    assert explain_minutes([row("accepted")], read({MINUTE: 0, elsewhere: 5}), {}, []).dropped == ()


def test_what_a_minute_holds_beside_its_row_is_left_to_the_reconciliation() -> None:
    """Somebody else wrote into it: no row is made, and it is told."""
    changes = explain_minutes([row("accepted")], read({MINUTE: 8}), {}, [])
    assert (changes.found, changes.unexplained) == ((), 3)


def corrected(*surpluses: int, held: dict[datetime, int]) -> Changes:
    """A reading with approved surpluses of the day."""
    corrections = {(SEGMENT, DAY): [Decimal(one) for one in surpluses]}
    return explain_minutes([row("accepted")], read(held), corrections, [])


def test_approved_surpluses_are_taken_out_of_what_is_found() -> None:
    """Of the minute that holds just that, else of the fullest; what is beside a row is what it may be about, too."""
    exact = corrected(3, held={BEFORE: 3, BEFORE + timedelta(minutes=1): 10})
    assert [found.delta for found in exact.found] == [10]
    greedy = corrected(4, held={BEFORE: 3, BEFORE + timedelta(minutes=1): 10})
    assert sum(found.delta for found in greedy.found) == 9
    inside = corrected(3, held={MINUTE: 8, BEFORE: 2})
    assert ([found.delta for found in inside.found], inside.unexplained) == ([2], 0)


def test_a_surplus_that_others_made_up_for_is_owed() -> None:
    """Its minute was not read, for the part it is in sums up: a negative row keeps the day's sum."""
    (found,) = corrected(3, held={}).found
    assert (found.delta, found.stamped_at) == (-3, datetime(2026, 11, 22, 23, 59, tzinfo=UTC))
    (found,) = corrected(3, held={BEFORE: -2}).found
    assert (found.delta, found.stamped_at) == (-5, BEFORE)
