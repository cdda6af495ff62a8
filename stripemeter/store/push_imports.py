"""Imports into the outbox: rows for what Stripe holds and no row explains.

Belongs here: reading a target's rows and writing what a reading of Stripe calls for. Does not: deciding it
(`metering.imports`), epochs (`store.push_epochs`).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime
from decimal import Decimal

from psycopg.rows import class_row

from stripemeter.metering.imports import Changes, DayKey, FoundMinute, SentRow
from stripemeter.store.postgres import Tx
from stripemeter.store.push_entries import PushTarget
from stripemeter.store.push_epochs import FIRST_EPOCH
from stripemeter.store.sql import load_queries

_Q = load_queries("push_epochs")


def list_targets(tx: Tx, *, stripe_account_id: str, mode: str) -> list[PushTarget]:
    """Every mapped meter of an account with each of its bound customers."""
    with tx.cursor(row_factory=class_row(PushTarget)) as cursor:
        return cursor.execute(_Q["list_targets"], {"stripe_account_id": stripe_account_id, "mode": mode}).fetchall()


def find_unimported(tx: Tx, targets: Sequence[PushTarget], *, epoch: int) -> list[PushTarget]:
    """Those of the targets of whom the outbox may lack something since before the epoch."""
    if epoch == FIRST_EPOCH:
        return []
    values = {
        "epoch": epoch,
        "stripe_account_ids": [target.stripe_account_id for target in targets],
        "stripe_event_names": [target.stripe_event_name for target in targets],
        "stripe_customer_ids": [target.stripe_customer_id for target in targets],
    }
    return [targets[row[0] - 1] for row in tx.execute(_Q["find_unimported"], values)]


def load_last_planned_at(tx: Tx, *, stripe_account_id: str, epoch: int | None) -> datetime | None:
    """When the newest row of an account from before an epoch (or now) was written; None when there is none."""
    values = {"stripe_account_id": stripe_account_id, "epoch": epoch}
    row = tx.execute(_Q["load_last_planned_at"], values).fetchone()
    return None if row is None else row[0]


def load_rows(tx: Tx, target: PushTarget, *, first_day: date) -> list[SentRow]:
    """A target's rows from a day on, by their minutes."""
    with tx.cursor(row_factory=class_row(SentRow)) as cursor:
        return cursor.execute(_Q["load_rows"], {**_key(target), "first_day": first_day}).fetchall()


def load_corrections(tx: Tx, target: PushTarget, *, first_day: date) -> dict[DayKey, list[Decimal]]:
    """Approved surpluses of a target from a day on, by segment and day."""
    found: dict[DayKey, list[Decimal]] = {}
    for start, day, surplus in tx.execute(_Q["load_corrections"], {**_key(target), "first_day": first_day}):
        found.setdefault((start, day), []).append(surplus)
    return found


def apply_changes(tx: Tx, target: PushTarget, changes: Changes, *, epoch: int, now: datetime) -> None:
    """Make the outbox say what Stripe holds, and write down that it does. The target must be locked."""
    tx.execute(_Q["begin_sending"], {"ids": [*changes.arrived, *changes.doubtful]})
    for query, ids in (
        ("settle_arrived", changes.arrived),
        ("settle_absent", changes.absent),
        ("settle_dropped", changes.dropped),
        ("settle_doubtful", changes.doubtful),
    ):
        tx.execute(_Q[query], {"ids": list(ids), "now": now})
    for found in changes.found:
        tx.execute(
            _Q["insert_found"],
            {
                **asdict(target),
                **asdict(found),
                "day": found.stamped_at.astimezone(UTC).date(),
                "identifier": imported_identifier(target, found),
                "now": now,
            },
        )
    tx.execute(_Q["record_import"], {**_key(target), "epoch": epoch, "entry_count": len(changes.found), "now": now})


def imported_identifier(target: PushTarget, found: FoundMinute) -> str:
    """What stands in the place of the identifier nobody knows any more: one for each minute of a target."""
    place = (target.stripe_account_id, target.stripe_event_name, target.stripe_customer_id)
    content = "\x1f".join((*place, found.stamped_at.astimezone(UTC).isoformat()))
    return f"imp_{base64.b32encode(hashlib.sha256(content.encode()).digest()).decode().lower()[:48]}"


def _key(target: PushTarget) -> dict[str, str]:
    return {
        "stripe_account_id": target.stripe_account_id,
        "stripe_event_name": target.stripe_event_name,
        "stripe_customer_id": target.stripe_customer_id,
    }
