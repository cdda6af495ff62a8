"""The ledger of billing credits: what each grant still has, and what goes from it to an invoice.

Belongs here: balance transactions, the order grants are used in, what a voided invoice gives back, expiry. Does not:
routes (`credit_grants`, `credit_balances`), totals of invoices (`invoice_documents`).
Rules C of `RULES.md`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from stripe_emulator import events
from stripe_emulator.calls import Call, new_id
from stripe_emulator.knobs import MAX_GRACE_SECONDS
from stripe_emulator.wire import Json

GRANT = "billing.credit_grant"
TRANSACTION = "billing.credit_balance_transaction"
EXPIRY_COMMITTED_SECONDS = MAX_GRACE_SECONDS
"""From a grant's expiry to its debit: an invoice whose period ended before the expiry may be finalized until then."""


def grants_of(call: Call, customer: str) -> list[Json]:
    """A customer's grants, oldest first."""
    return [stored.body for stored in reversed(call.state.list_objects(call.account, GRANT, name=customer))]


def transactions_of(call: Call, customer: str) -> list[Json]:
    """A customer's balance transactions, newest first."""
    return [stored.body for stored in call.state.list_objects(call.account, TRANSACTION, name=customer)]


def balances(call: Call, customer: str, *, effective_by: int | None = None) -> dict[str, int]:
    """What the ledger says is left of each grant, in minor units; of what is effective by an instant, when given."""
    left: dict[str, int] = {}
    for transaction in transactions_of(call, customer):
        if effective_by is None or transaction["effective_at"] <= effective_by:
            grant = transaction["credit_grant"]
            left[grant] = left.get(grant, 0) + _signed(transaction)
    return left


def is_used(call: Call, grant: Json) -> bool:
    """Whether anything of a grant was ever applied to an invoice."""
    return any(
        transaction["credit_grant"] == grant["id"] and _kind(transaction) == "credits_applied"
        for transaction in transactions_of(call, grant["customer"])
    )


def is_expired(grant: Json, now: int) -> bool:
    """Whether a grant's time is over."""
    return grant["expires_at"] is not None and grant["expires_at"] <= now


def credit(call: Call, grant: Json, kind: str, amount: int, *, effective_at: int, **reason: Json) -> Json:
    """Put an amount into a grant."""
    return _commit(call, grant, "credit", kind, amount, effective_at, reason)


def debit(call: Call, grant: Json, kind: str, amount: int, **reason: Json) -> Json:
    """Take an amount out of a grant."""
    return _commit(call, grant, "debit", kind, amount, call.now, reason)


def close(call: Call, grant: Json, kind: str) -> None:
    """Take out what is left of a grant; nothing when nothing is."""
    left = balances(call, grant["customer"]).get(grant["id"], 0)
    if left:
        debit(call, grant, kind, left)


def commit_expiry(call: Call, grant_id: str) -> None:
    """The debit of a grant whose time was over some while ago."""
    stored = call.state.find_object(call.account, GRANT, grant_id)
    if stored is not None:
        close(call, stored.body, "credits_expired")


def shown(call: Call, customer: str, period_end: int, lines: list[Json]) -> list[Json]:
    """The lines of a draft or a preview with the credits they would get now; nothing is taken."""
    return _credited(call, customer, period_end, lines, invoice=None)


def apply(call: Call, customer: str, period_end: int, lines: list[Json], *, invoice: str) -> list[Json]:
    """The lines of an invoice that is being finalized with the credits they get."""
    return _credited(call, customer, period_end, lines, invoice=invoice)


def reinstate(call: Call, invoice: Json) -> None:
    """What was applied to a voided invoice goes back; into an expired grant it goes in vain."""
    grants = {grant["id"]: grant for grant in grants_of(call, invoice["customer"])}
    for transaction in transactions_of(call, invoice["customer"]):
        applied = (transaction["debit"] or {}).get("credits_applied")
        if applied is None or applied["invoice"] != invoice["id"]:
            continue
        grant, kind = grants[transaction["credit_grant"]], "credits_application_invoice_voided"
        amount = transaction["debit"]["amount"]["monetary"]["value"]
        credit(call, grant, kind, amount, effective_at=call.now, credits_application_invoice_voided=applied)
        if grant["expires_at"] is not None and grant["expires_at"] + EXPIRY_COMMITTED_SECONDS <= call.now:
            close(call, grant, "credits_expired")


def _credited(call: Call, customer: str, period_end: int, lines: list[Json], *, invoice: str | None) -> list[Json]:
    """Line by line in the invoice's order, grant by grant in Stripe's order."""
    left = balances(call, customer)
    grants = sorted((grant for grant in grants_of(call, customer) if _is_usable(grant, period_end)), key=_order_of_use)
    credited = []
    for line in lines:
        due, amounts = line["amount"], list[Json]()
        for grant in grants:
            amount = min(due, left.get(grant["id"], 0))
            if amount <= 0 or not _covers(call, grant, line):
                continue
            left[grant["id"]] -= amount
            due -= amount
            amounts.append(_pretax(call, grant, amount, invoice, line["id"]))
        credited.append({**line, "pretax_credit_amounts": amounts})
    return credited


def _pretax(call: Call, grant: Json, amount: int, invoice: str | None, line: str) -> Json:
    pretax: Json = {"type": "credit_balance_transaction", "amount": amount, "credit_balance_transaction": None}
    if invoice is None:
        return pretax
    applied = {"invoice": invoice, "invoice_line_item": line}
    transaction = debit(call, grant, "credits_applied", amount, credits_applied=applied)
    return {**pretax, "credit_balance_transaction": transaction["id"]}


def _is_usable(grant: Json, period_end: int) -> bool:
    if grant["voided_at"] is not None or grant["effective_at"] > period_end:
        return False
    return grant["expires_at"] is None or period_end < grant["expires_at"]


def _order_of_use(grant: Json) -> tuple[int, float, bool, int, int]:
    """Stripe's: priority, earliest expiry, promotional before paid, earliest effective, earliest created."""
    expires_at = math.inf if grant["expires_at"] is None else grant["expires_at"]
    is_paid = grant["category"] == "paid"
    return grant["priority"], expires_at, is_paid, grant["effective_at"], grant["created"]


def _covers(call: Call, grant: Json, line: Json) -> bool:
    """Whether a line is of a metered price in the grant's scope and currency."""
    if line["pricing"] is None:
        return False
    price_id = line["pricing"]["price_details"]["price"]
    price = call.state.find_object(call.account, "price", price_id)
    if price is None or price.body["recurring"]["meter"] is None:
        return False
    scope = grant["applicability_config"]["scope"]
    is_in_scope = "prices" not in scope or price_id in [named["id"] for named in scope["prices"]]
    is_same_currency: bool = line["currency"] == grant["amount"]["monetary"]["currency"]
    return is_in_scope and is_same_currency


def _commit(
    call: Call, grant: Json, side: str, kind: str, amount: int, effective_at: int, reason: Mapping[str, Json]
) -> Json:
    monetary = {"currency": grant["amount"]["monetary"]["currency"], "value": amount}
    told: Json = {"amount": {"type": "monetary", "monetary": monetary}, "type": kind}
    told |= {"credits_application_invoice_voided": None} if side == "credit" else {"credits_applied": None}
    transaction: Json = {
        "id": new_id("cbtxn_test"),
        "object": TRANSACTION,
        "created": call.now,
        "credit": None,
        "credit_grant": grant["id"],
        "debit": None,
        "effective_at": effective_at,
        "livemode": False,
        "test_clock": grant["test_clock"],
        "type": side,
        side: {**told, **reason},
    }
    call.state.insert_object(call.account, TRANSACTION, transaction, name=grant["customer"])
    events.tell(call, f"{TRANSACTION}.created", transaction)
    return transaction


def _kind(transaction: Json) -> str:
    kind: str = transaction[transaction["type"]]["type"]
    return kind


def _signed(transaction: Json) -> int:
    value: int = transaction[transaction["type"]]["amount"]["monetary"]["value"]
    return value if transaction["type"] == "credit" else -value
