"""Opening push segments: a gauge is owed in every segment, whether anything happens in it or not.

Belongs here: finding which segments began, before a push looks for what is lacking. Does not: cutting them
(`metering.push_segments`), what is lacking (the view `push_days`).
"""

from __future__ import annotations

from datetime import UTC, datetime

from stripemeter.metering.deltas import first_open_day
from stripemeter.metering.push_segments import push_segments
from stripemeter.store.customers import load_phases_of_each
from stripemeter.store.postgres import Tx
from stripemeter.store.push_segments import load_tracks, replace_segments


def open_segments(tx: Tx, *, now: datetime) -> None:
    """Make the segments of every pushed gauge those there are until `now`, with the days that Stripe takes at `now`.

    Without gauges it reads one row. Run again at the same instant it writes nothing.
    """
    tracks = load_tracks(tx)
    if not tracks:
        return
    first_day = first_open_day(now)
    phases = load_phases_of_each(tx, [(track.tenant_id, track.customer_ref, track.meter) for track in tracks])
    found = []
    for track, own in zip(tracks, phases, strict=True):
        is_known = track.known_from is not None and track.known_from.astimezone(UTC).date() <= track.first_on
        since = max(first_day, track.first_on) if is_known else track.first_on
        found += [(track, segment) for segment in push_segments(own, since=since, now=now)]
    replace_segments(tx, found, first_day=first_day)
