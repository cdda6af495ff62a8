"""Accounts: what a customer holds, and the invoice of a period.

Belongs here: plans held over time, pieces of fees and of usage, what credit and commitments have left. Does not:
counting usage (`ledger`), prices and the order of deductions (`pricing`), the clock (`playing`).

Usage is cut where its metric's price changes and nowhere else. A fee is owed in arrears for the time it is held: the
difference of two prorations from the same beginning, so that the invoices of a whole period sum to the whole fee.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal

from stripemeter.metering.segments import BEGINNING, BillingPhase, Segment, segment_at
from stripemeter.pricing import (
    CreditGrant,
    Invoice,
    InvoiceInputs,
    MinimumCommitment,
    PerUnit,
    PrepaidCommitment,
    Price,
    Rounding,
    UsageItem,
    price_invoice,
    prorate,
)
from stripemeter.pricing.contracts import concerns
from stripemeter.simulation.entries import Reduce
from stripemeter.simulation.plans import Fee, Plan

Count = Callable[[str, datetime, datetime], Decimal | None]
"""What a metric counts in a span."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Something held from an instant until another; None: still."""

    of: Fee | Price
    name: str
    start: datetime
    end: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """An invoice and what it counted: metric, span and quantity of each piece of usage."""

    segment: Segment
    invoice: Invoice
    counted: Sequence[tuple[str, datetime, datetime, Decimal]]


class PriceBook:
    """The prices of every plan's metrics, over time."""

    def __init__(self, plans: Mapping[str, Plan], start: datetime) -> None:
        self.plans = plans
        self._versions: dict[tuple[str, str], list[tuple[datetime, Price]]] = {
            (plan.name, metric): [(start, price)] for plan in plans.values() for metric, price in plan.prices.items()
        }

    def reprice(self, plan: str, metric: str, price: Price, since: datetime) -> None:
        """Another price from an instant on."""
        self._versions[plan, metric].append((since, price))

    def pieces(self, plan: str, start: datetime, end: datetime | None) -> Iterator[Piece]:
        """The plan's fees and prices while it is held."""
        for fee in self.plans[plan].fees:
            yield Piece(of=fee, name=fee.name, start=start, end=end)
        for metric in self.plans[plan].prices:
            versions = self._versions[plan, metric]
            for number, (since, price) in enumerate(versions):
                until = versions[number + 1][0] if number + 1 < len(versions) else None
                begins = max(since, start)
                ends = min((each for each in (until, end) if each is not None), default=None)
                if ends is None or begins < ends:
                    yield Piece(of=price, name=metric, start=begins, end=ends)


@dataclass(slots=True, kw_only=True)
class Account:
    """A customer: what it holds and owes."""

    customer_ref: str
    prices: PriceBook
    rounding: Rounding
    tax_pct: Decimal
    phase: BillingPhase | None = None
    held: list[tuple[str, datetime, datetime | None]] = field(default_factory=list)
    grants: dict[str, CreditGrant] = field(default_factory=dict)
    prepaid: dict[str, PrepaidCommitment] = field(default_factory=dict)
    minimums: list[tuple[MinimumCommitment, datetime]] = field(default_factory=list)
    discounts: list[tuple[Reduce, datetime]] = field(default_factory=list)
    bills: list[Bill] = field(default_factory=list)
    next_start: datetime | None = None
    """Where the first period begins that has no final invoice."""

    def subscribe(self, plan: str, phase: BillingPhase | None, now: datetime) -> None:
        """Hold a plan from now on."""
        if phase is not None:
            self.phase, self.next_start = phase, now
        self.held.append((plan, now, None))

    def leave(self, plan: str, now: datetime) -> None:
        """Hold a plan no longer."""
        self.held = [(name, start, now if name == plan and end is None else end) for name, start, end in self.held]

    def segment(self, at: datetime) -> Segment:
        """The billing period that holds an instant; the calendar month for whom no plan cuts the time."""
        return segment_at([] if self.phase is None else [self.phase], at)

    def draft(self, segment: Segment, now: datetime, count: Count) -> Bill | None:
        """The invoice of a period as it would be now; None when nothing is owed in it.

        Args:
            segment: the period.
            now: until when fees are owed.
            count: the usage.
        """
        until = min(now, segment.end)
        items: list[UsageItem] = []
        counted: list[tuple[str, datetime, datetime, Decimal]] = []
        for piece in self._pieces(segment):
            start, end = max(piece.start, segment.start), min(piece.end or segment.end, segment.end)
            if isinstance(piece.of, Fee):
                items.append(self._fee_item(piece.of, piece.start, start, max(start, min(end, until))))
            else:
                quantity = max(count(piece.name, start, end) or Decimal(0), Decimal(0))
                items.append(UsageItem(metric=piece.name, quantity=quantity, price=piece.of))
                counted.append((piece.name, start, end, quantity))
        if not items:
            return None
        return Bill(segment=segment, invoice=self._priced(segment, items), counted=counted)

    def finalize(self, segment: Segment, count: Count) -> Bill | None:
        """Make the invoice of a period final: what it took of credit and commitments is gone."""
        bill = self.draft(segment, segment.end, count)
        self.next_start = segment.end
        if bill is None:
            return None
        prepaid, grants = list(self.prepaid), list(self.grants)
        for taken in bill.invoice.deductions:
            if taken.kind == "commitment":
                name = prepaid[taken.position]
                commitment = self.prepaid[name]
                self.prepaid[name] = replace(commitment, applied_minor=commitment.applied_minor + taken.applied_minor)
            elif taken.kind == "credit":
                grant = self.grants[grants[taken.position]]
                applied = grant.applied_minor + taken.applied_minor
                self.grants[grant.name] = replace(grant, applied_minor=applied)
        self.bills.append(bill)
        return bill

    def _priced(self, segment: Segment, items: Sequence[UsageItem]) -> Invoice:
        names = [item.metric for item in items]
        inputs = InvoiceInputs(
            customer_id=self.customer_ref,
            period_start=segment.start,
            period_end=segment.end,
            items=tuple(items),
            discounts=tuple(
                reduce.discount
                for reduce, since in self.discounts
                if since < segment.end and (reduce.ends_at is None or segment.start < reduce.ends_at)
            ),
            prepaid=tuple(self.prepaid.values()),
            minimums=tuple(
                minimum
                for minimum, since in self.minimums
                if since < segment.end and any(concerns(minimum.metrics, name) for name in names)
            ),
            grants=tuple(self.grants.values()),
            tax_pct=self.tax_pct,
        )
        return price_invoice(inputs, self.rounding)

    def _pieces(self, segment: Segment) -> list[Piece]:
        """What is held within a period: fees first, each thing's pieces in their order, equal neighbours joined."""
        found: dict[tuple[bool, str], list[Piece]] = {}
        for plan, start, end in self.held:
            for piece in self.prices.pieces(plan, start, end):
                known = found.setdefault((not isinstance(piece.of, Fee), piece.name), [])
                if known and known[-1].of == piece.of and known[-1].end == piece.start:
                    known[-1] = replace(known[-1], end=piece.end)
                else:
                    known.append(piece)
        return [
            piece
            for _, pieces in sorted(found.items(), key=lambda each: each[0][0])
            for piece in pieces
            if piece.start < segment.end and (piece.end is None or piece.end > max(segment.start, piece.start))
        ]

    def _fee_item(self, fee: Fee, since: datetime, start: datetime, end: datetime) -> UsageItem:
        owed = 0
        at = start
        while at < end:
            period = self._fee_period(fee, at)
            held_from = max(period.start, since)
            until = min(period.end, end)
            owed += self._owed(fee, period, held_from, until) - self._owed(fee, period, held_from, max(held_from, at))
            at = until
        price = Price(currency=self._currency, model=PerUnit(unit_minor=Decimal(owed)))
        return UsageItem(metric=fee.name, quantity=Decimal(1), price=price, is_metered=False)

    def _owed(self, fee: Fee, period: Segment, start: datetime, end: datetime) -> int:
        return prorate(
            fee.amount_minor, period_start=period.start, period_end=period.end, used_from=start, used_until=end
        ).amount_minor

    def _fee_period(self, fee: Fee, at: datetime) -> Segment:
        """The fee's own period: the invoice's when they have one cadence, else counted from when it was first held."""
        phase = self.phase
        if phase is not None and (fee.cadence, 1) == (phase.cadence, phase.cadence_count):
            # Whole, though the first of them may begin before the plan is held: a fee is owed for the part that is.
            return segment_at([replace(phase, starts_at=BEGINNING)], at)
        first = self._first_held(fee, at)
        return segment_at([BillingPhase(starts_at=first, cadence=fee.cadence, cadence_count=1, anchor_at=first)], at)

    def _first_held(self, fee: Fee, at: datetime) -> datetime:
        """Since when a fee of this name and cadence is held without a gap, whatever its amount."""
        first, last = at, None
        for plan, start, end in self.held:
            if any((each.name, each.cadence) == (fee.name, fee.cadence) for each in self.prices.plans[plan].fees):
                if start != last and start <= at:
                    first = start
                last = end
        return first

    @property
    def _currency(self) -> str:
        return self.prices.plans[self.held[-1][0]].currency
