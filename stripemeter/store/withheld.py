"""Unfolded events that their fold will withhold, because they are too late to count without a person.

Belongs here: judging the tail as a fold of this instant would, without writing. Does not: the fold's own judgement
(`pipeline.judge_late`, by the same rules), reading usage.

A read that counted such an event would take it back as soon as the event was folded.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

import polars as pl

from stripemeter.errors import TookTooLong
from stripemeter.metering.days import LATENESS_WINDOW
from stripemeter.metering.events import MAX_AHEAD
from stripemeter.metering.frames import INSTANT
from stripemeter.metering.lateness import late_events, late_status
from stripemeter.store.lateness import load_watermarks
from stripemeter.store.postgres import Tx
from stripemeter.store.rulebook import load_rulebook
from stripemeter.store.sql import load_queries

_Q = load_queries("withheld")
_OLD = {"tenant_id": pl.String(), "customer_ref": pl.String(), "metric": pl.String(), "ts": INSTANT, "seq": pl.Int64()}
MOST_ROWS = 1_000_000
"""Old events of one tail: seconds of work."""


def load_withheld(
    tx: Tx,
    *,
    tenant_id: str,
    refs: Collection[str] | None,
    metrics: Collection[str] | None,
    folded_below: str,
    now: datetime,
) -> list[int]:
    """The `seq` of unfolded events that a fold would make wait for approval; mostly there are none, for one statement.

    Args:
        tx: a snapshot.
        tenant_id: whose account.
        refs: events under these references; None: under any.
        metrics: of these metrics; None: of any.
        folded_below: how far the fold is.
        now: when that fold would be.

    Raises:
        TookTooLong: the tail is too long to be judged.
    """
    parameters = {
        "tenant_id": tenant_id,
        "refs": None if refs is None else sorted(refs),
        "metrics": None if metrics is None else sorted(metrics),
        "since_xid": folded_below,
        "latest": now + MAX_AHEAD,  # no watermark is further ahead of the clock
        "window_seconds": int(LATENESS_WINDOW.total_seconds()),
        "most": MOST_ROWS + 1,
    }
    rows = tx.execute(_Q["load_old_tail"], parameters, prepare=False).fetchall()
    if not rows:
        return []
    if len(rows) > MOST_ROWS:
        raise TookTooLong(f"more than {MOST_ROWS} old events wait for their fold: ask again when it has caught up")
    rulebook = load_rulebook(tx, [tenant_id])
    rules = rulebook.of(tenant_id)
    old = pl.DataFrame(rows, schema=_OLD, orient="row")
    tracks = {(tenant_id, rules.customer_of(ref), metric) for _, ref, metric, _, _ in rows}
    late = late_events(old, rulebook, load_watermarks(tx, tracks))
    return [
        seq
        for own_ref, metric, ts, seq in late.select("own_ref", "metric", "ts", "seq").iter_rows()
        if late_status(rules.policy, rules.segment_of(own_ref, metric, ts), now=now) == "pending"
    ]
