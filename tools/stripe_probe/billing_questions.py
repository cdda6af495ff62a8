"""What is asked about prices, invoices and test clocks.

Belongs here: one function a question; it says what Stripe did, and which knob that sets. Does not: meter events.
"""

from __future__ import annotations

from decimal import Decimal

import stripe

from tools.stripe_probe.desk import Desk, Json
from tools.stripe_probe.metering_questions import DAY, HOUR, Answer

FRACTIONS = ("0.5", "1.2", "1.4", "1.5", "2.5")
ROUNDINGS = {(1, 1, 1, 2, 3): "half_up", (0, 1, 1, 2, 2): "half_even", (1, 2, 2, 2, 3): "ceiling"}
AGE_OF_CLOCKS = 60 * DAY
AGE_OF_BOUNDARY = 20 * DAY
"""Inside the 35 days of a timestamp by the world's clock too."""


def line_rounding(desk: Desk) -> Answer:
    """Where does a line's fraction of a cent go?"""
    meter, customer = desk.meter(), desk.customer()
    subscription = desk.subscribe(customer, *(desk.price(meter.id, amount) for amount in FRACTIONS))
    desk.send(meter, customer, "1")
    lines, _ = desk.until(lambda: desk.preview(subscription.id), lambda found: all(line.quantity for line in found))
    by_unit = {Decimal(_unit_amount(line)): line.amount for line in lines}
    amounts = tuple(by_unit[Decimal(amount)] for amount in FRACTIONS)
    return Answer(
        observed=dict(zip(FRACTIONS, amounts, strict=True)),
        billing={"line_rounding": ROUNDINGS[amounts]} if amounts in ROUNDINGS else {},
    )


def negative_total(desk: Desk) -> Answer:
    """What does a month below 0 cost?"""
    meter, customer = desk.meter(), desk.customer()
    subscription = desk.subscribe(customer, desk.price(meter.id, "100"))
    minute = desk.now() // 60 * 60
    desk.send(meter, customer, "-5")
    desk.until(lambda: desk.total(meter, customer, minute, minute + 120), lambda total: total == -5)
    return Answer(observed={"lines": [_told(line) for line in desk.preview(subscription.id)]})


def usage_before_price_change(desk: Desk) -> Answer:
    """Is usage stamped before a price change and received after it billed at the old price?"""
    meter, customer = desk.meter(), desk.customer()
    old, new = desk.price(meter.id, "2"), desk.price(meter.id, "7")
    subscription = desk.subscribe(customer, old)
    start = subscription["items"].data[0].current_period_start
    minute = start // 60 * 60
    desk.send(meter, customer, "10", timestamp=start)
    desk.until(lambda: desk.total(meter, customer, minute, minute + 120), lambda total: total == 10)
    desk.clock.wait(STEP_BEFORE_CHANGE)
    desk.client.v1.subscription_items.update(
        subscription["items"].data[0].id, {"price": new, "proration_behavior": "create_prorations"}
    )
    desk.send(meter, customer, "4", timestamp=start + 1)
    desk.until(lambda: desk.total(meter, customer, minute, minute + 120), lambda total: total == 14)
    lines = desk.preview(subscription.id)
    at_old = sum(line.amount for line in lines if _price(line) == old)
    at_new = sum(line.amount for line in lines if _price(line) == new)
    knobs = {(20, 0): "lost", (28, 0): "counted"}
    return Answer(
        observed={"at_the_old_price": at_old, "at_the_new_price": at_new},
        billing={"usage_before_price_change": knobs[at_old, at_new]} if (at_old, at_new) in knobs else {},
    )


STEP_BEFORE_CHANGE = 10
"""Seconds between the first usage and the change, so that a stamp between them exists."""


def event_window_of_a_clock(desk: Desk) -> Answer:
    """Whose 35 days is the timestamp of a customer on a test clock judged by?"""
    meter, frozen = desk.meter(), desk.now() - AGE_OF_CLOCKS
    customer = desk.customer(test_clock=desk.test_clock(frozen))
    observed = {
        "by_the_clock": desk.send(meter, customer, "1", timestamp=frozen),
        "by_the_world": desk.send(meter, customer, "1", timestamp=desk.now()),
    }
    accepted = (observed["by_the_clock"] is None, observed["by_the_world"] is None)
    bases = {(True, False): "frozen", (False, True): "wall"}
    return Answer(observed=observed, metering={"event_window_clock": bases[accepted]} if accepted in bases else {})


def boundary_second(desk: Desk) -> Answer:
    """To which period does the second belong in which one ends and the next begins? How long is a draft's grace?"""
    meter, start = desk.meter(), desk.now() // 60 * 60 - AGE_OF_BOUNDARY
    end = start + DAY
    clock = desk.test_clock(start)
    customer = desk.customer(test_clock=clock)
    subscription = desk.subscribe(customer, desk.price(meter.id, "1", interval="day"))
    desk.advance(clock, end - 60)
    for value, ts in (("1", end - 1), ("2", end), ("4", end + 1)):
        desk.send(meter, customer, value, timestamp=ts)
    desk.until(lambda: desk.total(meter, customer, end - 60, end + 60), lambda total: total == 7)
    desk.advance(clock, end + 60)
    draft = _first_renewal(desk, customer, end)
    grace = (draft.automatically_finalizes_at or draft.created) - draft.created
    final = desk.client.v1.invoices.finalize_invoice(draft.id or "")
    desk.advance(clock, end + HOUR)
    following = sum(line.quantity or 0 for line in desk.preview(subscription.id))
    owners = {(1, 6): "beginning_period", (3, 4): "ending_period", (3, 6): "both"}
    found = (final.subtotal, following)
    return Answer(
        observed={"ending_period": final.subtotal, "beginning_period": following, "grace_seconds": grace},
        billing={"grace_seconds": grace} | ({"boundary_second": owners[found]} if found in owners else {}),
    )


QUESTIONS = (line_rounding, negative_total, usage_before_price_change, event_window_of_a_clock, boundary_second)


def _first_renewal(desk: Desk, customer: str, end: int) -> stripe.Invoice:
    found, _ = desk.until(
        lambda: [
            invoice
            for invoice in desk.client.v1.invoices.list({"customer": customer}).data
            if invoice.billing_reason == "subscription_cycle" and invoice.period_end == end
        ],
        bool,
    )
    return found[0]


def _price(line: stripe.InvoiceLineItem) -> str | None:
    details = line.pricing.price_details if line.pricing is not None else None
    return None if details is None else str(details.price)


def _unit_amount(line: stripe.InvoiceLineItem) -> str:
    return str(line.pricing.unit_amount_decimal) if line.pricing is not None else "0"


def _told(line: stripe.InvoiceLineItem) -> Json:
    return {"amount": line.amount, "quantity": line.quantity}
