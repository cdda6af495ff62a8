"""Runs of an import: whatever dies, every row is counted once; one runner at a time; S3 like a file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import obstore
import psycopg
import pytest
from obstore.store import S3Store
from psycopg_pool import ConnectionPool

from stripemeter.errors import Conflict, NotFound
from stripemeter.metering.events import key_hash
from stripemeter.pipeline import backfill as runner
from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.prove import conservation
from stripemeter.store.backfills import (
    Backfill,
    RowCounts,
    finish_backfill,
    load_backfill,
)
from stripemeter.store.files import find_source
from stripemeter.store.postgres import Tx, connect, transaction
from tests.backfills import (
    PowerCutError,
    asked,
    create,
    import_file,
    line,
    parquet,
    report_of,
    run,
    serving_s3,
    stopping_after,
    stored,
    write,
)
from tests.laws.worlds import NOW, ledger_rows

STUCK = """
select count(*) from pg_stat_activity
where application_name = 'stripemeter-backfill' and wait_event_type = 'Lock' and datname = current_database()
"""


def test_parquet_resumes_at_a_row(
    pool: ConnectionPool, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decimals, instants and structs come through; a crash between batches loses and repeats no row."""
    monkeypatch.setattr(runner, "BATCH_ROWS", 400)
    monkeypatch.setattr("stripemeter.store.files.PARQUET_ROWS", 300)
    backfill_id = create(pool, asked(parquet(tmp_path / "f.parquet", 2000)))
    with stopping_after(monkeypatch, 3), pytest.raises(PowerCutError):
        run(database_url, backfill_id)
    assert stored(pool, backfill_id).counts == RowCounts(accepted=1200)
    assert stored(pool, backfill_id).source_position == 1200
    assert run(database_url, backfill_id).counts == RowCounts(accepted=2000)
    rows = ledger_rows(pool, ["acme"])
    assert len(rows) == 2000
    assert rows["acme", "key-7"][0] == NOW - timedelta(minutes=7)
    assert rows["acme", "key-7"][2] == Decimal("1.75")


def test_a_run_that_failed_lets_go_before_its_session_is_gone(
    pool: ConnectionPool, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who resumes at once is not told that another process runs it, though the server still holds the old session."""
    monkeypatch.setattr(runner, "BATCH_ROWS", 10)
    backfill_id = create(pool, asked(write(tmp_path / "f.csv", [line(n) for n in range(50)])))
    with psycopg.connect(database_url, autocommit=True) as lingering:
        with monkeypatch.context() as patched:
            patched.setattr(runner, "_connect", lambda _: nullcontext(lingering))
            with stopping_after(monkeypatch, 2), pytest.raises(PowerCutError):
                run(database_url, backfill_id)
        assert run(database_url, backfill_id).counts == RowCounts(accepted=50)


def test_the_report_of_a_batch_that_died_is_not_written_twice(
    pool: ConnectionPool, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Error lines of an uncommitted batch are cut off when it is run again."""
    monkeypatch.setattr(runner, "BATCH_ROWS", 10)
    path = write(tmp_path / "f.csv", [line(n, "bad" if n % 2 else "1") for n in range(50)])
    backfill_id = create(pool, asked(path))
    report = tmp_path / "errors.jsonl"
    with stopping_after(monkeypatch, 2), pytest.raises(PowerCutError):
        run(database_url, backfill_id, report)
    assert len(report_of(report)) == 15
    assert run(database_url, backfill_id, report).counts == RowCounts(accepted=25, failed=25)
    assert [row for row, _, _ in report_of(report)] == list(range(2, 51, 2))


def test_a_changed_file_is_not_resumed(
    pool: ConnectionPool, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A position in one file means nothing in another."""
    monkeypatch.setattr(runner, "BATCH_ROWS", 10)
    path = write(tmp_path / "f.csv", [line(n) for n in range(50)])
    backfill_id = create(pool, asked(path))
    with stopping_after(monkeypatch, 2), pytest.raises(PowerCutError):
        run(database_url, backfill_id)
    write(path, [line(n) for n in range(60)])
    with pytest.raises(Conflict, match="changed since"):
        run(database_url, backfill_id)
    assert stored(pool, backfill_id).counts == RowCounts(accepted=20)


def test_cancelling_ends_it_for_good(pool: ConnectionPool, database_url: str, tmp_path: Path) -> None:
    """A cancelled operation stores nothing more, now or later, and stays as it was."""
    backfill_id = create(pool, asked(write(tmp_path / "f.csv", [line(1)])))
    with transaction(pool) as tx:
        assert finish_backfill(tx, backfill_id, status="cancelled", now=NOW)
    with pytest.raises(Conflict, match="it is cancelled"):
        run(database_url, backfill_id)
    with transaction(pool) as tx:
        assert not finish_backfill(tx, backfill_id, status="completed", now=NOW)
    assert ledger_rows(pool, ["acme"]) == {}


def command(database_url: str, cwd: Path, *words: str) -> subprocess.Popen[str]:
    """`stripemeter ...` as a process of its own."""
    kept = {name: value for name, value in os.environ.items() if "STRIPE" not in name}
    return subprocess.Popen(
        [sys.executable, "-m", "stripemeter.cli.main", *words],
        env={**kept, "DATABASE_URL": database_url, "STRIPEMETER_HOME": str(cwd / "home")},
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def outcome(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit status, output and talk."""
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@contextmanager
def stuck_import(database_url: str, tmp_path: Path, at_key: str) -> Iterator[tuple[subprocess.Popen[str], Tx]]:
    """A `stripemeter ingest` that hangs in the transaction of the batch with a key, because `blocker` holds it."""
    with connect(database_url) as blocker:
        blocker.execute(
            "insert into event_keys (key_hash, payload_hash, ts) values (%(hash)s, 0, now())",
            {"hash": key_hash("acme", at_key).hex()},
        )
        process = command(database_url, tmp_path, "ingest", "f.csv", "--tenant", "acme", "--errors", "errors.jsonl")
        try:
            with psycopg.connect(database_url, autocommit=True) as observer:
                while observer.execute(STUCK).fetchone() != (1,):
                    assert process.poll() is None, process.communicate()
                    time.sleep(0.02)  # what is waited for happens in another process
            yield process, blocker
        finally:
            blocker.rollback()
            process.kill()
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None and not pipe.closed:
                    pipe.close()


def only_operation(pool: ConnectionPool) -> Backfill:
    """The one operation of the database."""
    with transaction(pool) as tx:
        ((backfill_id,),) = tx.execute("select id from backfills").fetchall()
        return load_backfill(tx, backfill_id)


def big_file(tmp_path: Path) -> Path:
    """Four batches and a bit; every hundredth row is bad."""
    return write(tmp_path / "f.csv", [line(n, "bad" if n % 100 == 0 else "1") for n in range(21_000)])


def test_resume_after_kill_9_counts_every_row_once(pool: ConnectionPool, database_url: str, tmp_path: Path) -> None:
    """Killed in the middle of the third batch: none of it is kept, and each good row is accepted exactly once."""
    big_file(tmp_path)
    with stuck_import(database_url, tmp_path, "key-12345") as (process, _):
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert only_operation(pool).counts == RowCounts(accepted=9_900, failed=100)
    resume = command(
        database_url, tmp_path, "ingest", "f.csv", "--tenant", "acme", "--errors", "errors.jsonl", "--resume"
    )
    status, out, err = outcome(resume)
    assert status == 1, err  # some rows are bad
    assert "10,000 rows" in err
    assert "21,000 rows = 20,790 accepted + 0 duplicates + 0 conflicts + 210 failed + 0 skipped" in out
    assert only_operation(pool).counts == RowCounts(accepted=20_790, failed=210)
    assert len(ledger_rows(pool, ["acme"])) == 20_790
    assert [row for row, _, _ in report_of(tmp_path / "errors.jsonl")] == list(range(1, 21_000, 100))
    fold(pool)
    assert all(row.holds for row in conservation(pool))


def test_two_runners_of_one_operation_exclude_each_other(
    pool: ConnectionPool, database_url: str, tmp_path: Path
) -> None:
    """The second is told and changes nothing; when the first is gone it may go on."""
    big_file(tmp_path)
    with stuck_import(database_url, tmp_path, "key-12345"):
        backfill_id = only_operation(pool).id
        with pytest.raises(Conflict, match="another process"):
            run(database_url, backfill_id)
    with psycopg.connect(database_url, autocommit=True) as observer:
        while observer.execute(
            "select count(*) from pg_stat_activity where application_name = 'stripemeter-backfill'"
            " and datname = current_database()"
        ).fetchone() != (0,):
            time.sleep(0.02)  # until Postgres has noticed that the killed process is gone
    assert run(database_url, backfill_id).counts == RowCounts(accepted=20_790, failed=210)


def test_ctrl_c_and_cancel(pool: ConnectionPool, database_url: str, tmp_path: Path) -> None:
    """Ctrl-C finishes the batch in hand, says how to go on and exits 130; cancelling is final."""
    big_file(tmp_path)
    with stuck_import(database_url, tmp_path, "key-12345") as (process, blocker):
        process.send_signal(signal.SIGINT)
        blocker.rollback()
        status, _, err = outcome(process)
    assert status == 130, err
    found = only_operation(pool)
    assert str(found.id) in err
    assert found.status == "processing"
    assert found.counts.rows == found.counts.accepted + found.counts.failed
    assert 10_000 <= found.counts.rows < 21_000
    assert outcome(command(database_url, tmp_path, "backfills", "cancel", str(found.id)))[0] == 0
    status, out, _ = outcome(command(database_url, tmp_path, "backfills", "list", "--status", "cancelled"))
    assert (status, str(found.id) in out) == (0, True)
    status, _, err = outcome(command(database_url, tmp_path, "ingest", "f.csv", "--tenant", "acme", "--resume"))
    assert status == 1
    assert "no interrupted import" in err


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3 server with one bucket; its address."""
    with serving_s3(monkeypatch):
        yield "s3://usage"


def test_s3_is_read_and_resumed_like_a_file(
    pool: ConnectionPool, database_url: str, tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CSV and Parquet from a bucket, a crash between batches, an object that is replaced, one that is not there."""
    monkeypatch.setattr(runner, "BATCH_ROWS", 100)
    monkeypatch.setattr("stripemeter.store.files.READ_BYTES", 1000)
    store = S3Store("usage", client_options={"allow_http": True})
    path = write(tmp_path / "f.csv", [line(n) for n in range(450)])
    obstore.put(store, "2026/f.csv", path.read_bytes())
    backfill_id = create(pool, asked(f"{bucket}/2026/f.csv"))
    with stopping_after(monkeypatch, 2), pytest.raises(PowerCutError):
        run(database_url, backfill_id)
    assert stored(pool, backfill_id).counts == RowCounts(accepted=200)
    assert run(database_url, backfill_id).counts == RowCounts(accepted=450)
    assert len(ledger_rows(pool, ["acme"])) == 450
    obstore.put(store, "f.parquet", parquet(tmp_path / "f.parquet", 500).read_bytes())
    assert import_file(pool, database_url, f"{bucket}/f.parquet").counts.rows == 500
    second = create(pool, asked(f"{bucket}/2026/f.csv"))
    obstore.put(store, "2026/f.csv", b"other\n")
    with pytest.raises(Conflict, match="changed since"):
        run(database_url, second)
    with pytest.raises(NotFound, match="no object"):
        find_source(f"{bucket}/none.csv")
