"""Listing a tenant's events, page by page, without an index on them.

Belongs here: finding a page of the ledger, and how many rows match. Does not: usage (`store.usage`), conflicts
(`store.conflicts`), what a page looks like on the wire.

The ledger has no index by tenant: it would cost every insert more than it saves the few who list. It has month
partitions and a BRIN index on ts, which find any stretch of time, and the counters, which know on which days a tenant
has how many events. So a page by ts walks those days from its end of time and stops when it is full; within a day it
first reads a stretch wide enough for four pages at the day's own density, then four times as much, and so on. What is
read is thus bounded by the busiest day it has to enter, never by the ledger. This holds because every ledger row is in
a counter of its own day or in the unfolded tail, as of one snapshot: an event the counters leave out would be missed.
So a tenant with meters, aliases, voids or adjustments, whose counters hold other numbers, is asked of the ledger alone.

Sorting by a text, and a `total` by source or time, read every row of the months asked for (cut off after 15 s).

Days of dropped months are read from the lake, as they are entered or all that are asked for at once (`archived_rows`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Literal

from psycopg_pool import ConnectionPool

from stripemeter.errors import Unavailable
from stripemeter.metering.days import month_start
from stripemeter.store.archived_rows import bring_rows, keep_ledger, refuse_too_much
from stripemeter.store.dropped_months import list_dropped_months
from stripemeter.store.postgres import Tx, transaction
from stripemeter.store.sql import load_queries

Sort = Literal["metric", "customerRef", "source", "ts"]
FIRST_BLOCK_DAYS = 8
"""Days whose counters are looked at first; each further block is GROWTH times as long."""
GROWTH = 4
SHORTEST_STRETCH = timedelta(seconds=1)
_TICK = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Which events; None admits all. `start` and `end` are both included."""

    tenant_id: str
    metric: str | None = None
    customer_ref: str | None = None
    source: str | None = None
    start: datetime | None = None
    end: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventKey:
    """Where a page ended: the sorted-by text or ts of its last row, and its ledger order, which breaks ties."""

    value: str | datetime
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEvent:
    """One row of the ledger; `meta` is JSON text. Voided, it counts nowhere; `replaced_by`: the key in its place."""

    seq: int
    idempotency_key: str
    tenant_id: str
    metric: str
    customer_ref: str
    resource_id: str | None
    quantity: Decimal
    ts: datetime
    received_at: datetime
    meta: str | None
    source: str
    voided_at: datetime | None
    replaced_by: str | None

    def key(self, sort: Sort) -> EventKey:
        """Where a page that ends with this row ended."""
        values: Mapping[Sort, str | datetime] = {
            "metric": self.metric,
            "customerRef": self.customer_ref,
            "source": self.source,
            "ts": self.ts,
        }
        return EventKey(value=values[sort], seq=self.seq)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPage:
    """One page in order; `total` of all pages where it was asked for."""

    events: list[LedgerEvent]
    has_more: bool
    total: int | None


def load_events(
    pool: ConnectionPool,
    which: EventFilter,
    *,
    sort: Sort,
    is_descending: bool,
    limit: int,
    offset: int = 0,
    after: EventKey | None = None,
) -> EventPage:
    """A page of a tenant's events: `limit` of them from `offset`, or those beyond `after` (then without a total).

    Raises:
        TookTooLong: too much of it lives in the lake alone.
        InvariantBroken: a dropped day is not in the lake.
        Unavailable: the database or the lake is down, the listing took too long, or the counters belong to another
            cluster.
    """
    queries = load_queries("listing")
    with transaction(pool) as tx:
        tx.execute(queries["begin_snapshot"])
        keep_ledger(tx)
        tx.execute(queries["limit_time"])
        most = offset + limit + 1
        has_own_rules = _has_own_rules(tx, which.tenant_id)
        if sort == "ts":
            days = "load_days_by_ledger" if has_own_rules else "load_days"
            rows = _walk(tx, which, days, is_descending=is_descending, most=most, after=after)
        else:
            rows = _sort(tx, which, sort, is_descending=is_descending, most=most, after=after)
        total = _count(tx, which, has_own_rules=has_own_rules) if after is None else None
    return EventPage(events=rows[offset : offset + limit], has_more=len(rows) == most, total=total)


def _has_own_rules(tx: Tx, tenant_id: str) -> bool:
    row = tx.execute(load_queries("listing")["has_own_rules"], {"tenant_id": tenant_id}, prepare=False).fetchone()
    return row is not None and bool(row[0])


def _count(tx: Tx, which: EventFilter, *, has_own_rules: bool) -> int:
    is_by_counters = not has_own_rules and which.source is None and which.start is None and which.end is None
    if not is_by_counters:
        _bring(tx, which, which.start, which.end)
    name = "count_by_counters" if is_by_counters else "count_by_ledger"
    row = tx.execute(load_queries("listing")[name], _filters(which), prepare=False).fetchone()
    return int(row[0]) if row is not None else 0


def _sort(
    tx: Tx, which: EventFilter, sort: Sort, *, is_descending: bool, most: int, after: EventKey | None
) -> list[LedgerEvent]:
    parameters = {
        **_filters(which),
        "sort": sort,
        "most": most,
        "after_text": after.value if after else None,
        "after_seq": after.seq if after else None,
    }
    _bring(tx, which, which.start, which.end)
    name = "load_by_text_descending" if is_descending else "load_by_text_ascending"
    return [_event(row) for row in tx.execute(load_queries("listing")[name], parameters, prepare=False)]


def _bring(tx: Tx, which: EventFilter, first: datetime | None, last: datetime | None) -> int:
    """Brings what the filter admits of dropped months, both instants included; how many events were looked at."""
    return bring_rows(
        tx,
        None if first is None else first.astimezone(UTC).date(),
        None if last is None else last.astimezone(UTC).date(),
        tenant_id=which.tenant_id,
        metrics=None if which.metric is None else [which.metric],
        customer_refs=None if which.customer_ref is None else [which.customer_ref],
    )


def _walk(
    tx: Tx, which: EventFilter, name_of_days: str, *, is_descending: bool, most: int, after: EventKey | None
) -> list[LedgerEvent]:
    query = load_queries("listing")["load_newest_first" if is_descending else "load_oldest_first"]
    first_ts, last_ts = which.start, which.end
    if after is not None and isinstance(after.value, datetime):
        if is_descending:
            last_ts = after.value if last_ts is None else min(last_ts, after.value)
        else:
            first_ts = after.value if first_ts is None else max(first_ts, after.value)
    parameters = {
        **_filters(which),
        "after_ts": after.value if after else None,
        "after_seq": after.seq if after else None,
    }
    found: list[LedgerEvent] = []
    looked_at = 0
    dropped = list_dropped_months(tx)
    if name_of_days == "load_days_by_ledger":
        _bring(tx, which, first_ts, last_ts)
        dropped = set()
    for day in _days(tx, which, name_of_days, first_ts, last_ts, is_descending=is_descending):
        bounds = _clip(day, first_ts, last_ts)
        if month_start(day.day) in dropped:
            looked_at += _bring(tx, which, *bounds)
            refuse_too_much(looked_at)
        for stretch in _stretches(bounds, day.event_count, most - len(found), is_descending=is_descending):
            window = {"first_ts": stretch[0], "last_ts": stretch[1], "most": most - len(found)}
            found.extend(_event(row) for row in tx.execute(query, {**parameters, **window}, prepare=False))
            if len(found) == most:
                return found
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Day:
    day: date
    event_count: int
    newest_ts: datetime


def _days(
    tx: Tx,
    which: EventFilter,
    name: str,
    first_ts: datetime | None,
    last_ts: datetime | None,
    *,
    is_descending: bool,
) -> Iterator[_Day]:
    """The days with matching events (of any source), in the order of the walk; asked for in growing blocks."""
    queries = load_queries("listing")
    is_foreign, first_on, last_on = tx.execute(
        queries["load_span"], {"tenant_id": which.tenant_id}, prepare=False
    ).fetchone() or (False, None, None)
    if is_foreign:
        raise Unavailable("the fold cursor was written in another PostgreSQL cluster: the counters must be rebuilt")
    if first_on is None:
        return
    first_on = max(first_on, first_ts.date()) if first_ts else first_on
    last_on = min(last_on, last_ts.date()) if last_ts else last_on
    for block in _blocks(first_on, last_on, is_descending=is_descending):
        parameters = {**_filters(which), "first_on": block[0], "last_on": block[1]}
        rows = tx.execute(queries[name], parameters, prepare=False).fetchall()
        days = [_Day(day=day, event_count=count, newest_ts=newest) for day, count, newest in rows]
        yield from reversed(days) if is_descending else days


def _blocks(first_on: date, last_on: date, *, is_descending: bool) -> Iterator[tuple[date, date]]:
    """`[first_on, last_on]` cut into adjoining blocks of days, the near ones short, in the order of the walk."""
    left, length = (last_on - first_on).days + 1, FIRST_BLOCK_DAYS
    while left > 0:
        days = min(length, left)
        start = first_on + timedelta(days=left - days) if is_descending else last_on - timedelta(days=left - 1)
        yield start, start + timedelta(days=days - 1)
        left -= days
        length *= GROWTH


def _clip(day: _Day, first_ts: datetime | None, last_ts: datetime | None) -> tuple[datetime, datetime]:
    """First and last instant of a day that can hold a row of the page."""
    start = datetime.combine(day.day, time.min, UTC)
    end = day.newest_ts
    return max(start, first_ts) if first_ts else start, min(end, last_ts) if last_ts else end


def _stretches(
    bounds: tuple[datetime, datetime], event_count: int, wanted: int, *, is_descending: bool
) -> Iterator[tuple[datetime, datetime]]:
    """`bounds` (both included) cut into adjoining stretches, the first as wide as four times the wanted rows need."""
    first, last = bounds
    width = max((last - first) * GROWTH * wanted // max(event_count, 1), SHORTEST_STRETCH)
    while first <= last:
        if width >= last - first:
            yield first, last
            return
        if is_descending:
            yield last - width, last
            last -= width + _TICK
        else:
            yield first, first + width
            first += width + _TICK
        width *= GROWTH


def _filters(which: EventFilter) -> dict[str, Any]:
    return {
        "tenant_id": which.tenant_id,
        "metric": which.metric,
        "customer_ref": which.customer_ref,
        "source": which.source,
        "from_ts": which.start,
        "until_ts": which.end,
    }


def _event(row: tuple[Any, ...]) -> LedgerEvent:
    names = LedgerEvent.__dataclass_fields__
    return LedgerEvent(**dict(zip(names, row, strict=True)))
