"""The port: what the pipeline needs of a billing system.

Belongs here: its operations, in our words. Does not: HTTP, keys, Stripe's objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal, Protocol

from stripemeter.pricing.prices import Price

Mode = Literal["shadow", "live"]
Transport = Literal["v1", "v2", "v2_stream"]
"""Of Stripe's API for meter events: v1 repeats a saved 5xx, v2 executes the request again; the stream takes many in one
request and checks them afterwards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterEvent:
    """One delta as it is sent.

    Args:
        event_name: the Stripe meter's event name.
        stripe_customer_id: whose usage.
        quantity: at most 15 significant digits; may be negative.
        at: the minute it is stamped with.
        identifier: the same for every attempt.
        idempotency_key: names one request, whose saved answer is repeated.
    """

    event_name: str
    stripe_customer_id: str
    quantity: Decimal
    at: datetime
    identifier: str
    idempotency_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """Acknowledged by this attempt."""

    request_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AlreadyAccepted:
    """Acknowledged by an earlier attempt."""

    request_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeMeter:
    """A meter at Stripe. `is_additive`: it sums deltas as we send them."""

    stripe_meter_id: str
    event_name: str
    is_active: bool
    is_additive: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StripePrice:
    """A price at Stripe.

    Args:
        price_id: Stripe's.
        currency: lower case.
        is_active: whether it can be subscribed to.
        stripe_meter_id: the meter whose usage it bills; None when it bills none.
        created_at: when it was made.
        document: Stripe's Price as answered, tiers included, decimals as Decimal.
    """

    price_id: str
    currency: str
    is_active: bool
    stripe_meter_id: str | None
    created_at: datetime
    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceLine:
    """A line of an invoice: a quantity at a price (a tier of it) over `[start, end)`; '' where Stripe names none.

    `amount_minor` is in minor units, before discounts and taxes.
    """

    line_id: str
    stripe_item_id: str
    price_id: str
    start: datetime
    end: datetime
    quantity: Decimal
    amount_minor: int
    currency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoice:
    """An invoice with all its lines.

    Args:
        invoice_id: Stripe's.
        stripe_customer_id: whose.
        status: draft, open, paid, uncollectible or void.
        created_at: when the draft was made.
        is_advancing: whether Stripe finalizes and collects by itself.
        finalizes_at: when Stripe will finalize it; None when it will not.
        finalized_at: when it was; None while it is a draft.
        lines: a draft's as they were known when it was made; usage is read again at its end.
    """

    invoice_id: str
    stripe_customer_id: str
    status: str
    created_at: datetime
    is_advancing: bool
    finalizes_at: datetime | None
    finalized_at: datetime | None
    lines: tuple[InvoiceLine, ...]


LateKind = Literal["invoice_item", "credit_note"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LateAmount:
    """Late usage as money: an item on the customer's next invoice, or a credit note on the invoice it belongs to.

    Args:
        kind: which of them.
        identity: names it for ever, at Stripe too.
        stripe_customer_id: whose.
        invoice_id: the final invoice the usage belongs to.
        amount_minor: above 0; a credit note takes it off.
        currency: of the price.
        description: what the customer reads.
        starts_at: of the window the usage is of.
        ends_at: the instant after it.
    """

    kind: LateKind
    identity: str
    stripe_customer_id: str
    invoice_id: str
    amount_minor: int
    currency: str
    description: str
    starts_at: datetime
    ends_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorSample:
    """One meter event that was accepted and is invalid. `request_key`: its identifier or its Idempotency-Key."""

    code: str
    message: str
    request_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorReport:
    """What was found wrong in a few seconds of accepted meter events. `samples` are some of `error_count` errors.

    `stripe_meter_id`: the meter they are of; None when there is no such meter.
    """

    event_id: str
    stripe_meter_id: str | None
    error_count: int
    samples: tuple[ErrorSample, ...]
    validated_from: datetime
    validated_until: datetime


class BillingSink(Protocol):
    """A billing account that takes usage and tells what it holds. Safe to use from several threads.

    Every operation raises `StripeRejected` (it said no: nothing happened), `Unavailable` (it was too busy: nothing
    happened) or `OutcomeUnknown` (it may have happened).
    """

    @property
    def mode(self) -> Mode:
        """Which mappings it serves."""

    @property
    def name(self) -> str:
        """What reports call it: its mode, and the account when it is one connected to the key's own."""

    def account_id(self) -> str:
        """The account behind the key; asked once."""

    @property
    def batch_size(self) -> int:
        """How many deltas one request carries at most; above 1 they go by `send_meter_events`."""

    def send_meter_events(self, events: Sequence[MeterEvent]) -> Accepted:
        """Send up to `batch_size` deltas in one request, once.

        Acknowledged, none of them is checked yet; those that are there already are ignored.
        """

    def send_meter_event(self, event: MeterEvent) -> Accepted | AlreadyAccepted:
        """Send one delta, once: no retry inside."""

    def read_quantity(
        self, *, stripe_meter_id: str, stripe_customer_id: str, start: datetime, end: datetime
    ) -> Decimal:
        """What it holds of a customer in `[start, end)`, both whole minutes."""

    def read_daily_quantities(
        self, *, stripe_meter_id: str, stripe_customer_id: str, first: date, last: date
    ) -> Mapping[date, Decimal]:
        """What it holds per UTC day, first and last included; a day without usage may be absent."""

    def read_hourly_quantities(
        self, *, stripe_meter_id: str, stripe_customer_id: str, day: date
    ) -> Mapping[datetime, Decimal]:
        """What it holds per hour of a UTC day, by the hour's start; an hour without usage may be absent."""

    def find_meter(self, event_name: str) -> StripeMeter | None:
        """The active meter of an event name."""

    def ensure_meter(self, *, event_name: str, display_name: str) -> StripeMeter:
        """The active meter of an event name, created when there is none."""

    def find_customer(self, stripe_customer_id: str) -> str | None:
        """The name of a customer that exists (possibly empty); None when there is none."""

    def create_customer(self, *, name: str, idempotency_key: str) -> str:
        """A new customer's id."""

    def find_price(self, price_id: str) -> StripePrice | None:
        """The price with this id, with its tiers; None when there is none."""

    def find_meter_by_id(self, stripe_meter_id: str) -> StripeMeter | None:
        """The meter with this id, active or not; None when there is none."""

    def find_item_price(self, subscription_item_id: str) -> str | None:
        """The price a subscription item bills by; None when there is no such item."""

    def list_metered_items(self, *, stripe_meter_id: str, stripe_customer_id: str) -> list[str]:
        """A customer's subscription items that bill a meter's usage, canceled subscriptions left out."""

    def find_price_terms(self, price_id: str) -> Price | None:
        """What a unit costs by this price; None when there is none of this id.

        Raises:
            InvalidInput: it says nothing that can be computed.
        """

    def list_draft_invoices(self) -> list[Invoice]:
        """Every invoice that is not final yet."""

    def list_invoices_since(self, created_from: datetime) -> list[Invoice]:
        """Every invoice made at or after an instant, whatever became of it."""

    def find_invoice(self, invoice_id: str) -> Invoice | None:
        """The invoice with this id; None when there is none (any more)."""

    def hold_invoice(self, invoice_id: str) -> None:
        """Keep a draft from being finalized by itself; usage of its period still joins it."""

    def finalize_invoice(self, invoice_id: str, *, idempotency_key: str) -> None:
        """Fix a draft's lines for good and let it be collected; refused when it is no draft."""

    def bill_late(self, amount: LateAmount, *, idempotency_key: str) -> str:
        """The id of the invoice item or credit note that an amount becomes; once per key: no retry inside."""

    def find_billed_late(self, amount: LateAmount, *, created_from: datetime) -> str | None:
        """The id of what the amount became at or after an instant, found by its identity; None: it is not there."""

    def load_error_report(self, event_id: str) -> ErrorReport | None:
        """What a thin event tells of invalid meter events; None when the account has no such event (any more).

        Raises:
            InvalidInput: the event is no error report.
        """
