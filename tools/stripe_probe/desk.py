"""The desk questions are asked at: an account, time that passes, and objects that are tidied away.

Belongs here: the client, waiting, making and ending objects. Does not: what is asked (`metering_questions`,
`billing_questions`), where answers go (`__main__`).
"""

from __future__ import annotations

import json
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import stripe

Json = dict[str, Any]
Reading = TypeVar("Reading")
STRIPE = "https://api.stripe.com"
STEP_SECONDS = 5
PATIENCE_SECONDS = 900
"""How long a summary, a preview or a test clock may take before a question is given up."""


class Recorder(stripe.RequestsClient):
    """An HTTP client that remembers the id of every request."""

    def __init__(self) -> None:
        super().__init__(timeout=30)
        self.request_ids: list[str] = []

    def request(self, *args: Any, **named: Any) -> Any:  # noqa: ANN401 - as the official client calls it
        """Send it, and remember `Request-Id`."""
        answered = super().request(*args, **named)
        headers = {name.lower(): value for name, value in dict(answered[2]).items()}
        if "request-id" in headers:
            self.request_ids.append(headers["request-id"])
        return answered


class NotSettledError(Exception):
    """Stripe did not come to what was waited for."""


class Clock:
    """Stripe's time: the real one."""

    def now(self) -> int:
        """Seconds since the epoch."""
        return int(time.time())

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)


class EmulatorClock(Clock):
    """An emulator's time: moved, not waited for."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/_emu"

    def now(self) -> int:
        """Seconds since the epoch."""
        with urllib.request.urlopen(f"{self._url}/health", timeout=10) as answer:
            return int(json.load(answer)["now"])

    def wait(self, seconds: float) -> None:
        """Move it."""
        body = json.dumps({"advance": max(1, round(seconds))}).encode()
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(f"{self._url}/clock", method="POST", data=body, headers=headers)
        urllib.request.urlopen(request, timeout=10).close()


@dataclass(slots=True)
class Desk:
    """One account and everything made in it for the questions."""

    client: stripe.StripeClient
    recorder: Recorder
    clock: Clock
    tag: str = field(default_factory=lambda: f"probe_{uuid.uuid4().hex[:12]}")
    _ends: list[Callable[[], object]] = field(default_factory=list)
    _product: str | None = None

    def now(self) -> int:
        """The account's time."""
        return self.clock.now()

    def until(self, read: Callable[[], Reading], is_good: Callable[[Reading], bool]) -> tuple[Reading, int]:
        """What is read at last, and after how many seconds.

        Raises:
            NotSettledError: it is never good.
        """
        started = self.now()
        while not is_good(found := read()):
            if self.now() - started > PATIENCE_SECONDS:
                raise NotSettledError(f"after {PATIENCE_SECONDS} s: {found}")
            self.clock.wait(STEP_SECONDS)
        return found, self.now() - started

    def meter(self, *, formula: str = "sum", window: str | None = None) -> stripe.billing.Meter:
        """A meter with an event name of its own."""
        name = f"{self.tag}_{uuid.uuid4().hex[:8]}"
        given: Any = {"display_name": name, "event_name": name, "default_aggregation": {"formula": formula}}
        if window is not None:
            given["event_time_window"] = window
        made = self.client.v1.billing.meters.create(given)
        self._ends.append(lambda: self.client.v1.billing.meters.deactivate(made.id))
        return made

    def customer(self, **parameters: Any) -> str:  # noqa: ANN401 - any parameter
        """A customer; one on a test clock goes with the clock."""
        given: Any = {"name": self.tag, **parameters}
        made = self.client.v1.customers.create(given).id
        if "test_clock" not in parameters:
            self._ends.append(lambda: self.client.v1.customers.delete(made))
        return made

    def test_clock(self, frozen_time: int) -> str:
        """A test clock."""
        made = self.client.v1.test_helpers.test_clocks.create({"frozen_time": frozen_time, "name": self.tag}).id
        self._ends.append(lambda: self.client.v1.test_helpers.test_clocks.delete(made))
        return made

    def advance(self, test_clock: str, to: int) -> None:
        """Advance a test clock and wait until it is ready."""
        clocks = self.client.v1.test_helpers.test_clocks
        clocks.advance(test_clock, {"frozen_time": to})
        self.until(lambda: clocks.retrieve(test_clock).status, lambda status: status == "ready")

    def price(self, meter: str, unit_amount: str, *, interval: str = "month") -> str:
        """A metered price in dollar cents a unit."""
        return self.price_of(meter, {"currency": "usd", "unit_amount_decimal": unit_amount}, interval=interval)

    def price_of(self, meter: str, amounts: Json, *, interval: str = "month") -> str:
        """A metered price of any amounts and tiers."""
        recurring = {"interval": interval, "usage_type": "metered", "meter": meter}
        given: Any = {**amounts, "product": self.product(), "recurring": recurring}
        made = self.client.v1.prices.create(given).id
        self._ends.append(lambda: self.client.v1.prices.update(made, {"active": False}))
        return made

    def product(self) -> str:
        """The one product of all prices."""
        if self._product is None:
            product = self._product = self.client.v1.products.create({"name": self.tag}).id
            self._ends.append(lambda: self.client.v1.products.update(product, {"active": False}))
        return self._product

    def subscribe(self, customer: str, *prices: str) -> stripe.Subscription:
        """A subscription nobody has to pay for."""
        given: Any = {
            "customer": customer,
            "items": [{"price": price} for price in prices],
            "collection_method": "send_invoice",
            "days_until_due": 30,
        }
        return self.client.v1.subscriptions.create(given)

    def send(self, meter: stripe.billing.Meter, customer: str, value: str, **parameters: Any) -> str | None:  # noqa: ANN401
        """One meter event: None when it was accepted, else Stripe's message."""
        given: Any = {
            "event_name": meter.event_name,
            "payload": {"stripe_customer_id": customer, "value": value},
            **parameters,
        }
        try:
            self.client.v1.billing.meter_events.create(given)
        except stripe.InvalidRequestError as error:
            return str(error.user_message or error)
        return None

    def summaries(self, meter: stripe.billing.Meter, customer: str, start: int, end: int, **more: Any) -> list[float]:  # noqa: ANN401
        """Values of the summaries, newest first."""
        given: Any = {"customer": customer, "start_time": start, "end_time": end, "limit": 100, **more}
        page = self.client.v1.billing.meters.event_summaries.list(meter.id, given)
        return [float(row.aggregated_value) for row in page.data]

    def total(self, meter: stripe.billing.Meter, customer: str, start: int, end: int) -> float:
        """The summary of one whole range."""
        return sum(self.summaries(meter, customer, start, end))

    def preview(self, subscription: str) -> list[stripe.InvoiceLineItem]:
        """Lines of the next invoice."""
        return list(self.client.v1.invoices.create_preview({"subscription": subscription}).lines.data)

    def at_once(self, *calls: Callable[[], object]) -> list[object]:
        """What several calls made at the same time answered or raised."""
        outcomes: list[object] = [None] * len(calls)
        gate = threading.Barrier(len(calls))

        def run(number: int) -> None:
            gate.wait()
            try:
                outcomes[number] = calls[number]()
            except stripe.StripeError as error:
                outcomes[number] = error

        threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return outcomes

    def tidy(self) -> None:
        """End everything that was made, newest first; what is gone already is no matter."""
        while self._ends:
            try:
                self._ends.pop()()
            except stripe.InvalidRequestError:
                continue


@contextmanager
def open_desk(key: str, *, emulator_url: str | None = None) -> Iterator[Desk]:
    """A desk at Stripe, or at an emulator; everything made there is ended afterwards.

    Raises:
        ValueError: the key is not one of a sandbox.
    """
    if not key.startswith(("sk_test_", "rk_test_")):
        raise ValueError("the key must be one of a sandbox: it starts with sk_test_ or rk_test_")
    stripe.enable_telemetry = False
    recorder = Recorder()
    bases: Any = (
        None if emulator_url is None else dict.fromkeys(("api", "files", "connect", "meter_events"), emulator_url)
    )
    client = stripe.StripeClient(key, base_addresses=bases, max_network_retries=2, http_client=recorder)
    desk = Desk(client, recorder, Clock() if emulator_url is None else EmulatorClock(emulator_url))
    try:
        yield desk
    finally:
        desk.tidy()
