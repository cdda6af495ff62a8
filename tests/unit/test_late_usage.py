"""How much of what Stripe no longer takes may be billed on another day."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from stripemeter.metering.late_usage import LateDay, carriable

SEPTEMBER, OCTOBER = datetime(2026, 9, 1, tzinfo=UTC), datetime(2026, 10, 1, tzinfo=UTC)


def late(month: datetime, day: int, lacking: str) -> LateDay:
    """A day of a month that lacks this."""
    return LateDay(segment_start=month, day=date(2026, month.month, day), lacking=Decimal(lacking))


@pytest.mark.parametrize(
    ("lacking", "carried"),
    [
        ([late(OCTOBER, 2, "5"), late(SEPTEMBER, 9, "2.5")], [late(SEPTEMBER, 9, "2.5"), late(OCTOBER, 2, "5")]),
        ([late(OCTOBER, 2, "-5")], []),
        ([late(OCTOBER, 2, "5"), late(OCTOBER, 3, "-5")], []),
        ([late(OCTOBER, 2, "-5"), late(OCTOBER, 3, "4")], []),
        ([late(OCTOBER, 2, "5"), late(OCTOBER, 3, "-2"), late(OCTOBER, 4, "1")], [late(OCTOBER, 2, "4")]),
        (
            [late(OCTOBER, 2, "3"), late(OCTOBER, 3, "-2"), late(OCTOBER, 4, "5")],
            [late(OCTOBER, 2, "3"), late(OCTOBER, 4, "3")],
        ),
        ([late(SEPTEMBER, 2, "-5"), late(OCTOBER, 3, "4")], [late(OCTOBER, 3, "4")]),
        ([], []),
    ],
)
def test_a_segment_gives_what_it_lacks_altogether(lacking: list[LateDay], carried: list[LateDay]) -> None:
    """Oldest days first; moved usage cancels out, too much stays, and segments do not pay for each other."""
    assert carriable(lacking) == carried
