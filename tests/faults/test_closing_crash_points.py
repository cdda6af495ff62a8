"""Every point at which closing an invoice can die: a real process is killed there, and the next look ends it the same.

Whatever happened, Stripe finalized the invoice once, it bills what we counted, and one proof says so.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.pipeline.closing import LEASE, close_invoices
from stripemeter.pipeline.push import push_usage
from tests.closing_bench import END, SETTLED, START, ClosingBench, open_closing
from tests.emulator import RunningEmulator
from tests.faults.push_process import PushProcess
from tests.faults.seams import Point
from tests.stripe_bench import shadow_sink

IN_THE_GRACE = END + timedelta(minutes=20)
AFTER_THE_LEASE = LEASE + timedelta(seconds=1)

Fault = dict[str, Any]
LOST: Fault = {"kind": "reset_before_commit"}
RESET: Fault = {"kind": "commit_then_reset"}
FAILED: Fault = {"kind": "status", "status": 500}
FAILED_AFTER: Fault = {"kind": "status", "status": 500, "committed": True}

IN_GRACE = [
    pytest.param(Point(seam="record", when="after"), "", id="before-the-invoice-is-committed"),
    pytest.param(Point(seam="take control"), "observe", id="after-it-is-found"),
    pytest.param(Point(seam="take control", when="after"), "observe", id="before-control-is-committed"),
    pytest.param(Point(seam="hold"), "control", id="before-stripe-is-told-to-hold-it"),
    pytest.param(Point(seam="hold", when="after"), "control", id="held-before-it-is-written-down"),
    pytest.param(Point(seam="move", when="after"), "control", id="held-before-that-is-committed"),
]

# Where the process dies, the state it leaves, and whether Stripe has finalized by then.
AT_THE_END = [
    pytest.param(Point(seam="send"), None, "controlled", False, id="before-late-usage-is-sent"),
    pytest.param(Point(seam="send", when="after"), None, "controlled", False, id="sent-before-it-is-written-down"),
    pytest.param(Point(seam="move"), None, "controlled", False, id="drained-before-it-is-written-down"),
    pytest.param(Point(seam="read back"), None, "drained", False, id="before-stripe-is-read"),
    pytest.param(Point(seam="move", nth=2), None, "drained", False, id="reconciled-before-it-is-written-down"),
    pytest.param(Point(seam="finalize"), None, "reconciled", False, id="before-it-is-finalized"),
    pytest.param(Point(seam="finalize", when="after"), LOST, "reconciled", False, id="finalizing-lost"),
    pytest.param(Point(seam="finalize", when="after"), RESET, "reconciled", True, id="finalized-answer-lost"),
    pytest.param(Point(seam="finalize", when="after"), FAILED, "reconciled", False, id="500-not-committed"),
    pytest.param(Point(seam="finalize", when="after"), FAILED_AFTER, "reconciled", True, id="500-committed"),
    pytest.param(Point(seam="finalize", when="after"), None, "reconciled", True, id="finalized-before-written-down"),
    pytest.param(Point(seam="move", nth=3, when="after"), None, "reconciled", True, id="finalized-before-committed"),
    pytest.param(Point(seam="prove"), None, "finalized", True, id="before-the-proof"),
    pytest.param(Point(seam="prove", when="after"), None, "finalized", True, id="before-the-proof-is-committed"),
    pytest.param(Point(seam="let go"), None, "verified", True, id="proven"),
]


@pytest.fixture
def bench(pool: ConnectionPool, emulator: RunningEmulator) -> ClosingBench:
    """`ada` has used 5, and Stripe knows; her week has ended."""
    opened = open_closing(pool, emulator)
    opened.count("5")
    opened.go_to(START + timedelta(days=4))
    push_usage(pool, opened.stripe.sink, now=START + timedelta(days=4))
    opened.go_to(IN_THE_GRACE)
    return opened


def crash(bench: ClosingBench, database_url: str, point: Point, now: datetime, fault: Fault | None = None) -> None:
    """A look at the invoices that dies at the point, in a world where the first finalizing meets the fault."""
    bench.go_to(now)
    if fault is not None:
        bench.stripe.emulator.fault({"match": {"path_re": "finalize"}, "do": fault})
    PushProcess(bench.stripe.emulator, database_url, now=now, point=point, verb="close").wait_dead()
    bench.stripe.emulator.fault()


def assert_closed_once(bench: ClosingBench) -> None:
    """Verified, by one proof of what we counted, and one finalizing that Stripe carried out."""
    assert bench.closing().state == "verified"
    (proof,) = bench.proofs()
    assert [(line.counted, line.billed) for line in proof.lines] == [(Decimal(8), Decimal(8))]
    told = bench.stripe.emulator.client().v1.events.list({"type": "invoice.finalized"}).data
    assert len(told) == 1


@pytest.mark.parametrize(("point", "control"), IN_GRACE)
def test_dead_in_the_grace(bench: ClosingBench, database_url: str, point: Point, control: str) -> None:
    """Found, under control, held: whatever of it is committed, the next look holds the draft before its grace ends."""
    crash(bench, database_url, point, IN_THE_GRACE)
    if control:
        assert (bench.closing().control, bench.closing().state) == (control, "found")
    bench.close(IN_THE_GRACE + AFTER_THE_LEASE)
    assert (bench.closing().state, bench.invoice().auto_advance) == ("controlled", False)
    bench.count("8")
    bench.close(SETTLED)
    assert_closed_once(bench)


def test_dead_in_the_grace_and_observing_afterwards(bench: ClosingBench, database_url: str) -> None:
    """Held, and the setting is taken back: what we hold we finalize, for nobody else would."""
    crash(bench, database_url, Point(seam="hold", when="after"), IN_THE_GRACE)
    bench.count("8")
    bench.close(IN_THE_GRACE + AFTER_THE_LEASE, "observe")
    bench.close(SETTLED, "observe")
    assert_closed_once(bench)


@pytest.mark.parametrize(("point", "fault", "state", "is_final"), AT_THE_END)
def test_dead_at_the_end(
    bench: ClosingBench, database_url: str, point: Point, fault: Fault | None, state: str, is_final: bool
) -> None:
    """Sent, drained, reconciled, finalized, proven: dead anywhere, the next look ends the same, and finalizes once."""
    bench.close(IN_THE_GRACE)
    bench.count("8")
    crash(bench, database_url, point, SETTLED, fault)
    assert (bench.closing().state, bench.invoice().status != "draft") == (state, is_final)
    bench.close(SETTLED + AFTER_THE_LEASE)
    assert_closed_once(bench)


def test_c24_finalized_while_a_delta_is_under_way(bench: ClosingBench, database_url: str) -> None:
    """C24: claimed, and Stripe finalizes before it arrives: recorded, on no invoice, and the proof names it."""
    bench.close(IN_THE_GRACE, "observe")
    bench.count("8")
    PushProcess(bench.stripe.emulator, database_url, now=IN_THE_GRACE, point=Point(seam="send")).wait_dead()
    after_the_grace = END + timedelta(hours=2)
    bench.go_to(after_the_grace)
    push_usage(bench.pool, bench.stripe.sink, now=after_the_grace)
    bench.close(SETTLED, "observe")
    (proof,) = bench.proofs()
    (line,) = proof.lines
    assert (line.counted, line.pushed, line.billed, line.pushed_late) == (8, 8, 5, 3)
    assert line.late_identifiers == [bench.stripe.entries()[-1]["identifier"]]


def test_two_looks_at_once_are_harmless(bench: ClosingBench) -> None:
    """Four workers over the same invoice, in its grace and at its end: one closing, one proof."""
    for now in (IN_THE_GRACE, SETTLED):
        bench.go_to(now)
        with ThreadPoolExecutor(4) as workers:
            list(workers.map(lambda _, at=now: _look(bench, at), range(4)))
        bench.count("8")
    assert_closed_once(bench)


def test_a_worker_that_sleeps_past_its_lease_is_harmless(bench: ClosingBench, database_url: str) -> None:
    """It wakes before its finalizing, when another has finalized and proven: it finds that done."""
    bench.close(IN_THE_GRACE)
    bench.count("8")
    bench.go_to(SETTLED)
    sleeper = PushProcess(
        bench.stripe.emulator, database_url, now=SETTLED, point=Point(seam="finalize"), act="hold", verb="close"
    )
    sleeper.wait_held()
    assert bench.close(SETTLED + timedelta(minutes=1)).rows == ()
    bench.close(SETTLED + AFTER_THE_LEASE)
    sleeper.go_on()
    assert_closed_once(bench)


def _look(bench: ClosingBench, now: datetime) -> None:
    close_invoices(bench.pool, shadow_sink(bench.stripe.emulator), now=now, control="control")
