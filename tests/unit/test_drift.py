"""The verdict on one day."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from stripemeter.metering.drift import DayState, Verdict, judge_day

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("counted", "planned", "accepted", "stripe", "is_rejected", "minutes", "status", "cause"),
    [
        ("5", "5", "5", "5", False, 1, "ok", None),
        ("0", "0", "0", "0", False, None, "ok", None),
        ("5", "5", "0", "5", False, None, "ok", None),
        ("5", "5", "5", None, False, 1, "unknown", "unreachable"),
        ("5", "0", "0", "0", False, None, "drift", "unsent"),
        ("1000", "999", "999", "999", False, 1, "within_epsilon", "unsent"),
        ("1000", "995", "995", "995", False, 1, "within_epsilon", "unsent"),
        ("1000", "994", "994", "994", False, 1, "drift", "unsent"),
        ("5", "5", "0", "0", False, None, "drift", "in_flight"),
        ("8", "5", "2", "5", False, 60, "drift", "in_flight"),
        ("5", "0", "0", "0", True, None, "drift", "rejected"),
        ("5", "5", "5", "0", False, 14, "drift", "in_flight"),
        ("5", "5", "5", "0", False, 15, "drift", "rejected"),
        ("5", "5", "5", "6", False, 1, "drift", "foreign_writer"),
        ("0", "0", "0", "6", False, None, "drift", "foreign_writer"),
        ("0", "0", "0", "-6", False, None, "drift", "rejected"),
    ],
)
def test_every_difference_has_a_cause(
    counted: str,
    planned: str,
    accepted: str,
    stripe: str | None,
    is_rejected: bool,
    minutes: int | None,
    status: str,
    cause: str | None,
) -> None:
    """Exact is ok; unreadable is unknown; half a percent is within epsilon; the rest is drift, with its cause."""
    state = DayState(
        counted=Decimal(counted),
        planned=Decimal(planned),
        accepted=Decimal(accepted),
        stripe=None if stripe is None else Decimal(stripe),
        is_rejected=is_rejected,
        last_accepted_at=None if minutes is None else NOW - timedelta(minutes=minutes),
    )
    assert judge_day(state, now=NOW) == Verdict(status=status, cause=cause)  # type: ignore[arg-type]
