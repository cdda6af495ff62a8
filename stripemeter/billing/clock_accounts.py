"""Test clocks: a Stripe account in which customers live in a time of their own, through Stripe's own SDK.

Belongs here: the calls, counted; waiting for what Stripe does afterwards; taking back what was made. Does not: what is
played (`pipeline.billing_plays`), usage that bills anybody.

Never with a live key.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, Protocol, TypeVar

import stripe
from pydantic import SecretStr

from stripemeter.billing.opening import TEST_PREFIXES
from stripemeter.billing.pace import STRIPE_CALLS_PER_SECOND, Pace, PacedClient
from stripemeter.billing.sink import InvoiceLine
from stripemeter.billing.stripe_errors import is_already_accepted, translated
from stripemeter.billing.stripe_invoices import read_invoice
from stripemeter.errors import InvalidInput, InvariantBroken, Unavailable
from stripemeter.metering.deltas import fixed_point
from stripemeter.metering.segments import Cadence
from stripemeter.pricing import CreditGrant, Price
from stripemeter.pricing.stripe_prices import price_to_stripe

GOOD_CARD, BAD_CARD = "pm_card_visa", "pm_card_chargeCustomerFail"
"""Source: docs.stripe.com/testing: the second attaches, and fails when it is charged."""
PATIENCE_SECONDS = 180
"""How long Stripe is waited for: a clock to arrive, usage to be counted."""
_POLL_SECONDS = 1
_TIMEOUT_SECONDS = (3, 30)
_UNPACED = 10_000
_MINUTE = timedelta(minutes=1)
_INTERVALS: Mapping[Cadence, tuple[str, int]] = {
    "day": ("day", 1),
    "week": ("week", 1),
    "month": ("month", 1),
    "quarter": ("month", 3),
    "year": ("year", 1),
}

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockedInvoice:
    """An invoice of a customer on a test clock.

    Args:
        invoice_id: Stripe's.
        status: draft, open, paid, uncollectible or void.
        finalized_at: by the clock; None while it is a draft.
        attempt_count: attempts of Stripe's schedule.
        next_attempt_at: the next of them; None: there is none.
        paid_at: by the clock.
        lines: all of them, in Stripe's order.
        subtotal_minor: before credit.
        credited_minor: what credit grants took.
        total_minor: what is owed.
        currency: lower case.
    """

    invoice_id: str
    status: str
    finalized_at: datetime | None
    attempt_count: int
    next_attempt_at: datetime | None
    paid_at: datetime | None
    lines: tuple[InvoiceLine, ...]
    subtotal_minor: int
    credited_minor: int
    total_minor: int
    currency: str


class ClockSettings(Protocol):
    """The settings an account is opened with; `runtime.settings.Settings` has them."""

    @property
    def stripe_sandbox_key(self) -> SecretStr | None:
        """The key of a sandbox; without one an emulator is meant."""

    @property
    def stripe_api_base(self) -> str | None:
        """Where the emulator is, when it is not on its own port."""

    @property
    def emulator_port(self) -> int:
        """Its own port."""


def open_clock_account(settings: ClockSettings) -> ClockAccount:
    """The sandbox where there is a key of one, else an account of its own at the emulator.

    Raises:
        InvalidInput: the key is no test key; names it.
    """
    if settings.stripe_sandbox_key is not None:
        try:
            return ClockAccount(key=settings.stripe_sandbox_key.get_secret_value())
        except InvalidInput as error:
            raise InvalidInput(f"STRIPE_SANDBOX_KEY {error}", field="STRIPE_SANDBOX_KEY") from error
    base = settings.stripe_api_base or f"http://127.0.0.1:{settings.emulator_port}"
    return ClockAccount(key=f"sk_test_{uuid.uuid4().hex}", api_base=base)


class ClockAccount:
    """A test account, and what was made in it; not safe to use from several threads.

    Args:
        key: `sk_test_...` or `rk_test_...`.
        api_base: another address than Stripe's.

    Raises:
        InvalidInput: a key that is no test key.
    """

    def __init__(self, *, key: str, api_base: str | None = None) -> None:
        if not key.startswith(TEST_PREFIXES):
            raise InvalidInput("needs a test key, sk_test_... or rk_test_...: live accounts have no test clocks")
        pace = STRIPE_CALLS_PER_SECOND["shadow"] if api_base is None else _UNPACED
        self._http = _CountingClient(pace=Pace(calls_per_second=pace), timeout=_TIMEOUT_SECONDS)
        options: Any = {}
        if api_base is not None:
            options["base_addresses"] = dict.fromkeys(("api", "files", "connect", "meter_events"), api_base.rstrip("/"))
        self._client = stripe.StripeClient(key, max_network_retries=0, http_client=self._http, **options)
        self.name = "Stripe" if api_base is None else api_base
        self._run = uuid.uuid4().hex[:12]
        self._clocks: list[str] = []
        self._meters: list[str] = []
        self._product: str | None = None

    @property
    def calls(self) -> int:
        """How many requests were made."""
        return self._http.calls

    def create_clock(self, at: datetime) -> str:
        """A clock that stands at an instant."""
        given: Any = {"frozen_time": _seconds(at), "name": f"stripemeter {self._run}"}
        clock = _call(lambda: self._client.v1.test_helpers.test_clocks.create(given))
        self._clocks.append(clock.id)
        return clock.id

    def advance(self, clock: str, to: datetime) -> None:
        """Move a clock, and wait until all it brings about has happened.

        Raises:
            StripeRejected: further than Stripe lets it.
            Unavailable: it does not arrive within PATIENCE_SECONDS.
        """
        clocks = self._client.v1.test_helpers.test_clocks
        _call(lambda: clocks.advance(clock, {"frozen_time": _seconds(to)}))
        self._wait(lambda: _call(lambda: clocks.retrieve(clock)).status == "ready", f"{clock} does not arrive")

    def create_customer(self, clock: str) -> str:
        """A customer on a clock, with a card that pays."""
        given: Any = {
            "test_clock": clock,
            "payment_method": GOOD_CARD,
            "invoice_settings": {"default_payment_method": GOOD_CARD},
        }
        return _call(lambda: self._client.v1.customers.create(given)).id

    def use_card(self, customer: str, card: str) -> str:
        """Charge another card from now on; its id."""
        method = _call(lambda: self._client.v1.payment_methods.attach(card, {"customer": customer})).id
        settings: Any = {"invoice_settings": {"default_payment_method": method}}
        _call(lambda: self._client.v1.customers.update(customer, settings))
        return method

    def create_meter(self, metric: str) -> tuple[str, str]:
        """A meter that sums, and its event name, which no other meter has."""
        event_name = f"{metric[:60]}-{self._run}-{len(self._meters)}"
        given: Any = {
            "event_name": event_name,
            "display_name": metric[:200],
            "default_aggregation": {"formula": "sum"},
        }
        meter = _call(lambda: self._client.v1.billing.meters.create(given)).id
        self._meters.append(meter)
        return meter, event_name

    def create_price(self, price: Price, meter: str, cadence: Cadence, cadence_count: int) -> str:
        """A metered price.

        Raises:
            InvalidInput: Stripe's Price cannot say it.
        """
        interval, count = _INTERVALS[cadence]
        recurring = {
            "interval": interval,
            "interval_count": count * cadence_count,
            "usage_type": "metered",
            "meter": meter,
        }
        members = {name: value for name, value in price_to_stripe(price).items() if name not in ("id", "unit_amount")}
        if "tiers" in members:
            members["tiers"] = [_tier_parameters(tier) for tier in members["tiers"]]
        given: Any = {name: value for name, value in members.items() if value is not None}
        given |= {"product": self._product_id(), "recurring": recurring}
        return _call(lambda: self._client.v1.prices.create(given)).id

    def subscribe(self, customer: str, prices: Sequence[str], *, period_ends_at: datetime | None) -> Mapping[str, str]:
        """A subscription from now on; `period_ends_at`: its anchor, where that is not now. Its items, by price."""
        given: Any = {
            "customer": customer,
            "items": [{"price": price} for price in prices],
            "billing_mode": {"type": "flexible"},
        }
        if period_ends_at is not None:
            given |= {"billing_cycle_anchor": _seconds(period_ends_at), "proration_behavior": "none"}
        made = _call(lambda: self._client.v1.subscriptions.create(given))
        return {item.price.id: item.id for item in made["items"].data}

    def change_price(self, item: str, price: str) -> None:
        """Another price of an item from now on; what was used until now is billed at the old one."""
        given: Any = {"price": price, "proration_behavior": "create_prorations"}
        _call(lambda: self._client.v1.subscription_items.update(item, given))

    def send_event(self, event_name: str, customer: str, quantity: Decimal, at: datetime, key: str) -> bool:
        """Send a meter event; False: Stripe has one of this key, and refused another.

        Raises:
            StripeRejected: it does not take it for another reason.
        """
        identifier = f"sim_{self._run}_{hashlib.blake2b(key.encode(), digest_size=24).hexdigest()}"
        payload = {"stripe_customer_id": customer, "value": fixed_point(quantity)}
        given: Any = {
            "event_name": event_name,
            "payload": payload,
            "timestamp": _seconds(at),
            "identifier": identifier,
        }
        try:
            self._client.v1.billing.meter_events.create(given)
        except stripe.StripeError as error:
            if is_already_accepted(error, identifier):
                return False
            raise translated(error) from error
        return True

    def wait_for_usage(self, meter: str, customer: str, start: datetime, end: datetime, quantity: Decimal) -> None:
        """Wait until Stripe counts as much of a customer in a time: what it accepts counts some time afterwards.

        Raises:
            Unavailable: it does not within PATIENCE_SECONDS.
        """
        begin = start.replace(second=0, microsecond=0)
        until = end if end == end.replace(second=0, microsecond=0) else end.replace(second=0, microsecond=0) + _MINUTE
        given: Any = {"customer": customer, "start_time": _seconds(begin), "end_time": _seconds(until)}

        def is_counted() -> bool:
            rows = _call(lambda: self._client.v1.billing.meters.event_summaries.list(meter, given)).data
            return sum((Decimal(str(row["aggregated_value"])) for row in rows), Decimal(0)) == quantity

        self._wait(is_counted, f"{meter} does not count {quantity}")

    def create_grant(self, customer: str, grant: CreditGrant, prices: Sequence[str] | None) -> str:
        """A credit grant of a customer; `prices`: which it pays, None: every metered one."""
        scope: Any = {"price_type": "metered"} if prices is None else {"prices": [{"id": price} for price in prices]}
        given: Any = {
            "customer": customer,
            "name": grant.name[:100],
            "category": grant.category,
            "priority": grant.priority,
            "amount": {
                "type": "monetary",
                "monetary": {"currency": grant.currency.lower(), "value": grant.amount_minor},
            },
            "applicability_config": {"scope": scope},
        }
        for name, at in (("effective_at", grant.effective_at), ("expires_at", grant.expires_at)):
            if at is not None:
                given[name] = _seconds(at)
        return _call(lambda: self._client.v1.billing.credit_grants.create(given)).id

    def move_expiry(self, grant: str, expires_at: datetime) -> None:
        """Another expiry of a credit grant."""
        _call(lambda: self._client.v1.billing.credit_grants.update(grant, {"expires_at": _seconds(expires_at)}))

    def list_invoices(self, customer: str) -> list[ClockedInvoice]:
        """Every invoice of a customer, oldest first, with all lines."""
        given: Any = {"customer": customer, "limit": 100}
        found = _call(lambda: list(self._client.v1.invoices.list(given).auto_paging_iter()))
        return [self._read(invoice) for invoice in reversed(found)]

    def pay(self, customer: str, invoice: str) -> None:
        """Pay an open invoice now, with a card that does."""
        method = _call(lambda: self._client.v1.payment_methods.attach(GOOD_CARD, {"customer": customer})).id
        _call(lambda: self._client.v1.invoices.pay(invoice, {"payment_method": method}))

    def close(self) -> None:
        """Take back what was made: clocks with their customers, meters; prices stay, as Stripe keeps them."""
        for clock in self._clocks:
            _call(partial(self._client.v1.test_helpers.test_clocks.delete, clock))
        for meter in self._meters:
            _call(partial(self._client.v1.billing.meters.deactivate, meter))
        self._clocks, self._meters = [], []

    def _product_id(self) -> str:
        if self._product is None:
            given: Any = {"name": f"stripemeter {self._run}"}
            self._product = _call(lambda: self._client.v1.products.create(given)).id
        return self._product

    def _read(self, invoice: stripe.Invoice) -> ClockedInvoice:
        read = _call(lambda: read_invoice(self._client, invoice))
        if invoice.subtotal is None or invoice.total is None:
            raise InvariantBroken("Stripe told of an invoice without totals")
        credited = invoice.total_pretax_credit_amounts or []
        return ClockedInvoice(
            invoice_id=read.invoice_id,
            status=read.status,
            finalized_at=read.finalized_at,
            attempt_count=invoice.attempt_count,
            next_attempt_at=_instant(invoice.next_payment_attempt),
            paid_at=_instant(invoice.status_transitions.paid_at),
            lines=read.lines,
            subtotal_minor=invoice.subtotal,
            credited_minor=sum(each.amount for each in credited if each.type == "credit_balance_transaction"),
            total_minor=invoice.total,
            currency=invoice.currency,
        )

    def _wait(self, is_done: Callable[[], bool], complaint: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not is_done():
            if time.monotonic() > deadline:
                raise Unavailable(f"{complaint} within {PATIENCE_SECONDS} s")
            time.sleep(_POLL_SECONDS)


class _CountingClient(PacedClient):
    """Counts requests as they are sent."""

    def __init__(self, *, pace: Pace, timeout: tuple[int, int]) -> None:
        super().__init__(pace=pace, timeout=timeout)
        self.calls = 0

    def request(  # type: ignore[override] # as PacedClient's
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        post_data: Any = None,  # noqa: ANN401 - the SDK's own signature
    ) -> tuple[bytes, int, Mapping[str, str]]:
        """One request, as the SDK sends it."""
        self.calls += 1
        return super().request(method, url, headers, post_data)


def _tier_parameters(tier: Mapping[str, Any]) -> dict[str, Any]:
    named = {name: value for name, value in tier.items() if name.endswith("_decimal") and value is not None}
    return {**named, "up_to": "inf" if tier["up_to"] is None else tier["up_to"]}


def _call(request: Callable[[], _T]) -> _T:
    try:
        return request()
    except stripe.StripeError as error:
        raise translated(error) from error


def _seconds(at: datetime) -> int:
    return int(at.timestamp())


def _instant(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
