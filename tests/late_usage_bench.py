"""A mapping and a customer since September with a late policy, and invoices as closing keeps them."""

from __future__ import annotations

from datetime import UTC, datetime

from stripemeter.store.postgres import transaction
from tests.stripe_bench import StripeBench

SEPTEMBER = datetime(2026, 9, 1, tzinfo=UTC)


def since(bench: StripeBench, at: datetime = SEPTEMBER) -> None:
    """Mapping and customer were recorded then."""
    with transaction(bench.pool) as tx:
        tx.execute("update price_mappings set created_at = %s where tenant_id = %s", (at, bench.tenant))
        tx.execute("update customer_bindings set created_at = %s where tenant_id = %s", (at, bench.tenant))


def set_policy(bench: StripeBench, policy: str) -> None:
    """The mapping's policy."""
    with transaction(bench.pool) as tx:
        tx.execute("update price_mappings set late_policy = %s where tenant_id = %s", (policy, bench.tenant))


def invoice(
    bench: StripeBench, start: datetime, end: datetime, *, finalized_at: datetime | None, invoice_id: str = "in_1"
) -> None:
    """An invoice that bills a segment of `ada`, as closing keeps it."""
    with transaction(bench.pool) as tx:
        values = {
            "account": bench.sink.account_id(),
            "invoice": invoice_id,
            "tenant": bench.tenant,
            "start": start,
            "end": end,
            "finalized": finalized_at,
        }
        tx.execute(
            "insert into invoice_closings (stripe_account_id, invoice_id, mode, tenant_id, customer_ref, "
            "stripe_customer_id, control, state, created_at, found_at, settles_at, is_grace_short, finalized_at) "
            "select stripe_account_id, %(invoice)s, 'shadow', tenant_id, 'ada', stripe_customer_id, 'observe', "
            "'finalized', %(end)s, %(end)s, %(end)s, false, %(finalized)s from customer_bindings "
            "where tenant_id = %(tenant)s and customer_ref = 'ada' "
            "on conflict (stripe_account_id, invoice_id) do update set finalized_at = excluded.finalized_at",
            values,
        )
        tx.execute(
            "insert into invoice_windows select %(account)s, %(invoice)s, 'si_1', 'price_1', %(start)s, %(end)s, id, "
            "meter from price_mappings where tenant_id = %(tenant)s on conflict do nothing",
            values,
        )
