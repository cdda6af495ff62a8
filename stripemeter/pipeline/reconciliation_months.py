"""Reconciliation read by calendar month: what the HTTP contract and the command line show.

Belongs here: months as the contract writes them, the months of a tenant with what awaits approval, their sums by
metric. Does not: comparing (`pipeline.reconcile`), the wire (`stripemeter_api.reconciliation`).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from psycopg_pool import ConnectionPool

from stripemeter.errors import InvalidInput, NotFound
from stripemeter.metering.days import next_month
from stripemeter.store import corrections, reconciliation_runs
from stripemeter.store.corrections import Correction
from stripemeter.store.postgres import transaction
from stripemeter.store.reconciliation_periods import ReconciledMonth, drift_ratio, list_months
from stripemeter.store.reconciliation_runs import ReconciliationRequest

MAX_ITEMS = 100_000
"""Most rows of a report: more is refused, never cut, as sums over a part would be wrong."""
MAX_SUGGESTED = 10_000
_MONTH = re.compile(r"(?P<year>[0-9]{4})-(?P<month>0[1-9]|1[0-2])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Months:
    """The months of a tenant, worst first, and what awaits approval in them."""

    months: list[ReconciledMonth]
    suggested: list[Correction]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricDrift:
    """Sums of one metric, or of all. `drift_pct` is a fraction.

    Args:
        unknown: items Stripe did not answer for: their side is in neither sum.
    """

    metric: str
    local: Decimal
    stripe: Decimal
    drift_abs: Decimal
    drift_pct: Decimal
    items: int
    unknown: int


def parse_month(text: str, *, field: str) -> date:
    """The first day of a UTC month written `YYYY-MM`.

    Raises:
        InvalidInput: it is not one.
    """
    found = _MONTH.fullmatch(text)
    if found is None or found["year"] == "0000":
        raise InvalidInput(f"{field} must be a month like 2026-11, not {text[:40]!r}", field=field)
    return date(int(found["year"]), int(found["month"]), 1)


def read_months(pool: ConnectionPool, tenant_id: str, first: date, last: date) -> Months:
    """A tenant's months from `first` to `last`, both first days of a month and included.

    Raises:
        InvalidInput: there are more than MAX_ITEMS.
        Unavailable: Postgres does not answer.
    """
    last_on = next_month(last) - timedelta(days=1)
    with transaction(pool) as tx:
        months = list_months(tx, tenant_id=tenant_id, first_on=first, last_on=last_on, limit=MAX_ITEMS + 1)
        suggested = corrections.list_suggested(
            tx, tenant_id=tenant_id, first_on=first, last_on=last_on, limit=MAX_SUGGESTED
        )
    if len(months) > MAX_ITEMS:
        raise InvalidInput(f"more than {MAX_ITEMS} items: ask for fewer months", field="periodEnd")
    return Months(months=months, suggested=suggested)


def sum_by_metric(months: Iterable[ReconciledMonth]) -> tuple[list[MetricDrift], MetricDrift]:
    """Sums by metric, in order of their names, and over all; of the mappings that are billed."""
    by_metric: dict[str, list[ReconciledMonth]] = {}
    for month in months:
        if month.is_billed:
            by_metric.setdefault(month.meter, []).append(month)
    parts = [_sum(metric, by_metric[metric]) for metric in sorted(by_metric)]
    return parts, _sum("TOTAL", [month for each in by_metric.values() for month in each])


def request_run(pool: ConnectionPool, tenant_id: str, *, now: datetime) -> UUID:
    """Ask for a comparison with Stripe; a Dagster run answers it. The request's id.

    Raises:
        Unavailable: Postgres does not answer; nothing was asked.
    """
    request_id = uuid.uuid4()
    with transaction(pool) as tx:
        reconciliation_runs.insert_request(tx, request_id, tenant_id=tenant_id, now=now)
    return request_id


def find_run(pool: ConnectionPool, tenant_id: str, request_id: UUID) -> ReconciliationRequest:
    """What became of a request.

    Raises:
        NotFound: the tenant made none of this id.
        Unavailable: Postgres does not answer.
    """
    with transaction(pool) as tx:
        found = reconciliation_runs.find_request(tx, request_id, tenant_id=tenant_id)
    if found is None:
        raise NotFound("Reconciliation job not found")
    return found


def _sum(metric: str, months: list[ReconciledMonth]) -> MetricDrift:
    known = [(month.local, month.stripe) for month in months if month.stripe is not None]
    local = sum((ours for ours, _ in known), Decimal(0))
    stripe = sum((theirs for _, theirs in known), Decimal(0))
    # Added up item by item: one customer's surplus must not hide another's loss.
    drift = sum((abs(ours - theirs) for ours, theirs in known), Decimal(0))
    return MetricDrift(
        metric=metric,
        local=local,
        stripe=stripe,
        drift_abs=drift,
        drift_pct=drift_ratio(drift, stripe),
        items=len(months),
        unknown=len(months) - len(known),
    )
