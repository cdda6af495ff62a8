"""The fence after a restore: who may begin, when it opens, and that nothing is pushed before."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from stripemeter.errors import Conflict, InvalidInput, NotAllowed
from stripemeter.pipeline.push import push_usage
from stripemeter.pipeline.restore_fence import FenceOrder, FenceReport, preview_fence, restore_fence
from stripemeter.store.postgres import transaction
from tests.emulator import RunningEmulator
from tests.faults.fence_process import FENCE_SEAMS
from tests.faults.push_process import PushProcess
from tests.faults.restoring import SETTLED, YESTERDAY, TakeBackup, fence, open_pushed_bench, push
from tests.faults.seams import SEAMS, Point, hook
from tests.stripe_bench import NOW, ONCE, StripeBench


@pytest.fixture
def bench(pool: ConnectionPool, emulator: RunningEmulator) -> StripeBench:
    """`ada` has used 5 yesterday, and Stripe knows."""
    return open_pushed_bench(pool, emulator)


def test_a_push_under_way_stops_at_the_fence(bench: StripeBench, database_url: str) -> None:
    """Planned before the fence, claimed after it: nothing is claimed, and nothing is sent."""
    bench.count("9", YESTERDAY)
    pusher = PushProcess(bench.emulator, database_url, now=NOW, point=Point(seam="plan", when="after"), act="hold")
    pusher.wait_held()
    with pytest.raises(NotAllowed, match="run this again after"):
        restore_fence(
            bench.pool,
            [bench.sink],
            order=FenceOrder(actor="ann", reason="a test", is_by_hand=True),
            gone_back="",
            now=NOW,
        )
    pusher.go_on()
    assert sorted(bench.states()) == ["accepted", "planned"]
    assert bench.at_stripe(YESTERDAY) == 5


def test_only_one_fence_at_a_time(bench: StripeBench, database_url: str) -> None:
    """A second one is told so, and pushing stays fenced."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("update push_epochs set timeline = 77")
        connection.execute("select pg_advisory_lock(7236)")
        with pytest.raises(Conflict, match="another restore-fence"):
            fence(bench)
    assert fence(bench).outcome == "opened"


def test_a_fence_waits_until_stripe_has_summed_up(bench: StripeBench) -> None:
    """An hour from the fence, or from when the old database is said to have stopped; not from the future."""
    with transaction(bench.pool) as tx:
        tx.execute("update push_epochs set timeline = 77")
    with pytest.raises(NotAllowed, match="2026-11-23 13:00:30Z"):
        fence(bench, now=NOW, stopped_at=None)
    with pytest.raises(NotAllowed, match="13:00:30Z"):
        fence(bench, now=NOW + timedelta(minutes=59), stopped_at=None)
    with pytest.raises(InvalidInput, match="in the future"):
        fence(bench, now=NOW, stopped_at=NOW + timedelta(minutes=1))
    with pytest.raises(NotAllowed, match="restore-fence"):
        push(bench, NOW)
    later = NOW + timedelta(minutes=59)
    push_times = {entry["last_attempt_at"] for entry in bench.entries()}
    assert max(push_times) + timedelta(minutes=58) < later
    assert fence(bench, now=later, stopped_at=NOW - timedelta(minutes=5)).failed == 1
    assert fence(bench, now=NOW + timedelta(hours=1, minutes=1), stopped_at=NOW - timedelta(minutes=5)).failed == 0


def test_a_fence_that_cannot_read_stays_closed(bench: StripeBench) -> None:
    """Stripe fails for a customer: told, nothing is opened, and the next run reads only that one."""
    bench.bind("bob")
    with transaction(bench.pool) as tx:
        tx.execute("update push_epochs set timeline = 77")
    later = NOW + timedelta(hours=2)
    bench.emulator.fault({"match": {"path_re": "event_summaries"}, "do": {"kind": "status", "status": 500}})
    report = fence(bench, now=later)
    assert (report.outcome, report.failed, report.targets) == ("fenced", 1, 2)
    with pytest.raises(NotAllowed, match="restore-fence"):
        push(bench, later)
    report = fence(bench, now=later)
    assert (report.outcome, report.done_before, report.targets) == ("opened", 1, 2)


def test_rows_that_change_while_stripe_is_read_are_read_anew(bench: StripeBench) -> None:
    """Somebody cancels a row in flight meanwhile: nothing is written on a reading that is no longer true."""
    bench.count("9", YESTERDAY)
    bench.emulator.fault({"match": {"path_re": "meter_events"}, "do": {"kind": "reset_before_commit"}})
    push_usage(bench.pool, bench.sink, now=NOW, retries=ONCE)
    with transaction(bench.pool) as tx:
        tx.execute("update push_epochs set timeline = 77")

    def meddle() -> None:
        with transaction(bench.pool) as tx:
            tx.execute("update push_entries set state = 'planned' where state = 'sending'")

    SEAMS.update(FENCE_SEAMS)
    unhook = hook(Point(seam="read days", when="after"), meddle)
    try:
        report = fence(bench)
    finally:
        unhook()
    assert (report.outcome, report.failed) == ("fenced", 1)
    assert "meanwhile" in report.rows[0].failure
    assert sorted(bench.states()) == ["accepted", "planned"]
    assert fence(bench).outcome == "opened"
    assert sorted(bench.states()) == ["accepted", "cancelled"]


def test_what_would_be_done_changes_nothing(bench: StripeBench, take_backup: TakeBackup) -> None:
    """The preview tells what was found and writes nothing; a database that was not restored needs none."""
    assert preview(bench).outcome == "not_needed"
    backup = take_backup()
    bench.count("9", YESTERDAY)
    push(bench, NOW)
    with backup.restored(bench, "dump") as old:
        before = old.entries()
        report = preview(old)
        assert (report.outcome, report.minutes, report.quantity) == ("preview", 1, Decimal(4))
        assert "tables made anew" in report.why or "another database" in report.why
        assert old.entries() == before
        with transaction(old.pool) as tx:
            assert tx.execute("select count(*), max(epoch) from push_epochs").fetchone() == (1, 1)


def test_a_fence_by_hand_finds_nothing_where_nothing_was_lost(bench: StripeBench) -> None:
    """Asked for although nothing shows a restore: it reads, finds nothing, and pushing goes on."""
    bench.emulator.freeze(SETTLED)
    order = FenceOrder(actor="ann", reason="to be sure", stopped_at=NOW, is_by_hand=True)
    report = restore_fence(bench.pool, [bench.sink], order=order, gone_back="", now=SETTLED)
    assert (report.outcome, report.minutes, report.rows) == ("opened", 0, ())
    bench.count("6", YESTERDAY)
    push(bench, SETTLED)
    assert bench.at_stripe(YESTERDAY) == 6
    assert sorted(entry["epoch"] for entry in bench.entries()) == [1, 2]


def preview(bench: StripeBench) -> FenceReport:
    """The same without `--yes`."""
    bench.emulator.freeze(SETTLED)
    return preview_fence(
        bench.pool, [bench.sink], order=FenceOrder(actor="ann", reason="disk lost"), gone_back="", now=SETTLED
    )
