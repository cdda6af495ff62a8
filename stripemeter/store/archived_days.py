"""The lake's manifest: which days it holds, as which files, at which state of the fold.

Belongs here: the table `archived_days`. Does not: the files (`store.lake`), writing them (`pipeline.archive`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime

from stripemeter.store.lake import DayFiles
from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries

_Q = load_queries("archive")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivedDay:
    """One UTC day in the lake. `is_stale`: the fold has written the day since it was archived.

    `items`, `items_sha256` and `rules_sha256` are None of a day that was archived before the lake kept those.
    """

    day: date
    events: int
    counters: int
    items: int | None
    events_sha256: str
    counters_sha256: str
    items_sha256: str | None
    rules_sha256: str | None
    archived_at: datetime
    is_stale: bool

    @property
    def files(self) -> DayFiles:
        """The files that are valid."""
        return DayFiles(
            events_sha256=self.events_sha256,
            counters_sha256=self.counters_sha256,
            items_sha256=self.items_sha256,
            rules_sha256=self.rules_sha256,
        )


def replace_archived_day(
    tx: Tx, day: date, *, events: int, counters: int, items: int, files: DayFiles, folded_below: int
) -> ArchivedDay:
    """Record the day's valid files. The day must be locked since before its events were read."""
    folded = tx.execute(_Q["load_folded_at"], {"day": day}).fetchone()
    tx.execute(
        _Q["replace_archived_day"],
        {
            "day": day,
            "event_count": events,
            "counter_count": counters,
            "item_count": items,
            "events_sha256": files.events_sha256,
            "counters_sha256": files.counters_sha256,
            "items_sha256": files.items_sha256,
            "rules_sha256": files.rules_sha256,
            "folded_below": str(folded_below),
            "folded_at": None if folded is None else folded[0],
        },
    )
    archived = load_archived_day(tx, day)
    assert archived is not None  # written just now
    return archived


def load_archived_day(tx: Tx, day: date) -> ArchivedDay | None:
    """The manifest of a day; None when it is not archived."""
    row = tx.execute(_Q["load_archived_day"], {"day": day}).fetchone()
    if row is None:
        return None
    return ArchivedDay(**dict(zip(ArchivedDay.__dataclass_fields__, row, strict=True)))


def list_archived_days(tx: Tx, first: date, last: date) -> list[date]:
    """Days in the lake from first to last, both included; ascending."""
    return [row[0] for row in tx.execute(_Q["list_archived_days"], {"first": first, "last": last})]


def load_unarchived_days(tx: Tx, *, before: date, limit: int) -> list[date]:
    """Days with usage before `before` that the lake lacks or holds in an older state or form; oldest first.

    Level-triggered: a day stays in this list until it is archived as it is, whatever became of the requests for it.
    """
    return [row[0] for row in tx.execute(_Q["load_unarchived_days"], {"before": before, "limit": limit})]
