"""Credit balances over HTTP: what a customer has left, and every change of it.

Belongs here: `/v1/billing/credit_balance_summary` and `/v1/billing/credit_balance_transactions`. Does not: making
transactions (`credit_ledger`).
Rules C of `RULES.md`.
"""

from __future__ import annotations

from stripe_emulator import clocks
from stripe_emulator import credit_ledger as ledger
from stripe_emulator.calls import Call, check_implemented, find_or_404, missing, page
from stripe_emulator.customers import is_known
from stripe_emulator.wire import Json, StripeError


def retrieve_summary(call: Call) -> Json:
    """`GET /v1/billing/credit_balance_summary`: per currency, of one grant or of those of a scope.

    Available is the ledger without what has expired and is not yet taken out.
    """
    check_implemented(call, {"customer", "filter"})
    customer = call.parameters.get("customer", "")
    if not is_known(call, customer):
        raise missing("customer", customer, "customer")
    call = clocks.in_time_of(call, customer)
    left = ledger.balances(call, customer, effective_by=call.now)
    totals: dict[str, list[int]] = {}
    for grant in _filtered(call, ledger.grants_of(call, customer)):
        balance = left.get(grant["id"], 0)
        total = totals.setdefault(grant["amount"]["monetary"]["currency"], [0, 0])
        total[0] += 0 if ledger.is_expired(grant, call.now) else balance
        total[1] += balance
    return {
        "object": "billing.credit_balance_summary",
        "balances": [
            {"available_balance": _amount(currency, available), "ledger_balance": _amount(currency, ledgered)}
            for currency, (available, ledgered) in sorted(totals.items())
        ],
        "customer": customer,
        "customer_account": None,
        "livemode": False,
    }


def retrieve_transaction(call: Call) -> Json:
    """`GET /v1/billing/credit_balance_transactions/{id}`."""
    check_implemented(call, set())
    return find_or_404(call, ledger.TRANSACTION, "credit balance transaction", "id").body


def list_transactions(call: Call) -> Json:
    """`GET /v1/billing/credit_balance_transactions`: newest first, by customer and grant."""
    check_implemented(call, {"credit_grant", "customer", "limit", "starting_after", "ending_before"})
    grant, customer = call.parameters.get("credit_grant"), call.parameters.get("customer")
    stored = call.state.list_objects(call.account, ledger.TRANSACTION, name=customer)
    return page(call, [found.body for found in stored if grant in (None, found.body["credit_grant"])])


def _filtered(call: Call, grants: list[Json]) -> list[Json]:
    """Grants of `filter`; a scope of prices takes in what applies to every metered price."""
    wanted = call.parameters["filter"]
    named = wanted["type"]
    if named not in wanted:
        param = f"filter[{named}]"
        raise StripeError(400, f"Missing required param: {param}.", code="parameter_missing", param=param)
    if named == "credit_grant":
        found = [grant for grant in grants if grant["id"] == wanted["credit_grant"]]
        if not found:
            raise missing("credit grant", wanted["credit_grant"], "filter[credit_grant]")
        return found
    asked = {price["id"] for price in wanted["applicability_scope"].get("prices", ())}
    return [
        grant
        for grant in grants
        if "price_type" in (scope := grant["applicability_config"]["scope"])
        or asked & {price["id"] for price in scope["prices"]}
    ]


def _amount(currency: str, value: int) -> Json:
    return {"type": "monetary", "monetary": {"currency": currency, "value": value}}
