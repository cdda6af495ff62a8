"""Observing: what can be seen of a customer at an instant.

Belongs here: the documents of STATE. Does not: what is expected of them (`expectations`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from stripemeter.access.dunning import PaymentAttempt, standing_of
from stripemeter.pricing.invoice_writing import amount_text
from stripemeter.pricing.reading import instant_text, plain
from stripemeter.simulation.accounts import Account, Bill
from stripemeter.simulation.entries import Expect
from stripemeter.simulation.playing import Play, invoice_id

PAYMENT_REQUIRED = 402
"""What `/v1/access` answers of a customer who is blocked."""


def observe(play: Play, expect: Expect) -> dict[str, Any]:
    """All that can be seen now; JSON-able, numbers as strings."""
    account = play.accounts[expect.customer_ref]
    segment = account.segment(play.now)
    span = expect.span or (segment.start, segment.end)
    bills = bills_of(play, account)
    draft = play.draft(account, play.now)
    return {
        "usage": {
            metric: _number(play.ledger.usage(account.customer_ref, metric, span, play.now))
            for metric in sorted(_metrics(play))
        },
        "costToDate": None if draft is None else draft.invoice.to_dict(),
        "invoice": bills[-1] if bills else None,
        "invoices": bills,
        "credits": _credits(account, play.now),
        "commitments": {
            name: _left(prepaid.amount_minor, prepaid.applied_minor, prepaid.currency, "committed")
            for name, prepaid in account.prepaid.items()
        },
        "access": _access(play, account.customer_ref),
        "events": {name: str(count) for name, count in play.ledger.counts.items()},
    }


def bills_of(play: Play, account: Account) -> list[dict[str, Any]]:
    """Every invoice of a period that is over: final ones, then drafts."""
    paid = {attempt.invoice_id for attempt in play.attempts(account.customer_ref) if attempt.outcome == "paid"}
    found = []
    for number, bill in enumerate(account.bills):
        name = invoice_id(account.customer_ref, number)
        is_paid = name in paid or not bill.invoice.total_minor
        found.append(
            {
                "id": name,
                "status": "paid" if is_paid else "open",
                "finalizedAt": instant_text(play.finalized_at(bill)),
                "unbilled": _unbilled(play, account, bill),
                **bill.invoice.to_dict(),
            }
        )
    start = account.next_start
    while start is not None and account.segment(start).end <= play.now:
        draft = play.draft(account, start)
        if draft is not None:
            found.append({"id": None, "status": "draft", "finalizedAt": None, **draft.invoice.to_dict()})
        start = account.segment(start).end
    return found


def _unbilled(play: Play, account: Account, bill: Bill) -> dict[str, str]:
    """What a final invoice would count more if it were made now, by metric."""
    found: dict[str, Decimal] = {}
    for metric, start, end, counted in bill.counted:
        now = play.ledger.usage(account.customer_ref, metric, (start, end), play.now) or Decimal(0)
        found[metric] = found.get(metric, Decimal(0)) + now - counted
    return {metric: plain(more) for metric, more in found.items()}


def _metrics(play: Play) -> set[str]:
    priced = {metric for plan in play.story.plans.values() for metric in plan.prices}
    return play.ledger.metrics | priced | set(play.story.rules.meters)


def _credits(account: Account, now: datetime) -> dict[str, Any]:
    grants: dict[str, Any] = {}
    balance = 0
    currency = next((grant.currency for grant in account.grants.values()), "USD")
    for name, grant in account.grants.items():
        state = "active"
        if grant.effective_at is not None and now < grant.effective_at:
            state = "pending"
        elif grant.expires_at is not None and now >= grant.expires_at:
            state = "expired"
        elif grant.currency == currency:
            balance += max(grant.amount_minor - grant.applied_minor, 0)
        left = _left(grant.amount_minor, grant.applied_minor, grant.currency, "granted")
        grants[name] = {**left, "state": state}
    return {"balance": amount_text(balance, currency.upper()), "grants": grants}


def _left(amount: int, applied: int, currency: str, name: str) -> Mapping[str, str]:
    currency = currency.upper()
    return {
        name: amount_text(amount, currency),
        "applied": amount_text(applied, currency),
        "remaining": amount_text(max(amount - applied, 0), currency),
    }


def _access(play: Play, ref: str) -> dict[str, Any]:
    attempts: list[PaymentAttempt] = list(play.attempts(ref))
    standing = standing_of(attempts, play.story.dunning, play.now)
    return {
        "state": standing.state,
        "httpStatus": "200" if standing.is_allowed else str(PAYMENT_REQUIRED),
        "nextAttemptAt": _instant(standing.next_attempt_at),
        "blockedAt": _instant(standing.blocked_at),
        "unpaidInvoices": list(standing.unpaid_invoices),
        "notices": [
            {"at": instant_text(notice.at), "reason": notice.reason, "invoice": notice.invoice_id}
            for notice in standing.notices
        ],
    }


def _number(number: Decimal | None) -> str | None:
    return None if number is None else plain(number)


def _instant(at: datetime | None) -> str | None:
    return None if at is None else instant_text(at)
