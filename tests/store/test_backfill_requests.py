"""Backfills that came over HTTP, run without Dagster: payloads and S3 go on after a crash, and nobody need watch."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import obstore
import psycopg
import pytest
from obstore.store import S3Store
from psycopg_pool import ConnectionPool

from stripemeter.errors import Conflict, Unavailable
from stripemeter.metering.events import IngestLimits
from stripemeter.pipeline import backfill as runner
from stripemeter.pipeline.error_report import ErrorReport, RowError, delete_old_reports, load_report, report_path
from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.prove import conservation
from stripemeter.pipeline.request_backfill import BackfillRequest, cancel_backfill, new_backfill, record_backfill
from stripemeter.store.backfills import RowCounts, advance_backfill, begin_backfill, load_payload
from stripemeter.store.postgres import connect, transaction
from tests.backfills import (
    HEADING,
    PowerCutError,
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
from tests.store.test_backfill_runs import command, outcome


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Store]:
    """The bucket s3://usage."""
    with serving_s3(monkeypatch):
        yield S3Store("usage", client_options={"allow_http": True})


def ask(pool: ConnectionPool, **members: Any) -> UUID:  # noqa: ANN401 - any member of the request
    """A backfill of the year 2026 for acme, as the API records it."""
    said = {"customer_ref": None, "events": None, "csv_data": None, "source_url": None, **members}
    request = BackfillRequest(
        tenant_id="acme", metric="api_calls", period_start=date(2026, 1, 1), period_end=date(2026, 12, 31),
        reason="test", actor="test", **said,
    )  # fmt: skip
    return record_backfill(
        pool, new_backfill(request, max_events=5000, readable=["s3://usage/"]), limits=IngestLimits(), now=NOW
    )


def csv(count: int) -> str:
    """Good rows, but every tenth."""
    return "\n".join([HEADING, *(line(number, "bad" if number % 10 == 0 else "1") for number in range(count))])


@pytest.mark.parametrize("kind", ["csv_data", "events"])
def test_a_payload_is_run_on_after_a_crash(
    pool: ConnectionPool, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Every row once, the report without repetitions; the payload stays until the end and no longer."""
    monkeypatch.setattr(runner, "BATCH_ROWS", 30)
    names = HEADING.split(",")
    events = [dict(zip(names, text.split(","), strict=True)) for text in csv(100).splitlines()[1:]]
    backfill_id = ask(pool, **{kind: csv(100) if kind == "csv_data" else events})
    report = tmp_path / "backfills" / "errors.jsonl"
    with stopping_after(monkeypatch, 2), pytest.raises(PowerCutError):
        run(database_url, backfill_id, report)
    assert stored(pool, backfill_id).counts == RowCounts(accepted=54, failed=6)
    with transaction(pool) as tx:
        assert load_payload(tx, backfill_id)
    assert run(database_url, backfill_id, report).counts == RowCounts(accepted=90, failed=10)
    assert [row for row, _, _ in report_of(report)] == list(range(1, 100, 10))
    with transaction(pool) as tx:
        assert load_payload(tx, backfill_id) is None
    assert len(ledger_rows(pool, ["acme"])) == 90
    fold(pool)
    assert all(row.holds for row in conservation(pool))


def test_an_object_is_pinned_when_first_looked_at(
    pool: ConnectionPool, database_url: str, tmp_path: Path, bucket: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on in the same state of the object; one that was replaced meanwhile ends the operation, and says so."""
    monkeypatch.setattr(runner, "BATCH_ROWS", 100)
    obstore.put(bucket, "f.parquet", parquet(tmp_path / "f.parquet", 450).read_bytes())
    backfill_id = ask(pool, source_url="s3://usage/f.parquet")
    assert (stored(pool, backfill_id).source_version, stored(pool, backfill_id).source_size) == ("", 0)
    with stopping_after(monkeypatch, 2), pytest.raises(PowerCutError):
        run(database_url, backfill_id)
    assert stored(pool, backfill_id).source_version
    assert run(database_url, backfill_id).counts == RowCounts(accepted=450)
    obstore.put(bucket, "f.csv", write(tmp_path / "f.csv", [line(n) for n in range(450)]).read_bytes())
    replaced = ask(pool, source_url="s3://usage/f.csv")
    with stopping_after(monkeypatch, 2), pytest.raises(PowerCutError):
        run(database_url, replaced)
    obstore.put(bucket, "f.csv", write(tmp_path / "f.csv", [line(1)]).read_bytes())
    assert run(database_url, replaced).status == "failed"
    found = stored(pool, replaced)
    assert "changed since" in (found.error_message or "")
    assert found.counts.rows == 200


def test_what_cannot_be_read_fails_the_operation(pool: ConnectionPool, database_url: str, bucket: S3Store) -> None:
    """No object, no heading, no Parquet: nobody is there to mend it, so it ends with the reason."""
    obstore.put(bucket, "empty.csv", b"")
    obstore.put(bucket, "not.parquet", b"customerRef,quantity,ts\n")
    for key, reason in (("none.csv", "no object"), ("empty.csv", "empty"), ("not.parquet", "as Parquet")):
        backfill_id = ask(pool, source_url=f"s3://usage/{key}")
        assert run(database_url, backfill_id).status == "failed"
        found = stored(pool, backfill_id)
        assert (found.status, found.counts.rows) == ("failed", 0)
        assert reason in (found.error_message or "")


def test_while_s3_is_away_the_operation_waits(
    pool: ConnectionPool, database_url: str, bucket: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not failed, it says why it does not go on, and it does when S3 is back."""
    obstore.put(bucket, "f.csv", csv(5).encode())
    backfill_id = ask(pool, source_url="s3://usage/f.csv")

    def away(location: str) -> None:
        raise Unavailable(f"cannot read {location}: no route")

    with monkeypatch.context() as patch:
        patch.setattr(runner, "find_source", away)
        with pytest.raises(Unavailable):
            run(database_url, backfill_id)
    found = stored(pool, backfill_id)
    assert (found.status, found.error_message) == ("processing", "cannot read s3://usage/f.csv: no route")
    assert run(database_url, backfill_id).counts == RowCounts(accepted=4, failed=1)
    assert stored(pool, backfill_id).error_message is None


def test_cancelling_stops_a_run_between_batches(
    pool: ConnectionPool, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch in hand is not stored, what was stays and is counted; what has ended otherwise cannot be cancelled."""
    monkeypatch.setattr(runner, "BATCH_ROWS", 30)
    backfill_id = ask(pool, csv_data=csv(100))
    seen = 0

    def advance_and_cancel(*arguments: Any, **members: Any) -> bool:  # noqa: ANN401 - passed on
        nonlocal seen
        seen += 1
        if seen == 3:
            cancel_backfill(pool, backfill_id, tenant_id="acme", now=NOW)
        return advance_backfill(*arguments, **members)

    monkeypatch.setattr(runner, "advance_backfill", advance_and_cancel)
    assert run(database_url, backfill_id).status == "cancelled"
    assert stored(pool, backfill_id).counts == RowCounts(accepted=54, failed=6)
    assert len(ledger_rows(pool, ["acme"])) == 54
    cancel_backfill(pool, backfill_id, tenant_id="acme", now=NOW)
    done = ask(pool, csv_data=csv(1))
    run(database_url, done)
    with pytest.raises(Conflict, match="it is completed"):
        cancel_backfill(pool, done, tenant_id=None, now=NOW)


def test_the_report_ends_at_its_bound(tmp_path: Path) -> None:
    """Whole lines up to the bound, none beyond, and the first ones can be read."""
    errors = [RowError(row=number, field="ts", code="invalid_input", message="x") for number in range(1, 101)]
    path = tmp_path / "backfills" / "r.jsonl"
    with ErrorReport(path, committed_bytes=0, most_bytes=1000) as report:
        report.append(errors[:50])
        report.append(errors[50:])
        length = report.length
    assert length == path.stat().st_size <= 1000
    rows = [error.row for error in load_report(path, committed_bytes=length, limit=1000)]
    assert rows == list(range(1, len(rows) + 1))
    assert 10 < len(rows) < 50
    assert len(load_report(path, committed_bytes=length, limit=3)) == 3
    assert load_report(path, committed_bytes=length - 1, limit=1000)[-1].row == len(rows) - 1
    assert load_report(tmp_path / "none", committed_bytes=9, limit=3) == []


def test_reports_are_deleted_when_nobody_asks_any_more(pool: ConnectionPool, database_url: str, tmp_path: Path) -> None:
    """Of operations that ended before then; what is not ended, younger or no report of ours stays."""
    ended, waiting = ask(pool, csv_data=csv(20)), ask(pool, csv_data=csv(20))
    run(database_url, ended, report_path(tmp_path, ended))
    report_path(tmp_path, waiting).write_bytes(b"")
    others = [report_path(tmp_path, uuid4()), tmp_path / "backfills" / "mine.errors.jsonl"]
    for other in others:
        other.write_bytes(b"")
    assert delete_old_reports(pool, tmp_path, before=NOW) == 0
    assert report_path(tmp_path, ended).exists()
    assert delete_old_reports(pool, tmp_path, before=NOW + timedelta(days=1)) == 1
    assert not report_path(tmp_path, ended).exists()
    assert all(path.exists() for path in (report_path(tmp_path, waiting), *others))
    assert load_report(report_path(tmp_path, ended), committed_bytes=stored(pool, ended).report_bytes, limit=9) == []
    assert delete_old_reports(pool, tmp_path / "none", before=NOW) == 0


def test_parquet_says_how_many_rows_it_has_when_it_is_opened(
    pool: ConnectionPool, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket: S3Store
) -> None:
    """Before the first batch is stored."""
    obstore.put(bucket, "f.parquet", parquet(tmp_path / "f.parquet", 50).read_bytes())
    backfill_id = ask(pool, source_url="s3://usage/f.parquet")
    assert stored(pool, backfill_id).source_row_count is None
    with stopping_after(monkeypatch, 0), pytest.raises(PowerCutError):
        run(database_url, backfill_id)
    found = stored(pool, backfill_id)
    assert (found.source_row_count, found.counts.rows) == (50, 0)


def test_the_command_runs_an_operation(pool: ConnectionPool, database_url: str, tmp_path: Path) -> None:
    """`stripemeter backfills run ID`: with the report where the API looks for it, and refused while another runs it."""
    backfill_id = ask(pool, csv_data=csv(11))
    with psycopg.connect(database_url, autocommit=True) as other:
        begin_backfill(other, backfill_id, now=NOW)
        status, _, err = outcome(command(database_url, tmp_path, "backfills", "run", str(backfill_id)))
        assert (status, "another process" in err) == (1, True)
        other.execute("select pg_advisory_unlock_all()")
    status, out, err = outcome(command(database_url, tmp_path, "backfills", "run", str(backfill_id)))
    assert status == 1, err  # two rows are bad
    assert "completed" in out
    assert "11 rows = 9 accepted + 0 duplicates + 0 conflicts + 2 failed + 0 skipped" in out
    report = tmp_path / "home" / "backfills" / f"{backfill_id}.errors.jsonl"
    assert [row for row, _, _ in report_of(report)] == [1, 11]
    with connect(database_url) as tx:
        assert tx.execute("select report_bytes from backfills").fetchone() == (report.stat().st_size,)
