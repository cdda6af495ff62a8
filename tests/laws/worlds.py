"""Facts, and what a person with a pencil would count from them.

Belongs here: building events through the real parser, storing them through the real group commit, the naive oracle
(exact decimals, no frames, no SQL) and reading counters back. Does not: any test.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Context, Decimal
from typing import Any

import polars as pl
from psycopg_pool import ConnectionPool

from stripemeter.metering.aggregation import Counted, aggregate
from stripemeter.metering.days import day_of
from stripemeter.metering.events import IngestLimits, RejectedEvent, UsageEvent, parse_ingest
from stripemeter.metering.frames import LEDGER_EVENTS
from stripemeter.metering.readings import read_meters
from stripemeter.metering.rulebook import Rulebook
from stripemeter.pipeline.ingest import EventResult, GroupCommit, Outcome
from stripemeter.store.postgres import transaction

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
_EXACT = Context(prec=100)

Parsed = UsageEvent | RejectedEvent
Counter = tuple[str, str, str, date]
"""(tenant, customer, meter, day)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One event as its producer means it."""

    tenant: str = "acme"
    metric: str = "api_calls"
    customer: str = "cust_1"
    quantity: str = "1"
    ts: datetime = NOW
    key: str | None = None
    resource: str | None = None
    meta: dict[str, Any] | None = None

    def document(self) -> dict[str, Any]:
        """The event as an ingest body holds it."""
        members = {
            "tenantId": self.tenant,
            "metric": self.metric,
            "customerRef": self.customer,
            "quantity": self.quantity,
            "ts": self.ts.isoformat(),
            "idempotencyKey": self.key,
            "resourceId": self.resource,
            "meta": self.meta,
        }
        return {name: value for name, value in members.items() if value is not None}


@dataclass(frozen=True, slots=True)
class State:
    """What one counter must hold; `last` is the quantity of the greatest (ts, seq)."""

    count: int
    total: Decimal
    least: Decimal
    greatest: Decimal
    last: Decimal
    last_ts: datetime
    last_seq: int


def parse(facts: Sequence[Fact], *, header_key: str | None = None, now: datetime = NOW) -> list[Parsed]:
    """The facts through the real parser, as one request."""
    body = json.dumps({"events": [fact.document() for fact in facts]}).encode()
    return parse_ingest(body, header_key=header_key, now=now, limits=IngestLimits())


class Ingest:
    """A group commit on a loop of its own, called from plain test code."""

    def __init__(self, database_url: str, clock: Callable[[], datetime]) -> None:
        self._runner = asyncio.Runner()
        self._group = GroupCommit(database_url, clock=clock)
        self._runner.run(self._start())

    def accept(self, facts: Sequence[Fact], *, header_key: str | None = None, now: datetime = NOW) -> list[EventResult]:
        """One request, parsed at `now`."""
        return self.accept_parsed(parse(facts, header_key=header_key, now=now))

    def accept_parsed(self, events: Sequence[Parsed]) -> list[EventResult]:
        """One request of events that are parsed already."""
        return self._runner.run(self._group.accept(events))

    def send_together(self, requests: Sequence[Sequence[Fact]]) -> list[list[EventResult] | BaseException]:
        """As `accept_together`, for requests that are not parsed yet."""
        return self.accept_together([parse(facts) for facts in requests])

    def accept_together(self, requests: Sequence[Sequence[Parsed]]) -> list[list[EventResult] | BaseException]:
        """Requests queued before the flusher runs, so that they share a batch; an error stands for its answer."""

        async def together() -> list[list[EventResult] | BaseException]:
            return await asyncio.gather(*(self._group.accept(events) for events in requests), return_exceptions=True)

        return self._runner.run(together())

    def close(self) -> None:
        """Stop the flusher and its loop."""
        self._runner.run(self._group.stop())
        self._runner.close()

    async def _start(self) -> None:
        self._group.start()


@contextmanager
def ingest_into(database_url: str, *, clock: Callable[[], datetime] = lambda: NOW) -> Iterator[Ingest]:
    """An `Ingest` that is closed at the end."""
    opened = Ingest(database_url, clock)
    try:
        yield opened
    finally:
        opened.close()


def outcomes(results: Iterable[EventResult]) -> list[str]:
    """Just the statuses, in order."""
    return [result.outcome.value for result in results]


def tally(results: Iterable[EventResult]) -> dict[Outcome, int]:
    """How often each outcome came."""
    counts = dict.fromkeys(Outcome, 0)
    for result in results:
        counts[result.outcome] += 1
    return counts


def pencil(rows: Iterable[tuple[Counter, datetime, int, Decimal]]) -> dict[Counter, State]:
    """Counters of ledger rows (key, ts, seq, quantity), by hand."""
    states: dict[Counter, State] = {}
    for key, ts, seq, quantity in rows:
        old = states.get(key)
        if old is None:
            states[key] = State(1, quantity, quantity, quantity, quantity, ts, seq)
            continue
        is_newer = (ts, seq) > (old.last_ts, old.last_seq)
        states[key] = State(
            old.count + 1,
            _EXACT.add(old.total, quantity),
            min(old.least, quantity),
            max(old.greatest, quantity),
            quantity if is_newer else old.last,
            ts if is_newer else old.last_ts,
            seq if is_newer else old.last_seq,
        )
    return states


def frame_of(rows: Iterable[tuple[Counter, datetime, int, Decimal]]) -> pl.DataFrame:
    """The same rows as the ledger events `read_meters` takes."""
    listed = list(rows)
    columns = {
        "tenant_id": [key[0] for key, *_ in listed],
        "customer_ref": [key[1] for key, *_ in listed],
        "metric": [key[2] for key, *_ in listed],
        "ts": [ts for _, ts, _, _ in listed],
        "seq": [seq for _, _, seq, _ in listed],
        "quantity": [f"{quantity:.12f}" for *_, quantity in listed],
        "received_at": [NOW] * len(listed),
        "is_history": [False] * len(listed),
        "is_late": [False] * len(listed),
        "source": [None] * len(listed),
        "resource_id": [None] * len(listed),
        "meta": [None] * len(listed),
    }
    schema = {name: column.dtype.type for name, column in LEDGER_EVENTS.columns.items()}
    # Through text, as the ledger is read: from Python's Decimal the frame would guess a scale.
    frame = pl.DataFrame(columns, schema={**schema, "quantity": pl.String})
    return frame.with_columns(pl.col("quantity").str.to_decimal(scale=12))


def count(rows: Iterable[tuple[Counter, datetime, int, Decimal]]) -> Counted:
    """The same rows counted, by nobody's rules but the defaults."""
    return aggregate(read_meters(frame_of(rows), Rulebook()))


def states_of(counters: pl.DataFrame) -> dict[Counter, State]:
    """What a frame of counters says."""
    return {
        (row["tenant_id"], row["customer_ref"], row["meter"], row["day"]): State(
            row["event_count"],
            _EXACT.add(row["sum_whole"], row["sum_fraction"]),
            row["quantity_min"],
            row["quantity_max"],
            row["quantity_last"],
            row["last_ts"],
            row["last_seq"],
        )
        for row in counters.iter_rows(named=True)
    }


def stored_counters(pool: ConnectionPool, tenants: Sequence[str]) -> dict[Counter, State]:
    """The tenants' counters as the table holds them, both lanes together."""
    with transaction(pool) as tx:
        rows = tx.execute(
            "select tenant_id, customer_ref, meter, day, sum(event_count)::bigint, sum(quantity_sum),"
            " min(quantity_min), max(quantity_max),"
            " (array_agg(quantity_last order by last_ts desc, last_seq desc))[1], max(last_ts),"
            " (array_agg(last_seq order by last_ts desc, last_seq desc))[1]"
            " from counters where tenant_id = any(%(tenants)s)"
            " group by tenant_id, customer_ref, meter, day, segment_start",
            {"tenants": list(tenants)},
        ).fetchall()
    return {(row[0], row[1], row[2], row[3]): State(*row[4:]) for row in rows}


def let_late_events_count(pool: ConnectionPool, tenants: Sequence[str]) -> None:
    """Late events of these tenants count without a person; by default those of closed segments wait for one."""
    with transaction(pool) as tx:
        tx.execute(
            "insert into tenant_policies (tenant_id, late_approval, updated_at)"
            " select tenant, 'always', now() from unnest(%(tenants)s::text[]) as tenant",
            {"tenants": list(tenants)},
        )


def ledger_rows(pool: ConnectionPool, tenants: Sequence[str]) -> dict[tuple[str, str], tuple[datetime, int, Decimal]]:
    """(ts, seq, quantity) of the tenants' ledger rows by (tenant, idempotency key)."""
    with transaction(pool) as tx:
        rows = tx.execute(
            "select tenant_id, idempotency_key, ts, seq, quantity from events where tenant_id = any(%(tenants)s)",
            {"tenants": list(tenants)},
        ).fetchall()
    assert len({(row[0], row[1]) for row in rows}) == len(rows), "one key stands twice in the ledger"
    return {(row[0], row[1]): (row[2], row[3], row[4]) for row in rows}


def counter_of(fact: Fact) -> Counter:
    """Which counter a fact belongs to."""
    return fact.tenant, fact.customer, fact.metric, day_of(fact.ts)
