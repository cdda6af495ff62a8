"""Pushes that people write first: each is to be caught by the soak.

Belongs here: the naive variants. Does not: anything the product does.
"""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal

from psycopg_pool import ConnectionPool

from stripemeter.billing.sink import BillingSink, MeterEvent
from stripemeter.errors import StripeMeterError
from stripemeter.metering.days import day_bounds
from stripemeter.pipeline import push_rows
from stripemeter.store.postgres import transaction

Variant = Literal["product", "blind-resend", "identifier-from-total", "row-after-send"]
VARIANTS: tuple[Variant, ...] = ("product", "blind-resend", "identifier-from-total", "row-after-send")


def forget_to_read_back() -> None:
    """Make the product's push, in this process, send old rows blindly again."""
    vars(push_rows)["RETRY_WINDOW"] = timedelta(days=10_000)


def push_naively(pool: ConnectionPool, sink: BillingSink, *, now: datetime, is_name_of_total: bool) -> None:
    """Send each day's growth, and write down what was sent only after it was acknowledged.

    The identifier is the day's new total, or the number of the acknowledged event; both look safe.
    """
    with transaction(pool) as tx:
        tx.execute(
            "create table if not exists naive_sent (stripe_customer_id text, day date, total numeric, events int, "
            "primary key (stripe_customer_id, day))"
        )
        lacking = tx.execute(
            """
            select b.stripe_customer_id, c.day, c.quantity_sum, coalesce(s.total, 0), coalesce(s.events, 0)
            from customer_bindings as b
            inner join counters as c on b.tenant_id = c.tenant_id and b.customer_ref = c.customer_ref
            left join naive_sent as s on b.stripe_customer_id = s.stripe_customer_id and c.day = s.day
            where b.stripe_account_id = %s and c.quantity_sum <> coalesce(s.total, 0)
            """,
            (sink.account_id(),),
        ).fetchall()
    for customer, day, total, sent, events in lacking:
        suffix = f"{total}" if is_name_of_total else f"{events + 1}"
        event = MeterEvent(
            event_name="calls",
            stripe_customer_id=customer,
            quantity=Decimal(total - sent),
            at=min(now.replace(second=0, microsecond=0), day_bounds(day)[1] - timedelta(minutes=1)),
            identifier=f"{customer}:{day}:{suffix}",
            idempotency_key=uuid.uuid4().hex,
        )
        try:
            sink.send_meter_event(event)
        except StripeMeterError:
            continue
        with transaction(pool) as tx:
            tx.execute(
                "insert into naive_sent values (%s, %s, %s, 1) on conflict (stripe_customer_id, day) "
                "do update set total = excluded.total, events = naive_sent.events + 1",
                (customer, day, total),
            )
