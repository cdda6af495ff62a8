"""Event summaries: what Stripe says a customer used.

Belongs here: `GET /v1/billing/meters/{id}/event_summaries` and the total an invoice reads. Does not: receiving events.
Rules S1-S5 and M9-M10 of `RULES.md`. Sums are exact decimals.
"""

from __future__ import annotations

import hashlib
from decimal import Context, Decimal, localcontext

from stripe_emulator.calls import Call, find_or_404, missing, page
from stripe_emulator.metering_knobs import metering_knobs
from stripe_emulator.meters import KIND
from stripe_emulator.wire import Json, StripeError

_WINDOWS = {"hour": 3_600, "day": 86_400}
_EXACT = Context(prec=400)
"""Wide enough for 15 digits anywhere in a 100-character value: a sum is never rounded."""
Sample = tuple[int, int, Decimal]
"""`(order of receipt, timestamp, value)` of one event."""


def list_all(call: Call) -> Json:
    """Summaries of a half-open range, newest first; of events that have settled.

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
    knobs = metering_knobs(call.state)
    last = end + 1 if knobs.summary_end == "included" else end
    samples = _samples(call, meter, customer, start, last)
    width = _WINDOWS[grouping] if grouping is not None else end - start
    told = range(start, end, width) if grouping is None or knobs.empty_windows == "zero" else ()
    grouped: dict[int, list[Sample]] = {window: [] for window in told}
    for sample in samples:
        window = start + (sample[1] - start) // width * width
        grouped.setdefault(min(window, end - width), []).append(sample)
    formula = meter["default_aggregation"]["formula"]
    return page(
        call,
        [
            _summary(meter["id"], customer, window, window + width, _aggregate(formula, grouped[window]))
            for window in sorted(grouped, reverse=True)
        ],
    )


def usage(call: Call, meter: Json, customer: str, start: int, end: int) -> Decimal:
    """What a customer used in `[start, end)` by the meter's formula, from what counts now."""
    samples = _samples(call, meter, customer, start, end)
    return _aggregate(meter["default_aggregation"]["formula"], samples)


def _samples(call: Call, meter: Json, customer: str, start: int, end: int) -> list[Sample]:
    samples = call.state.events.counted(call.account, meter["id"], customer, start, end, call.world_now)
    window = meter["event_time_window"]
    return samples if window is None else _latest_per_window(samples, _WINDOWS[window])


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
