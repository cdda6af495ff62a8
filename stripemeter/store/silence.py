"""Who stopped reporting: a metering outage looks like zero usage.

Belongs here: finding tenants, meters and customers that used to report and no longer do. Does not: how many days make
a habit (`stripemeter_assets.assets.counters`), whether anything arrives at all (`store.ledger`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime

from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries


@dataclass(frozen=True, slots=True, kw_only=True)
class SilentReporter:
    """A tenant, a meter of it (over all customers) or a customer of it (over all meters) without recent events.

    Args:
        tenant_id: whose account.
        meter: None: not about one meter.
        customer_ref: None: not about one customer.
        reported_days: days with events among those looked at.
        last_seen_at: `ts` of its last event.
    """

    tenant_id: str
    meter: str | None
    customer_ref: str | None
    reported_days: int
    last_seen_at: datetime


def load_silent(tx: Tx, *, first_on: date, silent_on: date, least_days: int, limit: int) -> tuple[SilentReporter, ...]:
    """Who has events on at least `least_days` UTC days of `[first_on, silent_on)` and none since; longest first.

    A tenant that is silent as a whole stands for its meters and customers. Time is that of the events, so what is
    reported late for an earlier day ends no silence.
    """
    parameters = {"first_on": first_on, "silent_on": silent_on, "least_days": least_days, "most": limit}
    rows = tx.execute(load_queries("silence")["load_silent"], parameters, prepare=False).fetchall()
    return tuple(
        SilentReporter(tenant_id=row[0], meter=row[1], customer_ref=row[2], reported_days=row[3], last_seen_at=row[4])
        for row in rows
    )
