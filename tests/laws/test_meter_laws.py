"""Law 4 under rules: with meters of every aggregation, aliases and billing phases, the running count is the recount.

Whatever is sent in whatever order and folded in whatever pieces, counters and items are byte for byte what the ledger
makes of the day under the tenant's rules, and every event is counted by a meter or kept as unmatched.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg_pool import ConnectionPool

from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.prove import conservation, counters_equal_ledger
from stripemeter.pipeline.recount import recount_day
from stripemeter.store.postgres import transaction
from tests.laws.worlds import Fact, Ingest, ingest_into, let_late_events_count

DAYS = [datetime(2026, 11, 21, tzinfo=UTC), datetime(2026, 11, 22, tzinfo=UTC)]
ANCHOR = DAYS[0] + timedelta(hours=12, seconds=30)
METERS: list[dict[str, Any]] = [
    {"name": "level", "metrics": ["cpu"], "aggregation": "time_weighted"},
    {"name": "users", "metrics": ["cpu", "gpu"], "aggregation": "unique", "value": "meta.user"},
    {"name": "p90", "metrics": ["cpu"], "aggregation": "percentile", "percentile": "90"},
    {"name": "by_region", "metrics": ["gpu"], "aggregation": "sum", "dimensions": ["meta.region"], "maxGroups": 2},
    # Takes the place of the implicit meter: what it does not read is counted by nobody else, so it is unmatched.
    {
        "name": "gpu",
        "metrics": ["gpu"],
        "aggregation": "max",
        "filter": {"field": "meta.region", "op": "in", "value": ["a", "b"]},
    },
]
EVENTS = st.builds(
    lambda metric, customer, quantity, day, minute, meta: Fact(
        metric=metric, customer=customer, quantity=quantity, ts=day + timedelta(minutes=minute), meta=meta
    ),
    st.sampled_from(["cpu", "gpu", "ram"]),
    st.sampled_from(["x", "y", "alias-of-x"]),
    st.sampled_from(["0", "0.5", "2", "99999999999999999999999999.999999999999"]),
    st.sampled_from(DAYS),
    st.integers(0, 1439),
    st.fixed_dictionaries(
        {}, optional={"user": st.sampled_from(["u1", "u2", 7]), "region": st.sampled_from(["a", "b", "c", "d", None])}
    ),
)
STEPS = st.one_of(
    st.lists(EVENTS, min_size=1, max_size=10),
    st.sampled_from([1, 5, 200_000]),  # a fold of about so many events
    st.sampled_from(DAYS),  # a recount
)


@pytest.fixture
def ingest(database_url: str) -> Iterator[Ingest]:
    """A group commit on this test's database."""
    with ingest_into(database_url) as opened:
        yield opened


def set_rules(pool: ConnectionPool, tenant: str) -> None:
    """Meters, an alias, and a customer whose segments begin at an odd second."""
    let_late_events_count(pool, [tenant])
    with transaction(pool) as tx:
        for meter in METERS:
            tx.execute(
                "insert into meters (tenant_id, name, version, effective_on, is_active, definition, actor, created_at)"
                " values (%(tenant)s, %(name)s, 1, '0001-01-01', true, %(definition)s::jsonb, 'test', now())",
                {"tenant": tenant, "name": meter["name"], "definition": json.dumps(meter)},
            )
        tx.execute(
            "insert into customer_aliases values (%(tenant)s, 'alias-of-x', 'x', now())",
            {"tenant": tenant},
        )
        tx.execute(
            "insert into billing_phases values"
            " (%(tenant)s, 'x', '', %(anchor)s, 'month', 1, %(anchor)s, 'test', now())",
            {"tenant": tenant, "anchor": ANCHOR},
        )


def test_running_count_and_recount_agree_under_every_kind_of_meter(pool: ConnectionPool, ingest: Ingest) -> None:
    """After every step: law 4 with items, law 2 with unmatched events; no counter stands under an alias."""
    suffixes = itertools.count()

    @given(steps=st.lists(STEPS, min_size=3, max_size=9))
    @settings(max_examples=12)
    def law(steps: list[list[Fact] | int | datetime]) -> None:
        tenant = f"m-{next(suffixes)}"
        set_rules(pool, tenant)
        sent = itertools.count()
        for step in [*steps, 200_000, DAYS[0], DAYS[1]]:
            if isinstance(step, list):
                ingest.accept([_own(fact, tenant, next(sent)) for fact in step])
            elif isinstance(step, int):
                fold(pool, max_events=step)
            else:
                recount_day(pool, step.date())
            assert counters_equal_ledger(pool, [day.date() for day in DAYS]) == ()
            assert all(row.holds for row in conservation(pool))
        assert _customers(pool, tenant) <= {"x", "y"}

    law()


def test_a_level_holds_until_the_next_reading(pool: ConnectionPool, ingest: Ingest) -> None:
    """Unit-microseconds between the first and the last reading of a day, whatever order the readings came in."""
    set_rules(pool, "acme")
    noon = DAYS[1] + timedelta(hours=12)
    readings = [(0, "2"), (30, "5"), (10, "0.5"), (20, "1")]
    for minute, quantity in readings:
        ingest.accept([Fact(metric="cpu", customer="y", quantity=quantity, ts=noon + timedelta(minutes=minute))])
        fold(pool)
    expected = (Decimal(2) * 10 + Decimal("0.5") * 10 + Decimal(1) * 10) * 60_000_000
    with transaction(pool) as tx:
        rows = tx.execute("select unit_microseconds, first_ts, last_ts from counters where meter = 'level'").fetchall()
    assert rows == [(expected, noon, noon + timedelta(minutes=30))]


def test_the_guard_keeps_the_same_groups_in_any_order(pool: ConnectionPool, ingest: Ingest) -> None:
    """Of more combinations than a meter keeps, which share the row of the others depends on their set alone."""
    found = []
    for tenant, regions in (("t1", "abcd"), ("t2", "dcba")):
        set_rules(pool, tenant)
        for index, region in enumerate(regions):
            fact = Fact(tenant=tenant, metric="gpu", customer="y", ts=DAYS[1], key=str(index), meta={"region": region})
            ingest.accept([fact])
            fold(pool)
        with transaction(pool) as tx:
            found.append(
                tx.execute(
                    "select dimensions, event_count from counters where tenant_id = %(t)s and meter = 'by_region'"
                    " order by dimensions",
                    {"t": tenant},
                ).fetchall()
            )
    assert found[0] == found[1]
    assert [count for _, count in found[0]] == [2, 1, 1]
    assert found[0][0][0] == '"other"'


def test_the_longest_names_and_values_do_not_stop_the_fold(pool: ConnectionPool, ingest: Ingest) -> None:
    """Four-byte characters everywhere: the counter's key still fits, and the recount makes the same one."""
    tenant, customer, name = (_incompressible(length, seed) for seed, length in enumerate((255, 255, 100)))
    let_late_events_count(pool, [tenant])
    meter = {
        "name": name,
        "metrics": ["m"],
        "aggregation": "unique",
        "value": "meta.user",
        "dimensions": ["meta.a", "meta.b", "meta.c", "meta.d", "meta.e"],
    }
    with transaction(pool) as tx:
        tx.execute(
            "insert into meters (tenant_id, name, version, effective_on, is_active, definition, actor, created_at)"
            " values (%(tenant)s, %(name)s, 1, '0001-01-01', true, %(definition)s::jsonb, 'test', now())",
            {"tenant": tenant, "name": meter["name"], "definition": json.dumps(meter)},
        )
    meta = {key: _incompressible(25, seed) for seed, key in enumerate(["a", "b", "c", "d", "e", "user"], 9)}
    ingest.accept([Fact(tenant=tenant, customer=customer, metric="m", ts=DAYS[1], key="1", meta=meta)])
    fold(pool)
    assert counters_equal_ledger(pool, [DAYS[1].date()]) == ()
    with transaction(pool) as tx:
        assert tx.execute("select count(*) from counter_items").fetchone() == (1,)


def test_an_odd_second_cuts_a_day_in_two_segments(pool: ConnectionPool, ingest: Ingest) -> None:
    """The microsecond before the anchor belongs to the segment before; before the first phase, to the UTC month."""
    set_rules(pool, "acme")
    before = ANCHOR - timedelta(microseconds=1)
    ingest.accept([Fact(metric="ram", customer="x", ts=ts, key=str(ts)) for ts in (before, ANCHOR)])
    fold(pool)
    with transaction(pool) as tx:
        rows = tx.execute("select day, segment_start, event_count from counters order by segment_start").fetchall()
    day = date(2026, 11, 21)
    assert rows == [(day, datetime(2026, 11, 1, tzinfo=UTC), 1), (day, ANCHOR, 1)]


def _incompressible(length: int, seed: int) -> str:
    """Characters of four bytes in no order: Postgres would press a repeated one into any key."""
    letters = Random(seed)
    return "".join(chr(letters.randrange(0x20000, 0x2A6D0)) for _ in range(length))


def _own(fact: Fact, tenant: str, number: int) -> Fact:
    return Fact(
        tenant=tenant,
        metric=fact.metric,
        customer=fact.customer,
        quantity=fact.quantity,
        ts=fact.ts,
        key=str(number),
        meta=fact.meta,
    )


def _customers(pool: ConnectionPool, tenant: str) -> set[str]:
    with transaction(pool) as tx:
        rows = tx.execute("select distinct customer_ref from counters where tenant_id = %(t)s", {"t": tenant})
        return {row[0] for row in rows}
