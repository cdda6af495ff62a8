"""Imports of files: every row is counted once in exactly one of five ways, whatever the file and whatever dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2
import obstore
import polars as pl
import psycopg
import pytest
from moto.server import ThreadedMotoServer
from obstore.store import S3Store
from psycopg_pool import ConnectionPool

from stripemeter.errors import Conflict, InvalidInput, NotFound
from stripemeter.metering.events import IngestLimits, UsageEvent, key_hash, parse_event
from stripemeter.metering.rows import RowRules, fields_of, parse_row
from stripemeter.pipeline import backfill as runner
from stripemeter.pipeline.backfill import check_file, preview_file, run_backfill
from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.prove import conservation
from stripemeter.store.backfills import (
    Backfill,
    NewBackfill,
    RowCounts,
    create_backfill,
    finish_backfill,
    load_backfill,
)
from stripemeter.store.files import find_source, format_of
from stripemeter.store.postgres import Tx, connect, transaction
from tests.laws.worlds import NOW, Fact, ingest_into, ledger_rows

HEADING = "metric,customerRef,quantity,ts,idempotencyKey"
STUCK = """
select count(*) from pg_stat_activity
where application_name = 'stripemeter-backfill' and wait_event_type = 'Lock' and datname = current_database()
"""


def line(number: int, quantity: str = "1") -> str:
    """A good row of HEADING."""
    return f"api_calls,cust_{number % 7},{quantity},2026-01-{number % 28 + 1:02}T00:00:00Z,key-{number}"


def write(path: Path, lines: list[str], heading: str = HEADING) -> Path:
    """A CSV file."""
    path.write_text("\n".join([heading, *lines]) + "\n", encoding="utf-8")
    return path


def asked(location: str | Path, **members: Any) -> NewBackfill:  # noqa: ANN401 - any member of the request
    """An import of a file for acme."""
    source = find_source(str(location))
    return NewBackfill(
        tenant_id="acme", reason="test", actor="test", source_type="file", source=source.location,
        source_version=source.version, source_format=format_of(source.location), source_size=source.size, **members,
    )  # fmt: skip


def create(pool: ConnectionPool, new: NewBackfill) -> UUID:
    """Record an operation."""
    with transaction(pool) as tx:
        return create_backfill(tx, new, now=NOW)


def run(database_url: str, backfill_id: UUID, report: Path | None = None) -> Backfill:
    """Run an operation in this process."""
    return run_backfill(database_url, backfill_id, limits=IngestLimits(), clock=lambda: NOW, report_path=report)


def stored(pool: ConnectionPool, backfill_id: UUID) -> Backfill:
    """The operation as the table has it."""
    with transaction(pool) as tx:
        return load_backfill(tx, backfill_id)


def import_file(
    pool: ConnectionPool,
    database_url: str,
    location: str | Path,
    report: Path | None = None,
    **members: Any,  # noqa: ANN401
) -> Backfill:
    """Create and run; returns what the table says afterwards, which is what the runner says."""
    backfill_id = create(pool, asked(location, **members))
    ended = run(database_url, backfill_id, report)
    found = stored(pool, backfill_id)
    assert (found.counts, found.status) == (ended.counts, "completed")
    return found


def report_of(path: Path) -> list[tuple[int, str, str]]:
    """(row, field, code) of each line of an error report."""
    errors = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
    assert all(error["message"] for error in errors)
    return [(error["row"], error["field"], error["code"]) for error in errors]


def test_every_row_has_one_outcome_and_failures_name_their_row(
    pool: ConnectionPool, database_url: str, tmp_path: Path
) -> None:
    """accepted + duplicate + conflict + failed + skipped = rows; the report names row, field, code and message."""
    heading = HEADING + ",tenantId,meta"
    rows = [
        line(1) + ",,",
        line(1) + ",acme,",  # the same key and payload
        line(1, "2") + ",,",  # the same key, another payload
        line(2) + ",other,",  # somebody else's tenant
        line(3, "-1") + ",,",
        line(4, "many") + ",,",
        "api_calls,,1,2026-01-01T00:00:00Z,key-5,,",
        "api_calls,c,1,2026-01-01T00:00:00,key-6,,",  # no zone
        "api_calls,c,1,2027-01-01T00:00:00Z,key-7,,",  # more than an hour ahead
        line(8) + ',,"{""a"": 1.10}"',
        line(9) + ',,"{}, ""quantity"": 9"',
        line(10),  # two cells short
        "other,c,1,2026-01-01T00:00:00Z,key-11,,",
        "api_calls,c,1,2025-12-31T23:59:59Z,key-12,,",
        "api_calls,c,1,2026-02-01T00:00:00Z,key-13,,",
    ]
    found = import_file(
        pool, database_url, write(tmp_path / "f.csv", rows, heading), tmp_path / "errors.jsonl", metric="api_calls",
        period_start=datetime(2026, 1, 1, tzinfo=UTC).date(), period_end=datetime(2026, 1, 31, tzinfo=UTC).date(),
    )  # fmt: skip
    assert found.counts == RowCounts(accepted=2, duplicates=1, conflicts=1, failed=8, skipped=3)
    assert found.counts.rows == len(rows)
    assert report_of(tmp_path / "errors.jsonl") == [
        (3, "idempotencyKey", "idempotency_conflict"),
        (4, "tenantId", "tenant_mismatch"),
        (5, "quantity", "invalid_input"),
        (6, "quantity", "invalid_input"),
        (7, "customerRef", "invalid_input"),
        (8, "ts", "invalid_input"),
        (9, "ts", "ts_too_far_ahead"),
        (11, "meta", "invalid_input"),
        (12, "", "malformed_csv"),
    ]
    assert set(ledger_rows(pool, ["acme", "other"])) == {("acme", "key-1"), ("acme", "key-8")}
    fold(pool)
    assert all(row.holds for row in conservation(pool))


def test_the_database_refuses_counts_that_do_not_add_up(pool: ConnectionPool, tmp_path: Path) -> None:
    """The sum is a constraint, not a habit."""
    backfill_id = create(pool, asked(write(tmp_path / "f.csv", [line(1)])))
    with pytest.raises(psycopg.errors.CheckViolation, match="backfills_conserve"), transaction(pool) as tx:
        tx.execute("update backfills set row_count = 2, accepted_count = 1 where id = %(id)s", {"id": backfill_id})


def test_csv_as_spreadsheets_write_it(pool: ConnectionPool, database_url: str, tmp_path: Path) -> None:
    """BOM, CRLF, quotes, commas and line ends inside quotes, empty lines, other column names, no final line end."""
    path = tmp_path / "f.csv"
    path.write_bytes(
        b'\xef\xbb\xbf"when",customer_ref,metric,quantity,idempotency_key,note\r\n'
        b'2026-01-01T00:00:00Z,"Smith, ""Jo""\r\nLtd",api_calls,1.50,a,x\r\n'
        b"\r\n"
        b'2026-01-01T01:00:00+01:00,"caf\xc3\xa9",api_calls,"2","b\nc",'
    )
    found = import_file(pool, database_url, path, column_map={"when": "ts"})
    assert found.counts == RowCounts(accepted=2)
    assert found.source_position == path.stat().st_size
    midnight = datetime(2026, 1, 1, tzinfo=UTC)
    rows = ledger_rows(pool, ["acme"])
    assert {key: (ts, quantity) for key, (ts, _, quantity) in rows.items()} == {
        ("acme", "a"): (midnight, Decimal("1.5")),
        ("acme", "b\nc"): (midnight, Decimal(2)),
    }
    with transaction(pool) as tx:
        assert tx.execute("select customer_ref, source from events order by seq").fetchall() == [
            ('Smith, "Jo"\r\nLtd', "import"),
            ("café", "import"),
        ]


def test_bytes_that_are_no_rows_cost_only_themselves(pool: ConnectionPool, database_url: str, tmp_path: Path) -> None:
    """Bad UTF-8, a megabyte without a line end, text after a quote: one failed row each, the neighbours are taken."""
    path = tmp_path / "f.csv"
    bad = [b"api_calls,\xff,1,2026-01-01T00:00:00Z,k", b"x" * 3_000_000, b'"api"calls,c,1,2026-01-01T00:00:00Z,k']
    lines = [HEADING.encode()]
    for number, text in enumerate(bad):
        lines += [line(number).encode(), text]
    path.write_bytes(b"\n".join([*lines, line(9).encode()]))
    found = import_file(pool, database_url, path, tmp_path / "errors.jsonl")
    assert found.counts == RowCounts(accepted=4, failed=3)
    assert report_of(tmp_path / "errors.jsonl") == [
        (2, "", "not_utf8"),
        (4, "", "row_too_long"),
        (6, "", "malformed_csv"),
    ]


def test_json_lines_keep_every_digit(pool: ConnectionPool, database_url: str, tmp_path: Path) -> None:
    """Numbers are exact, null is absent, what is no object is a failed row."""
    path = tmp_path / "f.jsonl"
    good = {"metric": "m", "customerRef": "c", "ts": "2026-01-01T00:00:00Z"}
    path.write_text(
        json.dumps(good)[:-1] + ', "quantity": 0.100000000001, "idempotencyKey": "a", "resourceId": null}\n\n'
        + json.dumps({**good, "quantity": "12345678901234567890123456.5", "idempotencyKey": "b"}) + "\n"
        + "[1]\n{\n" + json.dumps({**good, "quantity": 1, "timestamp": "2026-01-01T00:00:00Z"}) + "\n",
        encoding="utf-8",
    )  # fmt: skip
    found = import_file(pool, database_url, path, tmp_path / "errors.jsonl")
    assert found.counts == RowCounts(accepted=2, failed=3)
    assert report_of(tmp_path / "errors.jsonl") == [
        (3, "", "malformed_json"),
        (4, "", "malformed_json"),
        (5, "ts", "invalid_input"),
    ]
    quantities = {key: quantity for (_, key), (_, _, quantity) in ledger_rows(pool, ["acme"]).items()}
    assert quantities == {"a": Decimal("0.100000000001"), "b": Decimal("12345678901234567890123456.5")}


def parquet(path: Path, rows: int) -> Path:
    """A Parquet file of several row groups."""
    pl.DataFrame(
        {
            "metric": ["api_calls"] * rows,
            "customerRef": [f"cust_{number % 7}" for number in range(rows)],
            "quantity": [Decimal(number) / 4 for number in range(rows)],
            "ts": [NOW - timedelta(minutes=number) for number in range(rows)],
            "idempotencyKey": [f"key-{number}" for number in range(rows)],
            "meta": [{"n": number} for number in range(rows)],
        },
        schema_overrides={"quantity": pl.Decimal(20, 2)},
    ).write_parquet(path, row_group_size=700)
    return path


def test_parquet_resumes_at_a_row(
    pool: ConnectionPool, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decimals, instants and structs come through; a crash between batches loses and repeats no row."""
    monkeypatch.setattr(runner, "BATCH_ROWS", 400)
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


class PowerCutError(Exception):
    """A crash at a known place."""


@contextmanager
def stopping_after(monkeypatch: pytest.MonkeyPatch, batches: int) -> Iterator[None]:
    """Storing the batch after `batches` others dies after its last write, before its commit."""
    advance = runner.advance_backfill
    seen = 0

    def cut(*arguments: Any, **members: Any) -> bool:  # noqa: ANN401 - passed on
        nonlocal seen
        seen += 1
        is_done = advance(*arguments, **members)
        if seen > batches:
            raise PowerCutError
        return is_done

    with monkeypatch.context() as patch:
        patch.setattr(runner, "advance_backfill", cut)
        yield


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


def test_rows_without_a_key_get_the_derived_one_of_http(
    pool: ConnectionPool, database_url: str, tmp_path: Path
) -> None:
    """The same event over HTTP and from a file is one event; so two identical rows of a file are one, too."""
    fact = Fact(quantity="2.50", ts=datetime(2026, 1, 1, tzinfo=UTC), resource="r", meta={"b": 1, "a": [1.5]})
    with ingest_into(database_url) as ingest:
        ingest.accept([fact])
    path = tmp_path / "f.csv"
    row = 'api_calls,cust_1,2.5,2026-01-01T00:00:00Z,r,"{""a"":[1.5],""b"":1}"'
    path.write_text(f"metric,customerRef,quantity,ts,resourceId,meta\n{row}\n{row}\n", encoding="utf-8")
    assert import_file(pool, database_url, path).counts == RowCounts(duplicates=2)


def test_a_row_and_an_event_are_refused_in_the_same_words() -> None:
    """One parser: a row's complaint is that of the event object it stands for."""
    rules = RowRules(
        tenant_id="acme", metric=None, customer_ref=None, start_at=None, end_at=None, fields=fields_of({}),
        limits=IngestLimits(),
    )  # fmt: skip
    document = {**Fact(key="k").document(), "quantity": "1.0000000000001"}
    with pytest.raises(InvalidInput) as refused:
        parse_event(json.dumps(document).encode(), now=NOW, limits=IngestLimits())
    failed = parse_row(document, rules=rules, now=NOW)
    assert not isinstance(failed, UsageEvent)
    assert (refused.value.field, str(refused.value)) == (failed.field, failed.message)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("heading", "members", "message"),
    [
        ("metric,customerRef,quantity", {}, "no column holds ts"),
        ("customerRef,quantity,ts", {}, "no column holds metric"),
        ("metric,customerRef,quantity,ts,timestamp", {}, "both hold ts"),
        ("metric,customerRef,quantity,ts,ts", {}, "stands twice"),
        (HEADING, {"column_map": {"when": "ts"}}, "no column 'when'"),
        (HEADING, {"column_map": {"ts": "colour"}}, "no event has a field 'colour'"),
        (HEADING, {"column_map": {"ts": "ts", "metric": "timestamp"}}, "two columns are mapped to ts"),
    ],
)
def test_a_heading_that_cannot_give_events_is_refused(
    tmp_path: Path, heading: str, members: dict[str, Any], message: str
) -> None:
    """Before any row is read, with what to do."""
    with pytest.raises(InvalidInput, match=message):
        check_file(asked(write(tmp_path / "f.csv", [], heading), **members), limits=IngestLimits())


def test_a_file_that_is_not_there_or_has_no_format_is_refused(tmp_path: Path) -> None:
    """Named, with what was expected."""
    with pytest.raises(NotFound, match=r"nothing\.csv"):
        find_source(str(tmp_path / "nothing.csv"))
    with pytest.raises(InvalidInput, match="compressed files are not read"):
        format_of("rows.csv.gz")


def test_a_dry_run_says_what_a_run_then_does_and_writes_nothing(
    pool: ConnectionPool, database_url: str, tmp_path: Path
) -> None:
    """Counts are those of the run, for keys that stand and for keys of the same batch."""
    import_file(pool, database_url, write(tmp_path / "a.csv", [line(1), line(2)]))
    new = asked(write(tmp_path / "b.csv", [line(1), line(2, "9"), line(3), line(3), line(4, "x")]))
    before = ledger_rows(pool, ["acme"])
    counts = preview_file(database_url, new, limits=IngestLimits(), now=NOW, watch=lambda *_: None)
    assert ledger_rows(pool, ["acme"]) == before
    with transaction(pool) as tx:
        assert tx.execute("select count(*) from backfills").fetchone() == (1,)
        assert tx.execute("select count(*) from event_conflicts").fetchone() == (0,)
    assert counts == RowCounts(accepted=1, duplicates=2, conflicts=1, failed=1)
    assert run(database_url, create(pool, new)).counts == counts


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
    """Killed in the middle of the third batch: none of it is kept, and each row of the file is accepted exactly once."""
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
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    settings = {"ENDPOINT_URL": url, "ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "y", "REGION": "us-east-1"}
    for name, value in settings.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    assert httpx2.put(f"{url}/usage").status_code == 200
    yield "s3://usage"
    server.stop()


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
