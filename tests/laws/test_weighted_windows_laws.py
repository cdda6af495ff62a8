"""Time-weighted meters by any window, group, filter and knowledge time: a pencil's unit-seconds, whoever answers."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.errors import InvalidInput
from stripemeter.metering.windows import Window, window_edges
from stripemeter.pipeline.fold import fold
from stripemeter.store.metered_windows import load_metered_windows
from stripemeter.store.usage_windows import Reader, UsageQuestion, UsageWindows
from tests.adjusting import adjust, alias, void
from tests.laws.worlds import Fact, ingest_into

FIRST = datetime(2026, 10, 24, tzinfo=UTC)
NOW = datetime(2026, 12, 1, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")
HOUR = timedelta(hours=1)
EXACT = Context(prec=200)
Row = tuple[datetime, str | None, Decimal | None]
FACTS = [
    Fact(
        metric=["raw", "other"][n % 2],
        customer=["a", "b", "old"][n % 3],
        quantity=["0", "0.000000000001", "3", "99999999999999999999999999.999999999999", "2"][n % 5],
        ts=FIRST - timedelta(days=4) + n * timedelta(hours=7, minutes=1, microseconds=1),
        resource=[None, "r1", "r2"][n % 3],
        meta=[None, {"region": "eu"}, {"region": "us", "skip": True}, {"region": "us", "plan": "pro"}][n % 4],
    )
    for n in range(24)
]
"""A week of levels of every mixture of metric, customer, quantity and meta; half of them before what is asked for."""


def define(pool: ConnectionPool, tenant: str, **members: object) -> None:
    """The meter m of both metrics, without what is to be skipped, by region."""
    definition = {
        "name": "m",
        "metrics": ["raw", "other"],
        "aggregation": "time_weighted",
        "filter": {"field": "meta.skip", "op": "exists", "value": False},
        "dimensions": ["meta.region"],
    }
    with pool.connection() as connection:
        connection.execute(
            "insert into meters values (%s, 'm', 1, '0001-01-01', true, %s, 'test', now())",
            (tenant, json.dumps({**definition, **members})),
        )


def asked(tenant: str, window: Window = "day", zone: ZoneInfo = BERLIN) -> UsageQuestion:
    """Berlin's 24 to 26 October 2026: the hour two o'clock comes twice, the 25th has 25 hours."""
    span = (datetime(2026, 10, 23, 22, tzinfo=UTC), datetime(2026, 10, 26, 23, tzinfo=UTC))
    edges = window_edges(*span, window=window, zone=zone, most=10_000)
    return UsageQuestion(tenant_id=tenant, metric="m", edges=edges)


def read(
    pool: ConnectionPool, question: UsageQuestion, reader: Reader | None = None, most_events: int = 10_000
) -> UsageWindows:
    """The answer; that there is one is part of the law."""
    found = load_metered_windows(pool, question, now=NOW, reader=reader, most_events=most_events)
    assert found is not None
    return found


def rows(found: UsageWindows) -> list[Row]:
    """Its cells, to compare."""
    return [(cell.start, cell.group, cell.quantity) for cell in found.cells]


def pencil(facts: Sequence[Fact], question: UsageQuestion, group_of: Callable[[Fact], str | None]) -> list[Row]:
    """Unit-seconds of every window and group, second by second of every customer and region."""
    counted = sorted((fact for fact in facts if not (fact.meta or {}).get("skip")), key=lambda fact: fact.ts)
    tracks: dict[tuple[str | None, str, str | None], list[Fact]] = {}
    for fact in counted:
        track = (group_of(fact), "a" if fact.customer == "old" else fact.customer, (fact.meta or {}).get("region"))
        tracks.setdefault(track, []).append(fact)
    is_grouped = question.group_by != "none"
    known = {track for track, readings in tracks.items() if readings[0].ts < question.edges[-1]}
    groups = sorted({group for group, *_ in known}, key=lambda text: (text is not None, text or ""))
    made: list[Row] = []
    for start, end in itertools.pairwise(question.edges):
        for group in groups if is_grouped else [None]:
            total = Decimal(0)
            for (own, *_), readings in tracks.items():
                for at, until in itertools.pairwise([*readings, None]) if own == group else ():
                    assert at is not None
                    held = min(end, NOW if until is None else until.ts) - max(start, at.ts)
                    microseconds = Decimal(max(held, timedelta()) // timedelta(microseconds=1))
                    total = EXACT.add(total, EXACT.multiply(Decimal(at.quantity), microseconds))
            made.append((start, group, EXACT.scaleb(total, -6)))
    return made


def by_meta(name: str) -> Callable[[Fact], str | None]:
    """The fact's text at `meta.<name>`."""
    return lambda fact: (fact.meta or {}).get(name)


def nobody(_: Fact) -> str | None:
    """Not grouped."""
    return None


def everything(_: Fact) -> bool:
    """Not filtered."""
    return True


def nothing(_: Fact) -> bool:
    """What no event passes."""
    return False


def is_of(name: str, text: str) -> Callable[[Fact], bool]:
    """Whether the fact has a text at `meta.<name>`."""
    return lambda fact: by_meta(name)(fact) == text


@pytest.mark.parametrize("folds", ["none", "between", "all"])
def test_unit_seconds_of_any_window_group_and_filter(pool: ConnectionPool, folds: str) -> None:
    """Levels carried in from before the range, as if no other events than those asked for had come."""
    tenant = f"weighted-{folds}"
    define(pool, tenant)
    alias(pool, tenant, "old", "a")
    facts = [replace(fact, tenant=tenant, key=f"k{n}") for n, fact in enumerate(FACTS)]
    with ingest_into(str(pool.conninfo)) as ingest:
        ingest.accept(facts[::2])
        if folds != "none":
            fold(pool, now=FIRST)
        ingest.accept(facts[1::2])
        if folds == "all":
            with pool.connection() as connection:
                connection.execute("insert into tenant_policies values (%s, 'always', 0, false, now())", (tenant,))
            fold(pool, now=FIRST)
    windows: list[Window] = ["minute", "hour", "day", "week", "month"]
    for window in windows:
        question = asked(tenant, window)
        found = read(pool, question)
        assert (found.reader, found.aggregation) == ("ledger", "time_weighted")
        assert rows(found) == pencil(facts, question, nobody), window
    own = "a"
    cases: list[tuple[dict[str, Any], Callable[[Fact], str | None], Callable[[Fact], bool]]] = [
        ({"group_by": "customerRef"}, lambda f: own if f.customer == "old" else f.customer, everything),
        ({"customer_refs": ["old"]}, nobody, lambda f: f.customer in ("a", "old")),
        ({"group_by": "meta", "group_path": ["region"]}, by_meta("region"), everything),
        ({"group_by": "meta", "group_path": ["plan"]}, by_meta("plan"), everything),
        ({"group_by": "resourceId"}, lambda f: f.resource, everything),
        ({"resource_id": "r1"}, nobody, lambda f: f.resource == "r1"),
        ({"meta_filters": [(["region"], "us")]}, nobody, is_of("region", "us")),
        ({"source": "http"}, nobody, everything),
        ({"source": "etl"}, nobody, nothing),
    ]
    for (members, group_of, is_asked), zone in itertools.product(cases, (BERLIN, ZoneInfo("UTC"))):
        question = replace(asked(tenant, "hour", zone), **members)
        assert rows(read(pool, question)) == pencil([f for f in facts if is_asked(f)], question, group_of), members
    days = UsageQuestion(tenant_id=tenant, metric="m", edges=[FIRST + day * 24 * HOUR for day in range(4)])
    for question in (days, replace(days, group_by="customerRef"), asked_region(days)):
        answers = [read(pool, question, reader) for reader in ("counters", "ledger")]
        assert [found.reader for found in answers] == ["counters", "ledger"]
        assert answers[0].cells == answers[1].cells


def asked_region(question: UsageQuestion) -> UsageQuestion:
    """The question by the meter's dimension."""
    return replace(question, group_by="meta", group_path=["region"])


def test_what_was_known_then_holds_until_then(pool: ConnectionPool) -> None:
    """Readings received later and voids of later are not in it, and a level is known up to that instant."""
    define(pool, "then", dimensions=[])
    with ingest_into(str(pool.conninfo)) as ingest:
        ingest.accept([Fact(tenant="then", metric="raw", quantity="2", ts=FIRST - HOUR, key="a")])
        ingest.accept([Fact(tenant="then", metric="raw", quantity="10", ts=FIRST + HOUR, key="b")])
    fold(pool)
    with pool.connection() as connection:
        received = connection.execute("select received_at from events where tenant_id = 'then' order by seq").fetchall()
    (first,), (second,) = received
    end = second + HOUR
    question = UsageQuestion(tenant_id="then", metric="m", edges=[FIRST, FIRST + 2 * HOUR, end])
    for voided in (False, True):
        if voided:
            void(pool, "then", "b")
        for known_at, hours, level, until in (
            (first - HOUR, 0, 0, first),
            (first, 4, 2, first),
            (second, 12, 10, second),
            (None, 4 if voided else 12, 2 if voided else 10, end),
        ):
            found = load_metered_windows(pool, replace(question, known_at=known_at), now=end + HOUR)
            assert found is not None
            held = level * ((until - FIRST - 2 * HOUR) / timedelta(microseconds=1))
            numbers = [cell.quantity for cell in found.cells]
            assert numbers == [hours * 3600, Decimal(int(held)).scaleb(-6)], known_at


def test_combinations_that_share_a_level_do_so_in_every_window(pool: ConnectionPool) -> None:
    """Hours add up to the counters' day where more combinations came than it keeps; by region each has its own."""
    define(pool, "cut", maxGroups=1)
    facts = [
        Fact(tenant="cut", metric="raw", quantity=str(n + 1), ts=FIRST + n * HOUR, key=name, meta={"region": name})
        for n, name in enumerate(["eu", "us", "ap"])
    ]
    with ingest_into(str(pool.conninfo)) as ingest:
        ingest.accept(facts)
    fold(pool)
    day = UsageQuestion(tenant_id="cut", metric="m", edges=[FIRST, FIRST + 24 * HOUR])
    hours = replace(day, edges=[FIRST + hour * HOUR for hour in range(25)])
    (whole,) = read(pool, day).cells
    parts = [cell.quantity or Decimal(0) for cell in read(pool, hours).cells]
    assert whole.quantity == sum(parts, Decimal(0))
    after = [FIRST + 24 * HOUR, FIRST + 25 * HOUR]
    for edges in (hours.edges, after):
        question = asked_region(replace(day, edges=edges))
        assert rows(read(pool, question)) == pencil(facts, question, by_meta("region"))


def test_an_adjustment_is_unit_seconds_of_the_window_it_takes_effect_in(pool: ConnectionPool) -> None:
    """It corrects the number, not the level."""
    define(pool, "adjusted")
    with ingest_into(str(pool.conninfo)) as ingest:
        ingest.accept([Fact(tenant="adjusted", metric="raw", quantity="1", ts=FIRST - HOUR, key="a")])
    adjust(pool, "adjusted", "-600", FIRST + HOUR, metric="m", customer_ref="cust_1")
    question = UsageQuestion(tenant_id="adjusted", metric="m", edges=[FIRST + hour * HOUR for hour in range(4)])
    found = read(pool, question)
    assert [(cell.quantity, cell.adjusted) for cell in found.cells] == [(3600, 0), (3000, -600), (3600, 0)]
    assert found.adjusting == "included"


def test_too_long_a_history_is_refused_where_the_counters_do_not_know_its_level(pool: ConnectionPool) -> None:
    """The message says what can be asked instead; without filters the levels before the first day are counted."""
    define(pool, "long")
    facts = [Fact(tenant="long", metric="raw", quantity="1", ts=FIRST - (n + 24) * HOUR, key=f"k{n}") for n in range(3)]
    with ingest_into(str(pool.conninfo)) as ingest:
        ingest.accept(facts)
    fold(pool)
    question = UsageQuestion(tenant_id="long", metric="m", edges=[FIRST, FIRST + HOUR])
    (cell,) = read(pool, question, most_events=2).cells
    assert cell.quantity == 3600
    with pytest.raises(InvalidInput, match="however long ago") as refused:
        read(pool, replace(question, source="http"), most_events=2)
    assert refused.value.field == "customerRef"
