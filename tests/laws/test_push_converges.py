"""Law 6: whatever fails and whoever dies, Stripe comes to hold what we counted; never more, in the end not less.

Corrections included: a day that was counted lower is sent a negative delta, and no day is ever below zero at Stripe,
which would bill a total below zero as nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, Literal

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from psycopg_pool import ConnectionPool

from stripemeter.billing.stripe_sink import StripeSink
from stripemeter.pipeline.push import push_usage
from stripemeter.store import push_entries
from tests.emulator import RunningEmulator
from tests.emulator import emulator_server as emulator_server  # noqa: PLC0414 - a fixture
from tests.stripe_bench import NO_PAUSE, NOW, StripeBench, open_bench

Point = Literal["none", "plan", "claim", "sent", "settled"]
Step = tuple[str, Any]

FAULTS: list[dict[str, object]] = [
    {"kind": "status", "status": 500},
    {"kind": "status", "status": 500, "committed": True},
    {"kind": "status", "status": 429},
    {"kind": "status", "status": 409},
    {"kind": "reset_before_commit"},
    {"kind": "commit_then_reset"},
    {"kind": "commit_then_truncate"},
]
quantities = st.decimals(min_value=Decimal("0.000001"), max_value=Decimal(10_000), places=6)
steps = st.one_of(
    st.tuples(st.just("use"), st.tuples(st.integers(min_value=0, max_value=2), quantities)),
    st.tuples(st.just("correct"), st.tuples(st.integers(min_value=0, max_value=2), st.integers(0, 3))),
    st.tuples(
        st.just("push"),
        st.tuples(
            st.lists(st.sampled_from(range(len(FAULTS))), max_size=4),
            st.sampled_from(["none", "none", "plan", "claim", "sent", "settled"]),
        ),
    ),
    st.tuples(st.just("wait"), st.sampled_from([30, 90, 700, 23 * 3600, 25 * 3600])),
)


class Died(BaseException):
    """The pusher is gone: nothing after this point runs, and its open transaction is rolled back."""


class World:
    """Usage, a pusher that may die, and Stripe, at one instant."""

    def __init__(self, bench: StripeBench) -> None:
        self.bench = bench
        self.now = NOW
        self.counted: dict[date, Decimal] = {}
        self.most: dict[date, Decimal] = {}

    def take(self, step: Step) -> None:
        """One step of a history."""
        match step:
            case ("use", (age, quantity)):
                day = self.now.date() - timedelta(days=age)
                self.counted[day] = self.counted.get(day, Decimal(0)) + quantity
                self.bench.count(str(self.counted[day]), day)
                self.most[day] = max(self.most.get(day, Decimal(0)), self.counted[day])
            case ("correct", (age, quarters)):
                day = self.now.date() - timedelta(days=age)
                if day in self.counted:
                    self.counted[day] = (self.counted[day] * quarters / 4).quantize(Decimal("0.000001"))
                    self.bench.count(str(self.counted[day]), day)
            case ("push", (faults, point)):
                self.bench.emulator.fault(
                    *({"match": {"path_re": "meter_events"}, "do": FAULTS[number]} for number in faults)
                )
                with suppress(Died), dying(point):
                    push_usage(self.bench.pool, self.bench.sink, now=self.now, max_workers=1, retries=NO_PAUSE)
                self.bench.emulator.fault()
            case ("wait", seconds):
                self.now += timedelta(seconds=seconds)
                self.bench.emulator.freeze(self.now)

    def at_stripe(self) -> dict[date, Decimal]:
        """What Stripe holds of every day with usage."""
        return {day: self.bench.at_stripe(day) for day in self.counted}


@contextmanager
def dying(point: Point) -> Iterator[None]:
    """The pusher dies the first time it comes to `point`."""

    def dies_after(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **values: Any) -> Any:  # noqa: ANN401 - anything
            function(*arguments, **values)
            raise Died

        return wrapped

    with pytest.MonkeyPatch.context() as patch:
        match point:
            case "plan":
                patch.setattr(push_entries, "insert_planned", dies_after(push_entries.insert_planned))
            case "claim":
                patch.setattr(StripeSink, "send_meter_event", dies_after(lambda *_: None))
            case "sent":
                patch.setattr(StripeSink, "send_meter_event", dies_after(StripeSink.send_meter_event))
            case "settled":
                patch.setattr(push_entries, "settle_accepted", dies_after(push_entries.settle_accepted))
            case "none":
                pass
        yield


# No shrinking: each example is a minute of somebody's day in real processes, and twelve steps are short enough to read.
@settings(max_examples=30, phases=(Phase.explicit, Phase.generate))
@given(history=st.lists(steps, min_size=1, max_size=12))
def test_stripe_converges(pool: ConnectionPool, emulator_server: RunningEmulator, history: list[Step]) -> None:
    """After any history of usage, faults, deaths and time, pushes that work bring Stripe to exactly our counters."""
    emulator_server.control("DELETE", "/state")
    account = RunningEmulator(
        url=emulator_server.url, key=f"sk_test_{uuid.uuid4().hex}", process=emulator_server.process
    )
    bench = open_bench(pool, account, tenant=uuid.uuid4().hex)
    bench.bind()
    world = World(bench)
    for step in history:
        world.take(step)
        assert all(0 <= held <= world.most[day] for day, held in world.at_stripe().items())
    for _ in range(12):  # leases, backoffs, two readings of an old row, minutes of today
        world.take(("wait", 700))
        world.take(("push", ([], "none")))
    assert world.at_stripe() == world.counted
    assert {entry["state"] for entry in bench.entries()} <= {"accepted"}
    sent: dict[date, Decimal] = {}
    for entry in bench.entries():
        sent[entry["day"]] = sent.get(entry["day"], Decimal(0)) + entry["delta"]
    assert {day: sent.get(day, Decimal(0)) for day in world.counted} == world.counted
