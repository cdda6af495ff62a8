"""live-read: a customer's usage now, counters plus unfolded tail, against the counters alone.

Belongs here: this bench on the big ledger. Does not: the query (`sql/queries/usage.sql`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import psycopg
from psycopg_pool import ConnectionPool

from bench.context import Context
from bench.ledger import MONTH, TENANT, add_late
from bench.measure import Row, Series, at_most, percentile, seconds_of, series, value_at_most
from stripemeter.metering.days import day_bounds
from stripemeter.pipeline.fold import fold
from stripemeter.store.postgres import open_pool, transaction
from stripemeter.store.sql import load_queries
from stripemeter.store.usage import load_current_usage

_AT = day_bounds(MONTH[0])[0]
_COUNTERS_ONLY = """
select
    meter,
    sum(event_count),
    sum(quantity_sum),
    min(quantity_min),
    max(quantity_max),
    (array_agg(quantity_last order by last_ts desc, last_seq desc))[1]
from counters
where
    tenant_id = %(tenant_id)s
    and customer_ref = %(customer_ref)s
    and day between %(first_on)s::date and %(last_on)s::date
group by meter
"""


def live_read(context: Context) -> list[Row]:
    """Read random customers, weighted by use, with a tail nobody has folded; each read next to its limit."""
    scale = context.scale
    url = context.ledger()
    with open_pool(url, max_size=2) as pool:
        while fold(pool).has_more:
            pass
        folded = _round(pool, url, scale.reads // 4)
        add_late(url, events=scale.tail_events, counters=min(scale.tail_events // 2, 5_000))
        rounds = [_round(pool, url, scale.reads // scale.rounds) for _ in range(scale.rounds)]
        server = _server_milliseconds(pool, url, max(5, scale.reads // 20))
        fold(pool)
    what = f"live read at {scale.ledger_rows:,} rows, tail of {scale.tail_events:,}"
    pairs = {pct: (_column(rounds, 0, pct), _column(rounds, 1, pct)) for pct in (50, 95)}
    note = f"one month, {scale.reads} reads, a reader of one connection"
    return [
        _row(f"{what}, p50", *pairs[50], note=note),
        Row(
            bench="live-read",
            what=f"{what}, p95",
            unit="ms",
            system=pairs[95][0],
            limit=pairs[95][1],
            limit_name="counters only",
            budget=at_most(5),
            note=note,
        ),
        Row(bench="live-read", what=f"{what}, p95 itself", unit="ms", system=pairs[95][0], budget=value_at_most(5)),
        _row("the same query with no tail, p50", _column([folded], 0, 50), _column([folded], 1, 50)),
        Row(bench="live-read", what="server time: planning, p50", unit="ms", system=series([server[0]])),
        Row(bench="live-read", what="server time: execution, p50", unit="ms", system=series([server[1]])),
    ]


Reads = tuple[list[float], list[float]]


def _round(pool: ConnectionPool, url: str, count: int) -> Reads:
    """(live, counters only), in milliseconds, one of each in turn per customer."""
    live: list[float] = []
    plain: list[float] = []
    for customer in _customers(url, max(5, count)):
        live.append(seconds_of(lambda ref=customer: _live(pool, ref)) * 1000)  # type: ignore[misc]
        plain.append(seconds_of(lambda ref=customer: _counters_only(pool, ref)) * 1000)  # type: ignore[misc]
    return live, plain


def _live(pool: ConnectionPool, customer: str) -> None:
    load_current_usage(pool, tenant_id=TENANT, customer_ref=customer, at=_AT, now=_AT)


def _counters_only(pool: ConnectionPool, customer: str) -> None:
    with transaction(pool) as tx:
        tx.execute(_COUNTERS_ONLY, _parameters(customer)).fetchall()


def _parameters(customer: str) -> dict[str, object]:
    return {
        "tenant_id": TENANT,
        "customer_ref": customer,
        "metric": None,
        "first_on": MONTH[0],
        "last_on": MONTH[1],
    }


def _customers(url: str, count: int) -> list[str]:
    """Customers of randomly chosen counters, weighted by how much they use."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "select customer_ref from counters where day = %s order by -ln(1 - random()) / event_count limit %s",
            (MONTH[1], count),
        ).fetchall()
    return [row[0] for row in rows]


def _server_milliseconds(pool: ConnectionPool, url: str, count: int) -> tuple[float, float]:
    planning: list[float] = []
    execution: list[float] = []
    for customer in _customers(url, count):
        with transaction(pool) as tx:
            query = f"explain (analyze, timing off) {load_queries('usage')['load_current_usage']}"
            lines = [row[0] for row in tx.execute(query, _parameters(customer), prepare=False)]
        for name, times in (("Planning Time", planning), ("Execution Time", execution)):
            times += [float(found[1]) for line in lines if (found := re.search(rf"{name}: ([\d.]+) ms", line))]
    return percentile(planning, 50), percentile(execution, 50)


def _column(rounds: Sequence[Reads], index: int, pct: float) -> Series:
    return series([percentile(reads[index], pct) for reads in rounds])


def _row(what: str, ours: Series, limit: Series, *, note: str = "") -> Row:
    return Row(bench="live-read", what=what, unit="ms", system=ours, limit=limit, limit_name="counters only", note=note)
