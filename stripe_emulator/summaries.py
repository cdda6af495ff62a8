"""Event summaries: what Stripe says a customer used.

Belongs here: `GET /v1/billing/meters/{id}/event_summaries` and the total an invoice reads. Does not: receiving events.
Rules S1-S5 and M9-M10 of `RULES.md`. Sums are exact decimals.
"""

from __future__ import annotations

import hashlib
from decimal import Context, Decimal, localcontext

from stripe_emulator.calls import Call, find_or_404, missing, page
from stripe_emulator.meters import KIND
from stripe_emulator.state import State
from stripe_emulator.wire import Json, StripeError

_WINDOWS = {"hour": 3_600, "day": 86_400}
_EXACT = Context(prec=400)
"""Wide enough for 15 digits anywhere in a 100-character value: a sum is never rounded."""
Sample = tuple[int, int, Decimal]
"""`(order of receipt, timestamp, value)` of one event."""


def list_all(call: Call) -> Json:
    """Summaries of a half-open range, newest first; windows without events are left out.

    Raises:
        StripeError: unknown meter or customer, or a range off the minute (hour, day) grid.
    """
    meter = find_or_404(call, KIND, "billing meter", "id").body
    customer = call.parameters["customer"]
    stored = call.state.find_object(call.account, "customer", customer)
    if stored is None:
        raise missing("customer", customer, "customer")
    start, end = call.parameters["start_time"], call.parameters["end_time"]
    grouping = call.parameters.get("value_grouping_window")
    _check_range(start, end, grouping)
    samples = call.state.visible_events(call.account, meter["id"], customer, start, end)
    if meter["event_time_window"] is not None:
        samples = _latest_per_window(samples, _WINDOWS[meter["event_time_window"]])
    width = _WINDOWS[grouping] if grouping is not None else end - start
    grouped: dict[int, list[Sample]] = {} if grouping is not None else {start: []}
    for sample in samples:
        grouped.setdefault(start + (sample[1] - start) // width * width, []).append(sample)
    formula = meter["default_aggregation"]["formula"]
    return page(
        call,
        [
            _summary(meter["id"], customer, window, window + width, _aggregate(formula, grouped[window]))
            for window in sorted(grouped, reverse=True)
        ],
    )


def usage(state: State, account: str, meter: Json, customer: str, start: int, end: int) -> Decimal:
    """What a customer used in `[start, end)` by the meter's formula, from what is visible now."""
    samples = state.visible_events(account, meter["id"], customer, start, end)
    if meter["event_time_window"] is not None:
        samples = _latest_per_window(samples, _WINDOWS[meter["event_time_window"]])
    return _aggregate(meter["default_aggregation"]["formula"], samples)


def _check_range(start: int, end: int, grouping: str | None) -> None:
    if end <= start:
        raise StripeError(400, "end_time must be after start_time.", param="end_time")
    grain, noun = (_WINDOWS[grouping], f"{grouping} (UTC)") if grouping is not None else (60, "minute")
    for param, instant in (("start_time", start), ("end_time", end)):
        if instant % grain:
            raise StripeError(400, f"{param} must be aligned with {noun} boundaries.", param=param)


def _latest_per_window(samples: list[Sample], width: int) -> list[Sample]:
    latest: dict[int, Sample] = {}
    for sample in samples:  # in order of receipt: the last one wins
        latest[sample[1] // width] = sample
    return sorted(latest.values())


def _aggregate(formula: str, samples: list[Sample]) -> Decimal:
    match formula:
        case "sum":
            with localcontext(_EXACT):
                return sum((value for _, _, value in samples), Decimal(0))
        case "count":
            return Decimal(len(samples))
        case "last":
            return max(samples, key=lambda sample: (sample[1], sample[0]))[2] if samples else Decimal(0)
    raise StripeError(400, f"Invalid formula: {formula}")


def _summary(meter: str, customer: str, start: int, end: int, value: Decimal) -> Json:
    fingerprint = hashlib.sha256(f"{meter}/{customer}/{start}/{end}".encode()).hexdigest()[:24]
    return {
        "id": f"mtrusg_test_{fingerprint}",
        "object": "billing.meter_event_summary",
        "aggregated_value": value,
        "end_time": end,
        "livemode": False,
        "meter": meter,
        "start_time": start,
    }
