"""Replaying: count one tenant's days again from the ledger, or say what that would change.

Belongs here: comparing a day with what its ledger makes, page by page. Does not: the recount itself
(`pipeline.recount`), HTTP, progress.

A dry run and an apply compare by the same code under the same lock, so the one says exactly what the other does. The
days are whole ones: counters know no smaller unit.

A page is applied wholly or not at all. Its watermark is a digest of what the ledger makes of the tenant's days, which
is what applying leads to: other tenants, other days and what is not folded yet do not change it, nor does applying.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Context, Decimal
from typing import Any, Literal

import polars as pl
from psycopg_pool import ConnectionPool

from stripemeter.errors import Conflict, InvalidInput
from stripemeter.metering.aggregation import Counted, aggregate
from stripemeter.metering.days import day_of
from stripemeter.metering.readings import read_meters
from stripemeter.pipeline.recount import recount_slice
from stripemeter.store import counters, ledger
from stripemeter.store.dropped_months import load_slice
from stripemeter.store.lateness import RECOUNT_ACTOR
from stripemeter.store.postgres import Tx, transaction
from stripemeter.store.rulebook import load_rulebook
from stripemeter.store.sql import load_queries

Mode = Literal["dry-run", "apply"]
MAX_DAYS = 31
"""Days of one page: a month, so that an answer takes seconds."""
MOST_CUSTOMERS = 100
"""Customers named per metric; their number is always told."""

_Q = load_queries("replay")
_EXACT = Context(prec=200)
_Key = tuple[str, str, datetime, str, bool]
"""(customer, meter, segment start, dimensions, is it the late lane): a counter of one tenant's day."""
_KEY = ("customer_ref", "meter", "segment_start", "dimensions", "is_late")
_SUM = 2
"""Where a state holds the sum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricChange:
    """What replaying changes of one meter; `counter_delta` is of the sum, 0 when it was right.

    `late_events` move from the late lane into the counters, which changes no number.
    """

    events_found: int
    late_events: int
    counter_delta: Decimal
    affected_customers: Sequence[str]
    affected_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """One page. `next_day`: where to go on; None: done. `watermark`: of what its days come to, digits.

    `withheld_late` late events of the window count nowhere, before and after; `pending_late` of them wait for somebody.
    """

    changes: dict[str, MetricChange]
    days: int
    changed_counters: int
    withheld_late: int
    pending_late: int
    next_day: date | None
    watermark: str


def replay(  # noqa: PLR0913 - the contract's members
    pool: ConnectionPool,
    tenant_id: str,
    *,
    since: datetime,
    until: datetime,
    mode: Mode,
    now: datetime,
    metrics: Collection[str] | None = None,
    next_day: date | None = None,
    watermark: str | None = None,
    max_days: int = MAX_DAYS,
) -> Replayed:
    """Replay the UTC days that `[since, until)` touches, from `next_day` on, at most `max_days` of them.

    Days after tomorrow are passed over: no event can lie there.

    Args:
        pool: the database.
        tenant_id: whose.
        since: first instant.
        until: first instant no longer.
        mode: a dry run changes nothing.
        now: written into the audit.
        metrics: always reported, with or without changes; whatever else changes is reported too.
        next_day: where the page before ended.
        watermark: what a dry run of the page answered: refused when its days come to something else now, so that what
            is applied is what was shown.
        max_days: bound of the page.

    Raises:
        InvalidInput: `until` is not after `since`.
        Conflict: the days come to something else than under the watermark; nothing changed.
        Unavailable: Postgres does not answer; nothing changed.
    """
    if until <= since:
        raise InvalidInput("until must be after since", field="until")
    first = next_day or day_of(since)
    last = min(day_of(until - timedelta(microseconds=1)), day_of(now) + timedelta(days=1))
    page = [first + timedelta(days=offset) for offset in range(min(max_days, (last - first).days + 1))]
    tally = _Tally(tenant_id, metrics or ())
    if mode == "dry-run":
        for day in page:
            with transaction(pool) as tx:
                counters.lock_days(tx, [day])
                _replay_day(tx, tenant_id, day, (since, until), tally)
        _check_watermark(watermark, tally)
    else:
        with transaction(pool) as tx:
            counters.lock_days(tx, page)
            for day in page:
                _replay_day(tx, tenant_id, day, (since, until), tally)
                _apply_day(tx, tenant_id, day, now)
            _check_watermark(watermark, tally)
    return Replayed(
        changes=tally.changes(),
        days=len(page),
        changed_counters=tally.changed_counters,
        withheld_late=tally.withheld_late,
        pending_late=tally.pending_late,
        next_day=page[-1] + timedelta(days=1) if page and page[-1] < last else None,
        watermark=tally.watermark(),
    )


def _check_watermark(watermark: str | None, tally: _Tally) -> None:
    if watermark is not None and watermark != tally.watermark():
        raise Conflict(
            "what the tenant's events make of these days has changed since this watermark, or it is another page's: "
            "ask for a dry run again"
        )


def _apply_day(tx: Tx, tenant_id: str, day: date, now: datetime) -> None:
    tx.execute(_Q["absorb_tenant_day"], {"tenant_id": tenant_id, "day": day, "now": now, "actor": RECOUNT_ACTOR})
    recount_slice(tx, day, tenant_id=tenant_id)


class _Tally:
    """What the days of a page add up to, by metric or meter."""

    def __init__(self, tenant_id: str, metrics: Collection[str]) -> None:
        self._seal = hashlib.blake2b(tenant_id.encode(), digest_size=12)
        self._found: defaultdict[str, int] = defaultdict(int, dict.fromkeys(metrics, 0))
        self._late: defaultdict[str, int] = defaultdict(int)
        self._delta: defaultdict[str, Decimal] = defaultdict(Decimal)
        self._customers: defaultdict[str, set[str]] = defaultdict(set)
        self._is_bounded = bool(metrics)
        self.changed_counters = 0
        self.withheld_late = 0
        self.pending_late = 0

    def seal(self, day: date, expected: Mapping[_Key, tuple[Any, ...]]) -> None:
        """What a day comes to: every counter the ledger makes of it."""
        states = sorted(repr((key, *state[:-1], sorted((state[-1] or {}).items()))) for key, state in expected.items())
        self._seal.update(repr((day, states)).encode())

    def watermark(self) -> str:
        """A digest of what the days come to."""
        return str(int.from_bytes(self._seal.digest()))

    def see(self, metric: str, events: int, late: int) -> None:
        """Events of the window that count."""
        if not self._is_bounded or metric in self._found or late:
            self._found[metric] += events
            self._late[metric] += late

    def withhold(self, events: int, pending: int) -> None:
        """Late events of the window that count nowhere, and how many of them wait for a decision."""
        self.withheld_late += events
        self.pending_late += pending

    def change(self, meter: str, customer: str, delta: Decimal) -> None:
        """A counter that is not what it should be."""
        self.changed_counters += 1
        self._customers[meter].add(customer)
        self._delta[meter] = _EXACT.add(self._delta[meter], delta)

    def changes(self) -> dict[str, MetricChange]:
        """By metric or meter name, sorted; events that no meter counts are under ''."""
        return {
            name: MetricChange(
                events_found=self._found.get(name, 0),
                late_events=self._late.get(name, 0),
                counter_delta=self._delta.get(name, Decimal(0)),
                affected_customers=sorted(self._customers.get(name, ()))[:MOST_CUSTOMERS],
                affected_count=len(self._customers.get(name, ())),
            )
            for name in sorted({*self._found, *self._customers})
        }


def _replay_day(tx: Tx, tenant_id: str, day: date, window: tuple[datetime, datetime], tally: _Tally) -> None:
    events = load_slice(tx, day, tenant_id=tenant_id, customer_refs=None, below=ledger.load_cursor(tx))
    asked = events.filter((pl.col("ts") >= window[0]) & (pl.col("ts") < window[1]))
    for metric, found, late in (
        asked.group_by("metric").agg(found=pl.len(), late=pl.col("is_late").sum()).sort("metric").iter_rows()
    ):
        tally.see(metric, found, late)
    scope = {"tenant_id": tenant_id, "day": day, "since": window[0], "until": window[1]}
    for withheld, pending in tx.execute(_Q["count_withheld_late"], scope):
        tally.withhold(withheld, pending)
    absorbed = events.with_columns(is_late=pl.lit(value=False))
    expected = _states(aggregate(read_meters(absorbed, load_rulebook(tx, [tenant_id]))))
    tally.seal(day, expected)
    items = _items(tx.execute(_Q["load_tenant_items"], scope))
    stored = {
        key: (*row[5:], items.get(key))
        for row in tx.execute(_Q["load_tenant_counters"], scope)
        for key in (tuple(row[:5]),)
    }
    for key in sorted({*expected, *stored}, key=str):
        before, after = stored.get(key), expected.get(key)
        if before != after:
            delta = _EXACT.subtract(after[_SUM] if after else Decimal(0), before[_SUM] if before else Decimal(0))
            tally.change(key[1], key[0], delta)


def _states(counted: Counted) -> dict[_Key, tuple[Any, ...]]:
    items = _items(counted.items.select(*_KEY, "item", "item_count").iter_rows())
    return {
        key: (
            row["event_count"],
            row["primary_count"],
            _EXACT.add(row["sum_whole"], row["sum_fraction"]),
            row["quantity_min"],
            row["quantity_max"],
            row["quantity_last"],
            row["last_ts"],
            row["last_seq"],
            row["first_ts"],
            None if row["unit_microseconds"] is None else Decimal(row["unit_microseconds"]),
            items.get(key),
        )
        for row in counted.counters.iter_rows(named=True)
        for key in (tuple(row[name] for name in _KEY),)
    }


def _items(rows: Iterable[tuple[Any, ...]]) -> dict[_Key, dict[str, int]]:
    """What unique and percentile meters saw, by counter."""
    items: defaultdict[_Key, dict[str, int]] = defaultdict(dict)
    for row in rows:
        customer, meter, segment_start, dimensions, is_late, item, count = row
        items[customer, meter, segment_start, dimensions, is_late][item] = count
    return items
