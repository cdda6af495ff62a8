"""Reverting a whole backfill: every event it stored counts nowhere, once, whatever dies; nothing else changes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.errors import Conflict, NotFound
from stripemeter.metering.days import days_between
from stripemeter.pipeline import revert as reverting
from stripemeter.pipeline.archive import archive_days
from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.prove import conservation, counters_equal_ledger
from stripemeter.pipeline.retention import drop_month
from stripemeter.pipeline.revert import request_revert, revert_backfill, revert_within
from stripemeter.pipeline.void import void_event
from stripemeter.store.backfills import Backfill, count_voided, finish_backfill
from stripemeter.store.lake import LocalLake
from stripemeter.store.postgres import transaction
from tests.backfills import PowerCutError, asked, create, import_file, line, stored, write
from tests.laws.worlds import NOW, Fact, ingest_into
from tests.store.test_backfill_runs import command, outcome

JANUARY = days_between(date(2026, 1, 1), date(2026, 1, 31))
HTTP = Fact(customer="cust_1", quantity="5", ts=datetime(2026, 1, 5, 12, tzinfo=UTC), key="http")


def revert(pool: ConnectionPool, database_url: str, backfill_id: UUID) -> Backfill:
    """Ask and do it."""
    with transaction(pool) as tx:
        request_revert(tx, backfill_id, tenant_id="acme", reason="wrong file", actor="ada", now=NOW)
    return revert_backfill(database_url, backfill_id, clock=lambda: NOW)


def counted(pool: ConnectionPool) -> Decimal:
    """Sum of all counters."""
    with transaction(pool) as tx:
        row = tx.execute("select coalesce(sum(quantity_sum), 0) from counters").fetchone()
    assert row is not None
    return Decimal(row[0])


def voided_keys(pool: ConnectionPool) -> Sequence[str]:
    """Keys of voided events."""
    with transaction(pool) as tx:
        return [row[0] for row in tx.execute("select idempotency_key from event_voids order by seq").fetchall()]


def in_hand(pool: ConnectionPool, database_url: str, tmp_path: Path, rows: int = 100) -> UUID:
    """An event over HTTP, then a file with the same and others; all folded."""
    with ingest_into(database_url) as ingest:
        ingest.accept([HTTP])
    same = "api_calls,cust_1,5,2026-01-05T12:00:00Z,http"
    found = import_file(
        pool, database_url, write(tmp_path / "f.csv", [same, *(line(number) for number in range(rows))])
    )
    assert (found.counts.accepted, found.counts.duplicates) == (rows, 1)
    fold(pool)
    assert counted(pool) == rows + 5
    return found.id


def test_what_it_stored_counts_nowhere(pool: ConnectionPool, database_url: str, tmp_path: Path) -> None:
    """Folded or not; its duplicates were somebody else's and stay; audited; the laws hold; the keys stay taken."""
    backfill_id = in_hand(pool, database_url, tmp_path)
    again = import_file(pool, database_url, write(tmp_path / "g.csv", [line(100)]))  # not folded
    assert revert(pool, database_url, backfill_id).voided_count == 100
    assert revert(pool, database_url, again.id).voided_count == 1
    fold(pool)
    assert counted(pool) == 5
    found = stored(pool, backfill_id)
    assert (found.reverted_at, found.reverted_by, found.revert_reason) == (NOW, "ada", "wrong file")
    with transaction(pool) as tx:
        audit = tx.execute("select reason, actor, backfill_id, count(*) from event_voids group by 1, 2, 3").fetchall()
    assert sorted(audit, key=lambda row: -int(row[3])) == [
        ("wrong file", "ada", backfill_id, 100),
        ("wrong file", "ada", again.id, 1),
    ]
    assert counters_equal_ledger(pool, JANUARY) == ()
    assert all(tenant.holds for tenant in conservation(pool))
    third = import_file(pool, database_url, write(tmp_path / "h.csv", [line(number) for number in range(100)]))
    assert third.counts.duplicates == 100


def test_a_revert_goes_on_after_a_crash(
    pool: ConnectionPool, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that did not commit is voided by the next attempt, and what was voided is not counted again."""
    monkeypatch.setattr(reverting, "BATCH_EVENTS", 30)
    backfill_id = in_hand(pool, database_url, tmp_path)
    seen = 0

    def cut(*arguments: Any, **members: Any) -> None:  # noqa: ANN401 - passed on
        nonlocal seen
        seen += 1
        count_voided(*arguments, **members)
        if seen > 2:
            raise PowerCutError

    with monkeypatch.context() as patch:
        patch.setattr(reverting, "count_voided", cut)
        with pytest.raises(PowerCutError):
            revert(pool, database_url, backfill_id)
    assert (stored(pool, backfill_id).voided_count, len(voided_keys(pool))) == (60, 60)
    assert stored(pool, backfill_id).reverted_at is None
    assert counted(pool) == 45  # what is read is right meanwhile
    assert counters_equal_ledger(pool, JANUARY) == ()
    assert revert(pool, database_url, backfill_id).voided_count == 100
    assert counted(pool) == 5


def test_an_answer_waits_only_so_long(
    pool: ConnectionPool, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the time is up the wish stands, for whoever looks for waiting operations."""
    monkeypatch.setattr(reverting, "BATCH_EVENTS", 30)
    backfill_id = in_hand(pool, database_url, tmp_path)

    def within(seconds: int) -> Backfill:
        return revert_within(
            pool, backfill_id, tenant_id="acme", reason="x", actor="ada", clock=lambda: NOW, budget_seconds=seconds
        )

    begun = within(0)
    assert (begun.revert_reason, begun.reverted_at, begun.voided_count) == ("x", None, 0)
    assert within(600).voided_count == 100
    assert within(0).reverted_at == NOW


def test_an_event_voided_by_hand_keeps_its_reason(pool: ConnectionPool, database_url: str, tmp_path: Path) -> None:
    """It is passed over."""
    backfill_id = in_hand(pool, database_url, tmp_path)
    void_event(pool, "acme", "key-7", reason="by hand", actor="bob", now=NOW)
    assert revert(pool, database_url, backfill_id).voided_count == 99
    with transaction(pool) as tx:
        assert tx.execute("select reason from event_voids where idempotency_key = 'key-7'").fetchone() == ("by hand",)
    assert counted(pool) == 5


def test_only_what_has_ended_is_reverted(pool: ConnectionPool, database_url: str, tmp_path: Path) -> None:
    """A running one must be cancelled first; another tenant's is unknown; nobody's wish is nobody's revert."""
    backfill_id = create(pool, asked(write(tmp_path / "f.csv", [line(1)])))
    with pytest.raises(Conflict, match="cancel it first"):
        revert(pool, database_url, backfill_id)
    with transaction(pool) as tx:
        finish_backfill(tx, backfill_id, status="cancelled", now=NOW)
    with pytest.raises(NotFound), transaction(pool) as tx:
        request_revert(tx, backfill_id, tenant_id="other", reason="x", actor="x", now=NOW)
    with pytest.raises(Conflict, match="nobody asked"):
        revert_backfill(database_url, backfill_id, clock=lambda: NOW)
    assert revert(pool, database_url, backfill_id).reverted_at == NOW


def test_events_of_a_dropped_month_are_voided_too(pool: ConnectionPool, database_url: str, tmp_path: Path) -> None:
    """They are found in the lake."""
    backfill_id = in_hand(pool, database_url, tmp_path)
    lake = LocalLake(root=tmp_path / "lake")
    list(archive_days(pool, lake, JANUARY))
    drop_month(pool, lake, date(2026, 1, 1), now=NOW)
    assert revert(pool, database_url, backfill_id).voided_count == 100
    assert counted(pool) == 5
    assert counters_equal_ledger(pool, JANUARY) == ()


def test_the_command_reverts(pool: ConnectionPool, database_url: str, tmp_path: Path) -> None:
    """`stripemeter backfills revert ID --reason ...`."""
    backfill_id = in_hand(pool, database_url, tmp_path, rows=10)
    status, out, err = outcome(
        command(database_url, tmp_path, "backfills", "revert", str(backfill_id), "--reason", "wrong file")
    )
    assert status == 0, err
    assert "10 of 10 events voided" in out
    assert counted(pool) == 5
    assert (stored(pool, backfill_id).reverted_by or "").startswith("cli:")
