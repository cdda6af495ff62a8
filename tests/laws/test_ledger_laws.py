"""Laws 1 to 4 on real Postgres: whatever is sent, folded and recounted in whatever order, every total is the pencil's.

Each example is a sequence of requests (with retries and conflicts), folds of any size and recounts. After every step:
nothing is lost (law 2), the counters are what the ledger makes (law 4), and counted + pending = the oracle (laws 1, 3).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg_pool import ConnectionPool

from stripemeter.metering.days import day_of
from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.ingest import Outcome
from stripemeter.pipeline.prove import TenantConservation, conservation, counters_equal_ledger
from stripemeter.pipeline.recount import recount_day
from tests.laws.worlds import (
    Counter,
    Fact,
    Ingest,
    State,
    ingest_into,
    ledger_rows,
    let_late_events_count,
    outcomes,
    pencil,
    stored_counters,
)

DAYS = [datetime(1999, 12, 31, tzinfo=UTC), datetime(2026, 11, 22, tzinfo=UTC)]
INSTANTS = [day + offset for day in DAYS for offset in (timedelta(), timedelta(hours=11, microseconds=1))]
QUANTITIES = ["0", "0.000000000001", "1", "2.5", "99999999999999999999999999.999999999999"]

# Few keys, so that retries and conflicts (same key, another quantity or instant) are the rule.
EVENTS = st.builds(
    lambda tenant, customer, quantity, ts, key: Fact(
        tenant=tenant, customer=customer, quantity=quantity, ts=ts, key=f"key-{key}"
    ),
    st.sampled_from(["a", "b"]),
    st.sampled_from(["x", "y"]),
    st.sampled_from(QUANTITIES),
    st.sampled_from(INSTANTS),
    st.integers(0, 25),
)
REQUESTS = st.lists(EVENTS, min_size=1, max_size=12)
STEPS = st.one_of(
    REQUESTS,
    st.lists(REQUESTS, min_size=2, max_size=4).map(tuple),  # queued together: one batch
    st.sampled_from([1, 3, 200_000]),  # a fold of about so many events
    st.sampled_from(DAYS),  # a recount
)
Step = list[Fact] | tuple[list[Fact], ...] | int | datetime


class World:
    """The real pipeline beside a dict: what the first bearer of each key said stands."""

    def __init__(self, pool: ConnectionPool, ingest: Ingest, suffix: int) -> None:
        self._pool = pool
        self._ingest = ingest
        self._suffix = suffix
        self._standing: dict[tuple[str, str], Fact] = {}
        self._received = 0
        self._expected = dict.fromkeys(Outcome, 0)
        self.tenants = [f"a-{suffix}", f"b-{suffix}"]
        let_late_events_count(pool, self.tenants)

    def take(self, step: Step) -> None:
        """One step, then every law."""
        if isinstance(step, list):
            self._send([step])
        elif isinstance(step, tuple):
            self._send(step)
        elif isinstance(step, int):
            fold(self._pool, max_events=step)
        else:
            recount_day(self._pool, step.date())
        self.check()

    def settle(self) -> None:
        """Fold everything there is."""
        while fold(self._pool).has_more:
            pass
        assert stored_counters(self._pool, self.tenants) == self._oracle()
        self.check()

    def check(self) -> None:
        """Laws 2 and 4, now."""
        assert counters_equal_ledger(self._pool, [day.date() for day in DAYS]) == ()
        mine = [row for row in conservation(self._pool) if row.tenant_id in self.tenants]
        assert all(row.holds for row in mine)
        assert _sums(mine) == (
            self._received,
            self._expected[Outcome.ACCEPTED],
            self._expected[Outcome.DUPLICATE],
            self._expected[Outcome.CONFLICT],
        )
        counted = stored_counters(self._pool, self.tenants)
        assert sum(state.count for state in counted.values()) == sum(row.counted for row in mine)

    def _send(self, requests: Sequence[list[Fact]]) -> None:
        own = [[self._own(fact) for fact in request] for request in requests]
        answers = self._ingest.send_together(own)
        for request, answer in zip(own, answers, strict=True):
            assert not isinstance(answer, BaseException)
            assert outcomes(answer) == [self._predict(fact).value for fact in request]

    def _predict(self, fact: Fact) -> Outcome:
        assert fact.key is not None
        first = self._standing.setdefault((fact.tenant, fact.key), fact)
        seen_before = Outcome.DUPLICATE if first == fact else Outcome.CONFLICT
        outcome = Outcome.ACCEPTED if first is fact else seen_before
        self._received += 1
        self._expected[outcome] += 1
        return outcome

    def _own(self, fact: Fact) -> Fact:
        return Fact(
            tenant=f"{fact.tenant}-{self._suffix}",
            customer=fact.customer,
            quantity=fact.quantity,
            ts=fact.ts,
            key=fact.key,
        )

    def _oracle(self) -> dict[Counter, State]:
        stored = ledger_rows(self._pool, self.tenants)
        assert {identity: (ts, quantity) for identity, (ts, _, quantity) in stored.items()} == {
            identity: (fact.ts, Decimal(fact.quantity)) for identity, fact in self._standing.items()
        }
        return pencil(
            ((fact.tenant, fact.customer, fact.metric, day_of(fact.ts)), *stored[identity])
            for identity, fact in self._standing.items()
        )


@pytest.fixture
def ingest(database_url: str) -> Iterator[Ingest]:
    """A group commit on this test's database."""
    with ingest_into(database_url) as opened:
        yield opened


def test_any_sequence_of_requests_folds_and_recounts_gives_the_same_totals(
    pool: ConnectionPool, ingest: Ingest
) -> None:
    """Laws 1 to 4 after every step of random sequences, and the exact totals at their end."""
    suffixes = itertools.count()

    @given(steps=st.lists(STEPS, min_size=3, max_size=9))
    @settings(max_examples=12)
    def law(steps: list[Step]) -> None:
        world = World(pool, ingest, next(suffixes))
        for step in steps:
            world.take(step)
        world.settle()

    law()


def test_the_order_and_batching_of_arrival_never_show(pool: ConnectionPool, ingest: Ingest) -> None:
    """Law 3 end to end: the same events, shuffled, cut anew, some sent twice, make counters that differ only in seq."""
    suffixes = itertools.count()
    # One event per instant: a tie on ts is broken by ledger order, which is the order of arrival by definition.
    instants = [DAYS[1] + timedelta(hours=3 * index, microseconds=index) for index in range(12)]
    quantities = [QUANTITIES[index % len(QUANTITIES)] for index in range(12)]

    @given(
        order=st.permutations(range(12)),
        again=st.lists(st.integers(0, 11), max_size=6),
        cuts=st.sets(st.integers(1, 17), max_size=5),
        folds=st.lists(st.booleans(), min_size=6, max_size=6),
    )
    @settings(max_examples=10)
    def law(order: list[int], again: list[int], cuts: set[int], folds: list[bool]) -> None:
        tenant = f"t-{next(suffixes)}"
        let_late_events_count(pool, [tenant])
        sent = [
            Fact(tenant=tenant, quantity=quantities[index], ts=instants[index], key=str(index))
            for index in [*order, *again]
        ]
        bounds = [0, *sorted(cut for cut in cuts if cut < len(sent)), len(sent)]
        for (lower, upper), is_folded in zip(itertools.pairwise(bounds), folds, strict=False):
            ingest.accept(sent[lower:upper])
            if is_folded:
                fold(pool)
        fold(pool)
        found = {
            key[3]: (state.count, state.total, state.least, state.greatest, state.last, state.last_ts)
            for key, state in stored_counters(pool, [tenant]).items()
        }
        expected = pencil(
            (("", "", "", day_of(ts)), ts, 0, Decimal(quantity))
            for ts, quantity in zip(instants, quantities, strict=True)
        )
        assert found == {
            key[3]: (state.count, state.total, state.least, state.greatest, state.last, state.last_ts)
            for key, state in expected.items()
        }

    law()


def _sums(rows: Sequence[TenantConservation]) -> tuple[int, int, int, int]:
    return (
        sum(row.received for row in rows),
        sum(row.accepted for row in rows),
        sum(row.duplicates for row in rows),
        sum(row.conflicts for row in rows),
    )
