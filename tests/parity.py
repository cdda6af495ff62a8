"""What the tests of comparisons share: counters, events, mappings and prices of acme, and comparing an export.

Belongs here: rows as the pipelines write them, short forms of a report. Does not: any test.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from psycopg_pool import ConnectionPool

from stripemeter.billing import StripePrice
from stripemeter.metering.events import IngestLimits, parse_event
from stripemeter.metering.parity import ParityItem
from stripemeter.pipeline.bulk import ensure_months, prepare_events, store_prepared
from stripemeter.pipeline.parity import ParityReport, compare_export
from stripemeter.pipeline.parity_export import ExportRequest
from stripemeter.pipeline.price_versions import stripe_price_version
from stripemeter.store.files import payload_source
from stripemeter.store.mappings import CustomerBinding, PriceMapping, bind_customer, create_mapping
from stripemeter.store.postgres import transaction
from stripemeter.store.prices import record_price

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
OCTOBER = datetime(2026, 10, 5, 9, tzinfo=UTC)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
GRADUATED = {
    "model": "graduated",
    "currency": "USD",
    "tiers": [{"upTo": 10, "unitPrice": "0.5", "flatPrice": 9}, {"upTo": None, "unitPrice": "0.015"}],
}


def count(pool: ConnectionPool, meter: str, quantity: object, at: datetime = OCTOBER, customer: str = "ada") -> None:
    """A day's counter of one event, as the fold leaves it."""
    with transaction(pool) as tx:
        tx.execute(
            """
            insert into counters (tenant_id, customer_ref, meter, day, segment_start, event_count, quantity_sum,
                quantity_min, quantity_max, quantity_last, last_ts, last_seq)
            values ('acme', %(customer)s, %(meter)s, %(day)s, date_trunc('month', %(at)s, 'UTC'), 1, %(q)s, %(q)s,
                %(q)s, %(q)s, %(at)s, 1)
            """,
            {"customer": customer, "meter": meter, "day": at.date(), "at": at, "q": Decimal(str(quantity))},
        )


def event(pool: ConnectionPool, key: str, quantity: int, received_at: datetime, at: datetime = OCTOBER) -> None:
    """An event of ada's, in the ledger and not folded."""
    document = {"tenantId": "acme", "customerRef": "ada", "metric": "calls", "quantity": quantity}
    parsed = parse_event(
        json.dumps({**document, "ts": at.isoformat(), "idempotencyKey": key}).encode(),
        now=NOW,
        limits=IngestLimits(),
    )
    with pool.connection() as connection:
        prepared = prepare_events([parsed])
        ensure_months(connection, prepared, set())
        store_prepared(connection, prepared, received_on=NOW.date(), backfill_id=None)
        connection.execute("update events set received_at = %s where idempotency_key = %s", (received_at, key))


def mapping(meter: str, price_id: str, account: str, aggregation: str = "sum") -> PriceMapping:
    """One in shadow."""
    return PriceMapping(
        id=uuid.uuid4(),
        tenant_id="acme",
        meter=meter,
        aggregation=aggregation,
        stripe_account_id=account,
        stripe_event_name=f"{meter}_event",
        stripe_meter_id=f"mtr_{meter}",
        mode="shadow",
        is_shadow=True,
        price_id=price_id,
        created_at=NOW,
    )


def map_meter(pool: ConnectionPool, meter: str, price_id: str, unit: object = 2) -> None:
    """A shadow mapping and its price, so many cents a unit."""
    with transaction(pool) as tx:
        create_mapping(tx, mapping(meter, price_id, "acct_1"))
    record_stripe_price(pool, price_id, unit)


def record_stripe_price(
    pool: ConnectionPool, price_id: str, unit: object, account: str = "acct_1", seen_at: datetime = NOW
) -> None:
    """A price as an account told it."""
    price = StripePrice(
        price_id=price_id,
        currency="usd",
        is_active=True,
        stripe_meter_id="mtr_1",
        created_at=LONG_AGO,
        document={"id": price_id, "currency": "usd", "unit_amount_decimal": str(unit)},
    )
    with transaction(pool) as tx:
        assert record_price(tx, stripe_price_version(price, stripe_account_id=account, now=seen_at))


def bind(pool: ConnectionPool, customer: str, stripe_id: str, account: str = "acct_1") -> None:
    """Which Stripe customer a customer is."""
    with transaction(pool) as tx:
        bind_customer(
            tx,
            CustomerBinding(
                tenant_id="acme",
                customer_ref=customer,
                stripe_account_id=account,
                stripe_customer_id=stripe_id,
                created_at=NOW,
            ),
        )


def compare(pool: ConnectionPool, text: str, **more: Any) -> ParityReport:  # noqa: ANN401 - any member
    """Compare CSV; the counts are checked."""
    asked: dict[str, Any] = {
        "source": payload_source(text.encode()),
        "source_format": "csv",
        "kind": "usage",
        "columns": {},
    }
    report = compare_export(pool, ExportRequest(**(asked | more)), tenant_id="acme", now=NOW)
    rows = report.rows
    assert rows.matched + rows.differing + rows.only_there + len(report.unusable) + report.left_out == report.row_count
    assert rows.only_here == 0
    return report


def invoices(pool: ConnectionPool, text: str, **more: Any) -> ParityReport:  # noqa: ANN401 - any member
    """Compare invoice lines in cents."""
    return compare(pool, text, **({"kind": "invoice", "amounts": "minor"} | more))


def shown(report: ParityReport) -> list[tuple[str, str, str, tuple[str, ...]]]:
    """Customer and metric, side, status and causes of what is not ok."""
    return [
        (f"{item.key.customer_ref}/{item.key.metric}", item.side, item.status, item.causes)
        for item in report.items
        if item.status != "ok"
    ]


def only(items: Iterable[ParityItem]) -> ParityItem:
    """The one there is."""
    (item,) = items
    return item
