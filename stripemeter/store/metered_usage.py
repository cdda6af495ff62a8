"""Reading usage by rules: what a customer used, where meters or billing phases have a say.

Belongs here: counters' states and unfolded events of one snapshot, put together by the rulebook. Does not: usage of
tenants that decided nothing (`store.usage`, one statement), making numbers of states (`metering.countings`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
from psycopg import sql

from stripemeter.errors import InvariantBroken, TookTooLong, Unavailable
from stripemeter.metering.aggregation import aggregate
from stripemeter.metering.answers import Part, overlap
from stripemeter.metering.countings import Counting, counted_as, counted_otherwise
from stripemeter.metering.days import day_bounds
from stripemeter.metering.frames import LEDGER_EVENTS
from stripemeter.metering.parts import parts_of_frame
from stripemeter.metering.readings import UNMATCHED, read_meters
from stripemeter.metering.rulebook import Rulebook, TenantRules
from stripemeter.metering.segments import BEGINNING, Segment
from stripemeter.store.archived_rows import bring_rows, keep_ledger
from stripemeter.store.lateness import load_aggregations
from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries
from stripemeter.store.withheld import load_withheld

_Q = load_queries("metered_usage")
UNFILTERED: Mapping[str, object] = {"known_at": None, "source": None, "resource_id": None, "meta_filters": None}
"""Of `load_events`: all of them, as of now."""
MOST_ROWS = 1_000_000
"""Rows of one read: seconds of work."""
_PART = tuple(name for name in Part.__dataclass_fields__ if name != "items")


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """How far the counters are.

    Args:
        folded_below: the fold read all below.
        folded_at: when it last advanced.
        recount_days: days of the tenant that wait to be counted again.
        withheld: `seq` of unfolded events that do not count, for the fold will find them too late.
    """

    folded_below: str
    folded_at: datetime | None
    recount_days: int
    withheld: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadParts:
    """States of some days, unfolded events included; `pending_count` of those lie in these days.

    `parts` also hold the last states before the days of time-weighted meters.
    """

    parts: Sequence[Part]
    pending_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjustment:
    """An approved manual adjustment."""

    customer_ref: str
    meter: str
    day: date
    effective_at: datetime
    delta: Decimal


def read_one_snapshot(tx: Tx, *, timeout_seconds: int | None = None) -> None:
    """All that the transaction reads from here on is of one instant; before its first statement.

    Nobody drops a month of the ledger meanwhile: the snapshot would not know that its rows are gone. With a timeout the
    server cuts off every statement that takes longer, the wait for the ledger included.
    """
    tx.execute(_Q["read_one_snapshot"])
    if timeout_seconds is not None:
        # A `select set_config` would take the snapshot before the ledger is kept.
        limit = sql.SQL("set local statement_timeout = {}")  # allow-sql-text: `set` takes no parameters
        tx.execute(limit.format(timeout_seconds * 1000))
    keep_ledger(tx)


def is_meter(tx: Tx, tenant_id: str, name: str) -> bool:
    """Whether the tenant ever defined a meter of this name."""
    row = tx.execute(_Q["is_meter"], {"tenant_id": tenant_id, "name": name}).fetchone()
    return row is not None and bool(row[0])


def load_head(
    tx: Tx, tenant_id: str, *, refs: Collection[str] | None, metrics: Collection[str] | None, now: datetime
) -> Head:
    """How far the fold is, and what it would withhold now of events under these references and metrics (None: all).

    Raises:
        TookTooLong: too many old events wait for their fold.
        Unavailable: the counters belong to another cluster.
    """
    row = tx.execute(_Q["load_head"], {"tenant_id": tenant_id}).fetchone()
    if row is None:
        raise InvariantBroken("sql/queries/metered_usage.sql load_head: no row")
    if row[2]:
        raise Unavailable("the fold cursor was written in another PostgreSQL cluster: the counters must be rebuilt")
    withheld = load_withheld(tx, tenant_id=tenant_id, refs=refs, metrics=metrics, folded_below=row[0], now=now)
    return Head(folded_below=row[0], folded_at=row[1], recount_days=row[3], withheld=withheld)


def load_mapped(tx: Tx, tenant_id: str) -> dict[str, str]:
    """How the tenant's mapped meters count."""
    return {meter: how for (_, meter), how in load_aggregations(tx, [tenant_id]).items()}


def load_parts(
    tx: Tx,
    rulebook: Rulebook,
    head: Head,
    *,
    tenant_id: str,
    customers: Collection[str] | None,
    meters: Collection[str] | None,
    first_on: date,
    last_on: date,
) -> ReadParts:
    """The states of the days from first to last, as a fold that ran this instant would leave them.

    Raises:
        TookTooLong: there are more rows than one read may take.
    """
    rules = rulebook.of(tenant_id)
    weighted = {
        name
        for name, versions in rules.meters.items()
        if any(each.definition.aggregation == "time_weighted" for each in versions)
        and (meters is None or name in meters)
    }
    scope = {
        "tenant_id": tenant_id,
        "customers": None if customers is None else sorted(customers),
        "meters": None if meters is None else sorted(meters),
        "first_on": first_on,
        "last_on": last_on,
        "most": MOST_ROWS + 1,
    }
    stored = _stored(tx, scope, rules)
    if weighted:
        stored += [_part(row) for row in _rows(tx, "load_levels", scope | {"meters": sorted(weighted)})]
    start_at, end_at = day_bounds(first_on)[0], day_bounds(last_on)[1]
    reading = _reading(rules, head, tenant_id, customers, meters)
    tail = load_events(
        tx,
        reading
        | {
            "since_xid": head.folded_below,
            "from_ts": BEGINNING if weighted else start_at,
            "until_ts": end_at,
        },
    )
    pending = _wanted(_counted(tail, rulebook), meters)
    again = _overlapping(pending, stored, weighted)
    for day in again:
        start, end = day_bounds(day)
        events = load_events(tx, reading | {"since_xid": "0", "from_ts": start, "until_ts": end})
        whole = [part for part in _wanted(_counted(events, rulebook), meters) if part.meter in weighted]
        stored = [part for part in stored if part.meter not in weighted or part.day != day] + whole
        pending = [part for part in pending if part.meter not in weighted or part.day != day]
    return ReadParts(
        parts=[*stored, *pending],
        pending_count=tail.filter(pl.col("ts") >= pl.lit(start_at)).height,
    )


def load_levels(
    tx: Tx,
    rulebook: Rulebook,
    head: Head,
    *,
    tenant_id: str,
    customers: Collection[str] | None,
    meter: str,
    before: date,
) -> list[Part]:
    """The last states of a meter before a day, of each customer and dimensions; unfolded events are states too.

    Raises:
        TookTooLong: there are more rows than one read may take.
    """
    scope = {
        "tenant_id": tenant_id,
        "customers": None if customers is None else sorted(customers),
        "meters": [meter],
        "first_on": before,
        "most": MOST_ROWS + 1,
    }
    stored = [_part(row) for row in _rows(tx, "load_levels", scope)]
    reading = _reading(rulebook.of(tenant_id), head, tenant_id, customers, [meter])
    span = {"since_xid": head.folded_below, "from_ts": BEGINNING, "until_ts": day_bounds(before)[0]}
    return stored + _wanted(_counted(load_events(tx, reading | span), rulebook), [meter])


def counted_again(  # noqa: PLR0913 - the scope of a read is five names
    tx: Tx,
    rulebook: Rulebook,
    head: Head,
    parts: Sequence[Part],
    *,
    tenant_id: str,
    customers: Collection[str] | None,
    meter: str,
    edges: Sequence[datetime],
    countings: Sequence[Counting],
) -> dict[Counting, list[Part]]:
    """The parts of a meter as each counting needs them: days another aggregation counted are read from the events.

    Raises:
        InvalidInput: such a day lives in the lake alone.
        TookTooLong: there are more rows than one read may take.
    """
    rules = rulebook.of(tenant_id)
    own = [part for part in parts if part.meter == meter]
    reading = _reading(rules, head, tenant_id, customers, [meter])
    found = {}
    for counting in set(countings):
        days = counted_otherwise(rules, meter, counting, {part.day for part in own}, edges, countings)
        found[counting] = [part for part in own if part.day not in days]
        changed = counted_as(rulebook, tenant_id, meter, counting)
        for day in sorted(days):
            start, end = day_bounds(day)
            events = load_events(tx, reading | {"since_xid": "0", "from_ts": start, "until_ts": end})
            found[counting] += _wanted(_counted(events, changed), [meter])
    return found


def load_events(tx: Tx, parameters: Mapping[str, object]) -> pl.DataFrame:
    """Events that count, shape LEDGER_EVENTS.

    Raises:
        TookTooLong: folded ones are asked for (`since_xid` 0), and too many of them live in the lake alone.
        InvariantBroken: one of those days is not in the lake.
    """
    first, until = parameters["from_ts"], parameters["until_ts"]
    if parameters["since_xid"] == "0" and isinstance(first, datetime) and isinstance(until, datetime):
        last = until - timedelta(microseconds=1)
        refs: Any = parameters["refs"]
        metrics: Any = parameters["metrics"]
        bring_rows(
            tx,
            first.astimezone(UTC).date(),
            last.astimezone(UTC).date(),
            tenant_id=str(parameters["tenant_id"]),
            metrics=metrics,
            customer_refs=refs,
        )
    rows = _rows(tx, "load_events", parameters)
    schema: dict[str, Any] = {name: column.dtype.type for name, column in LEDGER_EVENTS.columns.items()}
    frame = pl.DataFrame(rows, schema={**schema, "quantity": pl.String}, orient="row")
    return LEDGER_EVENTS.validate(frame.with_columns(pl.col("quantity").str.to_decimal(scale=12)))


def load_adjustments(
    tx: Tx,
    rules: TenantRules,
    *,
    tenant_id: str,
    customers: Collection[str] | None,
    meters: Collection[str] | None,
    span: Segment,
    known_at: datetime | None = None,
) -> list[Adjustment]:
    """The approved manual adjustments that take effect in a span, under the customers' own references."""
    parameters = {
        "tenant_id": tenant_id,
        "refs": refs_of(rules, customers),
        "meters": None if meters is None else sorted(meters),
        "from_ts": span.start,
        "until_ts": span.end,
        "known_at": known_at,
    }
    return [
        Adjustment(customer_ref=rules.customer_of(row[0]), meter=row[1], day=row[2], effective_at=row[3], delta=row[4])
        for row in tx.execute(_Q["load_adjustments"], parameters, prepare=False)
    ]


def _reading(
    rules: TenantRules, head: Head, tenant_id: str, customers: Collection[str] | None, meters: Collection[str] | None
) -> dict[str, object]:
    return {
        "tenant_id": tenant_id,
        "refs": refs_of(rules, customers),
        "metrics": metrics_of(rules, meters),
        "withheld": list(head.withheld),
        **UNFILTERED,
        "most": MOST_ROWS + 1,
    }


def _stored(tx: Tx, scope: Mapping[str, object], rules: TenantRules) -> list[Part]:
    rows = _rows(tx, "load_parts", scope)
    kept = {
        name
        for name, versions in rules.meters.items()
        if any(each.definition.aggregation in ("unique", "percentile") for each in versions)
    }
    names = sorted(kept & {row[1] for row in rows})
    if not names:
        return [_part(row) for row in rows]
    items: defaultdict[tuple[Any, ...], dict[str, int]] = defaultdict(dict)
    for *key, item, item_count in _rows(tx, "load_items", dict(scope) | {"meters": names}):
        items[tuple(key)][item] = item_count
    return [replace(_part(row), items=items.get((*row[:5], row[-1]), {})) for row in rows]


def _part(row: Sequence[Any]) -> Part:
    return Part(**dict(zip(_PART, row[:-1], strict=True)))


def _rows(tx: Tx, query: str, parameters: Mapping[str, object]) -> list[tuple[Any, ...]]:
    rows = tx.execute(_Q[query], parameters, prepare=False).fetchall()
    if len(rows) > MOST_ROWS:
        raise TookTooLong(f"more than {MOST_ROWS} rows are needed for this answer: ask for a shorter range")
    return rows


def refs_of(rules: TenantRules, customers: Collection[str] | None) -> list[str] | None:
    """Every reference of the customers; None: any."""
    return None if customers is None else sorted({ref for own in customers for ref in rules.refs_of(own)})


def metrics_of(rules: TenantRules, meters: Collection[str] | None) -> list[str] | None:
    """Metrics whose events any version of the meters reads, and those of the meters' own names."""
    if meters is None:
        return None
    read = {
        metric for name in meters for version in rules.meters.get(name, ()) for metric in version.definition.metrics
    }
    return sorted({*meters, *read})


def _counted(events: pl.DataFrame, rulebook: Rulebook) -> list[Part]:
    return [] if events.is_empty() else parts_of_frame(aggregate(read_meters(events, rulebook)))


def _wanted(parts: Iterable[Part], meters: Collection[str] | None) -> list[Part]:
    return [part for part in parts if part.meter != UNMATCHED and (meters is None or part.meter in meters)]


def _overlapping(pending: Iterable[Part], stored: Iterable[Part], weighted: Collection[str]) -> list[date]:
    """Days on which unfolded readings lie between counted ones: their states do not add, so they are counted again."""
    known: defaultdict[tuple[str, str, date, str], list[Part]] = defaultdict(list)
    for part in stored:
        if part.meter in weighted:
            known[part.customer_ref, part.meter, part.day, part.dimensions].append(part)
    return sorted(
        {
            part.day
            for part in pending
            for other in known[part.customer_ref, part.meter, part.day, part.dimensions]
            if overlap(part, other)
        }
    )
