"""Late usage: how much of what Stripe no longer takes on its own day may be billed elsewhere, and under which name.

Belongs here: the pure rules. Does not: which days those are and where they are carried (`pipeline.late_usage`), what
they cost (`pipeline.late_pricing`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import groupby
from operator import attrgetter

from stripemeter.metering.closings import BilledWindow
from stripemeter.metering.deltas import fixed_point


@dataclass(frozen=True, slots=True, kw_only=True)
class LateDay:
    """A day of a segment that takes nothing more. `lacking`: ours minus what was sent; negative: too much was sent."""

    segment_start: datetime
    day: date
    lacking: Decimal


def carriable(days: Sequence[LateDay]) -> list[LateDay]:
    """What of each day may be carried, all of it positive, oldest first; days without any are left out.

    Usage that moved between days of a segment lacks on one what the other has too much: of a segment no more is carried
    than it lacks altogether. What is too much never is carried: in another segment it could only be taken from usage
    that is not its own.

    Args:
        days: of one customer and meter, any order, each once.
    """
    carried = []
    ordered = sorted(days, key=lambda each: (each.segment_start, each.day))
    for start, group in groupby(ordered, key=attrgetter("segment_start")):
        late = list(group)
        rest = sum((each.lacking for each in late), Decimal(0))
        for each in late:
            share = min(each.lacking, rest)
            if share > 0:
                carried.append(LateDay(segment_start=start, day=each.day, lacking=share))
                rest -= share
    return carried


def charge_identity(
    *,
    stripe_account_id: str,
    invoice_id: str,
    window: BilledWindow,
    seq: int,
    before: Decimal,
    after: Decimal,
    amount: str,
) -> str:
    """What Stripe knows a charge of late usage by: the same for every attempt, different for any other content."""
    content = "\x1f".join(
        (
            stripe_account_id,
            invoice_id,
            window.stripe_item_id,
            window.price_id,
            window.starts_at.astimezone(UTC).isoformat(),
            window.ends_at.astimezone(UTC).isoformat(),
            str(seq),
            fixed_point(before),
            fixed_point(after),
            amount,
        )
    )
    return f"um1_late_{hashlib.sha256(content.encode()).hexdigest()[:40]}"
