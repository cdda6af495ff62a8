"""A Stripe account with meters, prices and subscriptions, at the emulator.

`add_*` and `subscribe` make what a test needs through the official SDK and tell its id.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tests.emulator import RunningEmulator

DOWN = {"do": {"kind": "status", "status": 503}, "times": 10_000}


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeAccount:
    """The account of the emulator's key; `meter` and `price` are those of `calls`."""

    emulator: RunningEmulator
    account_id: str
    product: str
    meter: str
    price: str

    @property
    def requests(self) -> list[str]:
        """Method and path of every request of the key, as they came."""
        mine = [entry for entry in self.emulator.journal() if entry.get("account") == self.account_id]
        return [f"{entry['method']} {entry['path']}" for entry in mine]

    def go_down(self) -> None:
        """Answer everything with 503."""
        self.emulator.fault(DOWN)

    def come_back(self) -> None:
        """Answer again."""
        self.emulator.fault()

    def lose_meter(self, meter: str) -> None:
        """Answer that a meter is not there."""
        error = {"type": "invalid_request_error", "code": "resource_missing", "message": f"No such meter: '{meter}'"}
        do = {"kind": "status", "status": 404, "body": {"error": error}}
        self.emulator.fault({"match": {"path_re": f"/v1/billing/meters/{meter}"}, "do": do, "times": 10_000})

    def add_meter(self, event_name: str, *, formula: Literal["sum", "count", "last"] = "sum") -> str:
        """A meter."""
        return _add_meter(self.emulator, event_name, formula)

    def add_customer(self) -> str:
        """A customer."""
        return str(self.emulator.client().v1.customers.create({}).id)

    def add_price(self, meter: str | None) -> str:
        """A monthly price on a meter; without one a licensed price."""
        return _add_price(self.emulator, self.product, meter)

    def subscribe(self, customer: str, price: str) -> str:
        """The item of a new subscription."""
        given: Any = {"customer": customer, "items": [{"price": price}]}
        return str(self.emulator.client().v1.subscriptions.create(given)["items"].data[0].id)

    def unsubscribe(self, item: str) -> None:
        """Cancel the subscription of an item."""
        client = self.emulator.client()
        client.v1.subscriptions.cancel(client.v1.subscription_items.retrieve(item).subscription)


def open_account(emulator: RunningEmulator) -> StripeAccount:
    """An account with one meter `calls` and its price."""
    client = emulator.client()
    product, meter = client.v1.products.create({"name": "API"}).id, _add_meter(emulator, "calls", "sum")
    return StripeAccount(
        emulator=emulator,
        account_id=client.v1.accounts.retrieve_current().id,
        product=product,
        meter=meter,
        price=_add_price(emulator, product, meter),
    )


def _add_meter(emulator: RunningEmulator, event_name: str, formula: Literal["sum", "count", "last"]) -> str:
    meter = emulator.client().v1.billing.meters.create(
        {"event_name": event_name, "display_name": event_name, "default_aggregation": {"formula": formula}}
    )
    return str(meter.id)


def _add_price(emulator: RunningEmulator, product: str, meter: str | None) -> str:
    recurring: Any = {"interval": "month"} if meter is None else {"usage_type": "metered", "meter": meter}
    given: Any = {
        "currency": "usd",
        "unit_amount": 1,
        "product": product,
        "recurring": {"interval": "month", **recurring},
    }
    return str(emulator.client().v1.prices.create(given).id)
