"""A tenant, its counters, a Stripe meter and a Stripe customer: what a push needs, ready to be pushed."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from psycopg_pool import ConnectionPool
from pydantic import SecretStr

from stripemeter.billing import BillingSink, open_sink
from stripemeter.billing.sink import Transport
from stripemeter.metering.days import month_bounds
from stripemeter.metering.segments import BEGINNING, parse_phase
from stripemeter.pipeline.push_row import RetryPolicy
from stripemeter.store.customers import CustomerPhase, replace_phases
from stripemeter.store.mappings import CustomerBinding, PriceMapping, bind_customer, create_mapping
from stripemeter.store.postgres import transaction
from tests.emulator import RunningEmulator

NOW = datetime(2026, 11, 23, 12, 0, 30, tzinfo=UTC)
TODAY = NOW.date()
NO_PAUSE = RetryPolicy(attempts=3, first_pause=NOW - NOW)
ONCE = RetryPolicy(attempts=1, first_pause=NOW - NOW)


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkSettings:
    """The settings a sink is opened with."""

    stripe_secret_key: SecretStr | None = None
    stripe_test_secret_key: SecretStr | None = None
    stripe_api_base: str | None = None
    stripe_calls_per_second: float | None = None
    stripe_transport: Transport = "v1"
    connected_accounts: tuple[str, ...] = ()
    allow_live: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeBench:
    """One meter `calls` of one tenant, mapped; customers are bound as they are named."""

    pool: ConnectionPool
    emulator: RunningEmulator
    sink: BillingSink
    meter_id: str
    tenant: str

    def bind(self, customer_ref: str = "ada") -> str:
        """Make and bind a Stripe customer."""
        stripe_customer = self.sink.create_customer(name=customer_ref, idempotency_key=uuid.uuid4().hex)
        with transaction(self.pool) as tx:
            bind_customer(
                tx,
                CustomerBinding(
                    tenant_id=self.tenant,
                    customer_ref=customer_ref,
                    stripe_account_id=self.sink.account_id(),
                    stripe_customer_id=stripe_customer,
                    created_at=NOW,
                ),
            )
        return stripe_customer

    def count(
        self, quantity: str, day: date = TODAY, customer_ref: str = "ada", segment: datetime | None = None
    ) -> None:
        """Make the day's counter this, as the fold would."""
        with transaction(self.pool) as tx:
            tx.execute(
                """
                insert into counters (tenant_id, customer_ref, meter, day, segment_start, event_count, quantity_sum,
                    quantity_min, quantity_max, quantity_last, last_ts, last_seq)
                values (%s, %s, 'calls', %s, %s, 1, %s, 0, 0, 0, now(), 1)
                on conflict (tenant_id, customer_ref, meter, day, segment_start, dimensions, is_late)
                do update set quantity_sum = excluded.quantity_sum, event_count = counters.event_count + 1
                """,
                (self.tenant, customer_ref, day, segment or month_bounds(day)[0], Decimal(quantity)),
            )

    def cut(self, *starts: datetime, customer_ref: str = "ada") -> None:
        """Make months that begin at these instants too, and nothing else, the customer's segments."""
        phases = [
            CustomerPhase(meter="", phase=parse_phase(cadence="month", starts_at=start, anchor_at=BEGINNING), reason="")
            for start in starts
        ]
        with transaction(self.pool) as tx:
            replace_phases(tx, self.tenant, customer_ref, phases, now=NOW)

    def entries(self) -> list[dict[str, Any]]:
        """The outbox, in the order it was planned."""
        with transaction(self.pool) as tx:
            cursor = tx.execute(
                "select * from push_entries where tenant_id = %s order by planned_at, seq", (self.tenant,)
            )
            names = [column.name for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor]

    def states(self) -> list[str]:
        """The states of the outbox's rows, in the order they were planned."""
        return [entry["state"] for entry in self.entries()]

    def at_stripe(self, day: date = TODAY, customer_ref: str = "ada") -> Decimal:
        """What Stripe holds of a day."""
        with transaction(self.pool) as tx:
            row = tx.execute(
                "select stripe_customer_id from customer_bindings where tenant_id = %s and customer_ref = %s",
                (self.tenant, customer_ref),
            ).fetchone()
        assert row is not None
        held = self.sink.read_daily_quantities(
            stripe_meter_id=self.meter_id, stripe_customer_id=row[0], first=day, last=day
        )
        return held.get(day, Decimal(0))


def open_bench(
    pool: ConnectionPool, emulator: RunningEmulator, *, aggregation: str = "sum", tenant: str = "t"
) -> StripeBench:
    """A bench at NOW; the emulator's clock stands there too."""
    emulator.freeze(NOW)
    sink = shadow_sink(emulator)
    meter = sink.ensure_meter(event_name="calls", display_name="Calls")
    with transaction(pool) as tx:
        create_mapping(
            tx,
            PriceMapping(
                id=uuid.uuid4(),
                tenant_id=tenant,
                meter="calls",
                aggregation=aggregation,
                stripe_account_id=sink.account_id(),
                stripe_event_name="calls",
                stripe_meter_id=meter.stripe_meter_id,
                mode="shadow",
                created_at=NOW,
            ),
        )
    return StripeBench(pool=pool, emulator=emulator, sink=sink, meter_id=meter.stripe_meter_id, tenant=tenant)


def shadow_sink(emulator: RunningEmulator, *, transport: Transport = "v1") -> BillingSink:
    """The emulator as a sink."""
    return open_sink(
        SinkSettings(
            stripe_test_secret_key=SecretStr(emulator.key), stripe_api_base=emulator.url, stripe_transport=transport
        )
    )
