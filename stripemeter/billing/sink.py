"""The port: what the pipeline needs of a billing system.

Belongs here: its operations, in our words. Does not: HTTP, keys, Stripe's objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Literal, Protocol

Mode = Literal["shadow", "live"]


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
    """A price at Stripe. `stripe_meter_id`: the meter whose usage it bills; None when it bills none."""

    price_id: str
    currency: str
    is_active: bool
    stripe_meter_id: str | None


class BillingSink(Protocol):
    """A billing account that takes usage and tells what it holds. Safe to use from several threads.

    Every operation raises `StripeRejected` (it said no: nothing happened), `Unavailable` (it was too busy: nothing
    happened) or `OutcomeUnknown` (it may have happened).
    """

    @property
    def mode(self) -> Mode:
        """Which mappings it serves."""

    def account_id(self) -> str:
        """The account behind the key; asked once."""

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

    def find_meter(self, event_name: str) -> StripeMeter | None:
        """The active meter of an event name."""

    def ensure_meter(self, *, event_name: str, display_name: str) -> StripeMeter:
        """The active meter of an event name, created when there is none."""

    def find_customer(self, stripe_customer_id: str) -> str | None:
        """The name of a customer that exists (possibly empty); None when there is none."""

    def create_customer(self, *, name: str, idempotency_key: str) -> str:
        """A new customer's id."""

    def find_price(self, price_id: str) -> StripePrice | None:
        """The price with this id; None when there is none."""

    def find_meter_by_id(self, stripe_meter_id: str) -> StripeMeter | None:
        """The meter with this id, active or not; None when there is none."""

    def find_item_price(self, subscription_item_id: str) -> str | None:
        """The price a subscription item bills by; None when there is no such item."""

    def list_metered_items(self, *, stripe_meter_id: str, stripe_customer_id: str) -> list[str]:
        """A customer's subscription items that bill a meter's usage, canceled subscriptions left out."""
