"""Law 6 for gauges: Stripe adds our deltas up to the number that usage answers for the segment, whatever happened when.

Real events through ingest and fold, punctual and late, in segments that begin at any second; pushes in between; time
that passes until days and whole segments are out of what Stripe takes. In the end every segment that Stripe still takes
holds at Stripe exactly what `GET /v1/usage/current` says, and of the others it is known what they lack.
"""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from psycopg_pool import ConnectionPool

from stripemeter.metering.segments import BillingPhase, Segment, parse_phase, segment_at, segment_starts
from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.push import push_usage
from stripemeter.pipeline.reconcile import reconcile_usage
from stripemeter.store.customers import CustomerPhase, replace_phases
from stripemeter.store.postgres import transaction
from stripemeter.store.usage import load_current_usage
from tests.emulator import RunningEmulator
from tests.emulator import emulator_server as emulator_server  # noqa: PLC0414 - a fixture
from tests.laws.worlds import Fact, Ingest, ingest_into
from tests.stripe_bench import NO_PAUSE, NOW, StripeBench, open_bench

Step = tuple[str, Any]
MINUTE, TICK = timedelta(minutes=1), timedelta(microseconds=1)
CUTS = {
    "month": [parse_phase(cadence="month", anchor_at=datetime(2026, 1, 10, 6, 0, 17, tzinfo=UTC))],
    "week": [parse_phase(cadence="week", anchor_at=datetime(2026, 1, 7, 23, 59, 40, tzinfo=UTC))],
    "quarter": [parse_phase(cadence="quarter", anchor_at=datetime(2026, 9, 15, 12, tzinfo=UTC))],
    "changed": [
        parse_phase(cadence="month", anchor_at=datetime(2026, 1, 1, tzinfo=UTC)),
        parse_phase(cadence="month", starts_at=datetime(2026, 11, 20, 9, 30, 5, tzinfo=UTC)),
    ],
}
"""Billing windows that are no days, are longer than Stripe takes, or change on the way."""
AGES = st.sampled_from(
    [timedelta(minutes=1), timedelta(hours=7), *(timedelta(days=days) for days in (1, 3, 9, 20, 40))]
)
steps = st.one_of(
    st.tuples(st.just("use"), st.tuples(AGES, st.integers(min_value=0, max_value=30), st.sampled_from("abc"))),
    st.just(("fold", None)),
    st.just(("push", None)),
    st.tuples(st.just("wait"), st.sampled_from([timedelta(minutes=3), timedelta(hours=30), timedelta(days=12)])),
)


class World:
    """One customer's gauge, a pusher and Stripe, at one instant."""

    def __init__(self, bench: StripeBench, ingest: Ingest, phases: list[BillingPhase]) -> None:
        self.bench = bench
        self.ingest = ingest
        self.phases = phases
        self.now = NOW
        self.stripe_customer = bench.bind()

    def take(self, step: Step) -> None:
        """One step of a history."""
        match step:
            case ("use", (age, quantity, resource)):
                fact = Fact(
                    tenant=self.bench.tenant,
                    metric="calls",
                    customer="ada",
                    quantity=str(quantity),
                    ts=self.now - age,
                    key=uuid.uuid4().hex,
                    resource=resource,
                )
                self.ingest.accept([fact], now=self.now)
            case ("fold", _):
                fold(self.bench.pool, now=self.now)
            case ("push", _):
                push_usage(self.bench.pool, self.bench.sink, now=self.now, max_workers=1, retries=NO_PAUSE)
            case ("wait", span):
                self.now += span
                self.bench.emulator.freeze(self.now)

    def segments(self) -> list[Segment]:
        """Every segment from before the oldest event until now."""
        starts = segment_starts(self.phases, NOW - timedelta(days=41), self.now)
        return [segment_at(self.phases, start) for start in starts]

    def reading(self, segment: Segment) -> Decimal:
        """What a customer is shown of the segment."""
        found = load_current_usage(
            self.bench.pool, tenant_id=self.bench.tenant, customer_ref="ada", at=segment.start, now=self.now
        )
        return found.metrics["calls"].quantity if "calls" in found.metrics else Decimal(0)

    def at_stripe(self, segment: Segment) -> Decimal:
        """What Stripe holds in the segment's whole minutes."""
        return self.bench.sink.read_quantity(
            stripe_meter_id=self.bench.meter_id,
            stripe_customer_id=self.stripe_customer,
            start=(segment.start + MINUTE - TICK).replace(second=0, microsecond=0),
            end=segment.end.replace(second=0),
        )

    def lacking(self, segment: Segment) -> Decimal:
        """What the segment is known to lack."""
        with transaction(self.bench.pool) as tx:
            row = tx.execute(
                "select coalesce(sum(counted - planned), 0) from push_days where tenant_id = %s and segment_start = %s",
                (self.bench.tenant, segment.start),
            ).fetchone()
        assert row is not None
        return Decimal(row[0])


@settings(max_examples=15, phases=(Phase.explicit, Phase.generate))
@given(history=st.lists(steps, min_size=4, max_size=16), cut=st.sampled_from(sorted(CUTS)))
@pytest.mark.parametrize("aggregation", ["max", "min", "last", "unique"])
def test_stripe_adds_up_to_the_segments_number(
    pool: ConnectionPool,
    database_url: str,
    emulator_server: RunningEmulator,
    aggregation: str,
    history: list[Step],
    cut: str,
) -> None:
    """After any history; and what a reconciliation compares agrees on every day."""
    emulator_server.control("DELETE", "/state")
    account = RunningEmulator(
        url=emulator_server.url, key=f"sk_test_{uuid.uuid4().hex}", process=emulator_server.process
    )
    bench = open_bench(pool, account, tenant=uuid.uuid4().hex, aggregation=aggregation)
    say_rules(bench, aggregation, CUTS[cut])
    with ingest_into(database_url, clock=lambda: NOW) as ingest:
        world = World(bench, ingest, CUTS[cut])
        for step in history:
            world.take(step)
        for step in [("fold", None), *[("wait", timedelta(minutes=3)), ("push", None)] * 8]:
            world.take(step)
    takes_from = world.now - timedelta(days=33)
    for segment in world.segments():
        held, lacking = world.at_stripe(segment), world.lacking(segment)
        assert held + lacking == world.reading(segment), segment
        assert lacking == 0 or segment.end < takes_from, segment
    report = reconcile_usage(pool, bench.sink, now=world.now)
    assert (report.drift, report.within_epsilon, report.unknown) == (0, 0, 0)


def say_rules(bench: StripeBench, aggregation: str, phases: list[BillingPhase]) -> None:
    """The customer's segments, and what of an event is distinct."""
    with transaction(bench.pool) as tx:
        replace_phases(
            tx, bench.tenant, "ada", [CustomerPhase(meter="", phase=phase, reason="") for phase in phases], now=NOW
        )
        if aggregation == "unique":
            document = {"name": "calls", "aggregation": "unique", "metrics": ["calls"], "value": "resourceId"}
            tx.execute(
                "insert into meters values (%s, 'calls', 1, '0001-01-01', true, %s, 'test', now())",
                (bench.tenant, json.dumps(document)),
            )
