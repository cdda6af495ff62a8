"""C21 at random: usage, faults and crashes before and after the backup, in no order anybody thought of."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from random import Random

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.pipeline.push import push_usage
from tests.emulator import RunningEmulator
from tests.faults.restoring import SEEN, YESTERDAY, TakeBackup, assert_books_balance, fence
from tests.stripe_bench import NO_PAUSE, NOW, ONCE, TODAY, StripeBench, open_bench

CUSTOMERS = ("ada", "bob")
DAYS = (YESTERDAY - timedelta(days=1), YESTERDAY, TODAY)
FAULTS = (
    None,
    None,
    {"kind": "reset_before_commit"},
    {"kind": "commit_then_reset"},
    {"kind": "status", "status": 500},
    {"kind": "status", "status": 500, "committed": True},
    {"kind": "status", "status": 429},
)
STEPS = 14


@pytest.mark.parametrize("seed", range(8))
def test_c21_whatever_happened_stripe_has_it_once(
    pool: ConnectionPool, emulator: RunningEmulator, take_backup: TakeBackup, seed: int
) -> None:
    """C21: after the fence and a push Stripe's days are ours, and the books balance."""
    chance = Random(seed)
    bench = open_bench(pool, emulator)
    for customer in CUSTOMERS:
        bench.bind(customer)
    now, backup_at, backup = NOW, chance.randrange(1, STEPS - 1), None
    counted: dict[tuple[str, date], int] = {}
    for step in range(STEPS):
        for _ in range(chance.randrange(1, 4)):
            customer, day = chance.choice(CUSTOMERS), chance.choice(DAYS)
            counted[customer, day] = max(0, counted.get((customer, day), 0) + chance.randrange(-4, 9))
            bench.count(str(counted[customer, day]), day, customer)
        now += timedelta(minutes=chance.choice((1, 3, 17)))
        _push_through(bench, chance, now)
        if step == backup_at:
            backup = take_backup()
    assert backup is not None
    with backup.restored(bench, chance.choice(SEEN)) as old:
        for (customer, day), quantity in counted.items():
            old.count(str(quantity), day, customer)
        later = now + timedelta(hours=2)
        report = fence(old, now=later, stopped_at=now)
        assert (report.outcome, sum(row.waits_for_operator for row in report.rows)) == ("opened", 0)
        assert sum(row.unexplained for row in report.rows) == 0
        for wait in range(3):
            emulator.freeze(later + timedelta(minutes=2 * wait))
            push_usage(old.pool, old.sink, now=later + timedelta(minutes=2 * wait), retries=NO_PAUSE)
        assert {key: old.at_stripe(key[1], key[0]) for key in counted} == counted
        assert_books_balance(old)


def _push_through(bench: StripeBench, chance: Random, now: datetime) -> None:
    """A push of which one event may meet a fault, and which may give up on it."""
    bench.emulator.freeze(now)
    fault = chance.choice(FAULTS)
    if fault is not None:
        bench.emulator.fault({"match": {"path_re": "meter_events"}, "do": fault})
    push_usage(bench.pool, bench.sink, now=now, retries=chance.choice((NO_PAUSE, ONCE)))
    bench.emulator.fault()
