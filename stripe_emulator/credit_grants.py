"""Credit grants over HTTP: amounts customers may use for metered prices instead of paying.

Belongs here: the `/v1/billing/credit_grants` handlers. Does not: balances (`credit_balances`), how grants are used
(`credit_ledger`).
Rules C of `RULES.md`.
"""

from __future__ import annotations

from stripe_emulator import clocks, events, prices
from stripe_emulator import credit_ledger as ledger
from stripe_emulator.calls import Call, check_implemented, find_or_404, merged_metadata, missing, new_id, page
from stripe_emulator.customers import is_known
from stripe_emulator.wire import Json, StripeError

_CREATED = {
    "amount",
    "applicability_config",
    "category",
    "customer",
    "effective_at",
    "expires_at",
    "metadata",
    "name",
    "priority",
}
DEFAULT_PRIORITY = 50
MAX_PRIORITY = 100
MAX_UNUSED = 100


def create(call: Call) -> Json:
    """`POST /v1/billing/credit_grants`.

    Raises:
        StripeError: an unknown customer, an amount that is not positive, a scope that is not of metered prices, times
            or priority out of bounds, or too many unused grants.
    """
    check_implemented(call, _CREATED)
    given = call.parameters
    customer = given.get("customer", "")
    if not is_known(call, customer):
        raise missing("customer", customer, "customer")
    call = clocks.changing(call, customer)
    unused = [grant for grant in ledger.grants_of(call, customer) if _is_unused(call, grant)]
    if len(unused) >= MAX_UNUSED:
        raise StripeError(400, f"A customer can have at most {MAX_UNUSED} unused credit grants.", param="customer")
    effective_at = given.get("effective_at", call.now)
    _check_expiry(call, given.get("expires_at"), effective_at)
    grant: Json = {
        "id": new_id("credgr_test"),
        "object": ledger.GRANT,
        "amount": {"type": "monetary", "monetary": _monetary(given["amount"])},
        "applicability_config": {"scope": _scope(call)},
        "category": given.get("category", "paid"),
        "created": call.now,
        "customer": customer,
        "customer_account": None,
        "effective_at": effective_at,
        "expires_at": given.get("expires_at"),
        "livemode": False,
        "metadata": merged_metadata({}, given.get("metadata")),
        "name": given.get("name"),
        "priority": _priority(given.get("priority", DEFAULT_PRIORITY)),
        "test_clock": call.clock,
        "updated": call.now,
        "voided_at": None,
    }
    call.state.insert_object(call.account, ledger.GRANT, grant, name=customer)
    amount = grant["amount"]["monetary"]["value"]
    ledger.credit(call, grant, "credits_granted", amount, effective_at=effective_at)
    _set_expiry(call, grant)
    events.tell(call, f"{ledger.GRANT}.created", grant)
    return grant


def retrieve(call: Call) -> Json:
    """`GET /v1/billing/credit_grants/{id}`."""
    check_implemented(call, set())
    return _find(call)


def list_all(call: Call) -> Json:
    """`GET /v1/billing/credit_grants`: newest first, by customer."""
    check_implemented(call, {"customer", "limit", "starting_after", "ending_before"})
    stored = call.state.list_objects(call.account, ledger.GRANT, name=call.parameters.get("customer"))
    return page(call, [found.body for found in stored])


def update(call: Call) -> Json:
    """`POST /v1/billing/credit_grants/{id}`: the expiry of one that has not ended, and metadata."""
    check_implemented(call, {"expires_at", "metadata"})
    grant = _find(call)
    call = clocks.changing(call, grant["customer"])
    changes: Json = {"metadata": merged_metadata(grant["metadata"], call.parameters.get("metadata"))}
    if "expires_at" in call.parameters:
        _check_unended(call, grant)
        changes["expires_at"] = call.parameters["expires_at"] or None
        _check_expiry(call, changes["expires_at"], grant["effective_at"])
    return _changed(call, grant, changes)


def expire(call: Call) -> Json:
    """`POST /v1/billing/credit_grants/{id}/expire`: what is left is gone now."""
    check_implemented(call, set())
    grant = _find(call)
    call = clocks.changing(call, grant["customer"])
    _check_unended(call, grant)
    ledger.close(call, grant, "credits_expired")
    return _changed(call, grant, {"expires_at": call.now})


def void(call: Call) -> Json:
    """`POST /v1/billing/credit_grants/{id}/void`: as if it had never been granted; only before its first use."""
    check_implemented(call, set())
    grant = _find(call)
    call = clocks.changing(call, grant["customer"])
    _check_unended(call, grant)
    if ledger.is_used(call, grant):
        raise StripeError(400, "You can only void credit grants that have not been applied to an invoice.")
    ledger.close(call, grant, "credits_voided")
    return _changed(call, grant, {"voided_at": call.now})


def _find(call: Call) -> Json:
    return find_or_404(call, ledger.GRANT, "credit grant", "id").body


def _changed(call: Call, grant: Json, changes: Json) -> Json:
    changed = {**grant, **changes, "updated": call.now}
    call.state.replace_object(call.account, ledger.GRANT, changed)
    _set_expiry(call, changed)
    events.tell(call, f"{ledger.GRANT}.updated", changed)
    return changed


def _set_expiry(call: Call, grant: Json) -> None:
    expires_at = None if grant["voided_at"] is not None else grant["expires_at"]
    call.set_alarm(
        ledger.GRANT, grant["id"], None if expires_at is None else expires_at + ledger.EXPIRY_COMMITTED_SECONDS
    )


def _is_unused(call: Call, grant: Json) -> bool:
    return grant["voided_at"] is None and not ledger.is_expired(grant, call.now) and not ledger.is_used(call, grant)


def _check_unended(call: Call, grant: Json) -> None:
    if grant["voided_at"] is not None:
        raise StripeError(400, "This credit grant has been voided.")
    if ledger.is_expired(grant, call.now):
        raise StripeError(400, "This credit grant has expired.")


def _check_expiry(call: Call, expires_at: int | None, effective_at: int) -> None:
    if expires_at is not None and expires_at <= max(call.now, effective_at):
        raise StripeError(400, "expires_at must be in the future and after effective_at.", param="expires_at")


def _monetary(amount: Json) -> Json:
    if "monetary" not in amount:
        message = "Missing required param: amount[monetary]."
        raise StripeError(400, message, code="parameter_missing", param="amount[monetary]")
    value = amount["monetary"]["value"]
    if value <= 0:
        raise StripeError(400, f"Invalid positive integer: {value}", param="amount[monetary][value]")
    return {"currency": amount["monetary"]["currency"].lower(), "value": value}


def _scope(call: Call) -> Json:
    scope = call.parameters["applicability_config"]["scope"]
    param = "applicability_config[scope]"
    if ("price_type" in scope) == ("prices" in scope):
        raise StripeError(400, "Exactly one of price_type and prices must be given.", param=param)
    for named in scope.get("prices", ()):
        price = prices.find(call, named["id"], f"{param}[prices]")
        if price["recurring"] is None or price["recurring"]["meter"] is None:
            raise StripeError(400, "Credit grants apply to prices with a meter only.", param=f"{param}[prices]")
    return dict(scope)


def _priority(priority: int) -> int:
    if not 0 <= priority <= MAX_PRIORITY:
        raise StripeError(400, f"priority must be between 0 and {MAX_PRIORITY}.", param="priority")
    return priority
