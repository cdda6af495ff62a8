"""Rows in the lake alone: listings, explanations and usage finer than a day answer as before the month was dropped."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.errors import InvariantBroken, TookTooLong, Unavailable
from stripemeter.pipeline.archive import archive_days
from stripemeter.pipeline.customers import CustomerChange, put_customer
from stripemeter.pipeline.explain import explain_usage
from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.meters import put_meter
from stripemeter.pipeline.retention import drop_month
from stripemeter.pipeline.void import void_event
from stripemeter.store import archived_rows
from stripemeter.store.archived_rows import bring_rows
from stripemeter.store.lake import LocalLake
from stripemeter.store.listing import EventFilter, EventPage, Sort, load_events
from stripemeter.store.metered_windows import load_metered_windows
from stripemeter.store.postgres import connect, transaction
from stripemeter.store.usage_windows import UsageQuestion, load_usage_windows
from tests.laws.worlds import NOW, Fact, ingest_into

MONTH = date(2025, 1, 1)
START = datetime(2025, 1, 1, tzinfo=UTC)
DAYS = [MONTH + timedelta(days=n) for n in (0, 14, 30)]
HOURS = [START + timedelta(hours=n) for n in (0, 7, 350, 351, 720, 745, 900)]
TENANTS = ("plain", "ruled")


def facts(prefix: str, step: int = 1) -> list[Fact]:
    """Events of both tenants on some days of January and one of February, texts and numbers at their widest."""
    return [
        Fact(
            tenant=tenant,
            customer=f"c{number % 3}",
            metric="api_calls" if number % 4 else "other",
            quantity=f"{number}.000000000001",
            ts=datetime.combine(day, datetime.min.time(), UTC) + timedelta(hours=5 * number % 24, microseconds=number),
            key=f"{prefix}{day}{number}",
            resource=None if number % 2 else "r\t\\N",
            meta={"region": ["eu", "us\n\"'", None][number % 3], "n": number},
        )
        for tenant in TENANTS
        for day in (*DAYS, date(2025, 2, 3))
        for number in range(0, 9, step)
    ]


def send(database_url: str, more: list[Fact]) -> None:
    """One request."""
    with ingest_into(database_url) as ingest:
        ingest.accept(more)


def decide_rules(pool: ConnectionPool) -> None:
    """A meter with a filter and another name, of the tenant `ruled`."""
    document = {"name": "split", "metrics": ["api_calls"], "filter": {"field": "meta.n", "op": "gt", "value": 2}}
    put_meter(pool, "ruled", document, effective_on=None, actor="ann", expected_version=None, now=NOW)
    put_customer(pool, tenant_id="ruled", customer_ref="c0", change=CustomerChange(aliases=("c2",)), now=NOW)


@pytest.fixture
def lake(tmp_path: Path) -> LocalLake:
    """A lake that does not exist yet."""
    return LocalLake(root=tmp_path / "lake")


def drop(pool: ConnectionPool, lake: LocalLake) -> None:
    """January leaves Postgres."""
    list(archive_days(pool, lake, DAYS))
    drop_month(pool, lake, MONTH, now=NOW)


def pages(pool: ConnectionPool, which: EventFilter, sort: Sort, *, is_descending: bool) -> Iterator[EventPage]:
    """Every page of four, by cursor."""
    after = None
    while True:
        page = load_events(pool, which, sort=sort, is_descending=is_descending, limit=4, after=after)
        yield page
        if not page.has_more:
            return
        after = page.events[-1].key(sort)


def listed(pool: ConnectionPool, tenant_id: str) -> list[Any]:
    """Every order of every filter, page by page."""
    whole: dict[str, Any] = {"tenant_id": tenant_id}
    filters = [
        EventFilter(**whole),
        EventFilter(**whole, metric="other", customer_ref="c1"),
        EventFilter(**whole, source="http", start=HOURS[1], end=HOURS[-1]),
        EventFilter(**whole, start=HOURS[2], end=HOURS[4]),
        EventFilter(**whole, end=START - timedelta(microseconds=1)),
    ]
    return [
        list(pages(pool, which, sort, is_descending=is_descending))
        for which in filters
        for sort in get_args(Sort)
        for is_descending in (False, True)
    ]


def explained(pool: ConnectionPool, tenant_id: str) -> list[Any]:
    """Every event that explains January's usage of a meter, but where it lies."""
    found = []
    for meter in ("api_calls", "split"):
        after = None
        while True:
            asked = {"tenant_id": tenant_id, "customer_ref": "c0", "meter": meter}
            span = {"first_on": MONTH, "last_on": date(2025, 1, 31)}
            page = explain_usage(pool, **asked, **span, limit=2, after=after)  # type: ignore[arg-type]
            found += [(row.event.seq, row.event.meta, row.state, row.is_counting, row.reading) for row in page.events]
            if not page.has_more:
                break
            after = (page.events[-1].event.ts, page.events[-1].event.seq)
    return found


def asked_for_windows(pool: ConnectionPool, tenant_id: str) -> list[Any]:
    """Usage that the counters cannot answer, of a metric and of a meter."""
    variants: list[dict[str, Any]] = [
        {},
        {"customer_refs": ["c0"]},
        {"source": "http", "group_by": "meta", "group_path": ["region"]},
        {"resource_id": "r\t\\N", "aggregation": "last"},
        {"meta_filters": [(["n"], "3")], "group_by": "customerRef"},
        {"known_at": NOW - timedelta(seconds=1)},
        {"known_at": NOW},
    ]
    questions = [UsageQuestion(tenant_id=tenant_id, metric="api_calls", edges=HOURS, **each) for each in variants]
    plain = [load_usage_windows(pool, question, reader="ledger") for question in questions]
    questions = [UsageQuestion(tenant_id=tenant_id, metric="split", edges=HOURS, **each) for each in variants]
    metered = [load_metered_windows(pool, question, now=NOW, reader="ledger") for question in questions]
    return [found and [found.cells, found.freshness.pending_count] for found in (*plain, *metered)]


def answers(pool: ConnectionPool) -> list[Any]:
    """Everything anybody asks of rows."""
    return [ask(pool, tenant) for ask in (listed, explained, asked_for_windows) for tenant in TENANTS]


def test_a_dropped_month_answers_as_before(pool: ConnectionPool, database_url: str, lake: LocalLake) -> None:
    """Every page, total, explanation and number is the same; nothing of it stays in the session."""
    decide_rules(pool)
    send(database_url, facts("a"))
    fold(pool, now=NOW)
    void_event(pool, "ruled", f"a{DAYS[1]}5", reason="wrong", actor="ann", now=NOW)
    before = answers(pool)
    drop(pool, lake)
    assert answers(pool) == before
    listings, explanations, windows = before[:2], before[2:4], before[4:]
    assert all(len(each) == 40 and len(each[0]) == 9 for each in listings)
    assert all(len(each) > 5 for each in explanations)
    assert [sum(cell.event_count for cell in cells) for cells, _ in windows[1][7:8]] == [15]
    with transaction(pool) as tx:
        assert tx.execute("select count(*) from pg_class where relpersistence = 't'").fetchone() == (0,)
        assert tx.execute("select count(*) from events where ts < '2025-02-01'").fetchone() == (0,)


def test_rows_that_came_later_are_there_once(pool: ConnectionPool, database_url: str, lake: LocalLake) -> None:
    """Stored after the drop, then archived so that both have them, then voided: as if nothing had been dropped."""
    decide_rules(pool)
    send(database_url, facts("a"))
    fold(pool, now=NOW)
    drop(pool, lake)
    send(database_url, facts("b", step=4))
    unfolded = answers(pool)
    fold(pool, now=NOW)
    folded = answers(pool)
    assert folded[:2] == unfolded[:2]
    list(archive_days(pool, lake, DAYS))
    assert answers(pool) == folded
    void_event(pool, "plain", f"a{DAYS[0]}0", reason="wrong", actor="ann", now=NOW)
    seen = {event.idempotency_key: event.voided_at for page in pages_of_plain(pool) for event in page.events}
    assert seen[f"a{DAYS[0]}0"] == NOW
    assert seen[f"b{DAYS[0]}4"] is None
    assert len(seen) == 4 * 9 + 4 * 3
    list(archive_days(pool, lake, DAYS))
    drop_month(pool, lake, MONTH, now=NOW)
    assert {event.idempotency_key for page in pages_of_plain(pool) for event in page.events} == set(seen)


def pages_of_plain(pool: ConnectionPool) -> list[EventPage]:
    """All of one tenant, newest first."""
    return list(pages(pool, EventFilter(tenant_id="plain"), "ts", is_descending=True))


def test_a_damaged_or_missing_file_is_no_answer(pool: ConnectionPool, database_url: str, lake: LocalLake) -> None:
    """Never a page or a number that silently lacks what the lake had; other months answer as ever."""
    send(database_url, facts("a"))
    fold(pool, now=NOW)
    drop(pool, lake)
    part = next(lake.root.glob("events/*/day=2025-01-15/part.parquet"))
    part.write_bytes(part.read_bytes()[:-1])
    for sort in get_args(Sort):
        with pytest.raises(InvariantBroken, match="backup of the lake"):
            load_events(pool, EventFilter(tenant_id="plain"), sort=sort, is_descending=True, limit=99)
    with pytest.raises(InvariantBroken, match="backup of the lake"):
        load_usage_windows(pool, UsageQuestion(tenant_id="plain", metric="api_calls", edges=HOURS), reader="ledger")
    since = EventFilter(tenant_id="plain", start=datetime(2025, 2, 1, tzinfo=UTC))
    assert len(load_events(pool, since, sort="ts", is_descending=True, limit=99).events) == 9


def test_a_question_to_very_much_of_the_lake_is_given_up(
    pool: ConnectionPool, database_url: str, lake: LocalLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a file is opened, and before rows are copied; the message says what to ask instead."""
    send(database_url, facts("a"))
    fold(pool, now=NOW)
    drop(pool, lake)
    which = EventFilter(tenant_id="plain")
    monkeypatch.setattr(archived_rows, "MOST_LOOKED_AT", 53)
    for sort in get_args(Sort):
        with pytest.raises(TookTooLong, match=r"54 events in the lake.*shorter range"):
            load_events(pool, which, sort=sort, is_descending=True, limit=99)
    assert len(load_events(pool, which, sort="ts", is_descending=True, limit=20).events) == 20
    monkeypatch.setattr(archived_rows, "MOST_LOOKED_AT", 54)
    monkeypatch.setattr(archived_rows, "MOST_BROUGHT", 26)
    with pytest.raises(TookTooLong, match="more than 26"):
        load_events(pool, which, sort="metric", is_descending=True, limit=99)
    monkeypatch.setattr(archived_rows, "MOST_BROUGHT", 27)
    assert len(load_events(pool, which, sort="metric", is_descending=True, limit=99).events) == 36


def test_a_month_cannot_leave_under_a_question(pool: ConnectionPool, database_url: str, lake: LocalLake) -> None:
    """Whoever asked first is answered first: the drop gives up waiting, and works once the question has ended."""
    send(database_url, facts("a"))
    fold(pool, now=NOW)
    list(archive_days(pool, lake, DAYS))
    with connect(database_url) as reader:
        assert bring_rows(reader, None, None, tenant_id="plain") == 0
        with pytest.raises(Unavailable):
            drop_month(pool, lake, MONTH, now=NOW)
    assert drop_month(pool, lake, MONTH, now=NOW).events == 54
