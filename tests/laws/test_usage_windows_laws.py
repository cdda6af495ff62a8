"""Counters, ledger and a pencil answer the same question with the same number, before, during and after folds."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg_pool import ConnectionPool

from stripemeter.errors import InvalidInput, TookTooLong
from stripemeter.metering.windows import Window, window_edges
from stripemeter.pipeline.fold import fold
from stripemeter.store.postgres import transaction
from stripemeter.store.usage_windows import (
    Aggregation,
    GroupBy,
    Reader,
    UniqueOf,
    UsageQuestion,
    UsageWindows,
    load_usage_windows,
    reader_of,
)
from tests.laws.worlds import NOW, Fact, ingest_into

BERLIN = ZoneInfo("Europe/Berlin")
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe"]
FIRST = datetime(2026, 10, 24, tzinfo=UTC)
LAST = datetime(2026, 11, 3, tzinfo=UTC)
AGGREGATIONS: list[Aggregation] = ["sum", "count", "min", "max", "last", "avg", "unique"]
READERS: list[Reader] = ["counters", "ledger"]
# Few instants, many ties, both sides of UTC midnights and of the ends of daylight saving in Berlin and New York.
INSTANTS = st.one_of(
    st.sampled_from(
        [
            FIRST,
            FIRST - timedelta(microseconds=1),
            datetime(2026, 10, 24, 22, tzinfo=UTC),
            datetime(2026, 10, 25, tzinfo=UTC),
            datetime(2026, 10, 25, 0, 30, tzinfo=UTC),
            datetime(2026, 10, 25, 1, tzinfo=UTC),
            datetime(2026, 11, 1, 5, 59, 59, 999999, tzinfo=UTC),
            datetime(2026, 11, 1, 6, tzinfo=UTC),
            LAST - timedelta(microseconds=1),
            LAST,
        ]
    ),
    st.datetimes(FIRST.replace(tzinfo=None), LAST.replace(tzinfo=None), timezones=st.just(UTC)),
)
QUANTITIES = st.one_of(
    st.sampled_from(["0", "0.000000000001", "99999999999999999999999999.999999999999", "1"]),
    st.integers(0, 10**15).map(lambda scaled: format(Decimal(scaled).scaleb(-6), "f")),
)
FACTS = st.lists(
    st.builds(
        Fact,
        customer=st.sampled_from(["a", "b", 'ä,"']),
        metric=st.sampled_from(["calls", "seats"]),
        quantity=QUANTITIES,
        ts=INSTANTS,
        resource=st.sampled_from([None, "r1", "r2"]),
        meta=st.sampled_from([None, {"region": "eu"}, {"region": ""}, {"plan": {"name": "pro"}, "region": 1}]),
    ),
    max_size=25,
)


def pencil(question: UsageQuestion, facts: Sequence[Fact]) -> list[tuple[datetime, str | None, Decimal | None, int]]:
    """(window start, group, number, events), by going through all facts for every window."""
    asked = [fact for fact in facts if _is_asked(question, fact)]
    groups = {_group(question, fact) for fact in asked} if question.group_by != "none" else {None}
    answer = []
    for start, end in zip(question.edges, question.edges[1:], strict=False):
        for group in sorted(groups, key=lambda group: (group is not None, group)):
            inside = [fact for fact in asked if start <= fact.ts < end and _group(question, fact) == group]
            answer.append((start, group, _number(question, inside), len(inside)))
    return answer


def answer_of(found: UsageWindows) -> list[tuple[datetime, str | None, Decimal | None, int]]:
    """The same of what was read."""
    return [(cell.start, cell.group, cell.quantity, cell.event_count) for cell in found.cells]


@pytest.fixture
def load(pool: ConnectionPool) -> Callable[[str, list[Fact], list[Fact]], list[Fact]]:
    """`load(tenant, before, after)`: stores facts, folds, stores more; they in ledger order, with that tenant."""

    def store(tenant: str, before: list[Fact], after: list[Fact]) -> list[Fact]:
        mine = [replace(fact, tenant=tenant, key=f"k{n}") for n, fact in enumerate([*before, *after])]
        with ingest_into(_url(pool)) as ingest:
            for fact in mine[: len(before)]:
                ingest.accept([fact])
            fold(pool)
            for fact in mine[len(before) :]:
                ingest.accept([fact])
        return mine

    return store


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_counters_ledger_and_pencil_agree_about_days(
    pool: ConnectionPool, load: Callable[..., list[Fact]], aggregation: Aggregation
) -> None:
    """Whole UTC days, weeks and months, by customer or not, half of the events folded and half not."""

    @given(data=st.data(), before=FACTS, after=FACTS)
    @settings(max_examples=8)
    def law(data: st.DataObject, before: list[Fact], after: list[Fact]) -> None:
        tenant = uuid.uuid4().hex
        facts = load(tenant, before, after)
        for window in ("day", "week", "month"):
            question = UsageQuestion(
                tenant_id=tenant,
                metric="calls",
                edges=window_edges(FIRST, LAST, window=window, zone=ZoneInfo("UTC"), most=100),
                aggregation=aggregation,
                unique_of="customerRef" if aggregation == "unique" else None,
                customer_refs=data.draw(st.sampled_from([None, ["a"], ["b", 'ä,"'], ["nobody"]])),
                group_by=data.draw(st.sampled_from(["none", "customerRef"])),
            )
            assert reader_of(question) == "counters"
            by_counters = load_usage_windows(pool, question)
            by_ledger = load_usage_windows(pool, question, reader="ledger")
            assert (by_counters.reader, by_ledger.reader) == ("counters", "ledger")
            assert answer_of(by_counters) == answer_of(by_ledger) == pencil(question, facts)
            assert [cell.quantity_sum for cell in by_counters.cells] == [cell.quantity_sum for cell in by_ledger.cells]
            assert by_counters.freshness == by_ledger.freshness
            fold(pool)
            assert answer_of(load_usage_windows(pool, question)) == pencil(question, facts)

    law()


def test_the_ledger_answers_any_zone_window_group_and_filter(
    pool: ConnectionPool, load: Callable[..., list[Fact]]
) -> None:
    """Everything the counters do not know, against the pencil."""

    @given(data=st.data(), before=FACTS, after=FACTS)
    @settings(max_examples=25)
    def law(data: st.DataObject, before: list[Fact], after: list[Fact]) -> None:
        tenant = uuid.uuid4().hex
        facts = load(tenant, before, after)
        window: Window = data.draw(st.sampled_from(["hour", "day", "week", "month"]))
        zone = ZoneInfo(data.draw(st.sampled_from(ZONES)))
        start = data.draw(INSTANTS.filter(lambda at: at < LAST))
        aggregation = data.draw(st.sampled_from(AGGREGATIONS))
        group_by: GroupBy = data.draw(st.sampled_from(["none", "customerRef", "source", "resourceId", "meta"]))
        unique_of: UniqueOf = data.draw(st.sampled_from(["customerRef", "resourceId"]))
        question = UsageQuestion(
            tenant_id=tenant,
            metric="calls",
            edges=window_edges(start, LAST, window=window, zone=zone, most=1000),
            aggregation=aggregation,
            unique_of=unique_of if aggregation == "unique" else None,
            resource_id=data.draw(st.sampled_from([None, "r1"])),
            source=data.draw(st.sampled_from([None, "http"])),
            meta_filters=data.draw(
                st.sampled_from([[], [(["region"], "eu")], [(["plan", "name"], "pro"), (["region"], "1")]])
            ),
            group_by=group_by,
            group_path=["region"] if group_by == "meta" else [],
        )
        assert answer_of(load_usage_windows(pool, question, reader="ledger")) == pencil(question, facts)

    law()


def test_readers_agree_while_a_fold_runs(pool: ConnectionPool, load: Callable[..., list[Fact]]) -> None:
    """Each read is one snapshot: the cursor moves between reads, never inside one."""
    facts = [
        Fact(metric="calls", customer=f"c{n % 7}", quantity=f"{n}.5", ts=FIRST + timedelta(hours=n)) for n in range(90)
    ]
    stored = load("racing", [], facts)
    question = UsageQuestion(
        tenant_id="racing", metric="calls", edges=_days(), aggregation="last", group_by="customerRef"
    )
    failures: list[BaseException] = []

    def fold_in_slices() -> None:
        try:
            while fold(pool, max_events=3).has_more:
                pass
        except BaseException as error:  # noqa: BLE001 - reported by the test itself
            failures.append(error)

    folding = threading.Thread(target=fold_in_slices)
    expected = pencil(question, stored)
    folding.start()
    while folding.is_alive():
        assert answer_of(load_usage_windows(pool, question)) == expected
    folding.join()
    assert failures == []
    assert answer_of(load_usage_windows(pool, question)) == expected
    assert load_usage_windows(pool, question).freshness.pending_count == 0


def test_of_equal_times_the_later_ledger_row_is_last(pool: ConnectionPool, load: Callable[..., list[Fact]]) -> None:
    """Both readers break a tie as the counters do: a correction sent later counts."""
    load("tied", [Fact(metric="calls", quantity="9", ts=FIRST)], [Fact(metric="calls", quantity="3", ts=FIRST)])
    question = UsageQuestion(tenant_id="tied", metric="calls", edges=_days()[:2], aggregation="last")
    for reader in READERS:
        assert [cell.quantity for cell in load_usage_windows(pool, question, reader=reader).cells] == [3]


def test_what_was_known_then_is_what_had_arrived(pool: ConnectionPool) -> None:
    """Law of knowledge time: as of T, exactly the events received until T count, folded or not, late or not."""
    fact = Fact(tenant="known", metric="calls", quantity="5", ts=FIRST, key="early")
    with ingest_into(_url(pool)) as ingest:
        ingest.accept([fact])
        ingest.accept([replace(fact, quantity="7", key="late")])
    with transaction(pool) as tx:
        rows = tx.execute("select received_at from events where tenant_id = 'known' order by received_at").fetchall()
    (first_at,), (second_at,) = rows
    assert first_at < second_at
    question = UsageQuestion(tenant_id="known", metric="calls", edges=_days()[:2], aggregation="sum")
    tick = timedelta(microseconds=1)
    for _ in range(2):
        for known_at, total in (
            (first_at - tick, 0),
            (first_at, 5),
            (second_at - tick, 5),
            (second_at, 12),
            (None, 12),
        ):
            asked = replace(question, known_at=known_at)
            assert reader_of(asked) == ("counters" if known_at is None else "ledger")
            assert [cell.quantity for cell in load_usage_windows(pool, asked).cells] == [total]
        fold(pool)


@pytest.mark.parametrize(
    "finer",
    [
        {"source": "http"},
        {"resource_id": "r"},
        {"meta_filters": [(["a"], "b")]},
        {"group_by": "source"},
        {"group_by": "resourceId"},
        {"group_by": "meta", "group_path": ["a"]},
        {"aggregation": "unique", "unique_of": "resourceId"},
        {"known_at": NOW},
        {"edges": [FIRST, FIRST + timedelta(hours=1)]},
        {"edges": [FIRST + timedelta(microseconds=1), LAST]},
        {"edges": [FIRST.astimezone(BERLIN).replace(hour=0), LAST.astimezone(BERLIN).replace(hour=0)]},
    ],
)
def test_only_what_counters_know_is_asked_of_them(finer: dict[str, Any]) -> None:
    """Whole UTC days by customer come from the counters; one finer thing, and the ledger answers."""
    coarse = UsageQuestion(tenant_id="t", metric="calls", edges=_days(), customer_refs=["a"], group_by="customerRef")
    assert reader_of(coarse) == "counters"
    assert reader_of(replace(coarse, **finer)) == "ledger"


def test_too_many_groups_cells_or_events_are_refused_never_cut(
    pool: ConnectionPool, load: Callable[..., list[Fact]]
) -> None:
    """Each guard names itself; at the bound the whole answer comes."""
    facts = [Fact(metric="calls", customer=f"c{n}", ts=FIRST) for n in range(1001)]
    with ingest_into(_url(pool)) as ingest:
        ingest.accept([replace(fact, tenant="wide", key=f"k{n}") for n, fact in enumerate(facts[:1000])])
        question = UsageQuestion(tenant_id="wide", metric="calls", edges=_days(), group_by="customerRef")
        for reader in READERS:
            assert len(load_usage_windows(pool, question, reader=reader).cells) == 10_000
            wider = replace(question, edges=[*_days(), LAST + timedelta(days=1)])
            with pytest.raises(InvalidInput, match="11 windows of 1000 groups are more than 10000") as refused:
                load_usage_windows(pool, wider, reader=reader)
            assert refused.value.field == "to"
        ingest.accept([replace(facts[1000], tenant="wide", key="one more")])
    for reader in READERS:
        with pytest.raises(InvalidInput, match="groupBy finds 1001 groups, at most 1000") as refused:
            load_usage_windows(pool, question, reader=reader)
        assert refused.value.field == "groupBy"
    whole = replace(question, group_by="none")
    assert load_usage_windows(pool, whole, reader="ledger", most_events=1001).cells[0].event_count == 1001
    with pytest.raises(InvalidInput, match="more than 1000 events match") as refused:
        load_usage_windows(pool, whole, reader="ledger", most_events=1000)
    assert refused.value.field == "to"


def test_a_query_that_takes_too_long_is_given_up(pool: ConnectionPool) -> None:
    """The server ends it, and the message says what to ask for instead; the next query on the connection is free."""
    question = UsageQuestion(tenant_id="slow", metric="calls", edges=_days())
    with transaction(pool) as blocking:
        blocking.execute("lock table events in access exclusive mode")
        with pytest.raises(TookTooLong, match="given up after 1 s: ask for a shorter range"):
            load_usage_windows(pool, question, timeout_seconds=1)
    assert len(load_usage_windows(pool, question).cells) == 10
    with transaction(pool) as tx:
        assert tx.execute("show statement_timeout").fetchone() == ("0",)


def _days() -> list[datetime]:
    return window_edges(FIRST, LAST, window="day", zone=ZoneInfo("UTC"), most=100)


def _url(pool: ConnectionPool) -> str:
    return str(pool.conninfo)


def _is_asked(question: UsageQuestion, fact: Fact) -> bool:
    return (
        fact.metric == question.metric
        and question.edges[0] <= fact.ts < question.edges[-1]
        and (question.customer_refs is None or fact.customer in question.customer_refs)
        and (question.source in (None, "http"))
        and (question.resource_id in (None, fact.resource))
        and all(_meta(fact, path) == text for path, text in question.meta_filters)
    )


def _group(question: UsageQuestion, fact: Fact) -> str | None:
    match question.group_by:
        case "customerRef":
            return fact.customer
        case "source":
            return "http"
        case "resourceId":
            return fact.resource
        case "meta":
            return _meta(fact, question.group_path)
        case _:
            return None


def _meta(fact: Fact, path: Sequence[str]) -> str | None:
    value: Any = fact.meta
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return None if value is None else str(value)


def _number(question: UsageQuestion, facts: Sequence[Fact]) -> Decimal | None:
    quantities = [Fraction(fact.quantity) for fact in facts]
    if question.aggregation == "unique":
        values = [fact.customer if question.unique_of == "customerRef" else fact.resource for fact in facts]
        return Decimal(len({value for value in values if value is not None}))
    if question.aggregation == "count":
        return Decimal(len(facts))
    if question.aggregation == "sum":
        return _decimal(sum(quantities, Fraction(0)))
    if not facts:
        return None
    match question.aggregation:
        case "min":
            return _decimal(min(quantities))
        case "max":
            return _decimal(max(quantities))
        case "avg":
            return _decimal(Fraction((sum(quantities, Fraction(0)) / len(quantities) * 10**12 * 2 + 1) // 2, 10**12))
        case _:
            # Facts stand in ledger order: the last of the greatest ts.
            newest = max(range(len(facts)), key=lambda n: (facts[n].ts, n))
            return _decimal(quantities[newest])


def _decimal(exact: Fraction) -> Decimal:
    return Decimal(f"{exact * 10**12}e-12")
