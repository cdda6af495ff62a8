"""push, push-plan and reconcile: what exactness costs on the way to Stripe.

Belongs here: these three benches. Does not: the emulator and the filling (`billing`).
"""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from psycopg_pool import ConnectionPool

from bench.billing import bare_client, emulator, fill, fill_stripe, last_days, open_account
from bench.context import Context, say
from bench.measure import Row, at_least, interleave, seconds_of, series, value_at_most
from stripemeter.billing import BillingSink
from stripemeter.metering.deltas import first_open_day
from stripemeter.pipeline.push import push_usage
from stripemeter.pipeline.push_plan import plan_targets
from stripemeter.pipeline.push_rows import PLANNED_TOGETHER
from stripemeter.pipeline.reconcile import reconcile_usage
from stripemeter.store import push_entries
from stripemeter.store.postgres import open_pool, transaction
from stripemeter.store.push_entries import PushTarget

WORKERS = 4
"""Customers at once: what a push and a reconciliation do by default."""
PLAN_DAYS = 10
RECONCILED_DAYS = 30


def push(context: Context) -> list[Row]:
    """A push of one delta per customer, against a loop over the SDK that sends as many events and remembers nothing."""
    rows = context.scale.pushed_rows
    now = datetime.now(UTC)
    with context.database("push") as url, emulator(context) as stripe_url, open_pool(url, max_size=WORKERS + 2) as pool:
        _, sink = open_account(stripe_url)
        fill(pool, sink, customers=rows, days=last_days(1, now), now=now, is_sent=False)
        bare_key, bare = open_account(stripe_url)
        bare.ensure_meter(event_name="calls", display_name="Calls")
        client = bare_client(stripe_url, bare_key)
        stamp = int((now - timedelta(hours=1)).timestamp())

        def send(number: int) -> None:
            client.v1.billing.meter_events.create(
                {
                    "event_name": "calls",
                    "identifier": uuid.uuid4().hex,
                    "timestamp": stamp,
                    "payload": {"stripe_customer_id": f"cus_{number}", "value": "5"},
                }
            )

        def send_all() -> float:
            with ThreadPoolExecutor(WORKERS) as workers:
                seconds = seconds_of(lambda: list(workers.map(send, range(rows))))
            say(f"push: bare SDK {rows / seconds:,.0f}/s")
            return rows / seconds

        def push_all() -> float:
            with transaction(pool) as tx:
                tx.execute("update counters set quantity_sum = quantity_sum + 1")
            seconds = seconds_of(lambda: _push(pool, sink, rows))
            say(f"push: {rows / seconds:,.0f}/s")
            return rows / seconds

        limit, system = interleave(context.scale.rounds, send_all, push_all)
    return [
        Row(
            bench="push",
            what=f"push of {rows:,} deltas, one per customer, {WORKERS} customers at once",
            unit="rows/s",
            system=series(system),
            limit=series(limit),
            limit_name=f"the SDK alone, {WORKERS} threads, the same events to the same emulator",
            budget=at_least(0.8),
            note="a push writes each delta down before it is sent, claims it and settles it; rows share commits",
        )
    ]


def push_plan(context: Context) -> list[Row]:
    """Find what changed among all segments' days, and write the rows that would be sent."""
    scale = context.scale
    now = datetime.now(UTC)
    customers = max(1, scale.segments // PLAN_DAYS)
    with context.database("plan") as url, emulator(context) as stripe_url, open_pool(url, max_size=WORKERS + 2) as pool:
        _, sink = open_account(stripe_url)
        fill(pool, sink, customers=customers, days=last_days(PLAN_DAYS, now), now=now, is_sent=True)
        with transaction(pool) as tx:
            changed = tx.execute(
                "update counters set quantity_sum = quantity_sum + 1 where day = %s "
                "and customer_ref in (select 'c' || i from generate_series(1, %s) as i)",
                (last_days(1, now)[0], scale.changed_segments),
            ).rowcount
        finds, plans = [], []
        for _ in range(scale.slow_rounds):
            targets: list[PushTarget] = []
            finds.append(seconds_of(lambda: targets.extend(_find(pool, sink, now))))  # noqa: B023 - called here
            if len(targets) != changed:
                raise AssertionError(f"{changed} changed, {len(targets)} found")
            plans.append(finds[-1] + seconds_of(lambda: _plan(pool, targets, now)))  # noqa: B023 - called here
            say(f"push-plan: found in {finds[-1]:.2f} s, planned in {plans[-1]:.2f} s")
            with transaction(pool) as tx:
                tx.execute("update push_entries set state = 'cancelled' where state = 'planned'")
    what = f"{customers * PLAN_DAYS:,} customers' days of which {changed:,} changed"
    return [
        Row(
            bench="push-plan",
            what=f"find and plan: {what}",
            unit="s",
            system=series(plans),
            budget=value_at_most(2),
            note=f"every planned row is committed, {PLANNED_TOGETHER} in one transaction",
        ),
        Row(bench="push-plan", what="of it, finding them: one query", unit="s", system=series(finds)),
    ]


def reconcile(context: Context) -> list[Row]:
    """Compare every day of every customer with what the emulator holds, all equal."""
    customers = max(1, context.scale.segments // RECONCILED_DAYS)
    now = datetime.now(UTC)
    days = last_days(RECONCILED_DAYS, now)
    state = context.scratch / f"emulator-{uuid.uuid4().hex}.sqlite"
    with context.database("reconcile") as url, open_pool(url, max_size=WORKERS + 2) as pool:
        with emulator(context, state) as stripe_url:
            key, sink = open_account(stripe_url)
            sink.create_customer(name="model", idempotency_key=uuid.uuid4().hex)
            meter = fill(pool, sink, customers=customers, days=days, now=now, is_sent=True)
        fill_stripe(state, account=sink.account_id(), meter=meter, customers=customers, days=days, now=now)
        with emulator(context, state) as stripe_url:
            sink = open_account(stripe_url, key)[1]
            answer = seconds_of(
                lambda: sink.read_daily_quantities(
                    stripe_meter_id=meter, stripe_customer_id="cus_1", first=days[0], last=days[-1]
                )
            )
            seconds = []
            for _ in range(context.scale.slow_rounds):
                seconds.append(seconds_of(lambda: _reconcile(pool, sink, now, customers * len(days))))
                say(f"reconcile: {customers * len(days):,} days in {seconds[-1]:.1f} s")
    state.unlink()
    return [
        Row(
            bench="reconcile",
            what=f"compare {customers * len(days):,} days of {customers:,} customers, every verdict stored",
            unit="s",
            system=series(seconds),
            budget=value_at_most(60),
            note=f"{WORKERS} customers at once; the emulator's first answer took {answer * 1000:.0f} ms",
        )
    ]


def _push(pool: ConnectionPool, sink: BillingSink, rows: int) -> None:
    report = push_usage(pool, sink, now=datetime.now(UTC), max_workers=WORKERS)
    if report.accepted != rows:
        raise AssertionError(f"{report.accepted} of {rows} arrived; {report.stopped}")


def _find(pool: ConnectionPool, sink: BillingSink, now: datetime) -> list[PushTarget]:
    with transaction(pool) as tx:
        return push_entries.find_targets(
            tx,
            stripe_account_id=sink.account_id(),
            mode=sink.mode,
            first_day=first_open_day(now),
            today=now.date(),
            now=now,
        )


def _plan(pool: ConnectionPool, targets: list[PushTarget], now: datetime) -> None:
    planned = 0
    for start in range(0, len(targets), PLANNED_TOGETHER):
        with transaction(pool) as tx:
            plans = plan_targets(tx, targets[start : start + PLANNED_TOGETHER], now=now)
        planned += sum(plan.entry is not None for plan in plans)
    if planned != len(targets):
        raise AssertionError(f"{planned} of {len(targets)} planned")


def _reconcile(pool: ConnectionPool, sink: BillingSink, now: datetime, days: int) -> None:
    report = reconcile_usage(pool, sink, now=now, max_workers=WORKERS)
    if report.ok != days:
        raise AssertionError(f"{report.ok} of {days} days are ok: {report.rows[:3]}")
