"""Deltas: what Stripe lacks, which minute it is stamped with, and what it is called.

Belongs here: the pure rules of the push protocol. Does not: the outbox (`store.push_entries`), sending
(`pipeline.push`).

A delta belongs to one (meter, customer, segment, UTC day). It is stamped with a whole minute of that day and segment
that no other delta of the same Stripe meter and customer has, so Stripe's sum over the day is our counter, and Stripe's
sum over the minute answers whether this very delta arrived.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_DOWN, Context, Decimal
from uuid import UUID

from stripemeter.metering.days import day_bounds

MAX_DIGITS = 15
"""Significant digits of one value. Source: Stripe changelog 2026-04-22, billing meter event values validation."""
RETRY_WINDOW = timedelta(hours=23)
"""How long after its first attempt a delta may be sent again blindly.
Source: Stripe API 2026-10-28, MeterEvent.identifier: unique within at least 24 hours; one hour is margin."""
STAMP_WINDOW = timedelta(days=34)
"""How old a minute may be when it is chosen.
Source: Stripe API 2026-10-28, MeterEvent.timestamp: at most 35 days old. A delta planned on the last moment may be
retried for RETRY_WINDOW, and 34 days and 23 hours are still inside."""
MINUTE = timedelta(minutes=1)
RESERVED_EVERY = 4
"""While a day is open, every fourth minute of it stays free for what arrives late: 360 corrections after it closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What one event says. `seq` counts the deltas of one (customer, segment, day) from 1."""

    stripe_account_id: str
    stripe_event_name: str
    stripe_customer_id: str
    segment_start: datetime
    day: date
    seq: int
    stamped_at: datetime
    quantity: Decimal


PREFIX = "um1_"
"""What every identifier and Idempotency-Key of a push begins with."""
_OURS = re.compile(rf"(?P<identifier>{PREFIX}[a-z2-7]{{48}})(\.[0-9]+)?")
_TRUNCATE = Context(prec=MAX_DIGITS, rounding=ROUND_DOWN)


def first_open_day(now: datetime) -> date:
    """The oldest UTC day that may still have a minute inside STAMP_WINDOW; older days are held."""
    return (now - STAMP_WINDOW + MINUTE).astimezone(UTC).date()


def sendable(delta: Decimal) -> Decimal:
    """The part of a delta one event can carry: its first MAX_DIGITS significant digits, toward zero.

    What is cut off is still lacking afterwards, so the next delta carries it.
    """
    return _TRUNCATE.create_decimal(delta)


def fixed_point(quantity: Decimal) -> str:
    """The quantity as Stripe takes it: no exponent, no needless zeros."""
    text = format(quantity, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def current_minute(now: datetime) -> datetime:
    """The minute a delta of the open day is stamped with at `now`: the latest one that is not reserved."""
    minute = now.astimezone(UTC).replace(second=0, microsecond=0)
    is_reserved = minute.minute % RESERVED_EVERY == RESERVED_EVERY - 1
    return minute - MINUTE if is_reserved else minute


def choose_minute(
    *, day: date, segment_start: datetime, segment_end: datetime, now: datetime, used: Collection[datetime]
) -> datetime | None:
    """An unused whole minute of the day inside its segment, not after `now` and not older than STAMP_WINDOW.

    A segment may begin and end at any second: a minute that a boundary cuts belongs to neither side. A closed day (or a
    part of it whose segment has ended) counts back from its end; the open one offers its current minute and nothing
    else, so that one customer's deltas are at least a minute apart. None: wait for the next minute, or there is none
    (left).
    """
    start, end = whole_minutes(day=day, segment_start=segment_start, segment_end=segment_end)
    # Whose the second is in which two of Stripe's periods meet is not documented (rule P5 of the emulator): a segment's
    # first minute is left alone, unless the day has no other one of it.
    if start == segment_start and start + MINUTE < end:
        start += MINUTE
    if now < end:
        minute = current_minute(now)
        return minute if start <= minute and minute not in used else None
    taken = set(used)
    earliest = max(start, _ceil_minute(now - STAMP_WINDOW))
    minute = end - MINUTE
    while minute >= earliest:
        if minute not in taken:
            return minute
        minute -= MINUTE
    return None


def whole_minutes(*, day: date, segment_start: datetime, segment_end: datetime) -> tuple[datetime, datetime]:
    """The stretch `[start, end)` of whole minutes that lie in the day and the segment; none when end <= start."""
    day_start, day_end = day_bounds(day)
    return _ceil_minute(max(day_start, segment_start)), _floor_minute(min(day_end, segment_end))


def push_identifier(delta: Delta, *, entry_id: UUID) -> str:
    """What Stripe knows a delta by: 52 characters, the same for every attempt, different for any other content."""
    content = "\x1f".join(
        (
            delta.stripe_account_id,
            delta.stripe_event_name,
            delta.stripe_customer_id,
            delta.segment_start.astimezone(UTC).isoformat(),
            delta.day.isoformat(),
            str(delta.seq),
            delta.stamped_at.astimezone(UTC).isoformat(),
            fixed_point(delta.quantity),
            str(entry_id),
        )
    )
    digest = base64.b32encode(hashlib.sha256(content.encode()).digest()).decode().lower()
    return f"{PREFIX}{digest[:48]}"


def idempotency_key(identifier: str, key_no: int) -> str:
    """The Idempotency-Key of an attempt, derivable from the row so that Stripe's error reports can be joined."""
    return f"{identifier}.{key_no}"


def is_ours(request_key: str) -> bool:
    """Whether a request that an error report names was one of ours: a delta, or a batch of them."""
    return request_key.startswith(PREFIX)


def identifier_of(request_key: str) -> str | None:
    """The identifier in what an error report calls a request by, identifier or Idempotency-Key; None: not ours."""
    matched = _OURS.fullmatch(request_key)
    return None if matched is None else matched["identifier"]


def _ceil_minute(instant: datetime) -> datetime:
    floor = _floor_minute(instant)
    return floor if floor == instant else floor + MINUTE


def _floor_minute(instant: datetime) -> datetime:
    return instant.astimezone(UTC).replace(second=0, microsecond=0)
