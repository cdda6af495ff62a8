"""Push segments: the table that tells the view `push_days` which segments of which gauges are pushed.

Belongs here: reading whose they are, making the table say so. Does not: cutting time (`metering.push_segments`),
when to look (`pipeline.push_segments`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from psycopg.rows import class_row

from stripemeter.metering.push_segments import PushSegment
from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries

_Q = load_queries("push_segments")


@dataclass(frozen=True, slots=True, kw_only=True)
class GaugeTrack:
    """A gauge of a bound customer that is pushed.

    Args:
        tenant_id: whose.
        meter: our meter.
        customer_ref: its customer.
        first_on: the first day with anything of it.
        known_from: where the first of its stored segments begins.
    """

    tenant_id: str
    meter: str
    customer_ref: str
    first_on: date
    known_from: datetime | None


def load_tracks(tx: Tx) -> list[GaugeTrack]:
    """Every gauge that is pushed, of every bound customer with a counter or an adjustment of it."""
    with tx.cursor(row_factory=class_row(GaugeTrack)) as cursor:
        return cursor.execute(_Q["load_tracks"]).fetchall()


def replace_segments(tx: Tx, segments: Sequence[tuple[GaugeTrack, PushSegment]], *, first_day: date) -> None:
    """Make these the segments of their tracks that have days from `first_day` on; older ones stay.

    Args:
        tx: the caller's.
        segments: of a track all that have such days, or none; older ones are added.
        first_day: the first day that Stripe takes.
    """
    values = {
        "tenant_ids": [track.tenant_id for track, _ in segments],
        "customer_refs": [track.customer_ref for track, _ in segments],
        "meters": [track.meter for track, _ in segments],
        "segment_starts": [segment.start for _, segment in segments],
        "segment_ends": [segment.end for _, segment in segments],
        "pushes_from": [segment.pushes_from for _, segment in segments],
        "closes_on": [segment.closes_on for _, segment in segments],
        "first_day": first_day,
    }
    tx.execute(_Q["delete_moved"], values)
    tx.execute(_Q["put_segments"], values)
    tx.execute(_Q["leave_days"], {"first_day": first_day})
