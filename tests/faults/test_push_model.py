"""Every history of a small push, and that the push we ship is the one that was searched."""

from __future__ import annotations

from datetime import timedelta
from itertools import product
from typing import Any

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from stripemeter.metering.deltas import RETRY_WINDOW
from stripemeter.pipeline.push import push_usage
from tests.emulator import RunningEmulator
from tests.faults.push_model import (
    EXISTS,
    FAILED,
    LOST,
    OK,
    READ_BACK,
    REFUSED,
    SETTLED,
    Scope,
    Variant,
    explore,
)
from tests.stripe_bench import NOW, ONCE, TODAY, StripeBench, open_bench

YESTERDAY = TODAY - timedelta(days=1)
IN_FLIGHT = {"planned", "sending"}
MODELLED = {*IN_FLIGHT, "accepted"}

NAIVE = {
    "a row written after the send": Variant(is_row_first=False),
    "an identifier from the total, no row": Variant(is_row_first=False, is_name_of_total=True),
    "another identifier for each attempt": Variant(is_name_kept=False),
    "sent blindly again after a day": Variant(reads_back=False),
    "'already exists' taken for a failure": Variant(takes_exists=False),
    "a saved 500 taken for the end": Variant(changes_key=False),
}


def test_no_history_of_the_protocol_counts_twice_or_loses() -> None:
    """Two units, four sends, two days, deaths anywhere: thousands of worlds, none with a wrong total."""
    verdict = explore(Variant(), Scope())
    assert verdict.worlds > 10_000
    assert verdict.complete > 100
    assert (verdict.too_much, verdict.too_little) == (None, None)


@pytest.mark.parametrize("name", NAIVE)
def test_each_naive_variant_has_a_counterexample(name: str) -> None:
    """Leave one thing out and the search finds the history that breaks it: it can find what it looks for."""
    verdict = explore(NAIVE[name], Scope())
    assert verdict.too_much or verdict.too_little, name


def test_a_request_that_lived_a_day_would_break_it() -> None:
    """The model's assumptions carry weight: Stripe must remember an identifier for longer than we resend blindly."""
    assert timedelta(hours=1) <= timedelta(hours=24) - RETRY_WINDOW


@pytest.fixture
def bench(pool: ConnectionPool, emulator: RunningEmulator) -> StripeBench:
    """`ada` has used 5 yesterday."""
    opened = open_bench(pool, emulator)
    opened.bind()
    opened.count("5", YESTERDAY)
    return opened


FAULTS: dict[str, dict[str, Any] | None] = {
    OK: None,
    REFUSED: {"kind": "status", "status": 429},
    LOST: {"kind": "reset_before_commit"},
    FAILED: {"kind": "status", "status": 500},
}


@pytest.mark.parametrize("answer", SETTLED)
def test_the_push_settles_as_the_model_does(bench: StripeBench, answer: str) -> None:
    """Each answer leaves the row in the model's state, its key's number grown by the model's steps."""
    before = 0
    if answer == EXISTS:
        _push(bench, {"kind": "status", "status": 500, "committed": True})
        before = 1
        push_usage(bench.pool, bench.sink, now=NOW + timedelta(minutes=1), retries=ONCE)
    else:
        _push(bench, FAULTS[answer])
    (entry,) = bench.entries()
    assert (entry["state"], entry["key_no"] - before) == SETTLED[answer]
    assert entry["is_already_accepted"] is (answer == EXISTS)


@pytest.mark.parametrize("is_there", READ_BACK)
def test_the_push_reads_back_as_the_model_does(bench: StripeBench, is_there: bool) -> None:
    """After a day a row is accepted or planned again, and only then sent."""
    _push(bench, {"kind": "commit_then_reset" if is_there else "reset_before_commit"})
    over = NOW + RETRY_WINDOW + timedelta(minutes=1)
    for now in (over, over + timedelta(minutes=11)):
        bench.emulator.freeze(now)
        bench.emulator.fault({"match": {"path_re": "meter_events"}, "do": {"kind": "status", "status": 429}})
        push_usage(bench.pool, bench.sink, now=now, retries=ONCE)
    state, key_steps = READ_BACK[is_there]
    (entry,) = bench.entries()
    # A row that is planned again is claimed in the same push; the 429 leaves it there.
    assert (entry["state"], entry["key_no"]) == ("accepted" if state == "accepted" else "sending", key_steps)
    assert (entry["first_attempt_at"] > NOW + RETRY_WINDOW) is not is_there


def test_the_database_allows_the_models_moves_and_no_other(bench: StripeBench) -> None:
    """Among planned, sending and accepted the trigger lets exactly the model's moves through.

    Nothing else may lead back into flight: a row that was settled is never sent again.
    """
    moves = explore(Variant(), Scope()).moves
    allowed = _allowed_moves(bench)
    assert {move for move in allowed if set(move) <= MODELLED} == moves
    assert {move for move in allowed if move[1] in IN_FLIGHT and move[0] not in IN_FLIGHT} == set()
    assert {new for old, new in allowed if old == "accepted"} <= {"confirmed", "rejected_async"}


def _push(bench: StripeBench, fault: dict[str, Any] | None) -> None:
    if fault is not None:
        bench.emulator.fault({"match": {"path_re": "meter_events"}, "do": fault})
    push_usage(bench.pool, bench.sink, now=NOW, retries=ONCE)
    bench.emulator.fault()


def _allowed_moves(bench: StripeBench) -> set[tuple[str, str]]:
    """Every change of state the table's trigger lets through, tried one by one."""
    _push(bench, None)
    allowed: set[tuple[str, str]] = set()
    with bench.pool.connection() as connection:
        (check,) = connection.execute(
            "select pg_get_constraintdef(oid) from pg_constraint where conname = 'push_entries_state_check'"
        ).fetchone() or ("",)
        states = [part for part in str(check).split("'") if part.isidentifier() and part not in ("text", "state")]
        assert {*MODELLED, "rejected", "confirmed", "cancelled"} <= set(states)
        for old, new in product(states, states):
            if old == new:
                continue
            connection.execute("alter table push_entries disable trigger push_entries_keep")
            connection.execute("update push_entries set state = %s", (old,))
            connection.execute("alter table push_entries enable trigger push_entries_keep")
            try:
                with connection.transaction():
                    connection.execute("update push_entries set state = %s", (new,))
            except psycopg.errors.RestrictViolation:
                continue
            allowed.add((old, new))
        connection.rollback()
    return allowed
