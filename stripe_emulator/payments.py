"""Payments: invoices charged to a customer's payment method, again when that fails, and what follows.

Belongs here: attempts, retries, what they make of a subscription, `/v1/invoices/{invoice}/pay`. Does not: payment
methods, finalizing (`invoice_documents`).
Rules D of `RULES.md`.
"""

from __future__ import annotations

from stripe_emulator import billing, clocks, events, knobs, payment_methods, subscriptions
from stripe_emulator import invoice_documents as invoices
from stripe_emulator.calls import Call, check_implemented
from stripe_emulator.wire import Json, OutcomeError, StripeError

ATTEMPT = invoices.PAYMENT
"""The alarm of an attempt by itself."""
_DAY = 86_400
_DECLINED = "Your card was declined."


class Declined(OutcomeError):
    """402: the card was declined. What the attempt changed stays."""

    def __init__(self) -> None:
        super().__init__(402, _DECLINED, code="card_declined", kind="card_error", is_saved=True)


def pay(call: Call) -> Json:
    """`POST /v1/invoices/{invoice}/pay`: now, out of the schedule; a failure leaves the schedule as it is.

    Raises:
        StripeError: it is not open, or the customer has nothing to pay with.
        Declined: it failed; Stripe tells `invoice.payment_failed` too.
    """
    check_implemented(call, {"paid_out_of_band", "payment_method"})
    invoice = invoices.find(call, call.object_id)
    call = clocks.changing(call, invoice["customer"])
    if invoice["status"] == "paid":
        raise StripeError(400, "Invoice is already paid")
    if invoice["status"] != "open":
        raise StripeError(400, f"The emulator pays open invoices only. This invoice is {invoice['status']}.")
    if call.parameters.get("paid_out_of_band", False):
        return _settle(call, invoice)
    if "payment_method" in call.parameters:
        method: Json | None = payment_methods.of_customer(call, call.parameters["payment_method"], invoice["customer"])
    else:
        method = payment_methods.default_of(call, invoice["customer"])
    if method is None:
        message = "This customer has no attached payment source or default payment method."
        raise StripeError(400, message, code="resource_missing")
    attempted = {**invoice, "attempted": True, "attempt_count": max(1, invoice["attempt_count"])}
    if method["_succeeds"]:
        return _settle(call, attempted)
    _fail(call, attempted)
    raise Declined


def subscribe(call: Call) -> Json:
    """`POST /v1/subscriptions`, and the first invoice is charged.

    Raises:
        StripeError: what creating refuses, or a first payment that would fail (ours): Stripe calls that `incomplete`.
    """
    created = subscriptions.create(call)
    call = clocks.in_time_of(call, created["customer"])
    attempt_first(call, created["latest_invoice"])
    subscription = subscriptions.shown(call, created["id"])
    if subscription["status"] != "active":
        raise StripeError(400, "The emulator does not implement subscriptions whose first payment fails.")
    return subscription


def attempt_due(call: Call, invoice_id: str) -> None:
    """Charge an invoice whose time has come; nothing, when it is settled already."""
    call.set_alarm(ATTEMPT, invoice_id, None)
    invoice = invoices.find(call, invoice_id)
    if invoice["status"] != "open":
        return
    number = invoice["attempt_count"] + 1
    attempted = {**invoice, "attempted": True, "attempt_count": number, "next_payment_attempt": None}
    method = payment_methods.default_of(call, invoice["customer"])
    if method is not None and method["_succeeds"]:
        _settle(call, attempted)
        return
    days = knobs.retry_days(call.state)
    if number <= len(days):
        attempted["next_payment_attempt"] = call.now + days[number - 1] * _DAY
        call.set_alarm(ATTEMPT, invoice_id, attempted["next_payment_attempt"])
    _fail(call, attempted)
    if number > len(days):
        _give_up(call, attempted)


def attempt_first(call: Call, invoice_id: str | None) -> None:
    """The first attempt of an invoice that was finalized in this request; nothing, when there is none to make."""
    if invoice_id is not None and invoices.find(call, invoice_id)["next_payment_attempt"] == call.now:
        attempt_due(call, invoice_id)


def _settle(call: Call, invoice: Json) -> Json:
    paid = {
        **invoice,
        "amount_paid": invoice["total"],
        "amount_remaining": 0,
        "auto_advance": False,
        "next_payment_attempt": None,
        "status": "paid",
        "status_transitions": {**invoice["status_transitions"], "paid_at": call.now},
    }
    call.state.replace_object(call.account, invoices.KIND, paid)
    events.tell(call, "invoice.paid", paid)
    close(call, paid)
    return paid


def close(call: Call, invoice: Json) -> None:
    """What follows when an invoice is owed no more, paid or voided."""
    call.set_alarm(ATTEMPT, invoice["id"], None)
    subscription = _subscription(call, invoice)
    if (
        subscription is not None
        and subscription["status"] in ("past_due", "unpaid")
        and all(other["status"] != "open" for other in _invoices_of(call, subscription))
    ):
        _change_status(call, subscription, "active")
    _set_delinquent(call, invoice["customer"])


def _fail(call: Call, invoice: Json) -> None:
    call.state.replace_object(call.account, invoices.KIND, invoice)
    events.tell(call, "invoice.payment_failed", invoice)
    subscription = _subscription(call, invoice)
    if subscription is not None and subscription["status"] == "active":
        _change_status(call, subscription, "past_due")
    _set_delinquent(call, invoice["customer"])


def _give_up(call: Call, invoice: Json) -> None:
    """Stripe leaves to the account what becomes of a subscription whose retries are used up."""
    subscription = _subscription(call, invoice)
    if subscription is None or subscription["status"] != "past_due":
        return
    match knobs.after_retries(call.state):
        case "past_due":
            return
        case "unpaid":
            _change_status(call, subscription, "unpaid")
        case "canceled":
            billing.end_subscription(call, subscription, is_invoiced=False)
            events.tell(call, "customer.subscription.deleted", subscriptions.shown(call, subscription["id"]))


def _change_status(call: Call, subscription: Json, status: str) -> None:
    call.state.replace_object(call.account, billing.SUBSCRIPTION, {**subscription, "status": status})
    told = subscriptions.shown(call, subscription["id"])
    events.tell(call, "customer.subscription.updated", told, previous={"status": subscription["status"]})


def _subscription(call: Call, invoice: Json) -> Json | None:
    parent = invoice["parent"] or {}
    details = parent.get("subscription_details")
    return None if details is None else billing.subscription(call, details["subscription"])


def _invoices_of(call: Call, subscription: Json) -> list[Json]:
    stored = call.state.list_objects(call.account, invoices.KIND, name=subscription["customer"])
    bodies = [found.body for found in stored]
    return [
        body
        for body in bodies
        if body["parent"] is not None
        and (body["parent"]["subscription_details"] or {}).get("subscription") == subscription["id"]
    ]


def _set_delinquent(call: Call, customer_id: str) -> None:
    """A customer is delinquent while an invoice of theirs was tried and is not paid."""
    customer = call.state.find_object(call.account, "customer", customer_id)
    if customer is None or customer.body.get("deleted"):
        return
    stored = call.state.list_objects(call.account, invoices.KIND, name=customer_id)
    is_delinquent = any(found.body["status"] == "open" and found.body["attempted"] for found in stored)
    call.state.replace_object(call.account, "customer", {**customer.body, "delinquent": is_delinquent})
