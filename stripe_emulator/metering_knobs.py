"""Knobs of metering: how fast and how strictly meter events are taken in, where Stripe leaves it open.

Belongs here: their names, defaults and allowed settings. Does not: what they change, billing's knobs (`knobs`).
A client of Stripe must be right under every setting.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from stripe_emulator.state import State

_NAME = "metering"
MAX_LAG_SECONDS = 7 * 86_400
MIN_TAKEN_SECONDS = 86_400
"""Stripe: a rolling period of at least 24 hours."""


class MeteringKnobs(BaseModel):
    """`POST /_emu/metering`: what is absent stays as it is.

    ingest_lag_seconds: from receipt of an event to its place in the summaries; of a cancel likewise.
    taken_seconds, taken_jitter_seconds: how long an identifier is refused; up to the jitter longer, by identifier.
    concurrent_events: whether a second event of a customer and meter is refused (409) while one is being worked on.
    working_seconds: how long one is being worked on, in real seconds.
    identifier_scope: among which events an identifier is unique (unknown).
    unknown_customer: whether a v1 event of an unknown customer is refused at once or reported afterwards (unknown).
    empty_windows: whether summaries by hour or day tell windows without events (unknown).
    summary_end: whether the second `end_time` of a summary belongs to it (the document says both).
    event_window_clock: whether the window of timestamps of a customer on a test clock is the clock's (frozen) or the
        world's (wall; unknown).
    sample_errors: how many errors of a kind an error report shows.
    sample_member: what an error report calls the idempotency key of a request (Stripe's pages show both).
    """

    model_config = ConfigDict(extra="forbid")

    ingest_lag_seconds: int = Field(default=0, ge=0, le=MAX_LAG_SECONDS)
    taken_seconds: int = Field(default=MIN_TAKEN_SECONDS, ge=MIN_TAKEN_SECONDS)
    taken_jitter_seconds: int = Field(default=0, ge=0)
    concurrent_events: Literal["accepted", "refused"] = "accepted"
    working_seconds: float = Field(default=0, ge=0, le=10)
    identifier_scope: Literal["account", "meter", "customer"] = "account"
    unknown_customer: Literal["reported", "refused"] = "reported"
    empty_windows: Literal["left_out", "zero"] = "left_out"
    summary_end: Literal["excluded", "included"] = "excluded"
    event_window_clock: Literal["frozen", "wall"] = "frozen"
    sample_errors: int = Field(default=5, ge=1)
    sample_member: Literal["identifier", "idempotency_key"] = "identifier"


def metering_knobs(state: State) -> MeteringKnobs:
    """The settings in force."""
    return MeteringKnobs.model_validate_json(state.setting(_NAME) or "{}")


def change_metering_knobs(state: State, given: MeteringKnobs) -> MeteringKnobs:
    """Set what is given and tell all."""
    changed = metering_knobs(state).model_copy(update=given.model_dump(exclude_unset=True))
    state.change_setting(_NAME, changed.model_dump_json())
    return changed


def reset_metering_knobs(state: State) -> None:
    """Every knob back to its default."""
    state.change_setting(_NAME, None)
