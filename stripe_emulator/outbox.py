"""The outbox of events: what is to be sent where, and how often it was tried.

Belongs here: the table. Does not: who is told (`destinations`), sending (`deliveries`).
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any

TABLES = """
create table if not exists deliveries (
    seq integer primary key autoincrement,
    account text not null,
    destination text not null,
    event text not null,
    kind text not null,
    url text not null,
    secret text not null,
    payload text not null,
    due_at integer,
    attempts integer not null default 0,
    status integer,
    outcome text not null default 'waiting' check (outcome in ('waiting', 'delivered', 'given_up'))
);
create index if not exists deliveries_due on deliveries (due_at) where outcome = 'waiting';
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One event on its way to one destination."""

    seq: int
    account: str
    destination: str
    event: str
    kind: str
    url: str
    secret: str
    payload: str
    attempts: int


class Outbox:
    """The table, over the emulator's one connection."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        db.executescript(TABLES)

    def insert(
        self,
        *,
        account: str,
        destination: str,
        event: str,
        kind: str,
        url: str,
        secret: str,
        payload: str,
        due_at: int,
    ) -> None:
        """Remember what to send."""
        self._db.execute(
            "insert into deliveries (account, destination, event, kind, url, secret, payload, due_at)"
            " values (?, ?, ?, ?, ?, ?, ?, ?)",
            (account, destination, event, kind, url, secret, payload, due_at),
        )

    def due(self, now: int) -> list[Delivery]:
        """What is to be tried by now, in order of the events."""
        rows = self._db.execute(
            "select seq, account, destination, event, kind, url, secret, payload, attempts from deliveries"
            " where outcome = 'waiting' and due_at <= ? order by seq",
            (now,),
        )
        return [
            Delivery(
                seq=row[0],
                account=row[1],
                destination=row[2],
                event=row[3],
                kind=row[4],
                url=row[5],
                secret=row[6],
                payload=row[7],
                attempts=row[8],
            )
            for row in rows
        ]

    def settle(self, seq: int, *, status: int | None, outcome: str, due_at: int | None) -> None:
        """Remember how a try went (`status`: HTTP; None when nobody answered) and when the next one is due."""
        self._db.execute(
            "update deliveries set attempts = attempts + 1, status = ?, outcome = ?, due_at = ? where seq = ?",
            (status, outcome, due_at, seq),
        )

    def tell(self, account: str | None) -> list[dict[str, Any]]:
        """Every delivery without its secret, in order; of one account when given."""
        cursor = self._db.execute(
            "select seq, account, destination, event, kind, url, due_at, attempts, status, outcome from deliveries"
            " where ? is null or account = ? order by seq",
            (account, account),
        )
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]
