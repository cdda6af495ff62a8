"""Closing: when an invoice's usage is settled, whether it may be finalized, and what proves it.

Belongs here: the pure rules: windows, instants, verdicts, evidence. Does not: reading either side
(`pipeline.closing`), tables (`store.closings`).
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

from stripemeter.metering.days import day_bounds
from stripemeter.metering.deltas import MINUTE, first_open_day, fixed_point
from stripemeter.metering.drift import SETTLE_LAG
from stripemeter.metering.rulebook import TenantRules
from stripemeter.metering.segments import BillingPhase, segment_at

ClosingState = Literal["found", "controlled", "drained", "reconciled", "finalized", "verified", "failed", "dropped"]
Control = Literal["observe", "control"]
SAFETY = timedelta(minutes=15)
"""Between the last usage's settling and Stripe's finalizing: a push that starts within two minutes and is retried."""
OVERDUE_AFTER = timedelta(hours=2)
"""How long after its usage is settled an invoice may wait before somebody must look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BilledWindow:
    """What an invoice bills of our usage: an item at a price over `[starts_at, ends_at)`."""

    stripe_item_id: str
    price_id: str
    starts_at: datetime
    ends_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowDay:
    """A UTC day of a window as we know it. `planned` is or may be at Stripe, `accepted` is acknowledged."""

    segment_start: datetime
    day: date
    counted: Decimal
    planned: Decimal
    accepted: Decimal
    last_accepted_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Whether closing goes on: `go`; `wait`: it passes by itself; `fail`: somebody must act."""

    step: Literal["go", "wait", "fail"]
    reason: str = ""


GO = Judgement(step="go")


def settles_at(rules: TenantRules, meter: str, end: datetime) -> datetime:
    """From when on no usage of a meter's window that ended at `end` joins it without a person.

    As long as events of its metrics may be punctual, and as long as late ones count at once.
    """
    metrics = {metric for version in rules.meters.get(meter, ()) for metric in version.definition.metrics} or {meter}
    counts_late = timedelta(0) if rules.policy.late_approval == "never" else rules.policy.close_after
    return end + max(counts_late, *(rules.window_of(metric) for metric in metrics))


def is_grace_short(settled_at: datetime, finalizes_at: datetime | None) -> bool:
    """Whether Stripe finalizes before the last usage is sent and summed up there.

    Source: Stripe, configure the grace period: usage that arrives after the end of it is on no invoice.
    """
    return finalizes_at is not None and finalizes_at < settled_at + SETTLE_LAG + SAFETY


def is_whole(phases: Sequence[BillingPhase], window: BilledWindow) -> bool:
    """Whether our segments begin and end where the window does, so that what we counted in it can be told."""
    begins = segment_at(phases, window.starts_at).start == window.starts_at
    return begins and segment_at(phases, window.ends_at).start == window.ends_at


def days_inside(days: Iterable[WindowDay], window: BilledWindow) -> list[WindowDay]:
    """The days, or parts of days, that lie in the window."""
    return [day for day in days if window.starts_at <= max(day_bounds(day.day)[0], day.segment_start) < window.ends_at]


def inner_minutes(window: BilledWindow) -> tuple[datetime, datetime]:
    """The whole minutes `[start, end)` inside the window: what we stamp with."""
    return _up(window.starts_at), _down(window.ends_at)


def outer_minutes(window: BilledWindow) -> tuple[datetime, datetime]:
    """The same with the minutes that its ends cut: we never stamp there, so they add nothing unless others write."""
    return _down(window.starts_at), _up(window.ends_at)


def judge_drained(days: Sequence[WindowDay], *, is_blocked: bool, now: datetime) -> Judgement:
    """Whether Stripe has acknowledged all we counted in a window and nothing else of ours is on its way."""
    if is_blocked:
        return Judgement(step="fail", reason="Stripe refused usage of this customer: see `stripemeter stripe status`")
    lacking = [day for day in days if day.counted != day.planned]
    held = [day.day for day in lacking if day.day < first_open_day(now)]
    if held:
        return Judgement(step="fail", reason=f"{held[0]} lacks usage and is older than Stripe takes")
    if lacking:
        return Judgement(step="wait", reason=f"{lacking[0].day} is not pushed yet")
    flying = [day.day for day in days if day.planned != day.accepted]
    return Judgement(step="wait", reason=f"usage of {flying[0]} is in flight") if flying else GO


def judge_reconciled(days: Sequence[WindowDay], *, inner: Decimal, outer: Decimal, now: datetime) -> Judgement:
    """Whether Stripe's sum over a drained window is exactly ours."""
    ours = sum((day.accepted for day in days), Decimal(0))
    if inner == outer == ours:
        return GO
    if inner != outer:
        return Judgement(step="fail", reason="another writer has usage in a minute that the window's boundary cuts")
    last = max((day.last_accepted_at for day in days if day.last_accepted_at is not None), default=None)
    if last is not None and now - last < SETTLE_LAG:
        return Judgement(step="wait", reason="Stripe has not summed up the latest usage yet")
    what = "more than we sent: another writer" if inner > ours else "less than it acknowledged"
    return Judgement(step="fail", reason=f"Stripe holds {fixed_point(inner)}, we sent {fixed_point(ours)}: {what}")


def twice_billed(windows: Sequence[tuple[str, BilledWindow]]) -> str:
    """The first meter that two items of an invoice bill over the same time; '' when there is none.

    Source: Stripe meters usage per customer, so two items on one meter bill the same usage twice.
    """
    ordered = sorted(windows, key=lambda pair: (pair[0], pair[1].starts_at))
    for (meter, one), (other, next_one) in itertools.pairwise(ordered):
        if meter == other and next_one.starts_at < one.ends_at:
            return meter
    return ""


def finalize_key(invoice_id: str, key_no: int) -> str:
    """The Idempotency-Key of finalizing an invoice, derivable from its row."""
    return f"stripemeter-close-{invoice_id}.{key_no}"


def evidence_text(evidence: Any) -> tuple[str, str]:  # noqa: ANN401 - any JSON of texts, dates and decimals
    """What a proof compared as canonical JSON, and its SHA-256."""
    text = json.dumps(evidence, default=_plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text, hashlib.sha256(text.encode()).hexdigest()


def _plain(value: object) -> str:
    match value:
        case Decimal():
            return fixed_point(value)
        case datetime():
            return value.astimezone(UTC).isoformat()
        case date():
            return value.isoformat()
        case _:
            raise TypeError(f"no JSON for {type(value).__name__}")


def _down(instant: datetime) -> datetime:
    return instant.astimezone(UTC).replace(second=0, microsecond=0)


def _up(instant: datetime) -> datetime:
    floor = _down(instant)
    return floor if floor == instant else floor + MINUTE
