"""Imports of files: every row comes to exactly one of five outcomes, and a failure names its row."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from stripemeter.errors import InvalidInput, NotFound
from stripemeter.metering.events import IngestLimits, UsageEvent, parse_event
from stripemeter.metering.rows import RowRules, fields_of, parse_row
from stripemeter.pipeline.backfill import check_source, preview_file
from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.prove import conservation
from stripemeter.store.backfills import (
    RowCounts,
)
from stripemeter.store.files import find_source, format_of
from stripemeter.store.postgres import transaction
from tests.backfills import (
    HEADING,
    asked,
    create,
    import_file,
    line,
    report_of,
    run,
    write,
)
from tests.laws.worlds import NOW, Fact, ingest_into, ledger_rows


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


def test_what_an_operation_stored_carries_its_id(pool: ConnectionPool, database_url: str, tmp_path: Path) -> None:
    """New events name the operation that brought them; what stood before, and what comes over HTTP, names none."""
    with ingest_into(database_url) as ingest:
        ingest.accept([Fact(key="http")])
    found = import_file(pool, database_url, write(tmp_path / "f.csv", [line(1), line(2)]))
    again = import_file(pool, database_url, write(tmp_path / "g.csv", [line(2), line(3)]))
    with transaction(pool) as tx:
        rows = tx.execute("select idempotency_key, backfill_id from events").fetchall()
    assert dict(rows) == {"http": None, "key-1": found.id, "key-2": found.id, "key-3": again.id}


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
    assert (refused.value.field, str(refused.value)) == (failed.field, failed.message)


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
        check_source(asked(write(tmp_path / "f.csv", [], heading), **members), limits=IngestLimits())


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
