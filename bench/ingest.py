"""ingest-single, ingest-100, ingest-1000: the receiver over HTTP, answers durable, all API workers.

Belongs here: the three benches of the receiver. Does not: how load is made (`load`), how limits are copied (`copying`).
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from bench.context import Context, say
from bench.copying import CopyLimit
from bench.load import Load, drive
from bench.measure import Row, Series, at_least, interleave, series
from bench.proc import cpu_seconds, reaped_cpu_seconds
from bench.servers import API_WORKERS, Server, api_server, noop_server
from stripemeter.errors import InvariantBroken

CONNECTIONS = 100
_CPU_NOTE = "processor time per request or event hardly moves with other programs' load, rates do"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One slot of load, and the processor time it took: of the workers, of PostgreSQL, of the generator."""

    load: Load
    workers: float
    postgres: float
    generator: float


def ingest_single(context: Context) -> list[Row]:
    """One event per request against FastAPI's no-op."""
    scale = context.scale
    with context.database("single") as url, api_server(context, url) as ours, noop_server(context) as theirs:

        def run(server: Server, seconds: float = scale.slot_seconds) -> Slot:
            return _drive(context, server, connections=CONNECTIONS, seconds=seconds, events=1)

        run(theirs, scale.warmup_seconds)
        warmed = run(ours, scale.warmup_seconds)
        limits, systems = interleave(scale.rounds, lambda: run(theirs), lambda: run(ours))
        _prove_stored(url, warmed.load.requests + sum(slot.load.requests for slot in systems))
    name = "FastAPI no-op, 1 worker"
    rows = [
        Row(
            bench="ingest-single",
            what=f"1 event per POST, {CONNECTIONS} connections, durable, {API_WORKERS} workers",
            unit="req/s",
            system=series([slot.load.rate for slot in systems]),
            limit=series([slot.load.rate for slot in limits]),
            limit_name=name,
            budget=at_least(0.8),
        )
    ]
    latencies = [
        Row(
            bench="ingest-single",
            what=f"the same, latency {figure} at saturation",
            unit="ms",
            system=series([getattr(slot.load, figure) for slot in systems]),
            limit=series([getattr(slot.load, figure) for slot in limits]),
            limit_name=name,
        )
        for figure in ("p50", "p95", "p99")
    ]
    return [*rows, *latencies, *_cpu("ingest-single", systems, 1, limits)]


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

        def run(seconds: float = scale.slot_seconds) -> Slot:
            return _drive(context, ours, connections=connections, seconds=seconds, events=events)

        warmed = run(scale.warmup_seconds)
        limit.copy(limit.prepare(min(scale.copy_rows, 20_000)))
        copies, systems = [], []
        for _ in range(scale.rounds):
            chunks = limit.prepare(scale.copy_rows)
            copies.append(limit.copy(chunks, seconds=scale.slot_seconds))
            systems.append(run())
            say(f"{bench}: copy {copies[-1].rate:,.0f}/s, http {systems[-1].load.rate * events:,.0f} events/s")
        limit.close()
        _prove_stored(url, (warmed.load.requests + sum(slot.load.requests for slot in systems)) * events)
    return [
        Row(
            bench=bench,
            what=f"{events} events per POST, {connections} connections, durable, {API_WORKERS} workers",
            unit="events/s",
            system=series([slot.load.rate * events for slot in systems]),
            limit=series([copied.rate for copied in copies]),
            limit_name="COPY under the same unique index",
            budget=at_least(0.8) if events == 100 else None,
            note="COPY: one client, rows encoded beforehand, 1 000 per commit",
        ),
        Row(
            bench=bench,
            what="the same, latency p95 at saturation",
            unit="ms",
            system=series([slot.load.p95 for slot in systems]),
        ),
        *_cpu(bench, systems, events, None),
    ]


def _drive(context: Context, server: Server, *, connections: int, seconds: float, events: int) -> Slot:
    def used() -> tuple[float, float, float]:
        workers = sum(map(cpu_seconds, server.pids))
        return workers, sum(map(cpu_seconds, context.postgres_pids)), reaped_cpu_seconds()

    before = used()
    load = drive(server.url, connections=connections, seconds=seconds, events=events)
    workers, postgres, generator = (now - then for now, then in zip(used(), before, strict=True))
    return Slot(load=load, workers=workers, postgres=postgres, generator=generator)


def _cpu(bench: str, systems: list[Slot], events: int, limits: list[Slot] | None) -> list[Row]:
    def per_event(slots: list[Slot], part: str) -> Series:
        return series([getattr(slot, part) / (slot.load.requests * events) * 1e6 for slot in slots])

    return [
        Row(
            bench=bench,
            what=f"processor time per event: {name}",
            unit="us",
            system=per_event(systems, part),
            limit=per_event(limits, part) if limits is not None and part != "postgres" else None,
            note=_CPU_NOTE,
        )
        for part, name in (("workers", "the HTTP workers"), ("postgres", "PostgreSQL"), ("generator", "load generator"))
    ]


def _prove_stored(url: str, acknowledged: int) -> None:
    """Every acknowledged event is a row; requests still open when the generator stopped may add some."""
    with psycopg.connect(url) as connection:
        stored, keys = connection.execute(
            "select (select count(*) from events), (select count(*) from event_keys)"
        ).fetchone() or (0, 0)
    if stored < acknowledged or stored != keys:
        raise InvariantBroken(f"{acknowledged} events were acknowledged, {stored} are stored under {keys} keys")
