"""ingest-single, ingest-100, ingest-1000: the receiver over HTTP, answers durable, all API workers.

Belongs here: the three benches of the receiver. Does not: how load is made (`load`), how limits are copied (`copying`).
"""

from __future__ import annotations

import psycopg

from bench.context import Context, say
from bench.copying import CopyLimit
from bench.load import Load, drive
from bench.measure import Row, at_least, interleave, series
from bench.servers import API_WORKERS, api_server, noop_server
from stripemeter.errors import InvariantBroken

CONNECTIONS = 100


def ingest_single(context: Context) -> list[Row]:
    """One event per request against FastAPI's no-op."""
    scale = context.scale
    with context.database("single") as url, api_server(context, url) as ours, noop_server(context) as theirs:

        def run(target: str, seconds: float = scale.slot_seconds) -> Load:
            return drive(target, connections=CONNECTIONS, seconds=seconds, events=1)

        run(theirs, scale.warmup_seconds)
        warmed = run(ours, scale.warmup_seconds)
        limits, systems = interleave(scale.rounds, lambda: run(theirs), lambda: run(ours))
        _prove_stored(url, warmed.requests + sum(load.requests for load in systems))
    name = "FastAPI no-op, 1 worker"
    rows = [
        Row(
            bench="ingest-single",
            what=f"1 event per POST, {CONNECTIONS} connections, durable, {API_WORKERS} workers",
            unit="req/s",
            system=series([load.rate for load in systems]),
            limit=series([load.rate for load in limits]),
            limit_name=name,
            budget=at_least(0.8),
        )
    ]
    latencies = [
        Row(
            bench="ingest-single",
            what=f"the same, latency {figure} at saturation",
            unit="ms",
            system=series([getattr(load, figure) for load in systems]),
            limit=series([getattr(load, figure) for load in limits]),
            limit_name=name,
        )
        for figure in ("p50", "p95", "p99")
    ]
    return [*rows, *latencies]


def ingest_100(context: Context) -> list[Row]:
    """100 events per request against COPY under the same unique index."""
    return _batches(context, bench="ingest-100", events=100, connections=20)


def ingest_1000(context: Context) -> list[Row]:
    """1 000 events per request, the contract's largest."""
    return _batches(context, bench="ingest-1000", events=1000, connections=8)


def _batches(context: Context, *, bench: str, events: int, connections: int) -> list[Row]:
    scale = context.scale
    name = bench.replace("-", "_")
    with context.database(name) as url, context.database(f"{name}_copy") as limit_url, api_server(context, url) as ours:
        limit = CopyLimit(limit_url, with_key=True)

        def run(seconds: float = scale.slot_seconds) -> Load:
            return drive(ours, connections=connections, seconds=seconds, events=events)

        warmed = run(scale.warmup_seconds)
        limit.copy(limit.prepare(min(scale.copy_rows, 20_000)))
        copies, systems = [], []
        for _ in range(scale.rounds):
            chunks = limit.prepare(scale.copy_rows * 2)
            copies.append(limit.copy(chunks, seconds=scale.slot_seconds))
            systems.append(run())
            say(f"{bench}: copy {copies[-1].rate:,.0f}/s, http {systems[-1].rate * events:,.0f} events/s")
        limit.close()
        _prove_stored(url, (warmed.requests + sum(load.requests for load in systems)) * events)
    return [
        Row(
            bench=bench,
            what=f"{events} events per POST, {connections} connections, durable, {API_WORKERS} workers",
            unit="events/s",
            system=series([load.rate * events for load in systems]),
            limit=series([copied.rate for copied in copies]),
            limit_name="COPY under the same unique index",
            budget=at_least(0.8) if events == 100 else None,
            note="COPY: one client, rows encoded beforehand, 1 000 per commit",
        ),
        Row(
            bench=bench,
            what="the same, latency p95 at saturation",
            unit="ms",
            system=series([load.p95 for load in systems]),
        ),
    ]


def _prove_stored(url: str, acknowledged: int) -> None:
    """Every acknowledged event is a row; requests still open when the generator stopped may add some."""
    with psycopg.connect(url) as connection:
        stored, keys = connection.execute(
            "select (select count(*) from events), (select count(*) from event_keys)"
        ).fetchone() or (0, 0)
    if stored < acknowledged or stored != keys:
        raise InvariantBroken(f"{acknowledged} events were acknowledged, {stored} are stored under {keys} keys")
