"""Payments: from what waits in the inbox to what is known of a customer, and how that customer stands.

Belongs here: reading Stripe's events about payments, whose they are, the standing asked for. Does not: the rules
(`access.dunning`), the tables (`store.payments`), HTTP.

Events are read when they arrive (the receiver) and, when that failed, before the next answer about the customer. One
event is one row, so deliveries again and in any order change nothing. An event of nobody's account named is of the
key's own: which that is, Stripe is asked once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, get_args

from psycopg_pool import ConnectionPool

from stripemeter.access.dunning import DunningPolicy, Outcome, Standing, standing_of
from stripemeter.billing import Mode
from stripemeter.errors import InvalidInput, NotAllowed, OutcomeUnknown, StripeRejected, Unavailable
from stripemeter.pipeline.price_mappings import OpenAccount
from stripemeter.pipeline.stripe_events import PAYMENTS
from stripemeter.store import payments, stripe_events
from stripemeter.store.customers import resolve_customer
from stripemeter.store.payments import SubscriptionState, ToldAttempt, ToldState
from stripemeter.store.postgres import transaction
from stripemeter.store.stripe_events import StripeEvent

MAX_EVENTS = 500
"""Events read in one transaction; the next call reads the next."""
MAX_MESSAGE = 300
_OUTCOMES: Mapping[str, Outcome] = {
    "invoice.payment_failed": "failed",
    "invoice.paid": "paid",
    "invoice.voided": "voided",
}
_LENIENT_FIRST = ("active", "trialing", "canceled")
"""Of two statuses that Stripe dates with the same second, one of these holds: nobody is blocked by a tie."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerStanding:
    """How a customer stands with what they pay.

    Args:
        customer_ref: the tenant's reference, an alias resolved.
        standing: by the policy.
        reason: in one sentence.
    """

    customer_ref: str
    standing: Standing
    reason: str


def load_standing(
    pool: ConnectionPool,
    open_account: OpenAccount,
    *,
    tenant_id: str,
    customer_ref: str,
    mode: Mode,
    policy: DunningPolicy,
    at: datetime,
    now: datetime,
) -> CustomerStanding:
    """How a customer stands at an instant, by every event of theirs that was received; nothing known is `ok`.

    Args:
        pool: of the ledger's database.
        open_account: for events that name no account.
        tenant_id: whose customer.
        customer_ref: or an alias.
        mode: live: what live accounts tell counts; shadow: what test accounts do.
        policy: what blocks.
        at: the instant asked for.
        now: when what still waited is read.

    Raises:
        Unavailable: Postgres is gone, or an event about this customer was received and cannot be read yet.
    """
    is_live = mode == "live"
    with transaction(pool) as tx:
        ref = resolve_customer(tx, tenant_id, customer_ref)
        unread = payments.find_unread(tx, tenant_id=tenant_id, customer_ref=ref, types=PAYMENTS, is_live=is_live)
    if unread is not None:
        record_payments(pool, open_account, now=now, modes=(mode,))
    with transaction(pool) as tx:
        unread = payments.find_unread(tx, tenant_id=tenant_id, customer_ref=ref, types=PAYMENTS, is_live=is_live)
        attempts = payments.list_attempts(tx, tenant_id=tenant_id, customer_ref=ref, is_live=is_live)
        states = payments.list_states(tx, tenant_id=tenant_id, customer_ref=ref, is_live=is_live)
    if unread is not None:
        raise Unavailable(f"Stripe's event {unread.id} about this customer is not read yet: {unread.error_message}")
    standing = standing_of(attempts, policy, at, given_up_at=given_up_at([each for each in states if each.at <= at]))
    return CustomerStanding(
        customer_ref=ref, standing=standing, reason=_reason(standing, is_known=bool(attempts or states))
    )


def record_payments(
    pool: ConnectionPool, open_account: OpenAccount, *, now: datetime, modes: Sequence[Mode] = get_args(Mode)
) -> int:
    """Read what waits in the inbox about payments; returns how many events ended their wait. Again changes nothing.

    Raises:
        Unavailable: Postgres is gone.
    """
    return sum(_record(pool, open_account, mode, now) for mode in modes)


def given_up_at(states: Sequence[SubscriptionState]) -> datetime | None:
    """Since when Stripe has given up on one of a customer's subscriptions; None: on none, or no longer."""
    by_subscription: dict[tuple[str, str], list[SubscriptionState]] = {}
    for state in states:
        by_subscription.setdefault((state.stripe_account_id, state.subscription_id), []).append(state)
    since = [_unpaid_since(sorted(its, key=_order)) for its in by_subscription.values()]
    return min((at for at in since if at is not None), default=None)


def parse_payment(event: StripeEvent, account: str) -> ToldAttempt | ToldState | None:
    """What an event tells of a payment; None: nothing that is judged.

    A subscription on a test clock is not judged: an event's instant is the world's, not the clock's.

    Raises:
        InvalidInput: it is not Stripe's object; names the member.
    """
    told = event.payload.get("data")
    subject = told.get("object") if isinstance(told, dict) else None
    if not isinstance(subject, dict):
        raise InvalidInput("data.object must be an object", field="data.object")
    customer = subject.get("customer")
    if isinstance(customer, dict):
        customer = customer.get("id")
    if event.type.startswith("customer.subscription."):
        if subject.get("test_clock") is not None:
            return None
        return ToldState(
            event_id=event.id,
            stripe_account_id=account,
            stripe_customer_id=_text(customer, "customer"),
            is_live=event.is_live,
            subscription_id=_text(subject.get("id"), "id"),
            status=_text(subject.get("status"), "status"),
            at=event.created_at,
        )
    outcome = _OUTCOMES[event.type]
    return ToldAttempt(
        event_id=event.id,
        stripe_account_id=account,
        stripe_customer_id=_text(customer, "customer"),
        is_live=event.is_live,
        invoice_id=_text(subject.get("id"), "id"),
        outcome=outcome,
        number=_count(subject.get("attempt_count")),
        at=_when(subject, outcome) or event.created_at,
        next_attempt_at=_instant(subject, "next_payment_attempt") if outcome == "failed" else None,
    )


def _record(pool: ConnectionPool, open_account: OpenAccount, mode: Mode, now: datetime) -> int:
    with transaction(pool) as tx:
        waiting = stripe_events.list_waiting(tx, types=PAYMENTS, is_live=mode == "live", limit=MAX_EVENTS)
    if not waiting:
        return 0
    account, trouble = None, ""
    if any(event.stripe_account_id is None for event in waiting):
        account, trouble = _own_account(open_account, mode)
    ended = 0
    with transaction(pool) as tx:
        for event in waiting:
            whose = event.stripe_account_id or account
            if whose is None:
                stripe_events.note_trouble(tx, event.id, trouble)
                continue
            try:
                told = parse_payment(event, whose)
            except InvalidInput as error:
                stripe_events.mark_processed(tx, event.id, "failed", now=now, error_message=str(error)[:MAX_MESSAGE])
            else:
                if told is not None:
                    payments.insert_told(tx, told)
                stripe_events.mark_processed(tx, event.id, "ignored" if told is None else "done", now=now)
            ended += 1
    return ended


def _own_account(open_account: OpenAccount, mode: Mode) -> tuple[str | None, str]:
    try:
        return open_account(mode).account_id(), ""
    except (InvalidInput, NotAllowed, OutcomeUnknown, StripeRejected, Unavailable) as error:
        return None, f"which account it is of is not known: {error}"[:MAX_MESSAGE]


def _when(invoice: Mapping[str, Any], outcome: Outcome) -> datetime | None:
    """By the invoice itself; a failure's instant is the event's, which on a test clock is not in the clock's time."""
    transitions = invoice.get("status_transitions")
    if not isinstance(transitions, dict):
        raise InvalidInput("status_transitions must be an object", field="status_transitions")
    match outcome:
        case "paid":
            return _instant(transitions, "paid_at")
        case "voided":
            return _instant(transitions, "voided_at")
        case "failed":
            return None if invoice.get("test_clock") is None else _instant(transitions, "finalized_at")


def _unpaid_since(ordered: Sequence[SubscriptionState]) -> datetime | None:
    since = None
    for state in ordered:
        if state.status != "unpaid":
            since = None
        elif since is None:
            since = state.at
    return since


def _order(state: SubscriptionState) -> tuple[datetime, bool, str]:
    return state.at, state.status in _LENIENT_FIRST, state.status


def _reason(standing: Standing, *, is_known: bool) -> str:
    owed = ", ".join(standing.unpaid_invoices) or "a subscription"
    match standing.state:
        case "ok":
            return "nothing is owed" if is_known else "no payment known"
        case "recovered":
            return "what was owed is paid"
        case "past_due":
            return f"{owed} is not paid, and no retry is known to come"
        case "retry_scheduled":
            return f"{owed} is not paid, and will be tried again"
        case "blocked":
            return f"{owed} is not paid"


def _text(value: object, member: str) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= 255:
        raise InvalidInput(f"data.object.{member} must be a string of 1 to 255 characters", field=member)
    return value


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 1_000_000:
        raise InvalidInput("data.object.attempt_count must be a number of attempts", field="attempt_count")
    return value


def _instant(members: Mapping[str, Any], member: str) -> datetime | None:
    value = members.get(member)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 253_402_300_800:
        raise InvalidInput(f"{member} must be Unix seconds or null", field=member)
    return datetime.fromtimestamp(value, UTC)
