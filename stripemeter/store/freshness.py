"""How far behind the counters are, and whether those who move them are alive.

Belongs here: the fold's lag, the cut's age, the daemon's heartbeat, for probes and scrapes. Does not: what is healthy
(the edge decides), usage itself (`store.usage`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal

from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries

MAX_PENDING = 100_000
"""Most tail rows a probe looks at: about 30 ms. A longer tail is reported as this many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldState:
    """Where the fold stands.

    Args:
        advanced_at: when it last advanced; None before its first time.
        is_foreign: its cursor belongs to another cluster.
        pending_count: events it has not read, at most MAX_PENDING.
        lag: how long the oldest of them has waited since its arrival; 0 when none waits.
        cut_age: age of the oldest writing transaction, which no reader can pass; 0 when none runs.
    """

    advanced_at: datetime | None
    is_foreign: bool
    pending_count: int
    lag: timedelta
    cut_age: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedTotal:
    """Events accepted since some day, as of an instant."""

    accepted: int
    read_at: datetime


def load_fold_state(tx: Tx) -> FoldState:
    """Where the fold stands now."""
    row = tx.execute(load_queries("freshness")["load_fold_state"], {"most": MAX_PENDING}).fetchone()
    assert row is not None  # the query answers one row
    advanced_at, is_foreign, pending_count, oldest_received_at, oldest_started_at, read_at = row
    return FoldState(
        advanced_at=advanced_at,
        is_foreign=is_foreign,
        pending_count=pending_count,
        lag=_between(oldest_received_at, read_at),
        cut_age=_between(oldest_started_at, read_at),
    )


def load_accepted_total(tx: Tx, since: date) -> AcceptedTotal:
    """How many events were accepted on the UTC days since `since`, over all tenants."""
    row = tx.execute(load_queries("freshness")["load_accepted_total"], {"since": since}).fetchone()
    assert row is not None  # an aggregate answers one row
    return AcceptedTotal(accepted=row[0], read_at=row[1])


def load_worst_drift(tx: Tx) -> Decimal | None:
    """The greatest difference with Stripe, without its sign; None while nothing was compared, or only in vain."""
    row = tx.execute(load_queries("freshness")["load_worst_drift"]).fetchone()
    return None if row is None else row[0]


def load_daemon_heartbeat(tx: Tx) -> datetime | None:
    """When any Dagster daemon last reported; None when none ever did or Dagster has no tables here."""
    queries = load_queries("freshness")
    (has_table,) = tx.execute(queries["has_daemon_heartbeats"]).fetchone() or (False,)
    if not has_table:
        return None
    (last_beat_at,) = tx.execute(queries["load_daemon_heartbeat"]).fetchone() or (None,)
    return last_beat_at if isinstance(last_beat_at, datetime) else None


def _between(earlier: datetime | None, later: datetime) -> timedelta:
    return timedelta(0) if earlier is None else max(timedelta(0), later - earlier)
