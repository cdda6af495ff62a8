"""What the fold asks about old events, and the adjustments it writes of late ones.

Belongs here: watermarks, what a late event finds in its counter, the adjustments' rows. Does not: which events are late
(`metering.lateness`), what people do with adjustments (`store.adjustments`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

from stripemeter.errors import InvariantBroken
from stripemeter.metering.lateness import LateStatus, Standing, Track
from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries

_Q = load_queries("lateness")
FOLD_ACTOR = "system:late-event"
RECOUNT_ACTOR = "system:recount"

Place = tuple[str, str, str, date, datetime]
"""(tenant, customer, metric, day, segment start): where a late event's usage lies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LateEvent:
    """A folded event that was too late to be counted like any other, by its `seq`."""

    seq: int
    delta: Decimal | None
    status: LateStatus


def load_watermarks(tx: Tx, tracks: Collection[Track]) -> dict[Track, datetime]:
    """The greatest event time folded of each track; tracks without counters are absent."""
    if not tracks:
        return {}
    tenants, customers, metrics = map(list, zip(*sorted(tracks), strict=True))
    rows = tx.execute(_Q["load_watermarks"], {"tenants": tenants, "customers": customers, "metrics": metrics})
    return {(row[0], row[1], row[2]): row[3] for row in rows}


def load_standing(tx: Tx, places: Collection[Place]) -> dict[Place, Standing]:
    """What the counters of these places hold; empty ones are absent."""
    if not places:
        return {}
    tenants, customers, metrics, days, segments = map(list, zip(*sorted(places), strict=True))
    rows = tx.execute(
        _Q["load_standing"],
        {"tenants": tenants, "customers": customers, "metrics": metrics, "days": days, "segments": segments},
    )
    return {
        (row[0], row[1], row[2], row[3], row[4]): Standing(
            event_count=row[5],
            quantity_min=row[6],
            quantity_max=row[7],
            quantity_last=row[8],
            last_at=(row[9], row[10]),
        )
        for row in rows
    }


def load_aggregations(tx: Tx, tenants: Collection[str]) -> Mapping[tuple[str, str], str]:
    """How mapped meters count, by (tenant, meter)."""
    rows = tx.execute(_Q["load_aggregations"], {"tenants": sorted(tenants)})
    return {(row[0], row[1]): row[2] for row in rows}


def append_late_events(tx: Tx, late: Sequence[LateEvent], *, lower: int, upper: int, now: datetime) -> None:
    """One adjustment and its first audit row for each; the events lie in the xid window `[lower, upper)`.

    Raises:
        InvariantBroken: one of them does not lie there.
    """
    if not late:
        return
    appended = tx.execute(
        _Q["insert_late_adjustments"],
        {
            "deltas": [None if event.delta is None else format(event.delta, "f") for event in late],
            "statuses": [event.status for event in late],
            "seqs": [event.seq for event in late],
            "actor": FOLD_ACTOR,
            "lower": str(lower),
            "upper": str(upper),
            "now": now,
        },
    ).rowcount
    if appended != len(late):
        raise InvariantBroken(f"{len(late)} late events made {appended} adjustments")


def absorb_day(tx: Tx, day: date, *, now: datetime) -> int:
    """The day's approved late adjustments become `absorbed`; returns how many. The day must be locked."""
    return tx.execute(_Q["absorb_day"], {"day": day, "now": now, "actor": RECOUNT_ACTOR}).rowcount
