"""Sending charges of late usage: each becomes one invoice item or credit note, whoever dies in between.

Belongs here: the attempts of a charge that is written down. Does not: which charges there are (`late_charges`), HTTP
(`billing`).

    made now, or found there by its identity     accepted
    another refusal                              rejected: its usage is lacking again and waits for a person
    401, 403                                     stays on its way, and the rest is left
    busy (409, 429), no answer                   stays on its way, same Idempotency-Key
    5xx                                          stays on its way, new Idempotency-Key: Stripe would repeat the 5xx

Every attempt after the first looks for it before it sends, by the identity in its metadata: an Idempotency-Key is
forgotten after a day, and does not survive a 5xx, the metadata stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from psycopg_pool import ConnectionPool

from stripemeter.billing.sink import BillingSink, LateAmount
from stripemeter.errors import InvariantBroken, OutcomeUnknown, StripeRejected, Unavailable
from stripemeter.metering.deltas import fixed_point, idempotency_key
from stripemeter.store import late_charges, push_epochs
from stripemeter.store.late_charges import LateCharge
from stripemeter.store.postgres import transaction

LEASE = timedelta(seconds=180)
"""How long a claimed charge is left alone by others: looking for it and sending it are a few requests."""
BACKOFF = timedelta(minutes=1)
LOOKED_BACK = timedelta(days=1)
"""Of a customer's items none older than this before its charge was planned is looked at: clocks differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What became of a charge."""

    charge: LateCharge
    outcome: Literal["accepted", "unsettled", "rejected"]
    reason: str = ""


def send_charges(pool: ConnectionPool, sink: BillingSink, *, now: datetime) -> tuple[list[Sent], str]:
    """Send every charge of the account and mode that is due; what became of each, and why the rest was left, if it was.

    Raises:
        NotAllowed: this is not the database usage was pushed from, or pushing is fenced.
        StripeRejected, Unavailable, OutcomeUnknown: the account could not be asked for, or Postgres is gone.
    """
    account = sink.account_id()
    sent: list[Sent] = []
    tried: set[UUID] = set()
    while True:
        with transaction(pool) as tx:
            push_epochs.require_open(tx)
            charge = late_charges.claim_due(
                tx, stripe_account_id=account, mode=sink.mode, but=tried, now=now, lease_until=now + LEASE
            )
        if charge is None:
            return sent, ""
        tried.add(charge.id)
        try:
            sent.append(_send(pool, sink, charge, now=now))
        except StripeRejected as refused:  # the key
            _leave(pool, charge, str(refused), now=now)
            return sent, str(refused)


def _send(pool: ConnectionPool, sink: BillingSink, charge: LateCharge, *, now: datetime) -> Sent:
    """One attempt.

    Raises:
        StripeRejected: the key is refused.
    """
    try:
        made = _make(sink, charge)
    except StripeRejected as refused:
        if refused.status in (401, 403):
            raise
        with transaction(pool) as tx:
            late_charges.settle_rejected(tx, charge, http_status=refused.status, error_message=str(refused), now=now)
        return Sent(charge=charge, outcome="rejected", reason=str(refused))
    except (Unavailable, OutcomeUnknown) as trouble:
        _leave(pool, charge, str(trouble), now=now, status=getattr(trouble, "status", None))
        return Sent(charge=charge, outcome="unsettled", reason=str(trouble))
    with transaction(pool) as tx:
        late_charges.settle_accepted(tx, charge, stripe_object_id=made, now=now)
    return Sent(charge=charge, outcome="accepted")


def _make(sink: BillingSink, charge: LateCharge) -> str:
    amount = _amount(charge)
    if charge.attempt > 1:
        found = sink.find_billed_late(amount, created_from=charge.planned_at - LOOKED_BACK)
        if found is not None:
            return found
    return sink.bill_late(amount, idempotency_key=idempotency_key(charge.identity, charge.key_no))


def _leave(pool: ConnectionPool, charge: LateCharge, reason: str, *, now: datetime, status: int | None = None) -> None:
    with transaction(pool) as tx:
        late_charges.settle_open(
            tx,
            charge,
            next_attempt_at=now + BACKOFF,
            is_new_key=status is not None and status >= 400,
            http_status=status,
            error_message=reason,
        )


def _amount(charge: LateCharge) -> LateAmount:
    if charge.kind == "nothing":
        raise InvariantBroken(f"charge {charge.id} is of nothing and is to be sent")
    return LateAmount(
        kind=charge.kind,
        identity=charge.identity,
        stripe_customer_id=charge.stripe_customer_id,
        invoice_id=charge.invoice_id,
        amount_minor=charge.amount_minor,
        currency=charge.currency,
        description=_description(charge),
        starts_at=charge.starts_at,
        ends_at=charge.ends_at,
    )


def _description(charge: LateCharge) -> str:
    """What the customer reads."""
    more = charge.quantity_after - charge.quantity_before
    quantity = f"{fixed_point(abs(more))} {'more' if more > 0 else 'fewer'}"
    return (
        f"{charge.meter}, {charge.starts_at:%Y-%m-%d} to {charge.ends_at:%Y-%m-%d}: {quantity} than its invoice billed "
        f"({fixed_point(charge.quantity_before)} -> {fixed_point(charge.quantity_after)})"
    )
