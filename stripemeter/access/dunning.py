"""Dunning: what follows from payments that fail and succeed, at an instant.

Belongs here: a customer's standing, the notices that are due, when a failed payment is tried again. Does not: where
payments are heard of (`pipeline.payments`), caps on usage.

    ok ──failed──▶ retry_scheduled ◀──▶ past_due ──days_until_blocked──▶ blocked
     ▲                    │                │                               │
     └─days_recovered── recovered ◀──────paid──────────────────────────────┘

Standing is a function of the set of attempts: their order and repetition change nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from stripemeter.errors import InvalidInput

State = Literal["ok", "past_due", "retry_scheduled", "blocked", "recovered"]
Outcome = Literal["failed", "paid", "voided"]
NoticeReason = Literal["payment_failed", "blocked", "recovered"]

_NEVER = datetime.max.replace(tzinfo=UTC)
_LONGEST_DAYS = 365


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentAttempt:
    """One attempt to collect an invoice, or the end of trying.

    Args:
        invoice_id: Stripe's, or a scenario's.
        at: when.
        outcome: `voided`: nothing is owed any more, and nothing was paid.
        number: of the attempt, from 1.
        next_attempt_at: when it is tried again; None: it is not, or it was paid.
    """

    invoice_id: str
    at: datetime
    outcome: Outcome
    number: int = 1
    next_attempt_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DunningPolicy:
    """What a customer who does not pay may expect.

    Args:
        retry_days: days from each failed attempt to the next; none: it is not tried again. Of simulated payments:
            Stripe says itself when it tries again.
        days_until_blocked: from the first failed attempt; 0: at once.
        days_recovered: how long after paying a customer is called recovered; 0: not at all.

    Raises:
        InvalidInput: a number of days out of bounds; names it.
    """

    retry_days: tuple[int, ...] = (3, 5, 7)
    days_until_blocked: int = 14
    days_recovered: int = 7

    def __post_init__(self) -> None:
        """Refuse what cannot be right."""
        for number, days in enumerate(self.retry_days):
            _check_days(days, f"retry_days[{number}]", least=1)
        _check_days(self.days_until_blocked, "days_until_blocked", least=0)
        _check_days(self.days_recovered, "days_recovered", least=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something the customer should be told, and since when; the original's `email_sent`. Nobody here sends it.

    Args:
        at: since when it is due.
        reason: what happened.
        invoice_id: whose payment failed; None: it is about all that is owed.
    """

    at: datetime
    reason: NoticeReason
    invoice_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a customer stands at an instant.

    Args:
        state: `past_due`: something is owed and no retry is known to come; `retry_scheduled`: one is.
        since: of owing (of having paid, when recovered); None: of a customer who owes nothing and did not lately.
        blocked_at: when what is owed blocks, or did; None: nothing is owed.
        next_attempt_at: the next retry.
        unpaid_invoices: what is owed, oldest first.
        notices: due since the trouble at hand began, oldest first.
    """

    state: State
    since: datetime | None = None
    blocked_at: datetime | None = None
    next_attempt_at: datetime | None = None
    unpaid_invoices: tuple[str, ...] = ()
    notices: tuple[Notice, ...] = ()

    @property
    def is_allowed(self) -> bool:
        """Whether the customer may go on; only `blocked` may not."""
        return self.state != "blocked"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Debt:
    """An invoice from its first failed attempt until it was settled."""

    invoice_id: str
    failed: Sequence[PaymentAttempt]
    settled_at: datetime
    is_waived: bool

    @property
    def start(self) -> datetime:
        return self.failed[0].at


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trouble:
    """Debts that overlap, from the first failure until nothing is owed; `end` is _NEVER while something is."""

    debts: tuple[_Debt, ...]

    @property
    def start(self) -> datetime:
        return self.debts[0].start

    @property
    def end(self) -> datetime:
        return max(debt.settled_at for debt in self.debts)


def standing_of(
    attempts: Collection[PaymentAttempt],
    policy: DunningPolicy,
    now: datetime,
    *,
    given_up_at: datetime | None = None,
) -> Standing:
    """How a customer stands; what happens after `now` is not looked at.

    Args:
        attempts: of one customer, in any order, repeated or not; none: `ok`.
        policy: what blocks.
        now: aware UTC.
        given_up_at: since when a subscription of theirs is `unpaid`: Stripe has given up, which blocks too.
    """
    troubles = _troubles([attempt for attempt in attempts if attempt.at <= now])
    trouble = troubles[-1] if troubles else None
    if given_up_at is not None and given_up_at > now:
        given_up_at = None
    if trouble is not None and trouble.end > now:
        return _owing(trouble, policy, now, given_up_at)
    if given_up_at is not None:
        notice = Notice(at=given_up_at, reason="blocked")
        return Standing(state="blocked", since=given_up_at, blocked_at=given_up_at, notices=(notice,))
    if trouble is not None and now < trouble.end + timedelta(days=policy.days_recovered):
        return Standing(state="recovered", since=trouble.end, notices=_notices(trouble, policy, now, None))
    return Standing(state="ok")


def attempts_of(
    invoice_id: str, first_at: datetime, succeeds: Callable[[datetime], bool], policy: DunningPolicy
) -> Iterator[PaymentAttempt]:
    """The attempts to collect an invoice by the policy's retry days, until one succeeds or none is left.

    Args:
        invoice_id: which.
        first_at: of the first attempt: when the invoice is finalized.
        succeeds: whether a payment at an instant does.
        policy: when it is tried again.
    """
    at = first_at
    for number, days in enumerate((*policy.retry_days, None), start=1):
        if succeeds(at):
            yield PaymentAttempt(invoice_id=invoice_id, at=at, outcome="paid", number=number)
            return
        following = None if days is None else at + timedelta(days=days)
        yield PaymentAttempt(invoice_id=invoice_id, at=at, outcome="failed", number=number, next_attempt_at=following)
        if following is not None:
            at = following


def _owing(trouble: _Trouble, policy: DunningPolicy, now: datetime, given_up_at: datetime | None) -> Standing:
    owed = [debt for debt in trouble.debts if debt.settled_at > now]
    blocked_at = _blocked_at(trouble, policy, given_up_at)
    retries = [last.next_attempt_at for debt in owed if (last := debt.failed[-1]).next_attempt_at is not None]
    ahead = min((at for at in retries if at > now), default=None)
    state: State = "past_due" if ahead is None else "retry_scheduled"
    return Standing(
        state="blocked" if now >= blocked_at else state,
        since=trouble.start,
        blocked_at=blocked_at,
        next_attempt_at=ahead,
        unpaid_invoices=tuple(debt.invoice_id for debt in owed),
        notices=_notices(trouble, policy, now, given_up_at),
    )


def _blocked_at(trouble: _Trouble, policy: DunningPolicy, given_up_at: datetime | None) -> datetime:
    by_policy = trouble.start + timedelta(days=policy.days_until_blocked)
    return by_policy if given_up_at is None else min(by_policy, max(given_up_at, trouble.start))


def _notices(
    trouble: _Trouble, policy: DunningPolicy, now: datetime, given_up_at: datetime | None
) -> tuple[Notice, ...]:
    notices = [
        Notice(at=attempt.at, reason="payment_failed", invoice_id=debt.invoice_id)
        for debt in trouble.debts
        for attempt in debt.failed
    ]
    blocked_at = _blocked_at(trouble, policy, given_up_at)
    if blocked_at <= now and blocked_at < trouble.end:
        notices.append(Notice(at=blocked_at, reason="blocked"))
    if trouble.end <= now:
        notices.append(Notice(at=trouble.end, reason="recovered"))
    order = ("payment_failed", "blocked", "recovered")
    return tuple(sorted(notices, key=lambda notice: (notice.at, order.index(notice.reason), notice.invoice_id or "")))


def _troubles(attempts: Collection[PaymentAttempt]) -> list[_Trouble]:
    """Oldest first; a customer whose every failed invoice was voided was in none that they recovered from."""
    by_invoice: dict[str, list[PaymentAttempt]] = defaultdict(list)
    for attempt in set(attempts):
        by_invoice[attempt.invoice_id].append(attempt)
    debts = [debt for invoice, its in by_invoice.items() if (debt := _debt(invoice, its)) is not None]
    groups: list[list[_Debt]] = []
    for debt in sorted(debts, key=lambda debt: (debt.start, debt.invoice_id)):
        if groups and debt.start < max(other.settled_at for other in groups[-1]):
            groups[-1].append(debt)
        else:
            groups.append([debt])
    return [_Trouble(debts=tuple(group)) for group in groups if not all(debt.is_waived for debt in group)]


def _debt(invoice_id: str, attempts: Sequence[PaymentAttempt]) -> _Debt | None:
    ends = [attempt for attempt in attempts if attempt.outcome != "failed"]
    last = min(ends, key=lambda attempt: (attempt.at, attempt.outcome), default=None)
    settled_at = _NEVER if last is None else last.at
    failed = sorted(
        (attempt for attempt in attempts if attempt.outcome == "failed" and attempt.at <= settled_at),
        key=lambda attempt: (attempt.at, attempt.number),
    )
    if not failed:
        return None
    is_waived = last is not None and last.outcome == "voided"
    return _Debt(invoice_id=invoice_id, failed=failed, settled_at=settled_at, is_waived=is_waived)


def _check_days(days: int, name: str, *, least: int) -> None:
    if not least <= days <= _LONGEST_DAYS:
        raise InvalidInput(f"{name} must be {least} to {_LONGEST_DAYS} days, not {days}", field=name)
