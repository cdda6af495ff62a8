"""A customer with a weekly subscription at the emulator, cut the same way with us: what closing an invoice needs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from psycopg_pool import ConnectionPool

from stripemeter.metering.closings import Control
from stripemeter.metering.segments import parse_phase
from stripemeter.pipeline.closing import ClosingReport, close_invoices
from stripemeter.store.closings import Closing, list_closings
from stripemeter.store.customers import CustomerPhase, replace_phases
from stripemeter.store.parity_proofs import ParityProof, list_proofs
from stripemeter.store.postgres import transaction
from tests.emulator import RunningEmulator
from tests.stripe_bench import NOW, StripeBench, open_bench

START, END = NOW, NOW + timedelta(days=7)
"""The week that is billed; its ends cut a minute."""
SETTLED = END + timedelta(hours=48)
"""When late events of it stop joining it: the lateness window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosingBench:
    """`ada` and her subscription to a price of one meter."""

    stripe: StripeBench
    customer_id: str
    price: str
    item: str
    start: datetime

    @property
    def day(self) -> date:
        """A whole day of the week."""
        return (self.start + timedelta(days=2)).date()

    @property
    def pool(self) -> ConnectionPool:
        """The database."""
        return self.stripe.pool

    def go_to(self, now: datetime) -> None:
        """Move Stripe's clock; what is due there happens with the next request."""
        self.stripe.emulator.freeze(now)

    def close(self, now: datetime, control: Control = "control") -> ClosingReport:
        """Look at the invoices, with both clocks there."""
        self.go_to(now)
        return close_invoices(self.pool, self.stripe.sink, now=now, control=control)

    def count(self, quantity: str) -> None:
        """Make the day's counter this."""
        self.stripe.count(quantity, self.day, segment=self.start)

    def write(self, quantity: str, at: datetime) -> None:
        """Usage of somebody else's, past us."""
        payload = {"stripe_customer_id": self.customer_id, "value": quantity}
        self.stripe.emulator.client().v1.billing.meter_events.create(
            {"event_name": "calls", "timestamp": int(at.timestamp()), "payload": payload}
        )

    def closing(self) -> Closing:
        """The one invoice's row."""
        with transaction(self.pool) as tx:
            (found,) = list_closings(tx)
        return found

    def proofs(self) -> list[ParityProof]:
        """What is proven."""
        with transaction(self.pool) as tx:
            return list_proofs(tx)

    def invoice(self) -> Any:  # noqa: ANN401 - the SDK's invoice
        """The week's invoice at Stripe."""
        return self.stripe.emulator.client().v1.invoices.retrieve(self.closing().invoice_id)

    def finalizings(self) -> list[dict[str, Any]]:
        """Every request that would finalize an invoice."""
        return [entry for entry in self.stripe.emulator.journal() if entry["path"].endswith("/finalize")]


def open_closing(
    pool: ConnectionPool,
    emulator: RunningEmulator,
    *,
    start: datetime = START,
    aggregation: str = "sum",
    **price: Any,  # noqa: ANN401 - any parameter of a price
) -> ClosingBench:
    """The bench at the start of the week; 2 cents a unit unless told otherwise."""
    bench = open_bench(pool, emulator, aggregation=aggregation)
    emulator.freeze(start)
    customer_id = bench.bind()
    client = emulator.client()
    product = client.v1.products.create({"name": "API"}).id
    recurring = {"interval": "week", "usage_type": "metered", "meter": bench.meter_id}
    given: Any = {"currency": "usd", "product": product, "recurring": recurring, "unit_amount": 2, **price}
    given = {name: value for name, value in given.items() if value is not None}
    price_id = client.v1.prices.create(given).id
    subscription = client.v1.subscriptions.create({"customer": customer_id, "items": [{"price": price_id}]})
    phase = parse_phase(cadence="week", starts_at=start, anchor_at=start)
    with transaction(pool) as tx:
        replace_phases(tx, bench.tenant, "ada", [CustomerPhase(meter="", phase=phase, reason="")], now=start)
    item = subscription["items"].data[0].id
    return ClosingBench(stripe=bench, customer_id=customer_id, price=price_id, item=item, start=start)
