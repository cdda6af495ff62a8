"""States of events, written straight into the tables: voids, adjustments, other names of customers.

Belongs here: rows as the pipelines write them, for tests of what reads them. Does not: any test.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from psycopg_pool import ConnectionPool


def void(pool: ConnectionPool, tenant: str, key: str) -> None:
    """Void the event of a key, now."""
    with pool.connection() as connection:
        connection.execute(
            "insert into event_voids (seq, tenant_id, metric, customer_ref, idempotency_key, ts, reason, actor, "
            "voided_at) select seq, tenant_id, metric, customer_ref, idempotency_key, ts, 'test', 'test', "
            "clock_timestamp() from events where tenant_id = %s and idempotency_key = %s",
            (tenant, key),
        )


def alias(pool: ConnectionPool, tenant: str, ref: str, customer_ref: str) -> None:
    """Make a reference another name of a customer, before any event of it was counted."""
    with pool.connection() as connection:
        connection.execute("insert into customer_aliases values (%s, %s, %s, now())", (tenant, ref, customer_ref))


def adjust(
    pool: ConnectionPool,
    tenant: str,
    delta: str,
    effective_at: datetime,
    *,
    status: str = "approved",
    metric: str = "api_calls",
    customer_ref: str = "c1",
    late_key: str | None = None,
) -> UUID:
    """A manual adjustment, or that of the late event of a key; with the audit row of its creation."""
    with pool.connection() as connection:
        row = connection.execute(
            "insert into adjustments (id, tenant_id, metric, customer_ref, period, day, effective_at, delta, reason, "
            "status, actor, created_at, updated_at, event_seq) values (gen_random_uuid(), %(tenant)s, %(metric)s, "
            "%(customer)s, 'day', (%(at)s at time zone 'UTC')::date, %(at)s, %(delta)s, "
            "case when %(key)s::text is null then 'correction' else 'late_event' end, "
            "%(status)s, 'test', now(), now(), "
            "(select seq from events where tenant_id = %(tenant)s and idempotency_key = %(key)s)) returning id",
            {
                "tenant": tenant,
                "metric": metric,
                "customer": customer_ref,
                "at": effective_at,
                "delta": delta,
                "status": status,
                "key": late_key,
            },
        ).fetchone()
        assert row is not None
        connection.execute(
            "insert into adjustment_transitions (adjustment_id, tenant_id, action, status_after, actor, happened_at) "
            "values (%s, %s, 'created', %s, 'test', clock_timestamp())",
            (row[0], tenant, status),
        )
    made: UUID = row[0]
    return made


def transition(pool: ConnectionPool, adjustment_id: UUID, status: str) -> None:
    """Move an adjustment to another status, now; counters stay as they are."""
    with pool.connection() as connection:
        connection.execute(
            "with before as (select id, tenant_id, status from adjustments where id = %(id)s), changed as (update "
            "adjustments set status = %(status)s where id = %(id)s) insert into adjustment_transitions (adjustment_id, "
            "tenant_id, action, status_before, status_after, actor, happened_at) select id, tenant_id, %(status)s, "
            "status, %(status)s, 'test', clock_timestamp() from before",
            {"id": adjustment_id, "status": status},
        )
