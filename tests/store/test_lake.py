"""The lake: a day's files hold exactly what Postgres holds, are always whole, and say when they no longer do."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import polars as pl
import psycopg
import pytest
from psycopg_pool import ConnectionPool

from stripemeter.errors import InvalidInput, InvariantBroken, Unavailable
from stripemeter.pipeline.archive import (
    CLOSED_AFTER,
    FailedArchive,
    archive_day,
    archive_days,
    prove_days,
    recount_from_lake,
    unarchived_days,
)
from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.recount import recount_day
from stripemeter.store.archived_days import ArchivedDay, load_archived_day
from stripemeter.store.counters import lock_days
from stripemeter.store.lake import LocalLake, load_counters, load_events, open_lake
from stripemeter.store.postgres import connect, transaction
from tests.laws.worlds import Fact, ingest_into, states_of, stored_counters

DAY = date(2024, 2, 29)
NOON = datetime(2024, 2, 29, 12, tzinfo=UTC)
PLACE = "month=2024-02/day=2024-02-29"
PUBLISHED = [
    f"counter_items/{PLACE}/part.parquet",
    f"counters/{PLACE}/part.parquet",
    f"events/{PLACE}/part.parquet",
    f"rules/{PLACE}/part.json",
]
HUGE = "99999999999999999999999999.999999999999"
FACTS = [
    Fact(customer="b", quantity="2.5", ts=NOON, key="1", meta={"region": "é|,\"'", "n": 1}, resource="r"),
    Fact(customer="a", quantity=HUGE, ts=NOON, key="2"),
    Fact(customer="a", quantity=HUGE, ts=NOON, key="3"),
    Fact(customer="a", quantity="0", ts=datetime(2024, 2, 29, tzinfo=UTC), key="4", metric="gauge"),
    Fact(customer="a", quantity="1", ts=datetime(2024, 3, 1, tzinfo=UTC) - timedelta(microseconds=1), key="5"),
    Fact(customer="a", quantity="7", ts=datetime(2024, 3, 1, tzinfo=UTC), key="next day"),
]
KILLED = """
import os, signal, sys
from datetime import date
from stripemeter.pipeline import archive
from stripemeter.store.lake import LocalLake
from stripemeter.store.postgres import open_pool
from pathlib import Path

class Dying(LocalLake):
    def {method}(self, *arguments):
        {first}
        os.kill(os.getpid(), signal.SIGKILL)

with open_pool(sys.argv[1], max_size=2) as pool:
    archive.archive_day(pool, Dying(root=Path(sys.argv[2])), date(2024, 2, 29))
"""


@pytest.fixture
def lake(tmp_path: Path) -> LocalLake:
    """A lake that does not exist yet."""
    return LocalLake(root=tmp_path / "lake")


@dataclass(frozen=True, slots=True, kw_only=True)
class FullDisk(LocalLake):
    """A lake that takes a number of files and then no more."""

    takes: int
    taken: list[str] = field(default_factory=list)

    def write(self, folder: str, name: str, content: bytes) -> None:
        """As a disk without space would."""
        if len(self.taken) == self.takes:
            raise Unavailable("cannot write to the lake: no space left on device")
        self.taken.append(name)
        LocalLake.write(self, folder, name, content)


def send(database_url: str, *facts: Fact) -> None:
    """One request."""
    with ingest_into(database_url) as ingest:
        ingest.accept(facts)


def files(lake: LocalLake) -> dict[str, bytes]:
    """Every file of the lake by its path."""
    return {
        path.relative_to(lake.root).as_posix(): path.read_bytes() for path in lake.root.rglob("*") if path.is_file()
    }


def manifest(pool: ConnectionPool) -> ArchivedDay:
    """What the manifest says of the day."""
    with transaction(pool) as tx:
        archived = load_archived_day(tx, DAY)
    assert archived is not None
    return archived


def die_archiving(database_url: str, lake: LocalLake, *, method: str, first: str = "pass") -> None:
    """An archive in a process of its own that is killed inside a method of its lake."""
    code = KILLED.format(method=method, first=first)
    died = subprocess.run([sys.executable, "-c", code, database_url, str(lake.root)], check=False, timeout=60)
    assert died.returncode == -signal.SIGKILL


def test_a_day_in_the_lake_is_what_the_ledger_holds(pool: ConnectionPool, database_url: str, lake: LocalLake) -> None:
    """Every column of every event of that day only, sorted, quantities exact to 26 digits and 12 decimals."""
    send(database_url, *FACTS)
    fold(pool)
    archived = archive_day(pool, lake, DAY)
    assert (archived.events, archived.counters, archived.is_stale) == (5, 3, False)
    assert sorted(files(lake)) == PUBLISHED
    events = load_events(lake, DAY, sha256=archived.events_sha256)
    with transaction(pool) as tx:
        rows = tx.execute(
            "select tenant_id, metric, customer_ref, ts, seq, quantity, received_at, source, idempotency_key,"
            " resource_id, meta::text from events where ts < '2024-03-01' order by"
            ' tenant_id collate "C", metric collate "C", customer_ref collate "C", ts, seq'
        ).fetchall()
    assert events.drop("backfill_id", "state").rows() == rows
    assert set(events["state"]) == {"counted"}
    assert Decimal(HUGE) in events["quantity"].to_list()
    counted = {key: state for key, state in stored_counters(pool, ["acme"]).items() if key[3] == DAY}
    assert states_of(load_counters(lake, DAY, sha256=archived.counters_sha256)) == counted
    assert states_of(recount_from_lake(lake, DAY).counted.counters) == counted


def test_the_files_are_sorted_compressed_and_have_statistics(
    pool: ConnectionPool, database_url: str, lake: LocalLake
) -> None:
    """A reader can skip what it does not ask for: minimum and maximum of each column are in the footer."""
    import duckdb

    send(database_url, *FACTS)
    fold(pool)
    archive_day(pool, lake, DAY)
    part = str(lake.root / f"events/{PLACE}/part.parquet")
    columns = duckdb.connect().execute(
        "select path_in_schema, compression, stats_min_value, stats_max_value from parquet_metadata(?)", [part]
    )
    by_name = {row[0]: row[1:] for row in columns.fetchall()}
    assert {row[0] for row in by_name.values()} == {"ZSTD"}
    assert by_name["customer_ref"][1:] == ("a", "b")
    assert by_name["seq"][1:] == ("1", "5")


def test_the_same_day_gives_the_same_bytes(
    pool: ConnectionPool, database_url: str, lake: LocalLake, tmp_path: Path
) -> None:
    """Again, elsewhere, and after the rows moved in Postgres: the files are the same to the byte."""
    send(database_url, *FACTS)
    fold(pool)
    archive_day(pool, lake, DAY)
    first = files(lake)
    archive_day(pool, lake, DAY)
    assert files(lake) == first
    with transaction(pool) as tx:  # every row gets another place in the heap, the last comes first
        tx.execute("create temporary table moved on commit drop as select * from events")
        tx.execute("delete from events")
        tx.execute(
            "insert into events (seq, xid, ts, received_at, quantity, tenant_id, metric, customer_ref,"
            " idempotency_key, source, resource_id, meta) select seq, xid, ts, received_at, quantity, tenant_id,"
            " metric, customer_ref, idempotency_key, source, resource_id, meta from moved order by seq desc"
        )
    other = LocalLake(root=tmp_path / "other")
    archive_day(pool, other, DAY)
    assert files(other) == first


def test_only_folded_events_are_archived(pool: ConnectionPool, database_url: str, lake: LocalLake) -> None:
    """Events and counters are of one state: what waits for the fold is in neither file."""
    send(database_url, FACTS[0])
    fold(pool)
    send(database_url, FACTS[1])
    assert archive_day(pool, lake, DAY).events == 1
    assert prove_days(pool, lake, [DAY]).proven == (DAY,)


def test_a_late_event_makes_the_day_stale_until_it_is_archived_again(
    pool: ConnectionPool, database_url: str, lake: LocalLake
) -> None:
    """Level-triggered: the day asks for the archive whatever became of earlier requests; a recount changes nothing."""
    now = datetime(2024, 6, 1, tzinfo=UTC)
    send(database_url, FACTS[0])
    assert unarchived_days(pool, now=now, limit=9) == []
    fold(pool)
    assert unarchived_days(pool, now=now, limit=9) == [DAY]
    archive_day(pool, lake, DAY)
    recount_day(pool, DAY)
    assert unarchived_days(pool, now=now, limit=9) == []
    send(database_url, FACTS[1])
    fold(pool)
    assert unarchived_days(pool, now=now, limit=9) == [DAY]
    assert manifest(pool).is_stale
    proof = prove_days(pool, lake, [DAY])
    assert (proof.stale, proof.proven, proof.mismatches) == ((DAY,), (), ())
    assert archive_day(pool, lake, DAY).events == 2
    assert unarchived_days(pool, now=now, limit=9) == []
    assert prove_days(pool, lake, [DAY]).proven == (DAY,)


def test_only_closed_days_ask_for_the_archive(pool: ConnectionPool, database_url: str) -> None:
    """A day asks once CLOSED_AFTER has passed since it ended, whole days only; the oldest first, at most so many."""
    send(database_url, *FACTS)
    fold(pool)
    closed_at = datetime(2024, 3, 1, tzinfo=UTC) + CLOSED_AFTER
    assert unarchived_days(pool, now=closed_at - timedelta(microseconds=1), limit=9) == []
    assert unarchived_days(pool, now=closed_at, limit=9) == [DAY]
    assert unarchived_days(pool, now=closed_at + timedelta(days=1), limit=9) == [DAY, date(2024, 3, 1)]
    assert unarchived_days(pool, now=closed_at + timedelta(days=1), limit=1) == [DAY]


def test_a_day_without_events_is_archived_empty(pool: ConnectionPool, lake: LocalLake) -> None:
    """An operator may ask for any day: empty files, which recount to nothing."""
    assert archive_day(pool, lake, DAY).events == 0
    assert recount_from_lake(lake, DAY).counted.counters.height == 0
    assert prove_days(pool, lake, [DAY]).proven == (DAY,)


def test_wrong_counters_are_not_archived(pool: ConnectionPool, database_url: str, lake: LocalLake) -> None:
    """A day whose counters are not what its events make is refused until it is recounted."""
    send(database_url, *FACTS)
    fold(pool)
    with transaction(pool) as tx:
        tx.execute("update counters set quantity_sum = quantity_sum + 1 where customer_ref = 'b'")
    with pytest.raises(InvariantBroken, match="1 counters of 2024-02-29"):
        archive_day(pool, lake, DAY)
    assert files(lake) == {}
    recount_day(pool, DAY)
    archive_day(pool, lake, DAY)


def test_counters_that_change_after_the_archive_are_seen(
    pool: ConnectionPool, database_url: str, lake: LocalLake
) -> None:
    """The recount from the lake alone is compared with the counters in Postgres."""
    send(database_url, *FACTS)
    fold(pool)
    archive_day(pool, lake, DAY)
    with transaction(pool) as tx:
        tx.execute("update counters set quantity_sum = quantity_sum + 0.000000000001 where customer_ref = 'b'")
    (mismatch,) = prove_days(pool, lake, [DAY]).mismatches
    assert (mismatch.day, "1 counters" in mismatch.problem) == (DAY, True)


@pytest.mark.parametrize("kind", ["events", "counters", "counter_items", "rules"])
@pytest.mark.parametrize("damage", ["one bit", "cut short", "gone", "another valid file"])
def test_a_damaged_file_is_seen(
    pool: ConnectionPool, database_url: str, lake: LocalLake, kind: str, damage: str
) -> None:
    """Whatever happened to a file, its manifest does not fit any more; archiving again mends it."""
    send(database_url, *FACTS)
    fold(pool)
    archive_day(pool, lake, DAY)
    before = files(lake)
    part = lake.root / kind / PLACE / ("part.json" if kind == "rules" else "part.parquet")
    content = part.read_bytes()
    match damage:
        case "one bit":
            part.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
        case "cut short":
            part.write_bytes(content[:-1])
        case "gone":
            part.unlink()
        case _ if kind == "rules":
            part.write_bytes(content.replace(b'"tenants":{}', b'"tenants":{ }'))
        case _:
            pl.read_parquet(part).head(1).with_columns(more=pl.lit(1)).write_parquet(part)
    (mismatch,) = prove_days(pool, lake, [DAY]).mismatches
    assert f"{kind}/{PLACE}/{part.name}" in mismatch.problem
    archive_day(pool, lake, DAY)
    assert files(lake) == before


def test_two_archives_at_once_leave_one_day(pool: ConnectionPool, database_url: str, lake: LocalLake) -> None:
    """They wait for each other's day, and the files are those of the manifest, with nothing beside them."""
    send(database_url, *FACTS)
    fold(pool)
    with ThreadPoolExecutor(4) as executor:
        with connect(database_url, application_name="blocker") as blocker:
            lock_days(blocker, [DAY])
            running = [executor.submit(archive_day, pool, lake, DAY) for _ in range(4)]
            with psycopg.connect(database_url, autocommit=True) as observer:
                waiting = "select count(*) from pg_stat_activity where datname = current_database()"
                waiting += " and wait_event_type = 'Lock'"
                while observer.execute(waiting).fetchone() != (4,):
                    assert not any(future.done() for future in running)
        assert {future.result(timeout=60).events for future in running} == {5}
    assert sorted(files(lake)) == PUBLISHED
    assert prove_days(pool, lake, [DAY]).proven == (DAY,)


def test_an_archive_waits_for_a_fold_of_its_day(pool: ConnectionPool, database_url: str, lake: LocalLake) -> None:
    """Archives beside folds: whatever the moment, events and counters in the lake are of one state."""
    with ingest_into(database_url) as ingest, ThreadPoolExecutor(1) as executor:
        for number in range(12):
            ingest.accept([Fact(customer="c", ts=NOON, key=f"{number}-{n}") for n in range(5)])
            folding = executor.submit(fold, pool)
            archive_day(pool, lake, DAY)
            folding.result(timeout=60)
    archive_day(pool, lake, DAY)
    assert load_events(lake, DAY).height == 60
    assert prove_days(pool, lake, [DAY]).proven == (DAY,)


@pytest.mark.parametrize("takes", [0, 1, 2, 3])
def test_a_full_disk_leaves_what_was_archived(
    pool: ConnectionPool, database_url: str, lake: LocalLake, takes: int
) -> None:
    """Neither the manifest nor a published file changes; the next archive clears up."""
    send(database_url, FACTS[0])
    fold(pool)
    archive_day(pool, lake, DAY)
    before, said = files(lake), manifest(pool)
    send(database_url, FACTS[1])
    fold(pool)
    with pytest.raises(Unavailable, match="no space left"):
        archive_day(pool, FullDisk(root=lake.root, takes=takes), DAY)
    assert {path: content for path, content in files(lake).items() if path in PUBLISHED} == before
    assert (manifest(pool).events_sha256, manifest(pool).is_stale) == (said.events_sha256, True)
    archive_day(pool, lake, DAY)
    assert sorted(files(lake)) == PUBLISHED
    assert prove_days(pool, lake, [DAY]).proven == (DAY,)


def test_a_kill_in_the_middle_of_writing_is_cleared_up(
    pool: ConnectionPool, database_url: str, lake: LocalLake
) -> None:
    """The half file is never published, no reader sees it, and the next archive removes it."""
    send(database_url, *FACTS)
    fold(pool)
    half = (
        "d = self.root / arguments[0]; d.mkdir(parents=True); (d / '.tmp-1').write_bytes(arguments[2][:100]);"
        " open(d / '.staged-0', 'wb').close()"
    )
    die_archiving(database_url, lake, method="write", first=half)
    assert sorted(files(lake)) == [f"events/{PLACE}/.staged-0", f"events/{PLACE}/.tmp-1"]
    assert prove_days(pool, lake, [DAY]).proven == ()
    with pytest.raises(InvariantBroken, match="the lake has no"):
        load_events(lake, DAY)
    archive_day(pool, lake, DAY)
    assert sorted(files(lake)) == PUBLISHED


def test_a_kill_before_publishing_is_made_good(pool: ConnectionPool, database_url: str, lake: LocalLake) -> None:
    """The manifest is committed and the files are staged: whoever looks at the day next moves them into place."""
    send(database_url, *FACTS)
    fold(pool)
    die_archiving(database_url, lake, method="rename")
    assert all("/.staged-" in path for path in files(lake))
    assert manifest(pool).events == 5
    assert prove_days(pool, lake, [DAY]).proven == (DAY,)
    assert sorted(files(lake)) == PUBLISHED


def test_one_bad_day_does_not_keep_the_others(pool: ConnectionPool, database_url: str, lake: LocalLake) -> None:
    """A day that cannot be archived is reported; the days after it are done."""
    send(database_url, *FACTS)
    fold(pool)
    with transaction(pool) as tx:
        tx.execute("delete from counters where day = %s and customer_ref = 'a'", [DAY])
    bad, good = archive_days(pool, lake, [DAY, DAY + timedelta(days=1)])
    assert isinstance(bad, FailedArchive)
    assert isinstance(good, ArchivedDay)


def test_a_lake_that_cannot_be_written_is_unavailable(pool: ConnectionPool, database_url: str, tmp_path: Path) -> None:
    """A file stands where the directory should: the iteration ends at the first day."""
    (tmp_path / "lake").write_text("in the way")
    outcomes = list(archive_days(pool, LocalLake(root=tmp_path / "lake"), [DAY, DAY + timedelta(days=1)]))
    assert [type(outcome) for outcome in outcomes] == [FailedArchive]


def test_object_storage_is_refused_by_name() -> None:
    """Better than a directory called s3:."""
    with pytest.raises(InvalidInput, match="object storage is not supported yet"):
        open_lake("s3://bucket/lake")
