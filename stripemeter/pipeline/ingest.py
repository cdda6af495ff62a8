"""Accepting events: a group commit per worker process.

Belongs here: queueing, batching, the one transaction that stores a batch, telling duplicates from conflicts, isolating
poison. Does not: parsing (`metering.events`), HTTP, counting.

One flusher takes everything queued as soon as the previous batch is on disk: no timers, no lingering. Under load
batches grow and amortise the round trip and the disk; idle, an event waits for nobody. The whole batch is one
statement, so it commits or it does not; waiters are answered only after the commit itself is confirmed.

This module alone uses asyncpg: it measured 1.4 times psycopg's throughput here (docs/decisions/0004).
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import Enum
from typing import Any

import asyncpg
import msgspec
import structlog
from asyncpg.pgproto.pgproto import UUID

from stripemeter.errors import InvariantBroken, Unavailable
from stripemeter.metering.days import month_start
from stripemeter.metering.events import RejectedEvent, UsageEvent
from stripemeter.store.sql import load_queries

MAX_FLUSH_EVENTS = 2000
"""Knee of the measured curve: larger batches only add latency."""
MAX_QUEUED_EVENTS = 20_000
"""Ten batches: beyond it a newcomer would wait longer than it takes to be told to come back."""
STATEMENT_SECONDS = 30
FIRST_PARTITIONED_YEAR = 2000
_UNIT_SEPARATOR = "\x1f"

_log = structlog.get_logger(__name__)
_UNSTORABLE = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)
"""What Postgres says of data it will never take, however often it is sent."""
_INTERRUPTED = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What the driver says when the server went away. The last one when it died between two of the driver's own steps:
`cannot switch to state 12; another operation (2) is in progress`, seen on a killed server with asyncpg 0.32."""
_SETTINGS = {
    "application_name": "stripemeter-ingest",
    "timezone": "UTC",
    "synchronous_commit": "on",
    # The arrays' lengths are unknown to a generic plan: it would guess ten rows and join a thousand by a nested loop.
    "enable_nestloop": "off",
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
    "idle_in_transaction_session_timeout": "60s",
}


class Outcome(Enum):
    """What one event came to."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    REJECTED = "error"


class EventResult(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The outcome of one event, in the order of its request."""

    idempotency_key: str
    outcome: Outcome
    code: str | None = None
    message: str | None = None


@dataclass(slots=True)
class _Waiting:
    """One request in the queue."""

    events: Sequence[UsageEvent | RejectedEvent]
    answered: asyncio.Future[list[EventResult]]
    outcomes: list[EventResult] = field(default_factory=list)


class GroupCommit:
    """The flusher of one process. `accept` may be called by any number of coroutines of its event loop."""

    def __init__(self, database_url: str, *, clock: Callable[[], datetime]) -> None:
        self._database_url = database_url
        self._clock = clock
        self._queries = load_queries("ingest")
        self._queue: deque[_Waiting] = deque()
        self._queued_events = 0
        self._wake = asyncio.Event()
        self._connection: asyncpg.Connection[Any] | None = None
        self._months: set[date] = set()
        self._task: asyncio.Task[None] | None = None
        self._is_stopping = False

    def start(self) -> None:
        """Start the flusher on the running loop; the database need not be up yet."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="group-commit")

    async def stop(self) -> None:
        """Answer what is queued, then close."""
        self._is_stopping = True
        self._wake.set()
        if self._task is not None:
            await self._task
        self._disconnect()

    async def accept(self, events: Sequence[UsageEvent | RejectedEvent]) -> list[EventResult]:
        """Store events durably; results in the same order. Returns after the commit, never before.

        Raises:
            Unavailable: the queue is full (nothing was stored), or the database went away (what it had committed is
                recognised as duplicate when the same request comes again).
        """
        if self._is_stopping:
            raise Unavailable("this process is stopping: send the same request again")
        if self._queued_events + len(events) > MAX_QUEUED_EVENTS:
            raise Unavailable(f"{self._queued_events} events are waiting to be stored: try again in a second")
        waiting = _Waiting(events, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._queued_events += len(events)
        self._wake.set()
        return await waiting.answered

    async def _run(self) -> None:
        while not self._is_stopping:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                batch = self._take()
                try:
                    await self._flush(batch)
                except _INTERRUPTED as error:
                    self._disconnect()
                    _log.warning("ingest_interrupted", error=type(error).__name__, requests=len(batch))
                    _fail(batch, Unavailable("the ledger is not available: send the same request again"))
                except Exception as error:  # noqa: BLE001 - the flusher outlives any batch; its waiters get the error
                    self._disconnect()  # what state the session is in, nobody knows
                    _fail(batch, error)
                finally:
                    self._queued_events -= sum(len(waiting.events) for waiting in batch)

    def _take(self) -> list[_Waiting]:
        taken = [self._queue.popleft()]
        size = len(taken[0].events)
        while self._queue and size + len(self._queue[0].events) <= MAX_FLUSH_EVENTS:
            size += len(self._queue[0].events)
            taken.append(self._queue.popleft())
        return taken

    async def _flush(self, batch: list[_Waiting]) -> None:
        """Store a batch of requests; a batch the database refuses as data is halved until the culprit stands alone."""
        try:
            await self._store(batch)
        except _UNSTORABLE as error:
            if len(batch) > 1:
                half = len(batch) // 2
                await self._flush(batch[:half])
                await self._flush(batch[half:])
                return
            await self._isolate(batch[0], error)
        _answer(batch)

    async def _isolate(self, waiting: _Waiting, error: Exception) -> None:
        """Store one request's events one by one, and reject those the database refuses."""
        outcomes: list[EventResult] = []
        for event in waiting.events:
            alone = _Waiting([event], waiting.answered)
            try:
                await self._store([alone])
                outcomes += alone.outcomes
            except _UNSTORABLE:
                _log.error("event_unstorable", error=type(error).__name__)
                refused = RejectedEvent(
                    event.tenant_id, event.idempotency_key, "unstorable", "the event cannot be stored"
                )
                alone = _Waiting([refused], waiting.answered)
                try:
                    await self._store([alone])
                except _UNSTORABLE:  # its very tenant cannot be written, so no tally can name it
                    _settle([alone], {})
                outcomes += alone.outcomes
        waiting.outcomes = outcomes

    async def _store(self, batch: list[_Waiting]) -> None:
        connection = await self._connected()
        received_on = self._clock().date()
        rows, parameters = batch_parameters(event for waiting in batch for event in waiting.events)
        await self._ensure_months(connection, rows)
        try:
            found = await self._accept(connection, [*parameters, received_on])
        except asyncpg.CheckViolationError as error:
            if error.constraint_name is not None:
                raise
            self._months.clear()  # "no partition": retention dropped one that was known
            await self._ensure_months(connection, rows)
            found = await self._accept(connection, [*parameters, received_on])
        taken = {record[0].bytes for record in found}
        standing: dict[bytes, int] = {}
        if taken:
            keys = [UUID(key) for key in sorted(taken)]
            for record in await connection.fetch(self._queries["load_payload_hashes"], keys, timeout=STATEMENT_SECONDS):
                standing[record[0].bytes] = record[1]
            if len(standing) < len(taken):
                raise InvariantBroken("a key of the ledger vanished between two statements")
        conflicts = _settle(batch, standing)
        if conflicts:
            await self._quarantine(connection, conflicts, received_on)

    async def _accept(self, connection: asyncpg.Connection[Any], parameters: list[Any]) -> list[asyncpg.Record]:
        # None: no operation brought these.
        found: list[asyncpg.Record] = await connection.fetch(
            self._queries["accept_events"], *parameters, None, timeout=STATEMENT_SECONDS
        )
        return found

    async def _quarantine(
        self, connection: asyncpg.Connection[Any], conflicts: list[UsageEvent], received_on: date
    ) -> None:
        await connection.execute(
            self._queries["quarantine_conflicts"],
            *quarantine_parameters(conflicts),
            received_on,
            timeout=STATEMENT_SECONDS,
        )

    async def _ensure_months(self, connection: asyncpg.Connection[Any], rows: Sequence[UsageEvent]) -> None:
        for start in months_of(rows) - self._months:
            await connection.execute(self._queries["ensure_events_month"], month_start(start))
            self._months.add(start)

    async def _connected(self) -> asyncpg.Connection[Any]:
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(
                self._database_url, server_settings=_SETTINGS, timeout=5, command_timeout=STATEMENT_SECONDS
            )
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        self._months.clear()  # another database may answer next time
        if connection is not None:
            connection.terminate()


def batch_parameters(
    events: Iterable[UsageEvent | RejectedEvent],
) -> tuple[list[UsageEvent], list[Any]]:
    """The rows of a batch and `accept_events`' parameters for it, but the last two: UTC day of arrival, operation.

    Rows are the first bearers of each key, sorted by key hash.
    """
    first: dict[bytes, UsageEvent] = {}
    received: dict[str, int] = {}
    rejected: dict[str, int] = {}
    for event in events:
        tenant = event.tenant_id
        received[tenant] = received.get(tenant, 0) + 1
        if isinstance(event, UsageEvent):
            first.setdefault(event.key_hash, event)
        else:
            rejected[tenant] = rejected.get(tenant, 0) + 1
    # Sorted, or two workers with overlapping batches deadlock on each other's keys.
    arrivals = {key: arrival for arrival, key in enumerate(first)}
    rows = sorted(first.values(), key=_by_key_hash)
    tenants = sorted(received)
    tallies = [[received[tenant] for tenant in tenants], [rejected.get(tenant, 0) for tenant in tenants]]
    return rows, [*_joined(rows, arrivals), tenants, *tallies]


def quarantine_parameters(conflicts: Iterable[UsageEvent]) -> list[Any]:
    """`quarantine_conflicts`' parameters but the last, the UTC day of arrival: each payload once, with how often."""
    times: dict[tuple[bytes, int], int] = {}
    distinct: dict[tuple[bytes, int], UsageEvent] = {}
    for event in conflicts:
        identity = (event.key_hash, event.payload_hash)
        times[identity] = times.get(identity, 0) + 1
        distinct[identity] = event
    ordered = sorted(distinct)
    return [*_columns([distinct[identity] for identity in ordered]), [times[identity] for identity in ordered]]


def months_of(rows: Iterable[UsageEvent]) -> set[date]:
    """First days of the months whose storage partitions the rows need."""
    months = {(row.ts.year, row.ts.month) for row in rows}
    return {date(year, month, 1) for year, month in months if year >= FIRST_PARTITIONED_YEAR}


def settle_events(
    events: Iterable[UsageEvent | RejectedEvent], standing: dict[bytes, int], conflicts: list[UsageEvent]
) -> list[EventResult]:
    """Every event's outcome, in order; the first bearer of a new key is the accepted one.

    Args:
        events: in order of arrival.
        standing: payload hash by key hash of what stood before them; gets what they added.
        conflicts: gets the conflicting ones.
    """
    outcomes: list[EventResult] = []
    for event in events:
        key = event.idempotency_key
        if isinstance(event, RejectedEvent):
            outcomes.append(
                EventResult(idempotency_key=key, outcome=Outcome.REJECTED, code=event.code, message=event.message)
            )
            continue
        stands = standing.get(event.key_hash)
        if stands is None:
            standing[event.key_hash] = event.payload_hash
            outcomes.append(EventResult(idempotency_key=key, outcome=Outcome.ACCEPTED))
        elif stands == event.payload_hash:
            outcomes.append(EventResult(idempotency_key=key, outcome=Outcome.DUPLICATE))
        else:
            conflicts.append(event)
            outcomes.append(
                EventResult(
                    idempotency_key=key,
                    outcome=Outcome.CONFLICT,
                    code="idempotency_conflict",
                    message="this idempotency key was used with a different payload: the first stands",
                )
            )
    return outcomes


def _settle(batch: list[_Waiting], standing: dict[bytes, int]) -> list[UsageEvent]:
    """Write every request's outcomes, in order of arrival; returns the conflicting events."""
    conflicts: list[UsageEvent] = []
    for waiting in batch:
        waiting.outcomes = settle_events(waiting.events, standing, conflicts)
    return conflicts


def _columns(rows: Sequence[UsageEvent]) -> list[list[Any]]:
    return [
        [UUID(row.key_hash) for row in rows],
        [row.payload_hash for row in rows],
        [row.tenant_id for row in rows],
        [row.metric for row in rows],
        [row.customer_ref for row in rows],
        [row.resource_id for row in rows],
        [row.quantity for row in rows],
        [row.ts.isoformat() for row in rows],  # as text: asyncpg writes the first instant of year 1 as -infinity
        [row.meta for row in rows],
        [row.idempotency_key for row in rows],
        [row.source for row in rows],
    ]


def _joined(rows: Sequence[UsageEvent], arrivals: Mapping[bytes, int]) -> list[str]:
    """One text per column of `accept_events`, then the separator they are joined by.

    asyncpg spends five times as long on the elements of arrays: it asks of each whether it is a container.
    """
    columns = (
        [row.key_hash.hex() for row in rows],
        [str(row.payload_hash) for row in rows],
        [row.tenant_id for row in rows],
        [row.metric for row in rows],
        [row.customer_ref for row in rows],
        ["" if row.resource_id is None else f"={row.resource_id}" for row in rows],
        [row.quantity for row in rows],
        [row.ts.isoformat() for row in rows],
        [row.meta or "" for row in rows],
        [row.idempotency_key for row in rows],
        [row.source for row in rows],
        [str(arrivals[row.key_hash]) for row in rows],
    )
    separator = _UNIT_SEPARATOR
    joined = [separator.join(column) for column in columns]
    # A caller's text may hold it (as an escape in JSON): then one that nobody can have guessed.
    while any(text.count(separator) >= max(len(rows), 1) for text in joined):
        separator = secrets.token_hex(16)
        joined = [separator.join(column) for column in columns]
    return [*joined, separator]


def _by_key_hash(event: UsageEvent) -> bytes:
    return event.key_hash


def _answer(batch: list[_Waiting]) -> None:
    for waiting in batch:
        if not waiting.answered.done():
            waiting.answered.set_result(waiting.outcomes)


def _fail(batch: list[_Waiting], error: Exception) -> None:
    for waiting in batch:
        if not waiting.answered.done():
            waiting.answered.set_exception(error)
