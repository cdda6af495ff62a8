"""Seams of a push at which something can be made to happen: the end of the process, a wait, the end of the database.

Belongs here: the seams and hooking one of them. Does not: deciding what happens there, starting processes. The product
knows nothing of this: the hook stands around its calls, in a process of a test.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from stripemeter.billing.stripe_sink import StripeSink
from stripemeter.pipeline import closing
from stripemeter.store import closings, push_doubts, push_entries, stripe_events

When = Literal["before", "after"]

SEAMS: dict[str, tuple[Any, str]] = {
    "plan": (push_entries, "insert_planned"),
    "claim": (push_entries, "claim"),
    "send": (StripeSink, "send_meter_event"),
    "send batch": (StripeSink, "send_meter_events"),
    "accept": (push_entries, "settle_accepted"),
    "reopen": (push_entries, "settle_open"),
    "backoff": (time, "sleep"),
    "read back": (StripeSink, "read_quantity"),
    "note reading": (push_entries, "settle_probe"),
    "re-arm": (push_entries, "settle_rearmed"),
    "load report": (StripeSink, "load_error_report"),
    "doubt": (push_doubts, "raise_reported"),
    "end report": (stripe_events, "mark_processed"),
    "note minute": (push_doubts, "note_reading"),
    "drop": (push_doubts, "reject_accepted"),
    "end doubt": (push_doubts, "settle"),
    "record": (closings, "insert_found"),
    "take control": (closings, "take_control"),
    "hold": (StripeSink, "hold_invoice"),
    "move": (closings, "move"),
    "finalize": (StripeSink, "finalize_invoice"),
    "prove": (closing, "insert_proof"),
    "let go": (closings, "let_go"),
}
"""Every step of `pipeline.push_rows`, `push_row`, `push_batch` and `push_probe` that commits, sends, reads or waits;
then those of `pipeline.stripe_error_reports` and `push_doubts`, and those of `pipeline.closing`.

`before` a seam of `push_entries` is inside its transaction with nothing written, and after the commit of the step
before; `after` it is inside the transaction with everything written and nothing committed. `after` sending is with the
answer, or the failure, in hand.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """The nth time a push comes to a seam, before or after it."""

    seam: str
    when: When = "before"
    nth: int = 1


def hook(point: Point, act: Callable[[], None]) -> Callable[[], None]:
    """Call `act` once, at the point, in whichever thread comes there; returns what takes the hook away."""
    owner, name = SEAMS[point.seam]
    original = getattr(owner, name)
    lock = threading.Lock()
    left = point.nth

    def reached() -> None:
        nonlocal left
        with lock:
            left -= 1
            is_now = left == 0
        if is_now:
            act()

    def hooked(*arguments: Any, **values: Any) -> Any:  # noqa: ANN401 - whatever the seam takes and gives
        if point.when == "before":
            reached()
            return original(*arguments, **values)
        try:
            return original(*arguments, **values)
        finally:
            reached()

    def unhook() -> None:
        setattr(owner, name, original)

    setattr(owner, name, hooked)
    return unhook
