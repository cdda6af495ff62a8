"""Dagster's event log, where it lies in our database: taking back what we wrote into it too often.

Belongs here: run-less reports of the fold. Does not: runs and ticks, which Dagster deletes itself when asked.

Dagster 1.13 has no call for this: `wipe` forgets a whole asset, and every run-less event shares one empty run id. A day
that is folded every five seconds leaves 17 280 events (24 MB) a day, and only its newest one says anything.
"""

from __future__ import annotations

from datetime import datetime

from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries

_Q = load_queries("dagster_events")


def delete_superseded_reports(tx: Tx, before: datetime) -> int:
    """Delete run-less materialisations older than `before`, but the newest of each asset and partition; how many.

    Does nothing when Dagster keeps its tables in another database.
    """
    (is_here,) = tx.execute(_Q["has_event_log"]).fetchone() or (False,)
    if not is_here:
        return 0
    deleted = tx.execute(_Q["delete_superseded_reports"], {"before": before}).rowcount
    tx.execute(_Q["delete_orphaned_tags"])
    return deleted
