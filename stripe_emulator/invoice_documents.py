"""Invoices as documents: made of parts, filled with lines, finalized.

Belongs here: drafting, lines, totals, the steps of a status. Does not: routes (`invoices`), when (`billing`), what a
quantity costs (`pricing`).
Rules P1-P4 and L1-L7 of `RULES.md`. Collecting is `payments`'.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

from stripe_emulator import credit_ledger, events, invoice_items, knobs, payment_methods, summaries
from stripe_emulator.calls import Call, missing, new_id
from stripe_emulator.meters import KIND as METER
from stripe_emulator.pricing import PricedLine, price_lines
from stripe_emulator.wire import Json, StripeError, plain

KIND = "invoice"
LINES = "invoice_lines"
PAYMENT = "invoice_payment"
"""The alarm of the next attempt to collect an invoice."""
_EMBEDDED = 10
_DECIMALS = 12
"""Stripe's `quantity_decimal` and `unit_amount_decimal` have at most this many places."""


def draft(call: Call, subscription: Json, parts: list[Json], *, reason: str) -> Json:
    """A new draft of a subscription; the clock finalizes it after the grace."""
    invoice_id = new_id("in")
    waiting = invoice_items.waiting_parts(call, subscription["customer"], subscription["currency"])
    invoice_items.put_on(call, waiting, invoice_id)
    parts = [*parts, *waiting]
    lines = draft_lines(call, subscription["customer"], invoice_id, parts)
    invoice = compose(call, subscription, invoice_id, parts, lines, reason=reason)
    deadline: int | None = call.now + knobs.grace_seconds(call.state)
    if subscription["status"] == "unpaid":  # D7: collecting has been given up
        invoice["auto_advance"], deadline = False, None
    invoice["automatically_finalizes_at"] = deadline
    call.state.insert_object(call.account, KIND, invoice, name=subscription["customer"])
    call.state.insert_object(call.account, LINES, {"id": invoice_id, "parts": parts, "lines": lines})
    call.set_alarm(KIND, invoice_id, deadline)
    call.state.replace_object(call.account, "subscription", {**subscription, "latest_invoice": invoice_id})
    events.tell(call, "invoice.created", invoice)
    return invoice


def compose(
    call: Call, subscription: Json, invoice_id: str, parts: list[Json], lines: list[Json], *, reason: str
) -> Json:
    """A draft with its totals."""
    starts = [part["start"] for part in parts if part["kind"] == "metered"]
    invoice: Json = {
        "id": invoice_id,
        "object": "invoice",
        "amount_overpaid": 0,
        "amount_paid_off_stripe": 0,
        "amount_shipping": 0,
        "attempt_count": 0,
        "attempted": False,
        "auto_advance": True,
        "automatic_tax": {
            "disabled_reason": None,
            "enabled": False,
            "liability": None,
            "provider": None,
            "status": None,
        },
        "automatically_finalizes_at": None,
        "billing_reason": reason,
        "collection_method": subscription["collection_method"],
        "created": call.now,
        "currency": subscription["currency"],
        "customer": subscription["customer"],
        "default_tax_rates": [],
        "description": None,
        "discounts": [],
        "due_date": None,
        "ending_balance": None,
        "issuer": {"type": "self"},
        "livemode": False,
        "metadata": {},
        "next_payment_attempt": None,
        "number": None,
        "parent": {
            "type": "subscription_details",
            "quote_details": None,
            "subscription_details": {"metadata": subscription["metadata"], "subscription": subscription["id"]},
        },
        "payment_settings": {
            "default_mandate": None,
            "payment_method_options": None,
            "payment_method_types": None,
        },
        "period_end": _period_end(call, parts),
        "period_start": min(starts, default=call.now),
        "post_payment_credit_notes_amount": 0,
        "pre_payment_credit_notes_amount": 0,
        "starting_balance": 0,
        "status": "draft",
        "status_transitions": dict.fromkeys(("finalized_at", "marked_uncollectible_at", "paid_at", "voided_at")),
        "test_clock": call.clock,
        "webhooks_delivered_at": None,
    }
    return _with_lines(invoice, lines)


def finalize_by_clock(call: Call, invoice_id: str) -> None:
    """Finalize at the end of the grace; a draft that does not advance stays."""
    invoice = find(call, invoice_id)
    if invoice["status"] == "draft" and invoice["auto_advance"]:
        finalize(call, invoice)


def finalize(call: Call, invoice: Json) -> Json:
    """Read the usage again, fix the lines for good, pay what is nothing; what is charged by itself is, or is tried now.

    Without a payment method what is charged automatically is paid (rule B4), with one `payments` tries.

    Raises:
        StripeError: it is not a draft.
    """
    if invoice["status"] != "draft":
        raise StripeError(400, "This invoice is already finalized, you can't re-finalize a non-draft invoice.")
    stored = lines_of(call, invoice["id"])
    priced = price_parts(call, invoice["customer"], invoice["id"], stored["parts"])
    lines = credit_ledger.apply(call, invoice["customer"], invoice["period_end"], priced, invoice=invoice["id"])
    final = _with_lines(invoice, lines)
    is_charged = final["collection_method"] == "charge_automatically" and final["auto_advance"]
    is_tried = final["total"] > 0 and payment_methods.default_of(call, final["customer"]) is not None
    is_paid = (is_charged and not is_tried) or final["total"] == 0
    final |= {
        "automatically_finalizes_at": None,
        "attempted": is_paid,
        "auto_advance": False if is_paid else final["auto_advance"],
        "amount_paid": final["total"] if is_paid else 0,
        "amount_remaining": 0 if is_paid else final["total"],
        "ending_balance": 0,
        "next_payment_attempt": call.now if is_charged and not is_paid else None,
        "number": f"{invoice['id'][-8:].upper()}-0001",
        "status": "paid" if is_paid else "open",
        "status_transitions": {
            **final["status_transitions"],
            "finalized_at": call.now,
            "paid_at": call.now if is_paid else None,
        },
    }
    call.set_alarm(KIND, invoice["id"], None)
    call.set_alarm(PAYMENT, invoice["id"], final["next_payment_attempt"])
    call.state.replace_object(call.account, KIND, final)
    call.state.replace_object(call.account, LINES, {**stored, "lines": lines})
    events.tell(call, "invoice.finalized", final)
    if is_paid:
        events.tell(call, "invoice.paid", final)
    return final


def find(call: Call, invoice_id: str) -> Json:
    """An invoice.

    Raises:
        StripeError: Stripe's 404.
    """
    stored = call.state.find_object(call.account, KIND, invoice_id)
    if stored is None:
        raise missing("invoice", invoice_id, "invoice")
    return stored.body


def lines_of(call: Call, invoice_id: str) -> Json:
    """All `lines` of an invoice, and the `parts` they were made of."""
    stored = call.state.find_object(call.account, LINES, invoice_id)
    if stored is None:
        raise missing("invoice", invoice_id, "invoice")
    return stored.body


def draft_lines(call: Call, customer: str, invoice_id: str, parts: list[Json]) -> list[Json]:
    """Lines of all parts with the usage known now and the credits they would get."""
    priced = price_parts(call, customer, invoice_id, parts)
    return credit_ledger.shown(call, customer, _period_end(call, parts), priced)


def price_parts(call: Call, customer: str, invoice_id: str, parts: list[Json]) -> list[Json]:
    """Lines of all parts with the usage known now."""
    return [line for number, part in enumerate(parts) for line in _part_lines(call, customer, invoice_id, part, number)]


def _part_lines(call: Call, customer: str, invoice_id: str, part: Json, number: int) -> list[Json]:
    if part["kind"] == "amount":
        return [invoice_items.line_of(invoice_id, part)]
    rounding = knobs.line_rounding(call.state)
    quantity = Fraction(usage(call, customer, part))
    return [_line(invoice_id, part, number, line) for line in price_lines(part["price"], quantity, rounding)]


def usage(call: Call, customer: str, part: Json) -> Decimal:
    """The quantity of a part as it is known now."""
    is_fixed = part["kind"] == "licensed" or knobs.usage_before_price_change(call.state) == "lost"
    if part["quantity"] is not None and is_fixed:
        return Decimal(part["quantity"])
    meter = call.state.find_object(call.account, METER, part["price"]["recurring"]["meter"])
    if meter is None:
        raise missing("meter", part["price"]["recurring"]["meter"], "meter")
    # Stripe calls a period's ends inclusive: whose the shared second is, is a knob (rule P5).
    owner = knobs.boundary_second(call.state)
    start = part["start"] + (1 if owner == "ending_period" else 0)
    end = part["end"] + (0 if owner == "beginning_period" else 1)
    return summaries.usage(call, meter.body, customer, start, end)


def _period_end(call: Call, parts: list[Json]) -> int:
    return max((part["end"] for part in parts if part["kind"] == "metered"), default=call.now)


def _with_lines(invoice: Json, lines: list[Json]) -> Json:
    """Subtotal and total: credits come in between."""
    subtotal = sum(line["amount"] for line in lines)
    credited = [amount for line in lines for amount in line["pretax_credit_amounts"]]
    total = subtotal - sum(amount["amount"] for amount in credited)
    return {
        **invoice,
        "amount_due": total,
        "amount_paid": 0,
        "amount_remaining": total,
        "lines": {
            "object": "list",
            "data": lines[:_EMBEDDED],
            "has_more": len(lines) > _EMBEDDED,
            "url": f"/v1/invoices/{invoice['id']}/lines",
        },
        "subtotal": subtotal,
        "subtotal_excluding_tax": subtotal,
        "total": total,
        "total_excluding_tax": total,
        "total_pretax_credit_amounts": credited,
    }


def _line(invoice_id: str, part: Json, number: int, line: PricedLine) -> Json:
    price = part["price"]
    name = f"{invoice_id.rsplit('_', maxsplit=1)[-1]}{number}{line.tier or 0}{'f' if line.is_flat else 'u'}"
    quantity = _decimal(line.quantity)
    return {
        "id": f"il_{name}",
        "object": "line_item",
        "amount": line.amount,
        "currency": price["currency"],
        "description": _description(price, line, quantity),
        "discount_amounts": [],
        "discountable": True,
        "discounts": [],
        "invoice": invoice_id,
        "livemode": False,
        "metadata": {},
        "parent": {
            "type": "subscription_item_details",
            "invoice_item_details": None,
            "subscription_item_details": {
                "invoice_item": part["invoice_item"],
                "proration": False,
                "proration_details": None,
                "subscription": part["subscription"],
                "subscription_item": part["item"],
            },
        },
        "period": {"start": part["start"], "end": part["end"]},
        "pretax_credit_amounts": [],
        "pricing": {
            "type": "price_details",
            "price_details": {"price": price["id"], "product": price["product"]},
            "unit_amount_decimal": plain(_decimal(line.unit_amount)),
        },
        "quantity": int(quantity),
        "quantity_decimal": plain(quantity),
        "subtotal": line.amount,
        "taxes": [],
    }


def _description(price: Json, line: PricedLine, quantity: Decimal) -> str:
    words = f"{plain(quantity)} \u00d7 {price['nickname'] or price['product']}"
    if line.tier is None:
        return words
    return f"{words} (Tier {line.tier}{', flat' if line.is_flat else ''})"


def _decimal(value: Fraction) -> Decimal:
    return Decimal(round(value * 10**_DECIMALS)).scaleb(-_DECIMALS)
