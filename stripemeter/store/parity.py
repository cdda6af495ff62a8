"""What a tenant has that an export should have, too: customers and meters, without their numbers.

Belongs here: listing what was counted, telling known references and names. Does not: the numbers (`store.usage`,
`store.usage_windows`), what an export says (`pipeline.parity`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from stripemeter.errors import TookTooLong
from stripemeter.metering.days import day_of
from stripemeter.metering.readings import UNMATCHED, read_meters
from stripemeter.metering.rulebook import Rulebook, TenantRules
from stripemeter.store.metered_usage import UNFILTERED, load_events, load_head
from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries

_Q = load_queries("parity")
_TICK = timedelta(microseconds=1)
MOST_PAIRS = 1_000_000
"""Customers times meters of one comparison."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingAdjustment:
    """An adjustment that counts once somebody approves it; `is_late`: a late event's own."""

    customer_ref: str
    metric: str
    effective_at: datetime
    delta: Decimal
    is_late: bool


def list_used(
    tx: Tx, rulebook: Rulebook, *, tenant_id: str, start: datetime, end: datetime, now: datetime
) -> set[tuple[str, str]]:
    """Each customer, by its own reference, and meter that may have usage or adjustments in `[start, end)`.

    More than have any: a day's counters may lie outside of it, and an adjustment may not be approved.

    Raises:
        TookTooLong: there are more than MOST_PAIRS.
        Unavailable: the counters belong to another cluster.
    """
    rules = rulebook.of(tenant_id)
    parameters = {
        "tenant_id": tenant_id,
        "first_on": day_of(start),
        "last_on": day_of(end - _TICK),
        "from_ts": start,
        "until_ts": end,
        "most": MOST_PAIRS + 1,
    }
    rows = tx.execute(_Q["list_counted"], parameters, prepare=False).fetchall()
    if len(rows) > MOST_PAIRS:
        raise TookTooLong(f"more than {MOST_PAIRS} customers and metrics have usage: compare a shorter period")
    head = load_head(tx, tenant_id, refs=None, metrics=None, now=now)
    tail = load_events(
        tx,
        {
            "tenant_id": tenant_id,
            "refs": None,
            "metrics": None,
            "withheld": list(head.withheld),
            "since_xid": head.folded_below,
            "from_ts": start,
            "until_ts": end,
            "most": MOST_PAIRS + 1,
            **UNFILTERED,
        },
    )
    found = {(rules.customer_of(customer), meter) for customer, meter in rows}
    if not tail.is_empty():
        read = read_meters(tail, rulebook).select("customer_ref", "meter").unique()
        found |= {(customer, meter) for customer, meter in read.iter_rows() if meter != UNMATCHED}
    return found


def find_customers(tx: Tx, tenant_id: str, refs: Collection[str]) -> set[str]:
    """Those of some own references that anything was ever counted or recorded of."""
    return {row[0] for row in tx.execute(_Q["find_customers"], {"tenant_id": tenant_id, "refs": sorted(refs)})}


def find_meters(tx: Tx, tenant_id: str, names: Collection[str]) -> set[str]:
    """Those of some names that anything was ever counted under, or that the tenant has priced itself."""
    return {row[0] for row in tx.execute(_Q["find_meters"], {"tenant_id": tenant_id, "names": sorted(names)})}


def list_item_metrics(tx: Tx, tenant_id: str) -> list[tuple[str, str]]:
    """Each Stripe Price that a customer's own subscription item is or was billed by, and the meter it bills."""
    return [(row[0], row[1]) for row in tx.execute(_Q["list_item_metrics"], {"tenant_id": tenant_id})]


def list_waiting(
    tx: Tx, rules: TenantRules, *, tenant_id: str, start: datetime, end: datetime
) -> list[WaitingAdjustment]:
    """The adjustments in `[start, end)` that wait for approval, under the customers' own references.

    Raises:
        TookTooLong: there are more than MOST_PAIRS.
    """
    parameters = {"tenant_id": tenant_id, "from_ts": start, "until_ts": end, "most": MOST_PAIRS + 1}
    rows = tx.execute(_Q["list_waiting"], parameters).fetchall()
    if len(rows) > MOST_PAIRS:
        raise TookTooLong(f"more than {MOST_PAIRS} adjustments wait for approval: compare a shorter period")
    return [
        WaitingAdjustment(
            customer_ref=rules.customer_of(row[0]), metric=row[1], effective_at=row[2], delta=row[3], is_late=row[4]
        )
        for row in rows
    ]
