"""C21: the database is older than what was pushed. Nothing goes out before the fence has read what Stripe holds."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.errors import NotAllowed
from stripemeter.metering.days import month_bounds
from stripemeter.pipeline.push import push_usage
from stripemeter.pipeline.reconcile import reconcile_usage
from stripemeter.pipeline.repair import approve_corrections
from stripemeter.store.corrections import list_suggested
from stripemeter.store.postgres import transaction
from tests.emulator import RunningEmulator
from tests.faults.fence_process import kill_fence
from tests.faults.push_process import PushProcess
from tests.faults.restoring import (
    SEEN,
    SETTLED,
    YESTERDAY,
    TakeBackup,
    Way,
    assert_books_balance,
    fence,
    open_pushed_bench,
    push,
    write_at_stripe,
)
from tests.faults.seams import Point
from tests.stripe_bench import NOW, TODAY, StripeBench


@pytest.fixture
def bench(pool: ConnectionPool, emulator: RunningEmulator) -> StripeBench:
    """`ada` has used 5 yesterday, and Stripe knows."""
    return open_pushed_bench(pool, emulator)


@pytest.mark.parametrize("way", SEEN)
def test_c21_a_restored_database_is_fenced(bench: StripeBench, take_backup: TakeBackup, way: Way) -> None:
    """C21: pushed, restored to before that, counted again: refused until it is fenced; then Stripe has it once."""
    backup = take_backup()
    bench.count("9", YESTERDAY)
    bench.count("3")
    push(bench, NOW)
    with backup.restored(bench, way) as old:
        old.count("9", YESTERDAY)
        old.count("4")
        requests = len(old.emulator.ledger())
        with pytest.raises(NotAllowed, match="stripemeter restore-fence"):
            push(old, SETTLED)
        assert len(old.emulator.ledger()) == requests
        report = fence(old)
        assert (report.outcome, report.minutes, report.quantity) == ("opened", 2, Decimal(7))
        push(old, SETTLED)
        assert (old.at_stripe(YESTERDAY), old.at_stripe()) == (9, 4)
        assert_books_balance(old)


@pytest.mark.parametrize("way", SEEN)
def test_c21_without_the_fence_usage_counts_twice(bench: StripeBench, take_backup: TakeBackup, way: Way) -> None:
    """C21: the same, with the restored database told that it is the old one: Stripe bills 4 too much."""
    backup = take_backup()
    bench.count("9", YESTERDAY)
    push(bench, NOW)
    with backup.restored(bench, way) as old:
        old.count("9", YESTERDAY)
        with transaction(old.pool) as tx:
            tx.execute(
                "update push_epochs set (database_oid, table_oid) = (select database_oid, table_oid from push_place)"
            )
        push(old, SETTLED)
        assert old.at_stripe(YESTERDAY) == 13


def test_c21_a_snapshot_of_the_disk_is_told_by_the_witness(
    bench: StripeBench, take_backup: TakeBackup, tmp_path: Path
) -> None:
    """C21: nothing in the database shows it; the file beside it names events that the database does not know."""
    witnesses = tmp_path / "pushed"
    bench.count("6", YESTERDAY)
    push(bench, NOW, witnesses)
    backup = take_backup()
    push(bench, NOW, witnesses)  # nothing was sent: nothing is lost
    with backup.restored(bench, "disk-snapshot") as old:
        push(old, NOW, witnesses)
    bench.count("9", YESTERDAY)
    push(bench, NOW, witnesses)
    with backup.restored(bench, "disk-snapshot") as old:
        old.count("9", YESTERDAY)
        with pytest.raises(NotAllowed, match="stripemeter restore-fence"):
            push(old, SETTLED, witnesses)
        assert fence(old, witnesses=witnesses).outcome == "opened"
        push(old, SETTLED, witnesses)
        assert old.at_stripe(YESTERDAY) == 9
        old.count("11", YESTERDAY)
        push(old, SETTLED, witnesses)
        assert old.at_stripe(YESTERDAY) == 11
        assert_books_balance(old)
    with backup.restored(bench, "disk-snapshot") as older, pytest.raises(NotAllowed, match="later epoch"):
        push(older, SETTLED, witnesses)


@pytest.mark.parametrize("point", [Point(seam="claim"), Point(seam="send")], ids=["planned", "sending"])
def test_c21_rows_in_flight_in_the_backup_that_arrived_later(
    bench: StripeBench, take_backup: TakeBackup, database_url: str, point: Point
) -> None:
    """C21: their minutes say that they arrived, and those that say nothing are planned anew."""
    bench.bind("bob")
    bench.count("8", YESTERDAY)
    PushProcess(bench.emulator, database_url, now=NOW, point=point).wait_dead()
    backup = take_backup()
    push(bench, NOW + timedelta(minutes=2))
    assert bench.at_stripe(YESTERDAY) == 8
    with backup.restored(bench, "dump") as old:
        later = SETTLED + timedelta(minutes=5)
        assert fence(old, now=later).minutes == 0
        assert set(old.states()) == {"accepted"}
        push(old, later)
        assert old.at_stripe(YESTERDAY) == 8
        assert_books_balance(old)


def test_c21_rows_in_flight_in_the_backup_that_never_arrived(
    bench: StripeBench, take_backup: TakeBackup, database_url: str
) -> None:
    """C21: their minute holds nothing: cancelled, and their usage goes out in a new row."""
    bench.count("8", YESTERDAY)
    PushProcess(bench.emulator, database_url, now=NOW, point=Point(seam="send")).wait_dead()
    with take_backup().restored(bench, "dump") as old:
        later = SETTLED + timedelta(minutes=5)
        report = fence(old, now=later)
        assert [(row.absent, row.arrived) for row in report.rows] == [(1, 0)]
        push(old, later)
        assert old.at_stripe(YESTERDAY) == 8
        assert sorted(old.states()) == ["accepted", "accepted", "cancelled"]


def test_c21_a_row_that_was_replaced_after_the_backup_waits_for_an_operator(
    bench: StripeBench, take_backup: TakeBackup
) -> None:
    """C21: dropped by Stripe and sent anew after the backup: what was found may be that row, so nobody guesses."""
    (entry,) = bench.entries()
    backup = take_backup()
    bench.emulator.client().v1.billing.meter_event_adjustments.create(
        {"event_name": "calls", "type": "cancel", "cancel": {"identifier": entry["identifier"]}}
    )
    for age, quantity in ((70, "5"), (71, "2")):
        write_at_stripe(bench, entry["stamped_at"] - timedelta(minutes=age), quantity, entry["stripe_customer_id"])
    with backup.restored(bench, "dump") as old:
        old.count("7", YESTERDAY)
        report = fence(old)
        assert [(row.minutes, row.waits_for_operator) for row in report.rows] == [(2, 1)]
        assert sorted(old.states()) == ["accepted", "accepted", "rejected_async"]
        push(old, SETTLED)
        assert old.at_stripe(YESTERDAY) == 7
        assert_books_balance(old)


def test_c21_in_the_segments_of_a_cut_day(bench: StripeBench, take_backup: TakeBackup) -> None:
    """C21: what is found belongs to the segment of its minute."""
    backup = take_backup()
    boundary = NOW.replace(hour=6, minute=30, second=1)
    bench.cut(boundary)
    bench.count("5")
    bench.count("6", segment=boundary)
    push(bench, NOW)
    with backup.restored(bench, "copy") as old:
        old.cut(boundary)
        old.count("5")
        old.count("6", segment=boundary)
        assert fence(old).minutes == 2
        found = {entry["segment_start"] for entry in old.entries() if entry["day"] == TODAY}
        assert found == {month_bounds(TODAY)[0], boundary}
        push(old, SETTLED)
        assert old.at_stripe() == 11
        assert len(old.entries()) == 3


def test_c21_corrections_that_were_approved_before_the_backup_stay_what_they_are(
    bench: StripeBench, take_backup: TakeBackup
) -> None:
    """C21: what somebody else wrote and a person approved to take back is known: it is no row of ours."""
    (entry,) = bench.entries()
    write_at_stripe(bench, entry["stamped_at"] - timedelta(minutes=9), "3", entry["stripe_customer_id"])
    at = NOW + timedelta(minutes=30)
    reconcile_usage(bench.pool, bench.sink, now=at)
    with transaction(bench.pool) as tx:
        (suggested,) = list_suggested(tx)
    approve_corrections(bench.pool, [suggested.id], tenant_id=None, actor="ann", reason="test rig", now=at)
    backup = take_backup()
    bench.count("7", YESTERDAY)
    push(bench, at)
    assert bench.at_stripe(YESTERDAY) == 7
    with backup.restored(bench, "dump") as old:
        old.count("7", YESTERDAY)
        later = at + timedelta(hours=2)
        report = fence(old, now=later)
        assert (report.minutes, report.quantity) == (1, Decimal(-1))
        push(old, later)
        assert old.at_stripe(YESTERDAY) == 7
        assert_books_balance(old)


KILLED = [
    Point(seam="start epoch"),
    Point(seam="start epoch", when="after"),
    Point(seam="read days"),
    Point(seam="import"),
    Point(seam="import", when="after"),
    Point(seam="import", when="after", nth=2),
    Point(seam="open epoch"),
    Point(seam="open epoch", when="after"),
]


@pytest.mark.parametrize("point", KILLED, ids=[f"{one.when}-{one.seam}-{one.nth}".replace(" ", "-") for one in KILLED])
def test_c21_a_fence_that_is_killed_goes_on(bench: StripeBench, take_backup: TakeBackup, point: Point) -> None:
    """C21: killed anywhere and run again: nothing is pushed in between, and everything is found once."""
    bench.bind("bob")
    backup = take_backup()
    bench.count("9", YESTERDAY)
    bench.count("2", YESTERDAY, "bob")
    push(bench, NOW)
    with backup.restored(bench, "dump") as old:
        old.count("9", YESTERDAY)
        old.count("2", YESTERDAY, "bob")
        url = old.pool.conninfo
        assert isinstance(url, str)
        if point.seam != "start epoch":
            with pytest.raises(NotAllowed, match="run this again after"):
                fence(old, now=NOW + timedelta(minutes=1), stopped_at=None)
        kill_fence(old.emulator, url, now=SETTLED, point=point)
        with pytest.raises(NotAllowed, match="restore-fence"):
            push(old, SETTLED)
        later = SETTLED + timedelta(hours=1)
        assert fence(old, now=later).outcome == "opened"
        assert fence(old, now=later).outcome == "not_needed"
        push(old, later)
        assert (old.at_stripe(YESTERDAY), old.at_stripe(YESTERDAY, "bob")) == (9, 2)
        assert [entry["origin"] for entry in old.entries()].count("imported") == 2
        assert_books_balance(old)


def test_a_new_customer_is_pushed_after_a_restore_as_before(bench: StripeBench, take_backup: TakeBackup) -> None:
    """Stripe holds nothing of her: that is noted, and nobody needs to look."""
    with take_backup().restored(bench, "dump") as old:
        fence(old)
        old.bind("eve")
        old.count("3", YESTERDAY, "eve")
        push(old, SETTLED)
        assert old.at_stripe(YESTERDAY, "eve") == 3


def test_a_customer_who_is_bound_after_the_restore_is_read_first(bench: StripeBench, take_backup: TakeBackup) -> None:
    """Bound and pushed after the backup, bound again after the fence: held back until an operator has looked."""
    backup = take_backup()
    stripe_customer = bench.bind("bob")
    bench.count("6", YESTERDAY, "bob")
    push(bench, NOW)
    with backup.restored(bench, "dump") as old:
        fence(old)
        with transaction(old.pool) as tx:
            tx.execute(
                "insert into customer_bindings select 't', 'bob', stripe_account_id, %s, now() from customer_bindings",
                (stripe_customer,),
            )
        old.count("7", YESTERDAY, "bob")
        old.count("8", YESTERDAY)
        report = push_usage(old.pool, old.sink, now=SETTLED)
        assert (report.accepted, report.unsettled) == (1, 1)
        assert "restore-fence" in report.rows[0].reason
        assert old.at_stripe(YESTERDAY, "bob") == 6
        assert fence(old).minutes == 1
        push(old, SETTLED)
        assert (old.at_stripe(YESTERDAY), old.at_stripe(YESTERDAY, "bob")) == (8, 7)
        assert fence(old).outcome == "not_needed"
        assert_books_balance(old)
