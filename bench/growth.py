"""growth: the same ingest into an empty and into a large ledger; WAL and disk per event against a plain heap.

Belongs here: this bench. Does not: how the large ledger is filled (`ledger`).
"""

from __future__ import annotations

from datetime import UTC, datetime

import psycopg

from bench.context import Context, say
from bench.copying import CopyLimit
from bench.ledger import fill
from bench.load import Load, drive
from bench.measure import Row, Series, at_least, at_most, series
from bench.servers import api_server

EVENTS = 1000
CONNECTIONS = 8
_AGED = "after a checkpoint has aged: every page of the key index was written since"
_DISK = """
select sum(pg_total_relation_size(c.oid))::float8 / (select count(*) from events)
from pg_class as c
where
    c.oid = 'event_keys'::regclass
    or c.oid in (select inhrelid from pg_inherits where inhparent = 'events'::regclass)
"""


_RELATIONS = """
select
    case
        when c.relkind = 'r' and c.relname like 'events%' then 'the events themselves'
        when c.relname like 'events%' then 'indexes on events'
        when c.relkind = 'r' then 'event_keys'
        else 'the unique index on event_keys'
    end as relation,
    sum(pg_relation_size(c.oid))::float8 / (select count(*) from events)
from pg_class as c
where
    c.relnamespace = 'public'::regnamespace
    and c.relname like 'event%'
    and c.relkind in ('r', 'i')
    and c.relname not like 'event_conflicts%'
group by relation
order by 2 desc
"""


def growth(context: Context) -> list[Row]:
    """Ingest rate at 0 and at `growth_rows` rows, interleaved; WAL per event there; disk per event there."""
    scale = context.scale
    with context.database("small") as small_url, context.database("large") as large_url:
        _fill(large_url, scale.growth_rows, scale.growth_warmup_rows, scale.customers)
        disk, relations = _disk_per_event(large_url)
        with api_server(context, small_url) as small, api_server(context, large_url) as large:
            drive(large.url, connections=CONNECTIONS, seconds=scale.warmup_seconds, events=EVENTS)
            slots = [
                (_at_zero(context, small_url, small.url), *_with_wal(context, large_url, large.url))
                for _ in range(scale.rounds)
            ]
        heap = CopyLimit(small_url, with_key=False)
        heap_wal = [_wal_of_copy(context, heap) for _ in range(scale.rounds)]
        heap_disk = heap.bytes_per_row()
        heap.close()
    at_zero, at_size, wal = zip(*slots, strict=True)
    return [
        Row(
            bench="growth",
            what=f"ingest at {scale.growth_rows:,} ledger rows ({EVENTS} events per POST)",
            unit="events/s",
            system=series([load.rate * EVENTS for load in at_size]),
            limit=series([load.rate * EVENTS for load in at_zero]),
            limit_name="the same at 0 rows",
            budget=at_least(0.65),
        ),
        _against_heap("WAL per event", series(wal), series(heap_wal), 2.6, note=f"{_AGED}; wal_compression on"),
        _against_heap(
            f"disk per event at {scale.growth_rows:,} rows, all indexes",
            series([disk]),
            series([heap_disk]),
            1.5,
            note="the heap has the event's own columns only: no seq, xid, hashes",
        ),
        *[
            Row(bench="growth", what=f"disk per event: {name}", unit="bytes", system=series([size]))
            for name, size in relations.items()
        ],
    ]


def _fill(url: str, rows: int, warmup_rows: int, customers: int) -> None:
    """Fill in `rows` rows, under a checkpoint that has aged.

    The warm-up after the checkpoint touches the key index's pages, so their full-page images are not counted against
    the events measured.
    """
    today = datetime.now(UTC).date()
    say(f"filling a ledger with {rows:,} events")
    fill(url, rows=rows - warmup_rows, customers=customers, first=today.replace(day=1), days=28)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("vacuum (analyze) events, event_keys")
        connection.execute("checkpoint")
    fill(url, rows=warmup_rows, customers=customers, first=today.replace(day=1), days=28)


def _at_zero(context: Context, url: str, target: str) -> Load:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("truncate events, event_keys")
    return _drive(context, target)


def _with_wal(context: Context, url: str, target: str) -> tuple[Load, float]:
    accepted, position = _accepted(url), _wal_position(context)
    load = _drive(context, target)
    written = _wal_position(context) - position
    return load, written / (_accepted(url) - accepted)


def _wal_of_copy(context: Context, heap: CopyLimit) -> float:
    chunks = heap.prepare(max(context.scale.copy_rows // 2, 1_000))
    position = _wal_position(context)
    return (heap.copy(chunks).rows and _wal_position(context) - position) / (len(chunks) * 1_000)


def _drive(context: Context, target: str) -> Load:
    return drive(target, connections=CONNECTIONS, seconds=context.scale.slot_seconds, events=EVENTS)


def _accepted(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("select sum(accepted)::bigint from ingest_tallies").fetchone()
    return int(row[0]) if row is not None else 0


def _wal_position(context: Context) -> float:
    with context.admin() as connection:
        row = connection.execute("select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::float8").fetchone()
    assert row is not None
    return float(str(row[0]))


def _disk_per_event(url: str) -> tuple[float, dict[str, float]]:
    """Bytes per event in all, and by relation."""
    with psycopg.connect(url) as connection:
        row = connection.execute(_DISK).fetchone()
        relations = {str(name): float(size) for name, size in connection.execute(_RELATIONS)}
    assert row is not None
    return float(row[0]), relations


def _against_heap(what: str, ours: Series, heap: Series, bound: float, *, note: str) -> Row:
    return Row(
        bench="growth",
        what=what,
        unit="bytes",
        system=ours,
        limit=heap,
        limit_name="COPY into a plain unindexed heap",
        budget=at_most(bound),
        note=note,
    )
