"""Laws 1 to 5, stateful: whatever is sent, folded, voided, adjusted, decided, recounted, archived or interrupted.

A naive oracle keeps every event as a line with a state, and approved corrections as a list. After every step: nothing
is lost (law 2), counters are what the ledger makes (law 4), and both readers of usage give the oracle's totals, so
events count once (law 1) in any order (law 3), and what is approved and reverted never happened (law 5).
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import ClassVar, Literal
from unittest.mock import patch
from uuid import UUID

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from psycopg_pool import ConnectionPool

from stripemeter.metering.days import days_between
from stripemeter.pipeline.adjustments import Decision, create_adjustment, decide
from stripemeter.pipeline.archive import archive_day, prove_days
from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.prove import conservation, counters_equal_ledger
from stripemeter.pipeline.recount import recount_day
from stripemeter.pipeline.void import void_event
from stripemeter.store.adjustments import NewAdjustment
from stripemeter.store.lake import LocalLake
from stripemeter.store.postgres import transaction
from stripemeter.store.usage_windows import Reader, UsageQuestion, load_usage_windows
from tests.laws.worlds import NOW, Fact, Ingest, ingest_into, outcomes

AGES = [0, 1, 3, 6, 30]
"""Days ago: punctual, within the window, late while the month is open, late after it closed."""
DAYS = [(NOW - timedelta(days=age)).date() for age in AGES]
WINDOW = timedelta(hours=48)
CLOSED_BEFORE = datetime(2026, 11, 1, tzinfo=UTC)
"""Segments that ended before NOW less their grace: at NOW, 23 November, October is closed."""
State = Literal["unfolded", "counted", "approved", "pending", "rejected", "reverted", "absorbed", "voided"]
COUNTS: set[State] = {"unfolded", "counted", "approved", "absorbed"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One accepted event in the oracle's book."""

    fact: Fact
    state: State = "unfolded"


class Book:
    """The oracle: every accepted event with its state, every approved correction."""

    def __init__(self) -> None:
        self.lines: dict[str, Line] = {}
        self.corrections: dict[UUID, tuple[str, date, Decimal, str]] = {}

    def fold(self) -> None:
        """Judge what is unfolded by the watermarks before it."""
        marks: dict[str, datetime] = {}
        for line in self.lines.values():
            if line.state in COUNTS - {"unfolded"}:
                marks[line.fact.customer] = max(line.fact.ts, marks.get(line.fact.customer, line.fact.ts))
        for key, line in self.lines.items():
            if line.state == "unfolded":
                mark = marks.get(line.fact.customer)
                is_late = mark is not None and line.fact.ts < mark - WINDOW
                late: State = "pending" if line.fact.ts < CLOSED_BEFORE else "approved"
                self.lines[key] = replace(line, state=late if is_late else "counted")

    def move(self, key: str, state: State) -> None:
        """Change one event's state."""
        self.lines[key] = replace(self.lines[key], state=state)

    def keys(self, *states: State) -> list[str]:
        """Keys of events in these states, in order of arrival."""
        return [key for key, line in self.lines.items() if line.state in states]

    def totals(self) -> dict[tuple[date, str], tuple[int, Decimal]]:
        """(events, quantity) by day and customer."""
        counts: defaultdict[tuple[date, str], int] = defaultdict(int)
        sums: defaultdict[tuple[date, str], Decimal] = defaultdict(Decimal)
        for line in self.lines.values():
            if line.state in COUNTS:
                counts[line.fact.ts.date(), line.fact.customer] += 1
                sums[line.fact.ts.date(), line.fact.customer] += Decimal(line.fact.quantity)
        for customer, day, delta, status in self.corrections.values():
            if status == "approved":
                sums[day, customer] += delta
        return {place: (counts[place], sums[place]) for place in sums if counts[place] or sums[place]}


class World(RuleBasedStateMachine):
    """Everything that can happen to usage; each example has a tenant of its own in the test's database."""

    pool: ClassVar[ConnectionPool]
    ingest: ClassVar[Ingest]
    lake: ClassVar[LocalLake]
    suffixes: ClassVar[itertools.count[int]]

    @initialize()
    def begin(self) -> None:
        """A tenant and an empty book."""
        self.tenant = f"w-{next(self.suffixes)}"
        self.book = Book()
        self.sent = itertools.count()

    @rule(
        customer=st.sampled_from(["x", "y"]),
        ages=st.lists(st.sampled_from(AGES), min_size=1, max_size=4),
        quantity=st.sampled_from(["1", "2.5", "0", "0.000000000001"]),
    )
    def send(self, customer: str, ages: list[int], quantity: str) -> None:
        """New events."""
        facts = [self._fact(str(next(self.sent)), customer, age, quantity) for age in ages]
        assert set(outcomes(self.ingest.accept(facts))) == {"accepted"}
        self.book.lines |= {fact.key or "": Line(fact=fact) for fact in facts}

    @precondition(lambda self: self.book.lines)
    @rule(data=st.data())
    def send_again(self, data: st.DataObject) -> None:
        """The same event, or another under its key: nothing changes."""
        key = data.draw(st.sampled_from(sorted(self.book.lines)))
        fact = self.book.lines[key].fact
        assert outcomes(self.ingest.accept([fact])) == ["duplicate"]
        assert outcomes(self.ingest.accept([replace(fact, quantity="77")])) == ["conflict"]

    @rule()
    def fold(self) -> None:
        """Count what is new."""
        while fold(self.pool, now=NOW).has_more:
            pass
        self.book.fold()

    @rule()
    def crash(self) -> None:
        """A fold that dies before it commits."""
        with patch("stripemeter.pipeline.fold.append_late_events", side_effect=RuntimeError("power cut")):
            try:
                fold(self.pool, now=NOW)
            except RuntimeError:
                return
        self.book.fold()  # there was nothing to fold

    @rule(day=st.sampled_from(DAYS))
    def recount(self, day: date) -> None:
        """Count a day again: approved late events are absorbed, totals stay."""
        recount_day(self.pool, day, now=NOW)
        for key in self.book.keys("approved"):
            if self.book.lines[key].fact.ts.date() == day:
                self.book.move(key, "absorbed")

    @precondition(lambda self: self.book.lines)
    @rule(data=st.data())
    def void(self, data: st.DataObject) -> None:
        """An event counts nowhere any more, whatever it was."""
        key = data.draw(st.sampled_from(sorted(self.book.lines)))
        void_event(self.pool, self.tenant, key, reason="test", actor="tester", now=NOW)
        self.book.move(key, "voided")

    @precondition(lambda self: self.book.keys("pending", "approved"))
    @rule(data=st.data())
    def decide_late(self, data: st.DataObject) -> None:
        """A person approves or rejects what waits, or takes back what was approved."""
        key = data.draw(st.sampled_from(self.book.keys("pending", "approved")))
        choices: list[Decision] = ["approved", "rejected"] if self.book.lines[key].state == "pending" else ["reverted"]
        decision = data.draw(st.sampled_from(choices))
        decide(self.pool, self.tenant, self._late(key), decision, actor="person", now=NOW)
        self.book.move(key, decision)

    @rule(
        customer=st.sampled_from(["x", "y"]),
        day=st.sampled_from(DAYS),
        delta=st.sampled_from([Decimal("-1.5"), Decimal(4)]),
    )
    def adjust(self, customer: str, day: date, delta: Decimal) -> None:
        """A correction, approved."""
        new = NewAdjustment(
            tenant_id=self.tenant,
            metric="api_calls",
            customer_ref=customer,
            period="day",
            day=day,
            effective_at=datetime.combine(day, time(), UTC),
            delta=delta,
            reason="correction",
            request_id=None,
            note=None,
            actor="person",
        )
        created, _ = create_adjustment(self.pool, new, now=NOW, max_delta=Decimal(100))
        decide(self.pool, self.tenant, created.id, "approved", actor="person", now=NOW)
        self.book.corrections[created.id] = (customer, day, delta, "approved")

    @precondition(lambda self: self.book.corrections)
    @rule(data=st.data())
    def revert(self, data: st.DataObject) -> None:
        """It never happened; twice is once."""
        adjustment_id = data.draw(st.sampled_from(sorted(self.book.corrections)))
        decide(self.pool, self.tenant, adjustment_id, "reverted", actor="person", now=NOW)
        customer, day, delta, _ = self.book.corrections[adjustment_id]
        self.book.corrections[adjustment_id] = (customer, day, delta, "reverted")

    @rule(day=st.sampled_from(DAYS))
    def archive(self, day: date) -> None:
        """A day in the lake is what Postgres holds."""
        archive_day(self.pool, self.lake, day)
        assert prove_days(self.pool, self.lake, [day]).proven == (day,)

    @invariant()
    def laws(self) -> None:
        """Laws 2 and 4, and both readers' totals."""
        if not hasattr(self, "book"):
            return
        assert all(row.holds for row in conservation(self.pool))
        assert counters_equal_ledger(self.pool, DAYS) == ()
        readers: tuple[Reader, Reader] = ("counters", "ledger")
        for reader in readers:
            assert self._read(reader) == self.book.totals(), reader

    def _fact(self, key: str, customer: str, age: int, quantity: str) -> Fact:
        ts = NOW - timedelta(days=age, seconds=int(key))
        return Fact(tenant=self.tenant, customer=customer, quantity=quantity, ts=ts, key=key)

    def _late(self, key: str) -> UUID:
        with transaction(self.pool) as tx:
            row = tx.execute(
                "select id from adjustments where tenant_id = %(tenant)s and event_key = %(key)s",
                {"tenant": self.tenant, "key": key},
            ).fetchone()
        assert row is not None
        found: UUID = row[0]
        return found

    def _read(self, reader: Reader) -> dict[tuple[date, str], tuple[int, Decimal]]:
        days = days_between(min(DAYS), max(DAYS) + timedelta(days=1))
        question = UsageQuestion(
            tenant_id=self.tenant,
            metric="api_calls",
            edges=[datetime.combine(day, time(), UTC) for day in days],
            aggregation="sum",
            group_by="customerRef",
        )
        return {
            (cell.start.date(), cell.group or ""): (cell.event_count, cell.quantity)
            for cell in load_usage_windows(self.pool, question, reader=reader).cells
            if cell.quantity is not None and (cell.event_count or cell.quantity)
        }


def run(pool: ConnectionPool, database_url: str, lake: Path) -> None:
    """Random sequences on this test's database."""
    with ingest_into(database_url) as ingest:
        World.pool, World.ingest, World.lake = pool, ingest, LocalLake(root=lake)
        World.suffixes = itertools.count()
        run_state_machine_as_test(
            World,
            settings=settings(
                max_examples=10, stateful_step_count=14, report_multiple_bugs=False, phases=[Phase.generate]
            ),
        )


def test_every_law_after_every_step(pool: ConnectionPool, database_url: str, tmp_path: Path) -> None:
    """Random sequences of everything that can happen to usage."""
    run(pool, database_url, tmp_path)


def test_the_machine_can_fail(
    pool: ConnectionPool, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an oracle that forgets voids and decisions, the same sequences find the difference."""
    monkeypatch.setattr(Book, "move", lambda *_: None)
    with pytest.raises((AssertionError, ExceptionGroup)):
        run(pool, database_url, tmp_path)
