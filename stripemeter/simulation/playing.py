"""Playing: making a story happen on a clock of its own.

Belongs here: the order in which events arrive, invoices become final and entries happen. Does not: counting (`ledger`),
what is owed (`accounts`), how it looks (`observing`).

At one instant deliveries come first, then invoices become final, then the entries of the timeline.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from typing import assert_never

from stripemeter.access.dunning import PaymentAttempt, attempts_of
from stripemeter.errors import InvalidInput
from stripemeter.metering.segments import END
from stripemeter.pricing import MinimumCommitment, PrepaidCommitment, Rounding
from stripemeter.pricing.reading import instant_text, refused
from stripemeter.simulation.accounts import Account, Bill, Count, PriceBook
from stripemeter.simulation.entries import (
    Action,
    Adjust,
    ApproveLate,
    Cancel,
    Change,
    Commit,
    Expect,
    GrantCredit,
    MoveExpiry,
    Payments,
    PayNow,
    Reduce,
    Reprice,
    Send,
    Subscribe,
)
from stripemeter.simulation.ledger import Ledger
from stripemeter.simulation.stories import Story
from stripemeter.simulation.traffic import Delivery, Generator

MOST_DELIVERIES = 2_000_000
MOST_INVOICES = 1_000
"""Of one customer."""


class Play:
    """A story under way.

    Args:
        story: what happens.
        rounding: of invoice lines.
        seed: of what is drawn.
    """

    def __init__(self, story: Story, rounding: Rounding, seed: int) -> None:
        self.now = story.start
        self.story = story
        self.ledger = Ledger(story.rules)
        self._seed = seed
        self._book = PriceBook(story.plans, story.start)
        self.accounts = {
            ref: Account(customer_ref=ref, prices=self._book, rounding=rounding, tax_pct=story.tax_pct)
            for ref in story.customers
        }
        self._queue: list[tuple[datetime, int, Delivery]] = []
        self._queued = 0
        self._switches: dict[str, list[tuple[datetime, bool]]] = {ref: [] for ref in story.customers}
        self._paid: dict[str, list[PaymentAttempt]] = {ref: [] for ref in story.customers}

    def move(self, at: datetime, path: str) -> None:
        """Move the clock: what is due until then happens.

        Args:
            at: not before now.
            path: of the entry, for complaints.
        """
        while (due := min(self._due(), default=None)) is not None and due[0] <= at:
            self._deliver(due[0])
            self.now = due[0]
            account = self.accounts[due[1]]
            if len(account.bills) == MOST_INVOICES:
                raise refused(f"the clock moves past {MOST_INVOICES} invoices of {due[1]}, more than are made", path)
            account.finalize(account.segment(account.next_start or at), self._count_of(account))
        self._deliver(at)
        self.now = at

    def act(self, action: Action, path: str) -> None:
        """Make an entry happen now."""
        match action:
            case Subscribe() | Change() | Cancel() | Reprice():
                self._change_plans(action)
            case GrantCredit() | MoveExpiry() | Commit() | Reduce():
                self._change_terms(action)
            case Send() | Generator() | Adjust() | ApproveLate():
                self._change_usage(action, path)
            case Payments(customer_ref=ref, succeed=succeed):
                self._switches[ref].append((self.now, succeed))
            case PayNow(customer_ref=ref):
                self._pay(ref, path)
            case Expect():
                raise AssertionError("seeing changes nothing")
            case _:
                assert_never(action)

    def finish(self) -> None:
        """Refuse a story that ends before all its events arrived: they would prove nothing."""
        if self._queue:
            last = max(self._queue)
            raise refused(
                f"{len(self._queue)} deliveries would come after the end of the timeline, the last at "
                f"{instant_text(last[0])}: move the clock at least that far",
                last[2].origin,
            )

    def draft(self, account: Account, start: datetime) -> Bill | None:
        """The invoice of the period that holds an instant, as it would be now."""
        return account.draft(account.segment(start), self.now, self._count_of(account))

    def attempts(self, ref: str) -> Iterator[PaymentAttempt]:
        """Every attempt to pay until now."""
        for number, bill in enumerate(self.accounts[ref].bills):
            if bill.invoice.total_minor:
                yield from (
                    attempt
                    for attempt in attempts_of(
                        invoice_id(ref, number), self.finalized_at(bill), self._succeeds(ref), self.story.dunning
                    )
                    if attempt.at <= self.now
                )
        yield from self._paid[ref]

    def finalized_at(self, bill: Bill) -> datetime:
        """When an invoice becomes final."""
        return min(bill.segment.end, END - self.story.finalize_after) + self.story.finalize_after

    def _change_plans(self, action: Subscribe | Change | Cancel | Reprice) -> None:
        match action:
            case Subscribe(customer_ref=ref, plan=plan, phase=phase):
                if phase is not None:
                    self.ledger.cut(ref, phase)
                self.accounts[ref].subscribe(plan, phase, self.now)
            case Change(customer_ref=ref, old=old, new=new):
                self.accounts[ref].leave(old, self.now)
                self.accounts[ref].subscribe(new, None, self.now)
            case Cancel(customer_ref=ref, plan=plan):
                self.accounts[ref].leave(plan, self.now)
            case Reprice(plan=plan, metric=metric, price=price):
                self._book.reprice(plan, metric, price, self.now)

    def _change_terms(self, action: GrantCredit | MoveExpiry | Commit | Reduce) -> None:
        account = self.accounts[action.customer_ref]
        match action:
            case GrantCredit(grant=grant):
                account.grants[grant.name] = grant
            case MoveExpiry(reason=reason, expires_at=expires_at):
                account.grants[reason] = replace(account.grants[reason], expires_at=expires_at)
            case Commit(commitment=PrepaidCommitment() as prepaid):
                account.prepaid[prepaid.name] = prepaid
            case Commit(commitment=MinimumCommitment() as minimum):
                account.minimums.append((minimum, self.now))
            case Reduce():
                account.discounts.append((action, self.now))

    def _change_usage(self, action: Send | Generator | Adjust | ApproveLate, path: str) -> None:
        match action:
            case Send(deliveries=deliveries):
                for delivery in deliveries:
                    self._accept(delivery)
            case Generator():
                for delivery in action.deliveries(self._seed, self.now):
                    self._queue_up(delivery, path)
            case Adjust():
                self.ledger.adjust(action)
            case ApproveLate():
                self.ledger.approve()

    def _due(self) -> Iterator[tuple[datetime, str]]:
        """When whose next invoice becomes final."""
        for ref, account in self.accounts.items():
            if account.next_start is not None:
                end = account.segment(account.next_start).end
                if end < END - self.story.finalize_after:
                    yield end + self.story.finalize_after, ref

    def _count_of(self, account: Account) -> Count:
        return lambda metric, start, end: self.ledger.usage(account.customer_ref, metric, (start, end), self.now)

    def _deliver(self, until: datetime) -> None:
        while self._queue and self._queue[0][0] <= until:
            self._accept(heapq.heappop(self._queue)[2])

    def _accept(self, delivery: Delivery) -> None:
        try:
            self.ledger.accept(delivery)
        except InvalidInput as error:
            raise refused(str(error), delivery.origin) from error

    def _queue_up(self, delivery: Delivery, path: str) -> None:
        if self._queued == MOST_DELIVERIES:
            raise refused(f"a scenario has at most {MOST_DELIVERIES} deliveries", path)
        heapq.heappush(self._queue, (delivery.at, self._queued, delivery))
        self._queued += 1

    def _succeeds(self, ref: str) -> Callable[[datetime], bool]:
        def succeeds(at: datetime) -> bool:
            return [True, *(succeed for since, succeed in self._switches[ref] if since <= at)][-1]

        return succeeds

    def _pay(self, ref: str, path: str) -> None:
        attempts = list(self.attempts(ref))
        paid = {attempt.invoice_id for attempt in attempts if attempt.outcome == "paid"}
        owed = {attempt.invoice_id: attempt for attempt in attempts if attempt.invoice_id not in paid}
        if not owed:
            raise refused(f"{ref} owes nothing then", path)
        for name, last in owed.items():
            self._paid[ref].append(PaymentAttempt(invoice_id=name, at=self.now, outcome="paid", number=last.number + 1))


def invoice_id(ref: str, number: int) -> str:
    """The name of a customer's invoice, which are numbered from 1."""
    return f"{ref}-{number + 1}"
