"""Law: late usage is billed once or held, whatever becomes final when, and whoever dies in between."""

from __future__ import annotations

import uuid
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from psycopg_pool import ConnectionPool

from stripemeter.metering.days import month_bounds
from stripemeter.metering.deltas import first_open_day
from stripemeter.pipeline.push import push_usage
from stripemeter.pipeline.reconcile import reconcile_usage
from stripemeter.store import push_entries
from stripemeter.store.late_usage import list_carries
from stripemeter.store.postgres import transaction
from tests.emulator import RunningEmulator
from tests.emulator import emulator_server as emulator_server  # noqa: PLC0414 - a fixture
from tests.late_usage_bench import invoice, set_policy, since
from tests.laws.test_push_converges import Died, Point, dying
from tests.stripe_bench import NO_PAUSE, NOW, StripeBench, open_bench

Step = tuple[str, Any]

DAYS = (date(2026, 10, 5), date(2026, 10, 25), date(2026, 10, 26), date(2026, 11, 10), NOW.date())
"""Too old, two of October, two of November."""
MONTHS = (datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC))
POINTS: list[Point] = ["none", "none", "plan", "claim", "sent", "settled"]
steps = st.one_of(
    st.tuples(st.just("count"), st.tuples(st.sampled_from(DAYS), st.integers(0, 30))),
    st.tuples(st.just("finalize"), st.sampled_from(MONTHS)),
    st.tuples(st.just("push"), st.sampled_from(POINTS)),
    st.tuples(st.just("wait"), st.sampled_from([700, 9 * 86_400])),
)


class World:
    """Usage, invoices that become final, a pusher that may die, and Stripe."""

    def __init__(self, bench: StripeBench) -> None:
        self.bench = bench
        self.now = NOW
        self.counted: dict[date, Decimal] = {}
        self.most: dict[datetime, Decimal] = {}
        self.final: dict[datetime, Decimal] = {}

    def take(self, step: Step) -> None:
        """One step of a history."""
        match step:
            case ("count", (day, quantity)):
                self.counted[day] = Decimal(quantity)
                self.bench.count(str(quantity), day)
                month = month_bounds(day)[0]
                total = sum((held for at, held in self.counted.items() if month_bounds(at)[0] == month), Decimal(0))
                self.most[month] = max(self.most.get(month, Decimal(0)), total)
            case ("finalize", month):
                end = month_bounds(month.date())[1]
                if month not in self.final and end <= self.now:
                    # A push in flight is settled first: what it sent is on the invoice, or on none.
                    self.settle()
                    invoice(self.bench, month, end, finalized_at=self.now, invoice_id=f"in_{month:%m}_{uuid.uuid4()}")
                    self.final[month] = self.at_stripe(month)
            case ("push", point):
                with suppress(Died), dying(point):
                    push_usage(self.bench.pool, self.bench.sink, now=self.now, max_workers=1, retries=NO_PAUSE)
            case ("wait", seconds):
                self.now += timedelta(seconds=seconds)
                self.bench.emulator.freeze(self.now)

    def settle(self) -> None:
        """Push until nothing is in flight: leases, minutes of today."""
        for _ in range(3):
            self.take(("wait", 700))
            self.take(("push", "none"))

    def at_stripe(self, month: datetime | None = None) -> Decimal:
        """What Stripe acknowledged, of a month or altogether."""
        return sum((row["delta"] for row in self.bench.entries() if month in (None, row["segment_start"])), Decimal(0))

    def billed(self, month: datetime) -> Decimal:
        """A month's own usage that Stripe acknowledged, there or in the month it was carried to."""
        with transaction(self.bench.pool) as tx:
            carries = list_carries(tx, tenant_id=self.bench.tenant)
        out = sum((carry.quantity for carry in carries if carry.from_segment_start == month), Decimal(0))
        return (
            self.at_stripe(month)
            + out
            - sum((carry.quantity for carry in carries if carry.to_segment_start == month), Decimal(0))
        )

    def held(self) -> list[push_entries.HeldDay]:
        """What is kept back."""
        with transaction(self.bench.pool) as tx:
            account, first = self.bench.sink.account_id(), first_open_day(self.now)
            return push_entries.load_held(tx, stripe_account_id=account, mode="shadow", first_day=first, limit=99)[1]


# No shrinking, as for law 6: an example is a history in real processes, and short.
@settings(max_examples=12, phases=(Phase.explicit, Phase.generate))
@given(history=st.lists(steps, min_size=4, max_size=10))
@example(
    history=[
        ("count", (DAYS[1], 5)),
        ("push", "none"),
        ("finalize", MONTHS[0]),
        ("count", (DAYS[1], 0)),
        ("count", (DAYS[2], 5)),
    ]
)
@example(
    history=[
        ("count", (DAYS[1], 5)),
        ("push", "none"),
        ("finalize", MONTHS[0]),
        ("count", (DAYS[1], 9)),
        ("push", "plan"),
        ("wait", 9 * 86_400),
        ("finalize", MONTHS[1]),
        ("count", (DAYS[3], 2)),
        ("count", (DAYS[1], 3)),
    ]
)
def test_late_usage_is_billed_once_or_held(
    pool: ConnectionPool, emulator_server: RunningEmulator, history: list[Step]
) -> None:
    """What Stripe acknowledged + what is held = what was counted; a final month gets nothing; only too much is held.

    Of no month more is billed than was ever counted of it; the reconciliation differs by what is held, and no more.
    """
    emulator_server.control("DELETE", "/state")
    account = RunningEmulator(
        url=emulator_server.url, key=f"sk_test_{uuid.uuid4().hex}", process=emulator_server.process
    )
    bench = open_bench(pool, account, tenant=uuid.uuid4().hex)
    bench.bind()
    since(bench)
    set_policy(bench, "carry_forward")
    world = World(bench)
    for step in history:
        world.take(step)
    world.settle()
    held = world.held()
    assert world.at_stripe() + sum((day.lacking for day in held), Decimal(0)) == sum(world.counted.values())
    assert {month: world.at_stripe(month) for month in world.final} == world.final
    lacking: dict[datetime, Decimal] = {}
    for day in held:
        lacking[day.segment_start] = lacking.get(day.segment_start, Decimal(0)) + day.lacking
    assert all(short <= 0 for short in lacking.values())
    assert all(world.billed(month) <= most for month, most in world.most.items())
    surplus = sum((abs(day.lacking) for day in held if day.day >= first_open_day(world.now)), Decimal(0))
    assert reconcile_usage(pool, bench.sink, now=world.now).drift_total == surplus
