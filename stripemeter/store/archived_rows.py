"""Rows of dropped months beside the ledger's own, for a transaction that asks for rows.

Belongs here: bringing archived events in so that `events` means both. Does not: counting archived days
(`store.dropped_months`), the questions.

A question to ledger rows is one text, whichever of them are in the lake alone: the archived rows asked for are copied
into a temporary table, and a temporary view of the ledger's name unites both until the transaction ends. How an event
counts is never in the copy; questions read it from `event_voids` and `adjustments`, as for any other row.

The price: such a transaction writes (temporary tables), so the fold's cut waits until it ends. Hence the bounds here,
and the time limit every question has.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date

import polars as pl

from stripemeter.errors import InvariantBroken, TookTooLong
from stripemeter.metering.days import month_bounds, month_start
from stripemeter.store.copy_text import as_copy_text
from stripemeter.store.lake import load_events_of, open_lake
from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries

_Q = load_queries("archived_rows")
MOST_LOOKED_AT = 10_000_000
"""Events in the files of one question: reading and hashing them takes seconds."""
MOST_BROUGHT = 1_000_000
"""Rows copied for one question: seconds, as many as a question to ledger rows may match."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _ArchivedFile:
    day: date
    event_count: int
    sha256: str
    lake: str


def keep_ledger(tx: Tx) -> None:
    """Nobody drops a month until the transaction ends; in a transaction of one snapshot the first that it does."""
    tx.execute(_Q["keep_ledger"])


def bring_rows(
    tx: Tx,
    first: date | None,
    last: date | None,
    *,
    tenant_id: str,
    metrics: Collection[str] | None = None,
    customer_refs: Collection[str] | None = None,
) -> int:
    """Let `events` mean the ledger and these rows of its dropped months, until the transaction ends.

    What was brought before goes. Nothing is written while no dropped month is touched; queries that follow must not be
    prepared, for they were planned on another `events`.

    Args:
        tx: a transaction that writes no events.
        first: first UTC day; None: from the beginning.
        last: last UTC day, included; None: to the end.
        tenant_id: whose.
        metrics: of these; None: of all.
        customer_refs: of these references; None: of all.

    Returns:
        How many archived events had to be looked at.

    Raises:
        TookTooLong: more are to be looked at, or found, than one question may take.
        InvariantBroken: a dropped day is not in the lake.
        Unavailable: the lake does not answer.
    """
    keep_ledger(tx)
    rows = tx.execute(_Q["load_dropped_days"], {"first_on": first, "last_on": last}).fetchall()
    if not rows:
        return 0
    files = [_ArchivedFile(**dict(zip(_ArchivedFile.__dataclass_fields__, row, strict=True))) for row in rows]
    looked_at = sum(file.event_count for file in files)
    refuse_too_much(looked_at)
    frames = [_load(file, tenant_id, metrics, customer_refs) for file in files]
    brought = sum(frame.height for frame in frames)
    if brought > MOST_BROUGHT:
        raise _took_too_long(f"more than {MOST_BROUGHT} of its events live in the lake")
    for name in ("forget_view", "forget_rows", "create_rows"):
        tx.execute(_Q[name], prepare=False)
    with tx.cursor() as cursor, cursor.copy(_Q["copy_rows"]) as copy:
        for frame in frames:
            copy.write(as_copy_text(frame.drop("state")))
    for month_on in sorted({month_start(file.day) for file in files}):
        start_at, end_at = month_bounds(month_on)
        bounds = {"start_at": start_at, "end_at": end_at, "tenant_id": tenant_id}
        tx.execute(_Q["delete_present"], bounds, prepare=False)
    tx.execute(_Q["create_view"], prepare=False)
    return looked_at


def refuse_too_much(looked_at: int) -> None:
    """Nothing, while one question may look at so many archived events.

    Raises:
        TookTooLong: it may not.
    """
    if looked_at > MOST_LOOKED_AT:
        raise _took_too_long(f"its days have {looked_at} events in the lake, at most {MOST_LOOKED_AT} are looked at")


def _load(
    file: _ArchivedFile, tenant_id: str, metrics: Collection[str] | None, customer_refs: Collection[str] | None
) -> pl.DataFrame:
    try:
        return load_events_of(
            open_lake(file.lake),
            file.day,
            sha256=file.sha256,
            tenant_id=tenant_id,
            metrics=metrics,
            customer_refs=customer_refs,
        )
    except InvariantBroken as error:
        why = f"Postgres has no rows of {file.day} any more, and {error}"
        raise InvariantBroken(f"{why}. Only a backup of the lake ({file.lake}) has them") from error


def _took_too_long(why: str) -> TookTooLong:
    return TookTooLong(
        f"{why}: ask for a shorter range, for usage by whole UTC days, or the lake by `stripemeter query`"
    )
