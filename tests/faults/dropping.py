"""Deltas that Stripe acknowledges and drops: the steps both kinds of test take."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from stripemeter.pipeline.push import PushReport, push_usage
from stripemeter.pipeline.push_doubts import DoubtReport, recheck_day, settle_doubts
from stripemeter.pipeline.stripe_error_reports import ReportsRead, read_reports
from stripemeter.pipeline.stripe_setup import release_entry
from stripemeter.store.postgres import transaction
from stripemeter.store.push_doubts import DayRows
from tests.faults.webhook_worker import deliver
from tests.stripe_bench import NO_PAUSE, NOW, TODAY, StripeBench
from tests.stripe_reports import keep_all, notifications

YESTERDAY = TODAY - timedelta(days=1)
REPORTED = NOW + timedelta(seconds=20)
FIRST = NOW + timedelta(minutes=61)
SECOND = FIRST + timedelta(minutes=11)
REJECT: dict[str, Any] = {"kind": "accept_then_async_reject"}
DROP: dict[str, Any] = {"kind": "drop_async"}


def push(bench: StripeBench, now: datetime, *, fault: dict[str, Any] | None = None, times: int = 1) -> PushReport:
    """A push at `now`, whose meter events meet the fault."""
    bench.emulator.freeze(now)
    if fault is not None:
        bench.emulator.fault({"match": {"path_re": "meter_events"}, "do": fault, "times": times})
    report = push_usage(bench.pool, bench.sink, now=now, retries=NO_PAUSE)
    bench.emulator.fault()
    return report


def read(bench: StripeBench, now: datetime) -> ReportsRead:
    """What the reports that are delivered by `now` come to."""
    assert deliver(bench.emulator, now)["failed"] == 0
    return read_reports(bench.pool, bench.sink, now=now)


def keep(bench: StripeBench, now: datetime) -> None:
    """The reports made by `now`, in the inbox without a delivery."""
    bench.emulator.freeze(now)
    keep_all(bench.pool, notifications(bench.emulator), now=now)


def hear(bench: StripeBench, now: datetime) -> ReportsRead:
    """What the reports made by `now` come to, put in the inbox without a delivery."""
    keep(bench, now)
    return read_reports(bench.pool, bench.sink, now=now)


def settle(bench: StripeBench, now: datetime) -> DoubtReport:
    """Read back what is due at `now`."""
    bench.emulator.freeze(now)
    return settle_doubts(bench.pool, bench.sink, now=now)


def release(bench: StripeBench, now: datetime) -> None:
    """An operator lets every customer that waits go on."""
    for entry in bench.entries():
        if entry["state"] == "rejected_async" and entry["released_at"] is None:
            release_entry(bench.pool, tenant_id=bench.tenant, entry_id=entry["id"], now=now)


def inbox(bench: StripeBench) -> list[tuple[str, str | None]]:
    """Type and outcome of every event kept."""
    with transaction(bench.pool) as tx:
        return tx.execute("select type, outcome from stripe_events order by created_at, id").fetchall()


def counted(bench: StripeBench) -> list[str]:
    """Identifiers of the events the emulator counts."""
    return sorted(event["identifier"] for event in bench.emulator.ledger() if event["state"] == "visible")


def recheck(bench: StripeBench, rows: DayRows) -> int:
    """An operator has rows read back."""
    return recheck_day(bench.pool, bench.sink, rows, actor="ops", reason="seen short on the dashboard", now=NOW)


def doubts(bench: StripeBench) -> list[tuple[Any, ...]]:
    """Every doubt, with its verdict."""
    with transaction(bench.pool) as tx:
        return tx.execute("select entry_id, verdict from push_doubts").fetchall()


def bindings(bench: StripeBench) -> list[tuple[Any, ...]]:
    """The Stripe customers bound."""
    with transaction(bench.pool) as tx:
        return tx.execute("select stripe_customer_id from customer_bindings").fetchall()
