"""Payment methods: Stripe's test cards, which pay or do not.

Belongs here: attaching them, whose default they are. Does not: collecting with them (`payments`).
Rules D of `RULES.md`. No card numbers: the two test payment methods by name are all there is.
"""

from __future__ import annotations

from stripe_emulator.calls import Call, check_implemented, find_or_404, missing, new_id
from stripe_emulator.wire import Json, StripeError

KIND = "payment_method"
_TEST_CARDS = {"pm_card_visa": ("4242", True), "pm_card_chargeCustomerFail": ("0341", False)}
"""Last digits, and whether a charge succeeds. Source: docs.stripe.com/testing."""
_BRAND = "visa"


def attach_route(call: Call) -> Json:
    """`POST /v1/payment_methods/{payment_method}/attach`: a test card by its name becomes one of the customer's own."""
    check_implemented(call, {"customer"})
    if "customer" not in call.parameters:
        raise StripeError(400, "Missing required param: customer.", code="parameter_missing", param="customer")
    return shown(attach(call, call.object_id, call.parameters["customer"]))


def retrieve(call: Call) -> Json:
    """`GET /v1/payment_methods/{payment_method}`."""
    check_implemented(call, set())
    return shown(find_or_404(call, KIND, "PaymentMethod", "payment_method").body)


def attach(call: Call, method_id: str, customer_id: str) -> Json:
    """A payment method of a customer: the one of that id, or a new one of a test card.

    Raises:
        StripeError: no such customer or payment method, or it is another customer's.
    """
    customer = call.state.find_object(call.account, "customer", customer_id)
    if customer is None or customer.body.get("deleted"):
        raise missing("customer", customer_id, "customer")
    if method_id not in _TEST_CARDS:
        return of_customer(call, method_id, customer_id)
    last4, succeeds = _TEST_CARDS[method_id]
    method: Json = {
        "id": new_id("pm"),
        "object": KIND,
        "allow_redisplay": "unspecified",
        "billing_details": {"address": None, "email": None, "name": None, "phone": None, "tax_id": None},
        "card": {
            "brand": _BRAND,
            "checks": None,
            "country": "US",
            "display_brand": _BRAND,
            "exp_month": 12,
            "exp_year": 2099,
            "fingerprint": None,
            "funding": "credit",
            "generated_from": None,
            "last4": last4,
            "networks": None,
            "regulated_status": "unregulated",
            "three_d_secure_usage": None,
            "wallet": None,
        },
        "created": call.now,
        "customer": customer_id,
        "customer_account": None,
        "livemode": False,
        "metadata": {},
        "type": "card",
        "_succeeds": succeeds,
    }
    call.state.insert_object(call.account, KIND, method, name=customer_id)
    return method


def of_customer(call: Call, method_id: str, customer_id: str) -> Json:
    """A payment method attached to a customer.

    Raises:
        StripeError: there is none of that id, or it is another customer's.
    """
    stored = call.state.find_object(call.account, KIND, method_id)
    if stored is None:
        raise missing("PaymentMethod", method_id, "payment_method")
    if stored.body["customer"] != customer_id:
        message = "The payment method does not belong to this customer: attach it first."
        raise StripeError(400, message, param="payment_method")
    return stored.body


def default_of(call: Call, customer_id: str) -> Json | None:
    """What a customer's invoices are charged to; None: they have nothing."""
    stored = call.state.find_object(call.account, "customer", customer_id)
    if stored is None or stored.body.get("deleted"):
        return None
    method_id = stored.body["invoice_settings"]["default_payment_method"]
    return None if method_id is None else of_customer(call, method_id, customer_id)


def shown(method: Json) -> Json:
    """A payment method as it is answered."""
    return {name: value for name, value in method.items() if not name.startswith("_")}
