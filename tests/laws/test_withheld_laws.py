"""Late events before their fold: every read judges them as the fold will, so folding moves no number."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.metering.events import IngestLimits, parse_ingest
from stripemeter.pipeline.fold import fold
from stripemeter.store.metered_windows import load_metered_windows
from stripemeter.store.usage import load_current_usage, load_usage_history
from stripemeter.store.usage_windows import Reader, UsageQuestion, load_usage_windows
from tests.adjusting import alias
from tests.laws.worlds import NOW, Fact, Parsed, ingest_into

DAY = timedelta(days=1)
OCTOBER, NOVEMBER = datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)
WATERMARK = Fact(metric="raw", customer="a", quantity="1", ts=NOW - timedelta(hours=1))
UNFOLDED = [
    Fact(metric="raw", customer="a", quantity="2", ts=NOW - timedelta(hours=10)),  # punctual
    Fact(metric="raw", customer="other-name", quantity="4", ts=NOW - 3 * DAY),  # late, of an open month
    Fact(metric="raw", customer="a", quantity="8", ts=NOW - 40 * DAY),  # late, of a closed one
    Fact(metric="raw", customer="fresh", quantity="16", ts=NOW - 40 * DAY),  # nothing to be late for
]
HISTORY = Fact(metric="raw", customer="a", quantity="32", ts=NOW - 41 * DAY)
Numbers = dict[str, object]


def numbers(pool: ConnectionPool, tenant: str, meter: str) -> Numbers:
    """What every read says of a's October and November and of everybody's, by the read's name."""
    found: Numbers = {}
    for month in (OCTOBER, NOVEMBER):
        current = load_current_usage(pool, tenant_id=tenant, customer_ref="a", at=month, now=NOW)
        usage = current.metrics.get(meter)
        found[f"current {month:%B}"] = (usage.quantity, usage.event_count) if usage else (Decimal(0), 0)
    history = load_usage_history(
        pool,
        tenant_id=tenant,
        customer_ref="other-name",
        metric=meter,
        buckets=[OCTOBER.date(), NOVEMBER.date()],
        last_on=date(2026, 11, 30),
        step="month",
        now=NOW,
    )
    found["history"] = [
        history.buckets[month.date()].quantity if month.date() in history.buckets else 0
        for month in (OCTOBER, NOVEMBER)
    ]
    question = UsageQuestion(
        tenant_id=tenant, metric=meter, edges=[OCTOBER, NOVEMBER, datetime(2026, 12, 1, tzinfo=UTC)]
    )
    readers: list[Reader] = ["counters", "ledger"]
    for reader in readers:
        for asked in (question, replace(question, customer_refs=["a"])):
            answer = load_metered_windows(pool, asked, now=NOW, reader=reader) or load_usage_windows(
                pool, asked, now=NOW, reader=reader
            )
            name = f"query {reader} {asked.customer_refs}"
            found[name] = [(cell.quantity, cell.event_count) for cell in answer.cells]
    known = replace(question, known_at=datetime.now(UTC))
    answer = load_metered_windows(pool, known, now=NOW) or load_usage_windows(pool, known, now=NOW)
    found["query as of now"] = [(cell.quantity, cell.event_count) for cell in answer.cells]
    return found


@pytest.mark.parametrize("how", ["nothing", "meter", "phases"])
@pytest.mark.parametrize(
    ("policy", "october", "november"), [("while_open", 32, 7), ("always", 40, 7), ("never", 32, 3)]
)
def test_folding_moves_no_number(pool: ConnectionPool, how: str, policy: str, october: int, november: int) -> None:
    """By statement or by rules; other names, imported history and fresh counters are what they are to the fold."""
    tenant = f"withheld-{how}-{policy}"
    meter = _decide(pool, tenant, how, policy)
    with ingest_into(str(pool.conninfo)) as ingest:
        ingest.accept([replace(WATERMARK, tenant=tenant, key="w")])
        fold(pool, now=NOW)
        ingest.accept([replace(fact, tenant=tenant, key=f"k{n}") for n, fact in enumerate(UNFOLDED)])
        ingest.accept_parsed(_imported(tenant))
    before = numbers(pool, tenant, meter)
    assert [before["current October"], before["current November"]] == [
        (october, {32: 1, 40: 2}[october]),
        (november, {7: 3, 3: 2}[november]),
    ]
    assert before["history"] == [october, november]
    assert before["query counters None"] == [
        (october + 16, {32: 2, 40: 3}[october]),
        (november, {7: 3, 3: 2}[november]),
    ]
    fold(pool, now=NOW)
    assert numbers(pool, tenant, meter) == before


def test_a_shorter_window_of_the_tenant_is_judged(pool: ConnectionPool) -> None:
    """An event of some hours ago is late where the tenant says so; it is no event of the answer until approved."""
    with pool.connection() as connection:
        connection.execute("insert into lateness_windows values ('short', 'raw', 3600, now())")
        connection.execute("insert into tenant_policies values ('short', 'never', 0, false, now())")
    with ingest_into(str(pool.conninfo)) as ingest:
        ingest.accept([replace(WATERMARK, tenant="short", key="w")])
        fold(pool, now=NOW)
        ingest.accept([replace(UNFOLDED[0], tenant="short", key="k")])
    found = load_current_usage(pool, tenant_id="short", customer_ref="a", at=NOW, now=NOW)
    assert (found.metrics["raw"].quantity, found.freshness.pending_count) == (1, 0)
    assert numbers(pool, "short", "raw")["query counters None"] == [(0, 0), (1, 1)]


def test_what_was_known_before_the_fold_stays_as_it_was_read(pool: ConnectionPool) -> None:
    """An instant between arrival and fold: the fold's first judgement is that of whoever read then."""
    with pool.connection() as connection:
        connection.execute("insert into tenant_policies values ('between', 'never', 0, false, now())")
    with ingest_into(str(pool.conninfo)) as ingest:
        ingest.accept([replace(WATERMARK, tenant="between", key="w")])
        fold(pool, now=NOW)
        ingest.accept([replace(UNFOLDED[2], tenant="between", customer="a", key="k")])
    question = UsageQuestion(tenant_id="between", metric="raw", edges=[OCTOBER, NOVEMBER], known_at=datetime.now(UTC))
    for _ in range(2):
        (cell,) = load_usage_windows(pool, question, now=NOW).cells
        assert cell.quantity == 0
        fold(pool)  # its own clock: the adjustment is made after what was known


def _decide(pool: ConnectionPool, tenant: str, how: str, policy: str) -> str:
    """The tenant's rules; the name of what is asked for."""
    alias(pool, tenant, "other-name", "a")
    with pool.connection() as connection:
        connection.execute("insert into tenant_policies values (%s, %s, 172800, false, now())", (tenant, policy))
        if how == "meter":
            definition = json.dumps({"name": "m", "metrics": ["raw"], "dimensions": ["meta.region"]})
            connection.execute(
                "insert into meters values (%s, 'm', 1, '0001-01-01', true, %s, 'test', now())", (tenant, definition)
            )
        if how == "phases":
            connection.execute(
                "insert into billing_phases (tenant_id, customer_ref, meter, starts_at, cadence, anchor_at, reason, "
                "created_at) values (%s, 'a', '', '0001-01-01T00:00:00Z', 'month', %s, 'test', now())",
                (tenant, NOVEMBER),
            )
    return "m" if how == "meter" else "raw"


def _imported(tenant: str) -> Sequence[Parsed]:
    document = {**replace(HISTORY, tenant=tenant, key="h").document(), "source": "etl"}
    body = json.dumps({"events": [document]}).encode()
    return parse_ingest(body, header_key=None, now=NOW, limits=IngestLimits())
