"""Observed: knobs set as a Stripe sandbox answered.

Belongs here: reading the file of answers. Does not: asking (a tool outside of the emulator), what a knob does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from stripe_emulator.knobs import BillingKnobs, change_knobs
from stripe_emulator.metering_knobs import MeteringKnobs, change_metering_knobs
from stripe_emulator.state import State


class _Knobs(BaseModel):
    model_config = ConfigDict(extra="forbid")

    billing: BillingKnobs = BillingKnobs()
    metering: MeteringKnobs = MeteringKnobs()


def set_knobs(state: State, file: Path) -> None:
    """Set every knob the file answers for; the others stay as they are.

    Raises:
        ValueError: the file is not one of answers, or answers with a setting no knob has.
    """
    if not file.is_file():
        raise ValueError(f"{file} is not there")
    read: Any = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(read, dict) or "knobs" not in read:
        raise ValueError(f"{file} has no `knobs`: expected what a probe of Stripe wrote")
    knobs = _Knobs.model_validate(read["knobs"])
    change_knobs(state, knobs.billing)
    change_metering_knobs(state, knobs.metering)
