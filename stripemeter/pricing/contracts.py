"""What a contract says beside prices: discounts, commitments, credit grants, and whose usage they concern.

Belongs here: their terms, and the refusal of terms that cannot be right. Does not: taking them off (`deductions`).

Amounts are whole minor units. `metrics` names the metrics something concerns, in any order; None means all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal

from stripemeter.errors import InvalidInput
from stripemeter.pricing.currencies import parse_currency
from stripemeter.pricing.prices import Price, scaled

DEFAULT_PRIORITY = 50
"""Source: Stripe API, CreditGrant.priority: 0 is the highest, 100 the lowest, 50 the default."""
MOST_TAX_PCT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageItem:
    """Usage of a metric and its price.

    Args:
        metric: of 1 to 100 characters.
        quantity: not negative.
        price: what a unit costs.
        is_metered: whether credit grants may pay it; not a fixed fee. Source: stripe.md 2.7.
    """

    metric: str
    quantity: Decimal
    price: Price
    is_metered: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Discount:
    """A percentage or an amount off; exactly one of the two.

    Args:
        name: for the invoice.
        percent_off: more than 0, at most 100.
        amount_off_minor: positive, in the invoice's currency.
        metrics: what it concerns.
    """

    name: str = ""
    percent_off: Decimal | None = None
    amount_off_minor: int | None = None
    metrics: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepaidCommitment:
    """Money paid in advance that invoices draw down.

    Args:
        amount_minor: paid in advance, not negative.
        applied_minor: drawn by earlier invoices, not negative; more than the amount leaves nothing.
        currency: of both.
        starts_at: it serves periods that end after this; None: from ever.
        ends_at: it serves periods that start before this; None: for ever.
        name: for the invoice.
    """

    amount_minor: int
    currency: str
    applied_minor: int = 0
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MinimumCommitment:
    """An amount owed each period, usage or none: what usage does not reach after discounts is added as a line."""

    amount_minor: int
    currency: str
    metrics: tuple[str, ...] | None = None
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditGrant:
    """Credit that pays metered usage. Source of the terms: Stripe API, CreditGrant; stripe.md 2.7.

    Args:
        amount_minor: granted, not negative.
        currency: it pays invoices of this currency only.
        applied_minor: used by earlier invoices, not negative.
        priority: 0 is used first.
        category: promotional credit is used before paid credit.
        effective_at: it pays periods that end then or later; None: from ever.
        expires_at: it pays periods that end before; None: for ever.
        created_at: the older of two otherwise equal grants is used first.
        metrics: what it may pay.
        name: for the invoice.
    """

    amount_minor: int
    currency: str
    applied_minor: int = 0
    priority: int = DEFAULT_PRIORITY
    category: Literal["promotional", "paid"] = "promotional"
    effective_at: datetime | None = None
    expires_at: datetime | None = None
    created_at: datetime | None = None
    metrics: tuple[str, ...] | None = None
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceInputs:
    """All an invoice depends on.

    Args:
        customer_id: whose it is.
        period_start: aware UTC, inclusive.
        period_end: aware UTC, exclusive, after the start.
        items: at least one, all prices of one currency, which is the invoice's.
        discounts: taken off in this order.
        prepaid: drawn by earliest end, then earliest start, then this order.
        minimums: each owed by itself.
        grants: used in Stripe's order, whatever this one is.
        tax_pct: exclusive tax on what is left, in percent, not negative.

    Raises:
        InvalidInput: something cannot be right; `field` names it.
    """

    customer_id: str
    period_start: datetime
    period_end: datetime
    items: tuple[UsageItem, ...]
    discounts: tuple[Discount, ...] = ()
    prepaid: tuple[PrepaidCommitment, ...] = ()
    minimums: tuple[MinimumCommitment, ...] = ()
    grants: tuple[CreditGrant, ...] = ()
    tax_pct: Decimal = Decimal(0)

    def __post_init__(self) -> None:
        for name, instant in (("period_start", self.period_start), ("period_end", self.period_end)):
            _check_instant(instant, name)
        if self.period_start >= self.period_end:
            raise _refused("period_end", f"must be after the period's start, {self.period_start.isoformat()}")
        _check_items(self.items)
        if not 0 <= scaled(self.tax_pct, "tax_pct") <= scaled(MOST_TAX_PCT, "tax_pct"):
            raise _refused("tax_pct", f"must be 0 to {MOST_TAX_PCT} percent, not {self.tax_pct}")
        for number, discount in enumerate(self.discounts):
            _check_discount(discount, f"discounts[{number}]")
        for number, commitment in enumerate(self.prepaid):
            _check_money(commitment, f"prepaid[{number}]")
            _check_order(commitment.starts_at, commitment.ends_at, f"prepaid[{number}]", "ends_at")
        for number, minimum in enumerate(self.minimums):
            _check_minimum(minimum, self.items, f"minimums[{number}]")
        for number, grant in enumerate(self.grants):
            _check_grant(grant, f"grants[{number}]")

    @property
    def currency(self) -> str:
        """The one currency of all prices."""
        return self.items[0].price.currency


def _check_items(items: tuple[UsageItem, ...]) -> None:
    if not items:
        raise _refused("items", "must have at least one item, which says the currency")
    for number, item in enumerate(items):
        place = f"items[{number}]"
        if not 1 <= len(item.metric) <= 100:
            raise _refused(f"{place}.metric", f"must have 1 to 100 characters, not {len(item.metric)}")
        if scaled(item.quantity, f"{place}.quantity") < 0:
            raise _refused(f"{place}.quantity", f"must not be negative, not {item.quantity}")
        if item.price.currency != items[0].price.currency:
            raise _refused(
                f"{place}.price.currency",
                f"is {item.price.currency}, but the invoice is in {items[0].price.currency}: make two invoices",
            )


def _check_discount(discount: Discount, place: str) -> None:
    _check_metrics(discount.metrics, place)
    if (discount.percent_off is None) == (discount.amount_off_minor is None):
        raise _refused(place, "needs either percent_off or amount_off_minor")
    if discount.amount_off_minor is not None:
        _check_amount(discount.amount_off_minor, f"{place}.amount_off_minor")
    if discount.percent_off is not None:
        percent = scaled(discount.percent_off, f"{place}.percent_off")
        if not 0 < percent <= scaled(100, "percent_off"):
            raise _refused(f"{place}.percent_off", f"must be more than 0 and at most 100, not {discount.percent_off}")


def _check_minimum(minimum: MinimumCommitment, items: tuple[UsageItem, ...], place: str) -> None:
    _check_amount(minimum.amount_minor, f"{place}.amount_minor")
    if parse_currency(minimum.currency, f"{place}.currency") != items[0].price.currency:
        raise _refused(f"{place}.currency", f"must be the invoice's, {items[0].price.currency}")
    # A minimum for usage that is not on the invoice would bill what nobody can see.
    if not any(concerns(minimum.metrics, item.metric) for item in items):
        raise _refused(f"{place}.metrics", "names no metric of the invoice")


def _check_money(money: PrepaidCommitment | CreditGrant, place: str) -> None:
    parse_currency(money.currency, f"{place}.currency")
    _check_amount(money.amount_minor, f"{place}.amount_minor")
    _check_amount(money.applied_minor, f"{place}.applied_minor")


def _check_grant(grant: CreditGrant, place: str) -> None:
    _check_money(grant, place)
    _check_metrics(grant.metrics, place)
    if isinstance(grant.priority, bool) or not isinstance(grant.priority, int) or not 0 <= grant.priority <= 100:
        raise _refused(f"{place}.priority", f"must be a whole number of 0 to 100, not {grant.priority}")
    if grant.category not in {"promotional", "paid"}:
        raise _refused(f"{place}.category", f"must be promotional or paid, not {grant.category!r:.40}")
    if grant.created_at is not None:
        _check_instant(grant.created_at, f"{place}.created_at")
    _check_order(grant.effective_at, grant.expires_at, place, "expires_at")


def _check_order(start: datetime | None, end: datetime | None, place: str, name: str) -> None:
    for instant in (start, end):
        if instant is not None:
            _check_instant(instant, f"{place}.{name}")
    if start is not None and end is not None and start >= end:
        raise _refused(f"{place}.{name}", f"must be after its start, {start.isoformat()}")


def _check_metrics(metrics: tuple[str, ...] | None, place: str) -> None:
    if metrics is not None and not metrics:
        raise _refused(f"{place}.metrics", "must name a metric, or be absent: it then concerns all")


def _check_instant(instant: datetime, name: str) -> None:
    if instant.tzinfo is not UTC:
        raise _refused(name, "must be a datetime in UTC")


def _check_amount(amount: int, name: str) -> None:
    if isinstance(amount, bool) or not isinstance(amount, int):
        raise _refused(name, f"must be a whole number of minor units, not a {type(amount).__name__}")
    if not 0 <= amount < 10**26:
        raise _refused(name, f"must not be negative, and have at most 26 digits, not {amount}")


def concerns(metrics: Iterable[str] | None, metric: str) -> bool:
    """Whether something with these `metrics` concerns a metric."""
    return metrics is None or metric in metrics


def _refused(name: str, message: str) -> InvalidInput:
    return InvalidInput(f"{name}: {message}", field=name)
