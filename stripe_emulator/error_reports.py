"""Error reports: what Stripe found wrong with accepted meter events, told afterwards as thin events.

Belongs here: windows of 10 seconds, samples. Does not: the verdicts (`meter_events`), delivery.
Rules E of `RULES.md`.
"""

from __future__ import annotations

from collections import defaultdict

from stripe_emulator import events
from stripe_emulator.calls import Call
from stripe_emulator.metering_knobs import MeteringKnobs, metering_knobs
from stripe_emulator.meters import KIND as METER
from stripe_emulator.received_events import Rejected
from stripe_emulator.state import State
from stripe_emulator.wire import Json, instant

WINDOW_SECONDS = 10
OF_A_METER = "v1.billing.meter.error_report_triggered"
OF_NO_METER = "v1.billing.meter.no_meter_found"


def catch_up(state: State, account: str, now: int) -> None:
    """Report every window that has ended by now: one event per meter, one for the events without any."""
    ended_at = now // WINDOW_SECONDS * WINDOW_SECONDS
    knobs = metering_knobs(state)
    windows: dict[tuple[int, str], list[Rejected]] = defaultdict(list)
    for rejected in state.events.unreported(account, ended_at):
        windows[rejected.settled_at // WINDOW_SECONDS * WINDOW_SECONDS, _meter_of(rejected)].append(rejected)
    for (start, meter), found in sorted(windows.items()):
        end = start + WINDOW_SECONDS
        call = Call(state=state, account=account, path="", path_parameters={}, parameters={}, now=end)
        related = {"id": meter, "type": METER, "url": f"/v1/billing/meters/{meter}"} if meter else None
        report = events.tell_thin(
            call, OF_A_METER if meter else OF_NO_METER, _report(knobs, found, start, end), related
        )
        state.events.mark_reported(account, [rejected.seq for rejected in found], report["id"])


def _meter_of(rejected: Rejected) -> str:
    return "" if rejected.code == "no_meter" or rejected.meter is None else rejected.meter


def _report(knobs: MeteringKnobs, found: list[Rejected], start: int, end: int) -> Json:
    by_code: dict[str, list[Rejected]] = defaultdict(list)
    for rejected in found:
        by_code[rejected.code].append(rejected)
    return {
        "developer_message_summary": f"There is {len(found)} invalid event"
        if len(found) == 1
        else f"There are {len(found)} invalid events",
        "reason": {
            "error_count": len(found),
            "error_types": [
                {
                    "code": code,
                    "error_count": len(of_code),
                    "sample_errors": [_sample(knobs, rejected) for rejected in of_code[: knobs.sample_errors]],
                }
                for code, of_code in sorted(by_code.items())
            ],
        },
        "validation_start": instant(start),
        "validation_end": instant(end),
    }


def _sample(knobs: MeteringKnobs, rejected: Rejected) -> Json:
    return {
        "error_message": f"The event was rejected: {rejected.code}.",
        "request": {knobs.sample_member: rejected.request_key or ""},
    }
