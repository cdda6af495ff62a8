"""Billing: what time does to subscriptions, and what their invoices are made of.

Belongs here: the ends of periods, price segments, parts of invoices. Does not: routes, when a period ends (`alarms`),
what an invoice looks like (`invoice_documents`).

A part of an invoice is one item at one price over `[start, end)`; its usage is read when the invoice needs it.
"""

from __future__ import annotations

from stripe_emulator import invoice_documents as invoices
from stripe_emulator import invoice_items
from stripe_emulator.calls import Call, missing, new_id
from stripe_emulator.periods import period_around
from stripe_emulator.wire import Json, StripeError, plain

SUBSCRIPTION = "subscription"
ITEM = "subscription_item"
PENDING = "pending_invoice_item"


def subscription(call: Call, subscription_id: str) -> Json:
    """A subscription without its items.

    Raises:
        StripeError: Stripe's 404.
    """
    stored = call.state.find_object(call.account, SUBSCRIPTION, subscription_id)
    if stored is None:
        raise missing("subscription", subscription_id, "id")
    return stored.body


def items(call: Call, subscription_id: str) -> list[Json]:
    """Items of a subscription in order of creation, prices with their tiers."""
    return [stored.body for stored in reversed(call.state.list_objects(call.account, ITEM, name=subscription_id))]


def check_alive(found: Json) -> None:
    """Nothing, when a subscription can still change.

    Raises:
        StripeError: it is canceled.
    """
    if found["status"] == "canceled":
        raise StripeError(400, "A canceled subscription can only update its cancellation_details.")


def open_first_period(call: Call, found: Json) -> None:
    """Periods of all items, the first invoice (licensed prices only; paid at once), the alarm of the period's end."""
    _open_period(call, found)
    licensed = [part for item in items(call, found["id"]) if (part := _licensed(item)) is not None]
    if licensed:
        invoice = invoices.draft(call, found, licensed, reason="subscription_create")
        if found["collection_method"] == "charge_automatically":
            invoices.finalize_by_clock(call, invoice["id"])


def restart_period(call: Call, found: Json) -> None:
    """The anchor becomes now: what was used until now is invoiced, a new period begins."""
    parts = _used(call, found, call.now)
    moved = {**found, "billing_cycle_anchor": call.now, "billing_cycle_anchor_config": None}
    call.state.replace_object(call.account, SUBSCRIPTION, moved)
    _open_period(call, moved)
    parts += [part for item in items(call, found["id"]) if (part := _licensed(item)) is not None]
    invoices.draft(call, moved, parts, reason="subscription_update")


def end_subscription(call: Call, found: Json, *, is_invoiced: bool) -> None:
    """Canceled from now; usage so far is invoiced, or nobody ever bills it."""
    call.set_alarm(SUBSCRIPTION, found["id"], None)
    ended = {**found, "status": "canceled", "canceled_at": found["canceled_at"] or call.now, "ended_at": call.now}
    call.state.replace_object(call.account, SUBSCRIPTION, ended)
    if is_invoiced:
        invoices.draft(call, ended, _used(call, ended, call.now), reason="subscription_cycle")


def close_item(call: Call, item: Json, *, is_kept: bool) -> None:
    """What an item used at its price until now waits for the next invoice, when it is kept."""
    part = _metered(item, call.now)
    if part is None or not is_kept or part["start"] >= part["end"]:
        return
    used = invoices.usage(call, subscription(call, item["subscription"])["customer"], part)
    pending = {**part, "id": new_id("ii"), "invoice_item": None, "quantity": plain(used)}
    pending["invoice_item"] = pending["id"]
    call.state.insert_object(call.account, PENDING, pending, name=item["subscription"])


def preview_parts(call: Call, found: Json) -> list[Json]:
    """What the next invoice would be made of."""
    end = items(call, found["id"])[0]["current_period_end"]
    waiting = invoice_items.waiting_parts(call, found["customer"], found["currency"])
    return [*_pending(call, found), *_metered_parts(call, found, end), *waiting]


def end_period(call: Call, found: Json) -> None:
    """The period's usage is invoiced; the next one begins, or the subscription ends."""
    parts = _used(call, found, call.now)
    if found["cancel_at_period_end"]:
        end_subscription(call, found, is_invoiced=False)
        invoices.draft(call, subscription(call, found["id"]), parts, reason="subscription_cycle")
        return
    _open_period(call, found)
    parts += [part for item in items(call, found["id"]) if (part := _licensed(item)) is not None]
    invoices.draft(call, found, parts, reason="subscription_cycle")


def _open_period(call: Call, found: Json) -> None:
    anchor, config = found["billing_cycle_anchor"], found["billing_cycle_anchor_config"]
    for item in items(call, found["id"]):
        recurring, day = item["price"]["recurring"], config["day_of_month"] if config else None
        start, end = period_around(anchor, recurring, call.now, day=day)
        if call.now < anchor:  # the stub before the first anchor
            start, end = call.now, anchor
        opened = {**item, "current_period_start": start, "current_period_end": end, "_billed_from": start}
        call.state.replace_object(call.account, ITEM, opened)
        call.set_alarm(SUBSCRIPTION, found["id"], end)


def _used(call: Call, found: Json, end: int) -> list[Json]:
    pending = _pending(call, found)
    for part in pending:
        call.state.remove_object(call.account, PENDING, part["id"])
    return [*pending, *_metered_parts(call, found, end)]


def _pending(call: Call, found: Json) -> list[Json]:
    stored = call.state.list_objects(call.account, PENDING, name=found["id"])
    return [pending.body for pending in reversed(stored)]


def _metered_parts(call: Call, found: Json, end: int) -> list[Json]:
    return [part for item in items(call, found["id"]) if (part := _metered(item, end)) is not None]


def _metered(item: Json, end: int) -> Json | None:
    if item["price"]["recurring"]["usage_type"] != "metered":
        return None
    return _part(item, "metered", item["_billed_from"], end, None)


def _licensed(item: Json) -> Json | None:
    if item["price"]["recurring"]["usage_type"] != "licensed":
        return None
    period = item["current_period_start"], item["current_period_end"]
    return _part(item, "licensed", *period, str(item["quantity"]))


def _part(item: Json, kind: str, start: int, end: int, quantity: str | None) -> Json:
    return {
        "kind": kind,
        "subscription": item["subscription"],
        "item": item["id"],
        "price": item["price"],
        "start": start,
        "end": end,
        "quantity": quantity,
        "invoice_item": None,
    }
