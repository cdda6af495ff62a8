"""Stripe as a billing sink, through its own SDK.

Belongs here: v1 calls and exact decimals. Does not: retries (`pipeline.push` owns them), the meaning of errors
(`stripe_errors`).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from threading import Lock
from typing import Any, TypeVar

import stripe

from stripemeter.billing.pace import Pace, PacedClient
from stripemeter.billing.sink import (
    Accepted,
    AlreadyAccepted,
    ErrorReport,
    Invoice,
    LateAmount,
    MeterEvent,
    Mode,
    StripeMeter,
    StripePrice,
    Transport,
)
from stripemeter.billing.stripe_amounts import create_amount, find_amount
from stripemeter.billing.stripe_errors import is_already_accepted, translated
from stripemeter.billing.stripe_invoices import PAGE, read_invoice
from stripemeter.billing.stripe_reports import parse_error_report
from stripemeter.billing.stripe_stream import MOST_EVENTS, StripeStream
from stripemeter.errors import InvariantBroken, StripeRejected
from stripemeter.metering.days import day_bounds
from stripemeter.metering.deltas import fixed_point
from stripemeter.pricing.prices import Price
from stripemeter.pricing.stripe_prices import price_from_stripe

CONNECT_TIMEOUT_SECONDS = 3
READ_TIMEOUT_SECONDS = 20

_T = TypeVar("_T")

# It would write an id under ~/.config and describe this machine to Stripe.
stripe.enable_telemetry = False


class StripeSink:
    """One Stripe account. Safe to use from several threads.

    Args:
        key: the secret key; it decides the account.
        mode: which mappings it serves.
        api_base: another address than Stripe's, for all four of its hosts.
        calls_per_second: the most requests of a second; None: as many as there are.
        transport: which of Stripe's ways meter events take.
        connected_account: the account of a customer of the key's platform that it acts for; None: its own.
    """

    def __init__(
        self,
        *,
        key: str,
        mode: Mode,
        api_base: str | None = None,
        calls_per_second: float | None = None,  # allow-float: calls a second
        transport: Transport = "v1",
        connected_account: str | None = None,
    ) -> None:
        options: Any = {}
        if api_base is not None:
            options["base_addresses"] = dict.fromkeys(("api", "files", "connect", "meter_events"), api_base.rstrip("/"))
        http_client = _http_client(calls_per_second)

        def client_of(secret: str) -> stripe.StripeClient:
            # The SDK would repeat a 5xx under the same Idempotency-Key and be told the same 5xx, and never a 429.
            return stripe.StripeClient(
                secret,
                max_network_retries=0,
                http_client=http_client,
                stripe_account=connected_account,
                **options,
            )

        self._client = client_of(key)
        self._stream = StripeStream(self._client, client_of)
        self._mode = mode
        self._transport = transport
        self._connected_account = connected_account
        self._account_id: str | None = None
        self._account_lock = Lock()

    @property
    def mode(self) -> Mode:
        """Which mappings it serves."""
        return self._mode

    @property
    def name(self) -> str:
        """What reports call it: its mode, and the account when it is one connected to the key's own."""
        return self._mode if self._connected_account is None else f"{self._mode}/{self._connected_account}"

    def account_id(self) -> str:
        """The account behind the key; asked once."""
        with self._account_lock:
            if self._account_id is None:
                self._account_id = _call(self._client.v1.accounts.retrieve_current).id
            return self._account_id

    @property
    def batch_size(self) -> int:
        """How many deltas one request carries at most; above 1 they go by `send_meter_events`."""
        return MOST_EVENTS if self._transport == "v2_stream" else 1

    def send_meter_events(self, events: Sequence[MeterEvent]) -> Accepted:
        """Send up to `batch_size` deltas in one request, once: Stripe checks them afterwards."""
        # A new key each time: a repeated one would stand for a batch of which only a part may have arrived. The
        # identifiers make it harmless.
        batch_key = f"um1_batch_{uuid.uuid4().hex}"
        try:
            self._stream.send([_v2_event(event) for event in events], idempotency_key=batch_key)
        except stripe.StripeError as error:
            raise translated(error) from error
        return Accepted(request_id=None)

    def send_meter_event(self, event: MeterEvent) -> Accepted | AlreadyAccepted:
        """Send one delta, once: no retry inside."""
        try:
            answer = self._post_v1(event) if self._transport == "v1" else self._post_v2(event)
        except stripe.StripeError as error:
            if is_already_accepted(error, event.identifier):
                return AlreadyAccepted(request_id=error.request_id)
            raise translated(error) from error
        return Accepted(request_id=answer.last_response.request_id if answer.last_response is not None else None)

    def read_quantity(
        self, *, stripe_meter_id: str, stripe_customer_id: str, start: datetime, end: datetime
    ) -> Decimal:
        """What Stripe holds of a customer in `[start, end)`, both whole minutes; 0 when it holds nothing."""
        rows = self._summaries(stripe_meter_id, stripe_customer_id, start, end, {})
        return sum((Decimal(row["aggregated_value"]) for row in rows), Decimal(0))

    def read_daily_quantities(
        self, *, stripe_meter_id: str, stripe_customer_id: str, first: date, last: date
    ) -> Mapping[date, Decimal]:
        """What Stripe holds per UTC day, first and last included; a day without usage may be absent."""
        start, end = day_bounds(first)[0], day_bounds(last)[0] + timedelta(days=1)
        rows = self._summaries(stripe_meter_id, stripe_customer_id, start, end, {"value_grouping_window": "day"})
        return {
            datetime.fromtimestamp(int(row["start_time"]), UTC).date(): Decimal(row["aggregated_value"]) for row in rows
        }

    def read_hourly_quantities(
        self, *, stripe_meter_id: str, stripe_customer_id: str, day: date
    ) -> Mapping[datetime, Decimal]:
        """What Stripe holds per hour of a UTC day, by the hour's start; an hour without usage may be absent."""
        start, end = day_bounds(day)
        rows = self._summaries(stripe_meter_id, stripe_customer_id, start, end, {"value_grouping_window": "hour"})
        return {datetime.fromtimestamp(int(row["start_time"]), UTC): Decimal(row["aggregated_value"]) for row in rows}

    def find_meter(self, event_name: str) -> StripeMeter | None:
        """The active meter of an event name."""

        def search() -> stripe.billing.Meter | None:
            meters = self._client.v1.billing.meters.list({"status": "active", "limit": PAGE}).auto_paging_iter()
            return next((meter for meter in meters if meter.event_name == event_name), None)

        found = _call(search)
        return None if found is None else _meter(found)

    def ensure_meter(self, *, event_name: str, display_name: str) -> StripeMeter:
        """The active meter of an event name, created when there is none."""
        existing = self.find_meter(event_name)
        if existing is not None:
            return existing
        meters = self._client.v1.billing.meters
        return _meter(
            _call(
                lambda: meters.create(
                    {
                        "event_name": event_name,
                        "display_name": display_name,
                        "default_aggregation": {"formula": "sum"},
                    }
                )
            )
        )

    def find_customer(self, stripe_customer_id: str) -> str | None:
        """The name of a customer that exists (possibly empty); None when there is none."""
        customer = _find(lambda: self._client.v1.customers.retrieve(stripe_customer_id))
        return None if customer is None or getattr(customer, "deleted", False) else customer.name or ""

    def create_customer(self, *, name: str, idempotency_key: str) -> str:
        """A new customer's id."""
        customers = self._client.v1.customers
        return _call(lambda: customers.create({"name": name}, {"idempotency_key": idempotency_key})).id

    def find_price(self, price_id: str) -> StripePrice | None:
        """The price with this id, with its tiers; None when there is none."""
        price = _find(lambda: self._client.v1.prices.retrieve(price_id, {"expand": ["tiers"]}))
        if price is None:
            return None
        return StripePrice(
            price_id=price.id,
            currency=price.currency,
            is_active=price.active,
            stripe_meter_id=None if price.recurring is None else price.recurring.meter,
            created_at=datetime.fromtimestamp(price.created, UTC),
            document=_exact_body(price),
        )

    def find_meter_by_id(self, stripe_meter_id: str) -> StripeMeter | None:
        """The meter with this id, active or not; None when there is none."""
        found = _find(lambda: self._client.v1.billing.meters.retrieve(stripe_meter_id))
        return None if found is None else _meter(found)

    def find_item_price(self, subscription_item_id: str) -> str | None:
        """The price a subscription item bills by; None when there is no such item."""
        item = _find(lambda: self._client.v1.subscription_items.retrieve(subscription_item_id))
        return None if item is None or getattr(item, "deleted", False) else item.price.id

    def list_metered_items(self, *, stripe_meter_id: str, stripe_customer_id: str) -> list[str]:
        """A customer's subscription items that bill a meter's usage, canceled subscriptions left out."""

        def search() -> list[str]:
            # Source: Stripe API 2026-10-28, list subscriptions: without a status all that are not canceled.
            found = self._client.v1.subscriptions.list({"customer": stripe_customer_id, "limit": PAGE})
            return [
                item.id
                for subscription in found.auto_paging_iter()
                if subscription.status != "incomplete_expired"
                for item in subscription["items"].data
                if item.price.recurring is not None and item.price.recurring.meter == stripe_meter_id
            ]

        return _call(search)

    def find_price_terms(self, price_id: str) -> Price | None:
        """What a unit costs by this price; None when there is none of this id.

        Raises:
            InvalidInput: it says nothing that can be computed.
        """
        found = self.find_price(price_id)
        return None if found is None else price_from_stripe(found.document)

    def list_draft_invoices(self) -> list[Invoice]:
        """Every invoice that is not final yet."""
        return self._list_invoices({"status": "draft", "limit": PAGE})

    def list_invoices_since(self, created_from: datetime) -> list[Invoice]:
        """Every invoice made at or after an instant, whatever became of it."""
        return self._list_invoices({"created": {"gte": int(created_from.timestamp())}, "limit": PAGE})

    def find_invoice(self, invoice_id: str) -> Invoice | None:
        """The invoice with this id; None when there is none (any more)."""

        def search() -> Invoice | None:
            found = self._client.v1.invoices.retrieve(invoice_id)
            return None if getattr(found, "deleted", False) else read_invoice(self._client, found)

        return _find(search)

    def hold_invoice(self, invoice_id: str) -> None:
        """Keep a draft from being finalized by itself; usage of its period still joins it."""
        _call(lambda: self._client.v1.invoices.update(invoice_id, {"auto_advance": False}))

    def finalize_invoice(self, invoice_id: str, *, idempotency_key: str) -> None:
        """Fix a draft's lines for good and let it be collected; refused when it is no draft."""
        # A held invoice would stay uncollected after it is final, too.
        _call(
            lambda: self._client.v1.invoices.finalize_invoice(
                invoice_id, {"auto_advance": True}, {"idempotency_key": idempotency_key}
            )
        )

    def bill_late(self, amount: LateAmount, *, idempotency_key: str) -> str:
        """The id of the invoice item or credit note that an amount becomes."""
        return _call(lambda: create_amount(self._client, amount, idempotency_key=idempotency_key))

    def find_billed_late(self, amount: LateAmount, *, created_from: datetime) -> str | None:
        """The id of what the amount became at or after an instant; None: it is not there."""
        return _call(lambda: find_amount(self._client, amount, created_from=created_from))

    def _list_invoices(self, parameters: Any) -> list[Invoice]:  # noqa: ANN401 - the SDK's own parameters
        invoices = self._client.v1.invoices
        return _call(
            lambda: [read_invoice(self._client, found) for found in invoices.list(parameters).auto_paging_iter()]
        )

    def load_error_report(self, event_id: str) -> ErrorReport | None:
        """What a thin event tells of invalid meter events; None when the account has no such event (any more)."""
        event = _find(lambda: self._client.v2.core.events.retrieve(event_id))
        if event is None:
            return None
        if event.last_response is None:
            raise InvariantBroken("the Stripe SDK kept no response for an event")
        return parse_error_report(json.loads(event.last_response.body))

    def _post_v1(self, event: MeterEvent) -> stripe.billing.MeterEvent:
        return self._client.v1.billing.meter_events.create(
            {
                "event_name": event.event_name,
                "identifier": event.identifier,
                "timestamp": int(event.at.timestamp()),
                "payload": _payload(event),
            },
            {"idempotency_key": event.idempotency_key},
        )

    def _post_v2(self, event: MeterEvent) -> stripe.v2.billing.MeterEvent:
        return self._client.v2.billing.meter_events.create(_v2_event(event), {"idempotency_key": event.idempotency_key})

    def _summaries(
        self, meter: str, customer: str, start: datetime, end: datetime, extra: Mapping[str, str]
    ) -> Iterator[dict[str, Any]]:
        cursor: dict[str, str] = {}
        while True:
            parameters: Any = {
                "customer": customer,
                "start_time": int(start.timestamp()),
                "end_time": int(end.timestamp()),
                "limit": PAGE,
                **extra,
                **cursor,
            }
            page = _exact(self._client.v1.billing.meters.event_summaries.list, meter, parameters)
            yield from page["data"]
            if not page["has_more"]:
                return
            cursor = {"starting_after": page["data"][-1]["id"]}


def _v2_event(event: MeterEvent) -> Any:  # noqa: ANN401 - the SDK's own type of either way in
    return {
        "event_name": event.event_name,
        "identifier": event.identifier,
        "timestamp": event.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "payload": _payload(event),
    }


def _payload(event: MeterEvent) -> dict[str, str]:
    return {"stripe_customer_id": event.stripe_customer_id, "value": fixed_point(event.quantity)}


def _http_client(calls_per_second: float | None) -> stripe.RequestsClient:  # allow-float: calls a second
    timeout = (CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS)
    if calls_per_second is None:
        return stripe.RequestsClient(timeout=timeout)
    return PacedClient(pace=Pace(calls_per_second=calls_per_second), timeout=timeout)


def _call(request: Callable[[], _T]) -> _T:
    try:
        return request()
    except stripe.StripeError as error:
        raise translated(error) from error


def _find(request: Callable[[], _T]) -> _T | None:
    """What was asked for; None when Stripe has no such thing."""
    try:
        return _call(request)
    except StripeRejected as refused:
        if refused.status == 404:
            return None
        raise


def _exact(request: Callable[..., stripe.ListObject[Any]], *arguments: Any) -> dict[str, Any]:  # noqa: ANN401
    """The body of a list as it was sent, numbers as Decimal: the SDK would make floats of them."""
    return _exact_body(_call(lambda: request(*arguments)))


def _exact_body(answer: Any) -> dict[str, Any]:  # noqa: ANN401 - any object of the SDK
    if answer.last_response is None:
        raise InvariantBroken("the Stripe SDK kept no response")
    body: dict[str, Any] = json.loads(answer.last_response.body, parse_float=Decimal)
    return body


def _meter(meter: stripe.billing.Meter) -> StripeMeter:
    return StripeMeter(
        stripe_meter_id=meter.id,
        event_name=meter.event_name,
        is_active=meter.status == "active",
        is_additive=(
            meter.default_aggregation.formula == "sum"
            and meter.event_time_window is None
            and meter.customer_mapping.event_payload_key == "stripe_customer_id"
            and meter.value_settings.event_payload_key == "value"
        ),
    )
