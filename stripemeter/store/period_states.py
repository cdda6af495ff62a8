"""Counters added up for whole months: each day from the lake where it holds the day as counted now, else from Postgres.

Belongs here: where each day is read, once; the two sources put together; who is subscribed and bound. Does not: DuckDB
(`lake_states`), numbers of states (`metering.period_usage`), one customer's usage (`usage`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import polars as pl

from stripemeter.metering.period_usage import ITEMS, STATES
from stripemeter.store.lake import LocalLake, find_file, load_rules
from stripemeter.store.lake_states import open_lake_states
from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries

_Q = load_queries("period_states")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDay:
    """A day with usage, and the hashes of its files when the lake holds it as it is counted now; else None."""

    day: date
    counters_sha256: str | None
    items_sha256: str | None
    rules_sha256: str | None

    @property
    def is_archived(self) -> bool:
        """Whether it is read from the lake."""
        return self.counters_sha256 is not None


def list_days(tx: Tx, first_on: date, last_on: date) -> list[StoredDay]:
    """Every day with usage, ascending; any other has none. One archived by an earlier release is read from Postgres."""
    days = []
    for day, counters, items, rules, is_stale in tx.execute(
        _Q["list_days"], {"first_on": first_on, "last_on": last_on}
    ):
        is_whole = not is_stale and None not in (counters, items, rules)
        hashes = (counters, items, rules) if is_whole else (None, None, None)
        days.append(StoredDay(day=day, counters_sha256=hashes[0], items_sha256=hashes[1], rules_sha256=hashes[2]))
    return days


def read_months(
    tx: Tx, lake: LocalLake, days: Sequence[StoredDay], *, tenant_id: str, unique_meters: Collection[str]
) -> Iterator[tuple[date, pl.DataFrame, pl.DataFrame]]:
    """Month by month, its first day, states (columns STATES) and items (columns ITEMS) of the days; keys may repeat.

    Raises:
        InvariantBroken: a file of the lake is not there or not the one archived; names the day's file.
        Unavailable: the lake cannot be read.
    """
    by_month: defaultdict[date, list[StoredDay]] = defaultdict(list)
    for day in days:
        by_month[day.day.replace(day=1)].append(day)
    with open_lake_states(lake) as reader:
        for month, inside in sorted(by_month.items()):
            archived = [day for day in inside if day.is_archived]
            files = [find_file(lake, "counters", day.day, day.counters_sha256 or "") for day in archived]
            states = [reader.read_states(files, tenant_id=tenant_id)]
            items = [pl.DataFrame(schema=ITEMS)]
            if unique_meters:
                kept = [find_file(lake, "counter_items", day.day, day.items_sha256 or "") for day in archived]
                items.append(reader.read_items(kept, tenant_id=tenant_id, meters=unique_meters))
            others = [day.day for day in inside if not day.is_archived]
            if others:
                scope = {"tenant_id": tenant_id, "days": others, "meters": sorted(unique_meters)}
                states.append(_stored(tx, "load_states", STATES, scope))
                items.append(_stored(tx, "load_items", ITEMS, scope))
            yield month, pl.concat(states), pl.concat(items)


def load_archived_aggregations(
    lake: LocalLake, days: Sequence[StoredDay], *, tenant_id: str
) -> dict[date, dict[str, str]]:
    """How each archived day's explicit meters counted it, by the rules archived with it; days without any are absent.

    Raises:
        InvariantBroken: a day's rules are not there, or not those archived.
    """
    found = {}
    for day in days:
        if not day.is_archived:
            continue
        rules = load_rules(lake, day.day, sha256=day.rules_sha256).rulebook.of(tenant_id)
        counted = {name: rules.meter_on(name, day.day) for name in rules.meters}
        known = {name: definition.aggregation for name, definition in counted.items() if definition is not None}
        if known:
            found[day.day] = {name: str(aggregation) for name, aggregation in known.items()}
    return found


def list_subscribed(tx: Tx, *, tenant_id: str) -> dict[str, datetime]:
    """Customers with recorded subscription items, and since when the first of them is recorded."""
    return dict(tx.execute(_Q["list_subscribed"], {"tenant_id": tenant_id}).fetchall())


def list_bound(tx: Tx, *, tenant_id: str) -> dict[str, frozenset[str]]:
    """The accounts that bill each bound customer."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for customer, account in tx.execute(_Q["list_bound"], {"tenant_id": tenant_id}):
        found[customer].add(account)
    return {customer: frozenset(accounts) for customer, accounts in found.items()}


def list_own_prices(tx: Tx, *, tenant_id: str, now: datetime) -> dict[str, frozenset[tuple[str, str, str]]]:
    """By customer with known subscription items: (meter, account, Stripe Price) each bills by at an instant."""
    found: defaultdict[str, set[tuple[str, str, str]]] = defaultdict(set)
    for customer, *own in tx.execute(_Q["list_own_prices"], {"tenant_id": tenant_id, "now": now}):
        found[customer].add((own[0], own[1], own[2]))
    return {customer: frozenset(prices) for customer, prices in found.items()}


def _stored(tx: Tx, query: str, schema: Mapping[str, Any], scope: Mapping[str, object]) -> pl.DataFrame:
    rows = tx.execute(_Q[query], scope, prepare=False).fetchall()
    decimals = {name: kind for name, kind in schema.items() if isinstance(kind, pl.Decimal)}
    frame = pl.DataFrame(rows, schema={**schema, **dict.fromkeys(decimals, pl.String)}, orient="row")
    typed = [pl.col(name).str.to_decimal(scale=kind.scale or 0) for name, kind in decimals.items()]
    return frame.with_columns(typed).cast(pl.Schema(schema))
