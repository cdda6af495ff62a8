"""Knobs: what Stripe leaves to an account's settings, or what nobody outside has probed.

Belongs here: their names, defaults and allowed settings. Does not: what they change.
A client of Stripe must be right under every setting.
"""

from __future__ import annotations

from typing import Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from stripe_emulator.pricing import Rounding
from stripe_emulator.state import State

DEFAULT_GRACE_SECONDS = 3_600
DEFAULT_RETRY_DAYS = "3,5,7"
MAX_GRACE_SECONDS = 72 * 3_600
LateUsage = Literal["lost", "counted"]
AfterRetries = Literal["past_due", "unpaid", "canceled"]
BoundarySecond = Literal["beginning_period", "ending_period", "both"]


class BillingKnobs(BaseModel):
    """`POST /_emu/billing`: what is absent stays as it is.

    line_rounding: how a line's fraction of a minor unit is rounded (unknown below one half and at ties).
    grace_seconds: from an invoice's creation to its finalization.
    usage_before_price_change: whether usage stamped before a price change and received after it is still billed at
        the old price (unknown).
    boundary_second: to which period the second belongs in which one ends and the next begins (unknown).
    advancing_seconds: how long a test clock is `advancing`, on the emulator's clock.
    retry_days: days from each failed payment to the next attempt; "": none. An account's setting at Stripe.
    after_retries: what becomes of a subscription when none is left. An account's setting at Stripe.
    """

    model_config = ConfigDict(extra="forbid")

    line_rounding: Rounding | None = None
    grace_seconds: int | None = Field(default=None, ge=0, le=MAX_GRACE_SECONDS)
    usage_before_price_change: LateUsage | None = None
    boundary_second: BoundarySecond | None = None
    advancing_seconds: int | None = Field(default=None, ge=0, le=86_400)
    retry_days: str | None = Field(default=None, pattern=r"^(?:[1-9][0-9]?(?:,[1-9][0-9]?){0,7})?$")
    after_retries: AfterRetries | None = None


def change_knobs(state: State, knobs: BillingKnobs) -> BillingKnobs:
    """Set what is given and tell all."""
    for name, value in knobs.model_dump(exclude_none=True).items():
        state.change_setting(name, str(value))
    return BillingKnobs(
        line_rounding=line_rounding(state),
        grace_seconds=grace_seconds(state),
        usage_before_price_change=usage_before_price_change(state),
        boundary_second=boundary_second(state),
        advancing_seconds=advancing_seconds(state),
        retry_days=",".join(map(str, retry_days(state))),
        after_retries=after_retries(state),
    )


def reset_knobs(state: State) -> None:
    """Every knob back to its default."""
    for name in BillingKnobs.model_fields:
        state.change_setting(name, None)


def line_rounding(state: State) -> Rounding:
    """How a line is rounded."""
    return cast("Rounding", state.setting("line_rounding") or "half_up")


def grace_seconds(state: State) -> int:
    """How long a renewal invoice stays a draft."""
    return int(state.setting("grace_seconds") or DEFAULT_GRACE_SECONDS)


def usage_before_price_change(state: State) -> LateUsage:
    """What becomes of usage for the old price that arrives after the change."""
    return cast("LateUsage", state.setting("usage_before_price_change") or "lost")


def boundary_second(state: State) -> BoundarySecond:
    """Whose usage the second is in which two periods meet."""
    return cast("BoundarySecond", state.setting("boundary_second") or "beginning_period")


def advancing_seconds(state: State) -> int:
    """How long a test clock takes to advance."""
    return int(state.setting("advancing_seconds") or 0)


def retry_days(state: State) -> tuple[int, ...]:
    """Days from each failed payment to the next attempt."""
    kept = state.setting("retry_days")
    return tuple(map(int, filter(None, (DEFAULT_RETRY_DAYS if kept is None else kept).split(","))))


def after_retries(state: State) -> AfterRetries:
    """The status of a subscription when no attempt is left."""
    return cast("AfterRetries", state.setting("after_retries") or "past_due")
