"""Retention: a month leaves Postgres only when the lake provably has it, and nothing asked afterwards notices."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.errors import Conflict, InvalidInput, InvariantBroken, NotFound
from stripemeter.pipeline.archive import archive_day, archive_days, prove_days, recount_from_lake, unarchived_days
from stripemeter.pipeline.bulk import store_events
from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.ingest import GroupCommit
from stripemeter.pipeline.prove import conservation, counters_equal_ledger
from stripemeter.pipeline.recount import recount_day
from stripemeter.pipeline.retention import KEPT_AFTER, drop_month
from stripemeter.pipeline.void import void_event
from stripemeter.store.dropped_months import has_partition
from stripemeter.store.lake import LocalLake, load_events
from stripemeter.store.postgres import transaction
from tests.laws.worlds import NOW, Fact, ingest_into, outcomes, parse, stored_counters

MONTH = date(2025, 1, 1)
DAY = date(2025, 1, 15)
NOON = datetime(2025, 1, 15, 12, tzinfo=UTC)
FEBRUARY = datetime(2025, 2, 3, tzinfo=UTC)
FACTS = [
    Fact(customer="a", quantity="2.5", ts=NOON, key="1", meta={"n": 1}),
    Fact(customer="a", quantity="4", ts=NOON + timedelta(hours=1), key="2"),
    Fact(customer="b", quantity="1", ts=datetime(2025, 1, 31, 23, tzinfo=UTC), key="3"),
    Fact(customer="b", quantity="8", ts=FEBRUARY, key="4"),
]
LAST = date(2025, 1, 31)


@pytest.fixture
def lake(tmp_path: Path) -> LocalLake:
    """A lake that does not exist yet."""
    return LocalLake(root=tmp_path / "lake")


def send(database_url: str, *facts: Fact) -> list[str]:
    """One request, by a receiver that knows no month yet."""
    with ingest_into(database_url) as ingest:
        return outcomes(ingest.accept(facts))


def dropped(pool: ConnectionPool, database_url: str, lake: LocalLake) -> None:
    """The facts, folded; January in the lake alone."""
    send(database_url, *FACTS)
    fold(pool)
    list(archive_days(pool, lake, [DAY, LAST]))
    assert drop_month(pool, lake, MONTH, now=NOW).events == 3
    with transaction(pool) as tx:
        assert not has_partition(tx, MONTH)
        assert tx.execute("select array_agg(idempotency_key) from events").fetchone() == (["4"],)


def test_a_dropped_month_counts_as_before(pool: ConnectionPool, database_url: str, lake: LocalLake) -> None:
    """Recounts change nothing, law 2 and law 4 hold, a resend is a duplicate; dropping again changes nothing."""
    dropped(pool, database_url, lake)
    before = stored_counters(pool, ["acme"])
    assert (recount_day(pool, DAY).changed, recount_day(pool, LAST).changed) == (0, 0)
    with transaction(pool) as tx:
        tx.execute("update counters set quantity_sum = 99 where customer_ref = 'a'")
    assert len(counters_equal_ledger(pool, [DAY])) == 1
    assert recount_day(pool, DAY).changed == 1
    assert stored_counters(pool, ["acme"]) == before
    assert counters_equal_ledger(pool, [DAY, LAST, FEBRUARY.date()]) == ()
    assert send(database_url, *FACTS[:3]) == ["duplicate"] * 3
    assert all(tenant.holds for tenant in conservation(pool))
    assert drop_month(pool, lake, MONTH, now=NOW).events == 3


def test_without_the_lake_nothing_is_counted_too_little(
    pool: ConnectionPool, database_url: str, lake: LocalLake
) -> None:
    """A recount of a dropped day whose file is gone or damaged fails and leaves the counters."""
    dropped(pool, database_url, lake)
    before = stored_counters(pool, ["acme"])
    part = lake.root / "events/month=2025-01/day=2025-01-15/part.parquet"
    content = part.read_bytes()
    part.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    with pytest.raises(InvariantBroken, match="backup of the lake"):
        recount_day(pool, DAY)
    part.unlink()
    with pytest.raises(InvariantBroken, match="backup of the lake"):
        counters_equal_ledger(pool, [DAY])
    with pytest.raises(InvariantBroken, match="backup of the lake"):
        void_event(pool, "acme", "1", reason="wrong", actor="ann", now=NOW)
    assert stored_counters(pool, ["acme"]) == before


def test_later_events_of_a_dropped_month_count_once(pool: ConnectionPool, database_url: str, lake: LocalLake) -> None:
    """They lie in Postgres beside the lake until the day is archived again, then in both, and may be dropped again."""
    dropped(pool, database_url, lake)
    late = Fact(customer="a", quantity="10", ts=NOON, key="5")
    assert send(database_url, late) == ["accepted"]
    fold(pool)
    assert counters_equal_ledger(pool, [DAY]) == ()
    with pytest.raises(Conflict, match="2025-01-15 as it is"):
        drop_month(pool, lake, MONTH, now=NOW)
    assert recount_day(pool, DAY).events == 3
    assert archive_day(pool, lake, DAY).events == 3
    assert recount_day(pool, DAY).changed == 0
    assert prove_days(pool, lake, [DAY, LAST]).proven == (DAY, LAST)
    assert drop_month(pool, lake, MONTH, now=NOW).events == 4
    assert recount_day(pool, DAY).changed == 0
    assert all(tenant.holds for tenant in conservation(pool))


def test_a_void_of_an_archived_event_takes_effect(pool: ConnectionPool, database_url: str, lake: LocalLake) -> None:
    """How an archived event counts is in the tables, not in its file: the void counts at once and for ever."""
    dropped(pool, database_url, lake)
    assert void_event(pool, "acme", "2", reason="wrong", actor="ann", now=NOW).is_new
    with pytest.raises(NotFound):
        void_event(pool, "acme", "never sent", reason="wrong", actor="ann", now=NOW)
    assert stored_counters(pool, ["acme"])["acme", "a", "api_calls", DAY].total == 2.5
    assert recount_day(pool, DAY).changed == 0
    archive_day(pool, lake, DAY)
    assert sorted(load_events(lake, DAY)["state"]) == ["counted", "voided"]
    assert all(tenant.holds for tenant in conservation(pool))


def test_a_month_is_dropped_only_when_the_lake_has_all_of_it(
    pool: ConnectionPool, database_url: str, lake: LocalLake
) -> None:
    """Too young, unarchived, stale, damaged, not folded: refused, naming what to do, and every row stays."""
    send(database_url, *FACTS)
    with pytest.raises(Conflict, match="counters fold"):
        drop_month(pool, lake, MONTH, now=NOW)
    fold(pool)
    archive_day(pool, lake, DAY)
    with pytest.raises(Conflict, match="lake archive 2025-01-31"):
        drop_month(pool, lake, MONTH, now=NOW)
    archive_day(pool, lake, LAST)
    closed_at = datetime(2025, 2, 1, tzinfo=UTC) + KEPT_AFTER
    with pytest.raises(Conflict, match="until 2025-04-04"):
        drop_month(pool, lake, MONTH, now=closed_at - timedelta(microseconds=1))
    part = lake.root / "events/month=2025-01/day=2025-01-15/part.parquet"
    content = part.read_bytes()
    part.unlink()
    with pytest.raises(Conflict, match="archive the day again"):
        drop_month(pool, lake, MONTH, now=NOW)
    part.write_bytes(content)
    with transaction(pool) as tx:  # not in any counter, so a proof of the counters cannot see it
        tx.execute("update events set idempotency_key = 'other' where idempotency_key = '1'")
    with pytest.raises(Conflict, match="lake archive 2025-01-15"):
        drop_month(pool, lake, MONTH, now=NOW)
    with pytest.raises(NotFound):
        drop_month(pool, lake, date(2024, 1, 1), now=NOW)
    with pytest.raises(InvalidInput):
        drop_month(pool, lake, DAY, now=NOW)
    with transaction(pool) as tx:
        assert tx.execute("select count(*) from events").fetchone() == (4,)
        tx.execute("update events set idempotency_key = '1' where idempotency_key = 'other'")
    assert drop_month(pool, lake, MONTH, now=closed_at).events == 3


def test_a_receiver_that_knew_the_month_loses_nothing(pool: ConnectionPool, database_url: str, lake: LocalLake) -> None:
    """It finds the partition gone, makes it again and stores the batch: nothing is rejected, nothing is lost."""

    async def run() -> None:
        group = GroupCommit(database_url, clock=lambda: NOW)
        group.start()
        assert outcomes(await group.accept(parse(FACTS))) == ["accepted"] * 4
        fold(pool)
        list(archive_days(pool, lake, [DAY, LAST]))
        drop_month(pool, lake, MONTH, now=NOW)
        more = [Fact(customer="a", ts=NOON, key="5"), Fact(customer="a", ts=FEBRUARY, key="6"), FACTS[0]]
        assert outcomes(await group.accept(parse(more))) == ["accepted", "accepted", "duplicate"]
        await group.stop()

    asyncio.run(run())
    fold(pool)
    assert recount_day(pool, DAY).events == 3
    assert all(tenant.holds for tenant in conservation(pool))


def test_a_bulk_that_knew_the_month_loses_nothing(pool: ConnectionPool, database_url: str, lake: LocalLake) -> None:
    """As the receiver, inside the caller's transaction."""
    dropped(pool, database_url, lake)
    with transaction(pool) as tx:
        stored = store_events(tx, parse([Fact(customer="a", ts=NOON, key="5"), FACTS[0]]), received_on=NOW.date())
    assert outcomes(stored) == ["accepted", "duplicate"]


def test_a_dropped_day_of_an_earlier_release_gets_its_items_and_rules(
    pool: ConnectionPool, database_url: str, lake: LocalLake
) -> None:
    """Archived with two files and dropped: the night asks for it, and its own events in the lake make them."""
    dropped(pool, database_url, lake)
    with transaction(pool) as tx:
        tx.execute("update archived_days set item_count = null, items_sha256 = null, rules_sha256 = null")
    for kind in ("counter_items", "rules"):
        for part in lake.root.glob(f"{kind}/*/*/*"):
            part.unlink()
    assert unarchived_days(pool, now=NOW, limit=2) == [DAY, LAST]
    assert [archive_day(pool, lake, day).events for day in (DAY, LAST)] == [2, 1]
    assert unarchived_days(pool, now=NOW, limit=2) == [FEBRUARY.date()]
    assert prove_days(pool, lake, [DAY, LAST]).proven == (DAY, LAST)
    assert recount_from_lake(lake, DAY).different == 0
