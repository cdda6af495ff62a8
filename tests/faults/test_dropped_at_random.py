"""Usage, pushes, drops, reports, readings and releases in random order: nothing counts twice, everything counts once.

Always: no delta counts that we hold for dropped, and no identifier counts twice. In the end, when nothing is dropped
any more and an operator has looked at every short day: Stripe holds what we counted.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.pipeline.push import push_usage
from stripemeter.pipeline.push_doubts import recheck_day, settle_doubts
from stripemeter.pipeline.reconcile import reconcile_usage
from stripemeter.pipeline.stripe_error_reports import read_reports
from stripemeter.pipeline.stripe_setup import release_entry
from stripemeter.store.push_doubts import DayRows
from tests.emulator import RunningEmulator
from tests.stripe_bench import NOW, ONCE, TODAY, StripeBench, open_bench
from tests.stripe_reports import keep_all, notifications

STEPS = 60
SEEDS = (0, 1, 14, 16, 20, 22, 32, 38)
"""All but two find a row sent again without waiting for the summaries; the last one also one sent after one reading."""
CUSTOMERS = ("ada", "bob")
DAYS = [TODAY - timedelta(days=age) for age in (1, 2)]
FAULTS: list[dict[str, Any]] = [
    {"kind": "accept_then_async_reject"},
    {"kind": "accept_then_async_reject"},
    {"kind": "drop_async"},
    {"kind": "commit_then_reset"},
    {"kind": "reset_before_commit"},
    {"kind": "status", "status": 500, "committed": True},
]


@dataclass(slots=True, kw_only=True)
class World:
    """One bench, its clock, and what was counted."""

    bench: StripeBench
    dice: random.Random
    now: datetime = NOW
    totals: dict[tuple[str, int], int] = field(default_factory=dict)

    def use(self) -> None:
        """A customer's day grows, or shrinks."""
        customer, day = self.dice.choice(CUSTOMERS), self.dice.randrange(len(DAYS))
        total = max(1, self.totals.get((customer, day), 0) + self.dice.choice((-2, 3, 5)))
        self.totals[customer, day] = total
        self.bench.count(str(total), DAYS[day], customer)

    def push(self) -> None:
        """More usage and a push, of which some requests meet a fault."""
        self.use()
        faults = [
            {"match": {"path_re": "meter_events", "nth": self.dice.choice((1, 1, 2))}, "do": self.dice.choice(FAULTS)}
            for _ in range(self.dice.choice((0, 1, 1, 2)))
        ]
        self.bench.emulator.fault(*faults)
        push_usage(self.bench.pool, self.bench.sink, now=self.now, retries=ONCE, max_workers=1)
        self.bench.emulator.fault()

    def tell(self) -> None:
        """Every report there is, in any order and again and again, and then they are read."""
        told = notifications(self.bench.emulator)
        again = self.dice.choices(told, k=2 * len(told)) if told else []
        keep_all(self.bench.pool, again + told, now=self.now)
        read_reports(self.bench.pool, self.bench.sink, now=self.now)

    def settle(self) -> None:
        """What is due is read back."""
        settle_doubts(self.bench.pool, self.bench.sink, now=self.now)

    def reconcile(self) -> None:
        """Days that agree are confirmed."""
        reconcile_usage(self.bench.pool, self.bench.sink, now=self.now)

    def release(self) -> None:
        """Every customer that waits may go on."""
        for entry in self.bench.entries():
            if entry["state"] in ("rejected", "rejected_async") and entry["released_at"] is None:
                release_entry(self.bench.pool, tenant_id=self.bench.tenant, entry_id=entry["id"], now=self.now)

    def wait(self) -> None:
        """Time passes, sometimes for long."""
        self.pass_time(timedelta(minutes=self.dice.choice((1, 5, 12, 70))))

    def pass_time(self, span: timedelta) -> None:
        """Ours and the emulator's."""
        self.now += span
        self.bench.emulator.freeze(self.now)

    def recheck(self) -> None:
        """An operator has every day read back."""
        for day in DAYS:
            rows = DayRows(tenant_id=self.bench.tenant, day=day)
            recheck_day(self.bench.pool, self.bench.sink, rows, actor="ops", reason="short", now=self.now)

    def counted(self) -> Counter[str]:
        """How often the emulator counts each identifier."""
        return Counter(event["identifier"] for event in self.bench.emulator.ledger() if event["state"] == "visible")

    def check(self) -> None:
        """What must hold at every moment."""
        counted = self.counted()
        assert not [identifier for identifier, times in counted.items() if times > 1]
        dropped = {entry["identifier"] for entry in self.bench.entries() if entry["state"] == "rejected_async"}
        assert not dropped & set(counted)

    def is_settled(self) -> bool:
        """Whether Stripe holds what was counted."""
        return all(self.bench.at_stripe(DAYS[day], customer) == total for (customer, day), total in self.totals.items())


@pytest.mark.parametrize("seed", SEEDS)
def test_everything_counts_once(pool: ConnectionPool, emulator: RunningEmulator, seed: int) -> None:
    """C18 and C19 with C3, C5 and C8 between them, in an order nobody thought of."""
    world = World(bench=open_bench(pool, emulator), dice=random.Random(seed))
    for customer in CUSTOMERS:
        world.bench.bind(customer)
    emulator.control("POST", "/deliveries", {"mode": "on_demand"})
    emulator.control("POST", "/metering", {"sample_errors": 1, "ingest_lag_seconds": (0, 2400, 3900)[seed % 3]})
    steps: list[Callable[[], None]] = [
        world.use, world.push, world.push, world.push, world.tell, world.settle, world.settle, world.reconcile,
        world.release, world.recheck, world.wait, world.wait,
    ]  # fmt: skip
    for _ in range(STEPS):
        world.dice.choice(steps)()
        world.check()
    _finish(world)
    world.check()
    for (customer, day), total in world.totals.items():
        assert world.bench.at_stripe(DAYS[day], customer) == Decimal(total), (customer, day)
    states = Counter(world.bench.states())
    assert set(states) <= {"accepted", "confirmed", "rejected_async"}
    assert states["rejected_async"] == sum(event["state"] != "visible" for event in emulator.ledger()), states


def _finish(world: World) -> None:
    """Nothing is dropped any more; an operator looks at what is short, until nothing is."""
    for _ in range(6):
        world.release()
        push_usage(world.bench.pool, world.bench.sink, now=world.now, retries=ONCE)
        world.pass_time(timedelta(minutes=65))
        world.tell()
        world.recheck()
        for _ in range(2):
            world.settle()
            world.pass_time(timedelta(minutes=11))
        world.release()
        push_usage(world.bench.pool, world.bench.sink, now=world.now, retries=ONCE)
        world.pass_time(timedelta(minutes=45))
        if world.is_settled():
            return
