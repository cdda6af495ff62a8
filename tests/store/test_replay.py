"""Replay: a dry run changes nothing and says exactly what apply does; applying twice is applying once."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.errors import Conflict, InvalidInput
from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.meters import put_meter
from stripemeter.pipeline.prove import counters_equal_ledger
from stripemeter.pipeline.recount import recount_slice
from stripemeter.pipeline.replay import Mode, Replayed, replay
from stripemeter.store.postgres import Tx, transaction
from tests.laws.worlds import NOW, Fact, ingest_into, stored_counters

LATE = NOW - timedelta(days=5)


def run(pool: ConnectionPool, mode: Mode, **options: object) -> Replayed:
    """Replay acme's last ten days."""
    return replay(pool, "acme", since=NOW - timedelta(days=10), until=NOW, mode=mode, now=NOW, **options)  # type: ignore[arg-type]


@pytest.fixture
def broken(pool: ConnectionPool, database_url: str) -> None:
    """Three days of usage, a late event in its lane, a counter that lost 2 and one that should not be."""
    with ingest_into(database_url) as ingest:
        ingest.accept([Fact(key="a", ts=NOW - timedelta(hours=1), quantity="3"), Fact(key="b", ts=LATE, quantity="4")])
        ingest.accept([Fact(key="c", customer="y", ts=LATE), Fact(key="o", tenant="other", ts=LATE)])
        fold(pool, now=NOW)
        ingest.accept([Fact(key="late", ts=LATE, quantity="7")])
        fold(pool, now=NOW)
    with transaction(pool) as tx:
        tx.execute("update counters set quantity_sum = quantity_sum - 2 where customer_ref = 'cust_1' and not is_late"
                   " and day = %(day)s and tenant_id = 'acme'", {"day": LATE.date()})  # fmt: skip
        tx.execute("update counters set quantity_sum = 99 where tenant_id = 'other'")


def test_a_dry_run_changes_nothing_and_says_what_apply_does(pool: ConnectionPool, broken: None) -> None:
    """The same changes, by metric: events, late ones, the difference of the sum, whose."""
    before = stored_counters(pool, ["acme", "other"])
    told = run(pool, "dry-run")
    assert stored_counters(pool, ["acme", "other"]) == before
    change = told.changes["api_calls"]
    assert (change.events_found, change.late_events) == (4, 1)
    assert change.counter_delta == 2, "what was lost; the 7 that leave the late lane for the counter change no number"
    assert change.affected_customers == ["cust_1"]
    done = run(pool, "apply")
    assert done.changes == told.changes
    again = run(pool, "apply")
    assert again.changed_counters == 0
    assert again.changes["api_calls"].counter_delta == 0


@pytest.mark.parametrize(
    "spoil",
    [
        "update counters set event_count = event_count + 1 where meter = 'api_calls'",
        "update counters set primary_count = primary_count + 1 where meter = 'api_calls'",
        "update counters set quantity_sum = quantity_sum + 1 where meter = 'api_calls'",
        "update counters set quantity_min = quantity_min + 1 where meter = 'api_calls'",
        "update counters set quantity_max = quantity_max + 1 where meter = 'api_calls'",
        "update counters set quantity_last = quantity_last - 1 where meter = 'api_calls'",
        "update counters set last_ts = last_ts - interval '1 second' where meter = 'api_calls'",
        "update counters set last_seq = last_seq + 1 where meter = 'api_calls'",
        "update counters set first_ts = first_ts - interval '1 second' where meter = 'level'",
        "update counters set unit_microseconds = unit_microseconds + 1 where meter = 'level'",
        "update counter_items set item_count = item_count + 1",
        "delete from counter_items",
        "delete from counters where meter = 'api_calls'",
        "update counters set meter = 'gone' where meter = 'level'",
    ],
)
def test_no_wrong_state_escapes(pool: ConnectionPool, database_url: str, spoil: str) -> None:
    """Whatever of a counter is wrong, a dry run names it, apply says the same and leaves nothing wrong."""
    for document in (
        {"name": "level", "metrics": ["api_calls"], "aggregation": "time_weighted"},
        {"name": "plans", "metrics": ["api_calls"], "aggregation": "unique", "value": "meta.plan"},
    ):
        put_meter(pool, "acme", document, effective_on=None, actor="ann", expected_version=None, now=NOW)
    with ingest_into(database_url) as ingest:
        ingest.accept([Fact(key="a", quantity="3", meta={"plan": "pro"})])
        ingest.accept([Fact(key="b", ts=NOW - timedelta(minutes=9), meta={"plan": "free"})])
    fold(pool, now=NOW)
    assert run(pool, "dry-run").changed_counters == 0
    with transaction(pool) as tx:
        assert tx.execute(spoil).rowcount > 0
    told = run(pool, "dry-run")
    assert told.changed_counters > 0
    assert run(pool, "apply") == told
    assert counters_equal_ledger(pool, [NOW.date()]) == ()
    assert run(pool, "dry-run").changed_counters == 0


@pytest.mark.parametrize(
    ("status", "withheld", "pending"),
    [("approved", 0, 0), ("pending", 1, 1), ("rejected", 1, 0), ("reverted", 1, 0)],
)
def test_late_events_that_count_nowhere_are_told(
    pool: ConnectionPool, broken: None, status: str, withheld: int, pending: int
) -> None:
    """Withheld ones, and of these the pending; inside the window alone. A replay decides nothing about them."""
    with transaction(pool) as tx:
        tx.execute("update adjustments set status = %(status)s", {"status": status})
    told = run(pool, "apply")
    assert (told.withheld_late, told.pending_late) == (withheld, pending)
    assert told.changes["api_calls"].late_events == 1 - withheld
    after = replay(pool, "acme", since=LATE + timedelta(hours=1), until=NOW, mode="dry-run", now=NOW)
    assert (after.withheld_late, after.pending_late) == (0, 0)


def test_the_end_of_time_is_an_empty_page(pool: ConnectionPool, broken: None) -> None:
    """Days after tomorrow are passed over, to the last one there is; the watermark is told all the same."""
    end = NOW.replace(year=9999, month=12, day=31)
    page = replay(pool, "acme", since=end - timedelta(days=2), until=end, mode="apply", now=NOW)
    assert (page.days, page.next_day, page.changes) == (0, None, {})
    assert page.watermark.isdigit()
    reaching = replay(pool, "acme", since=NOW, until=end, mode="dry-run", now=NOW)
    assert (reaching.days, reaching.next_day) == (2, None)
    first = replay(pool, "acme", since=NOW.replace(year=1, month=1, day=1), until=end, mode="dry-run", now=NOW)
    assert first.next_day == date(1, 2, 1)


def test_apply_repairs_its_own_tenant_alone(pool: ConnectionPool, broken: None) -> None:
    """Totals are the ledger's, late events absorbed; another tenant's wrong counter stays as it was."""
    run(pool, "apply")
    mine = stored_counters(pool, ["acme"])
    assert mine["acme", "cust_1", "api_calls", LATE.date()].total == Decimal(11)
    mismatches = counters_equal_ledger(pool, [LATE.date(), NOW.date()])
    assert {mismatch.tenant_id for mismatch in mismatches} == {"other"}
    with transaction(pool) as tx:
        assert tx.execute("select status from adjustments").fetchall() == [("absorbed",)]


def test_pages_go_on_where_they_ended(pool: ConnectionPool, broken: None) -> None:
    """Three days a page: together the same changes as at once."""
    whole = run(pool, "dry-run")
    next_day, changed, days = None, 0, 0
    while True:
        page = run(pool, "dry-run", max_days=3, next_day=next_day)
        changed, days, next_day = changed + page.changed_counters, days + page.days, page.next_day
        if next_day is None:
            break
    assert (changed, days) == (whole.changed_counters, whole.days)


def test_a_watermark_refuses_what_was_not_shown(pool: ConnectionPool, database_url: str, broken: None) -> None:
    """Something was folded since the dry run: apply asks for another, and changed nothing."""
    watermark = run(pool, "dry-run").watermark
    with ingest_into(database_url) as ingest:
        ingest.accept([Fact(key="new", ts=NOW)])
    fold(pool, now=NOW)
    before = stored_counters(pool, ["acme"])
    with pytest.raises(Conflict):
        run(pool, "apply", watermark=watermark)
    assert stored_counters(pool, ["acme"]) == before
    assert run(pool, "apply", watermark=run(pool, "dry-run").watermark).changed_counters > 0


def test_a_watermark_is_of_the_tenant_and_the_days_alone(pool: ConnectionPool, database_url: str, broken: None) -> None:
    """Folds of another tenant and of another day do not spoil it, nor does applying: a retry is accepted."""
    watermark = run(pool, "dry-run").watermark
    with ingest_into(database_url) as ingest:
        ingest.accept([Fact(key="theirs", tenant="other", ts=LATE), Fact(key="before", ts=NOW - timedelta(days=20))])
        fold(pool, now=NOW)
        ingest.accept([Fact(key="unfolded", ts=LATE)])
    done = run(pool, "apply", watermark=watermark)
    assert (done.watermark, done.changed_counters > 0) == (watermark, True)
    assert run(pool, "apply", watermark=watermark).changed_counters == 0
    with pytest.raises(Conflict):
        run(pool, "apply", watermark=watermark, max_days=3)  # another page


def test_a_rule_that_changed_spoils_a_watermark(pool: ConnectionPool, broken: None) -> None:
    """The days would come to something else than was shown."""
    watermark = run(pool, "dry-run").watermark
    put_meter(
        pool, "acme", {"name": "api_calls", "aggregation": "max", "value": 1}, effective_on=None, actor="ann",
        expected_version=None, now=NOW, recount_seconds=0,
    )  # fmt: skip
    with pytest.raises(Conflict):
        run(pool, "apply", watermark=watermark)


def test_a_page_is_applied_wholly_or_not_at_all(
    pool: ConnectionPool, broken: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever stops its last day, the days before stay as they were, and the same page can be applied again."""
    told = run(pool, "dry-run")
    before = stored_counters(pool, ["acme"])

    def stop(tx: Tx, day: date, **scope: Any) -> int:  # noqa: ANN401 - passed on
        if day == NOW.date():
            raise RuntimeError("power cut")
        return recount_slice(tx, day, **scope)

    with monkeypatch.context() as patch:
        patch.setattr("stripemeter.pipeline.replay.recount_slice", stop)
        with pytest.raises(RuntimeError):
            run(pool, "apply", watermark=told.watermark)
    assert stored_counters(pool, ["acme"]) == before
    with transaction(pool) as tx:
        assert tx.execute("select status from adjustments").fetchall() == [("approved",)]
    assert run(pool, "apply", watermark=told.watermark) == told


def test_an_empty_range_is_refused(pool: ConnectionPool) -> None:
    """until must be after since."""
    with pytest.raises(InvalidInput):
        replay(pool, "acme", since=NOW, until=NOW, mode="dry-run", now=NOW)
