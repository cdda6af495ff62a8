"""Received meter events: every one, with its verdict and the instants at which it begins and ceases to count.

Belongs here: their table. Does not: the verdict (`meter_events`), adding up (`summaries`).

Nothing is moved from a queue: an event counts at an instant when it was found good, has settled by then and is not
cancelled by then.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any

DAY_SECONDS = 86_400
TABLES = """
create table if not exists meter_events (
    seq integer primary key autoincrement,
    account text not null,
    identifier text not null,
    event_name text not null,
    meter text,
    customer text,
    ts integer not null,
    value text,
    received_at integer not null,
    state text not null check (state in ('visible', 'rejected', 'dropped')),
    reason text,
    settles_at integer not null default 0,
    taken_until integer not null default 0,
    source text not null default 'v1',
    request_id text,
    request_key text
);
create index if not exists meter_events_by_identifier on meter_events (account, identifier, received_at);
create index if not exists meter_events_by_time on meter_events (account, meter, customer, ts);
create index if not exists meter_events_rejected on meter_events (account, settles_at) where state = 'rejected';
create table if not exists meter_event_cancels (event integer primary key, account text not null, at integer not null);
create table if not exists meter_event_reports (event integer primary key, account text not null, report text not null);
"""
_ADDED = {
    "settles_at": "integer not null default 0",
    "taken_until": "integer not null default 0",
    "source": "text not null default 'v1'",
    "request_id": "text",
    "request_key": "text",
}
"""Columns a file of an earlier version lacks."""
_FILLED = {"settles_at": 0, "taken_until": DAY_SECONDS}
"""Seconds after receipt, for the events of such a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterEvent:
    """One received meter event.

    state: `visible` ones are summed once they settle; `rejected` ones are reported; `dropped` ones only remembered.
    settles_at: when Stripe's asynchronous side is through with it.
    taken_until: when its identifier may be used again.
    source: v1, v2, stream, or foreign (another writer, by the control plane).
    """

    account: str
    identifier: str
    event_name: str
    meter: str | None
    customer: str | None
    ts: int
    value: str | None
    received_at: int
    state: str
    reason: str | None
    settles_at: int
    taken_until: int
    source: str
    request_id: str | None
    request_key: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """An event nobody has been told of; `request_key` is the idempotency key of its request."""

    seq: int
    meter: str | None
    code: str
    settled_at: int
    request_key: str | None


_COLUMNS = tuple(column.name for column in fields(MeterEvent))


class ReceivedEvents:
    """The table, over the emulator's one connection."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        present = {row[1] for row in db.execute("pragma table_info(meter_events)")}
        for name, definition in _ADDED.items():
            if present and name not in present:
                db.execute(f"alter table meter_events add column {name} {definition}")
                if name in _FILLED:
                    db.execute(f"update meter_events set {name} = received_at + ?", (_FILLED[name],))  # noqa: S608
        db.executescript(TABLES)

    def is_taken(
        self, account: str, identifier: str, now: int, *, event_name: str | None = None, customer: str | None = None
    ) -> bool:
        """Whether an identifier is in use: in the account, or only among one name's or one customer's events."""
        row = self._db.execute(
            "select 1 from meter_events where account = ? and identifier = ? and taken_until > ?"
            " and (? is null or event_name = ?) and (? is null or customer = ?)",
            (account, identifier, now, event_name, event_name, customer, customer),
        ).fetchone()
        return row is not None

    def insert(self, event: MeterEvent) -> None:
        """Remember a received event."""
        marks = ", ".join("?" * len(_COLUMNS))
        self._db.execute(
            f"insert into meter_events ({', '.join(_COLUMNS)}) values ({marks})",  # noqa: S608 - our own names
            tuple(getattr(event, name) for name in _COLUMNS),
        )

    def find_latest(self, account: str, identifier: str, event_name: str) -> tuple[int, int, bool] | None:
        """`(seq, received_at, is cancelled)` of the last good event of an identifier."""
        row = self._db.execute(
            "select seq, received_at, exists (select 1 from meter_event_cancels where event = seq) from meter_events"
            " where account = ? and identifier = ? and event_name = ? and state = 'visible' order by seq desc limit 1",
            (account, identifier, event_name),
        ).fetchone()
        return (row[0], row[1], bool(row[2])) if row else None

    def cancel(self, account: str, seq: int, at: int) -> None:
        """Have an event count no longer from an instant on."""
        self._db.execute("insert into meter_event_cancels values (?, ?, ?)", (seq, account, at))

    def accounts_to_report(self, before: int) -> list[str]:
        """Accounts with rejected events that settled before an instant and are in no report."""
        rows = self._db.execute(
            "select distinct account from meter_events where state = 'rejected' and settles_at < ?"
            " and not exists (select 1 from meter_event_reports where event = seq)",
            (before,),
        )
        return [row[0] for row in rows]

    def unreported(self, account: str, before: int) -> list[Rejected]:
        """An account's rejected events that settled before an instant and are in no report, in order."""
        rows = self._db.execute(
            "select seq, meter, reason, settles_at, request_key from meter_events where account = ?"
            " and state = 'rejected' and settles_at < ?"
            " and not exists (select 1 from meter_event_reports where event = seq) order by settles_at, seq",
            (account, before),
        )
        return [
            Rejected(seq=seq, meter=meter, code=code, settled_at=settled_at, request_key=request_key)
            for seq, meter, code, settled_at, request_key in rows
        ]

    def mark_reported(self, account: str, seqs: list[int], report: str) -> None:
        """Remember which report tells of which events."""
        self._db.executemany(
            "insert into meter_event_reports values (?, ?, ?)", [(seq, account, report) for seq in seqs]
        )

    def counted(
        self, account: str, meter: str, customer: str, start: int, end: int, now: int
    ) -> list[tuple[int, int, Decimal]]:
        """`(seq, ts, value)` of what counts at `now` in `[start, end)`, in order of receipt."""
        rows = self._db.execute(
            "select seq, ts, value from meter_events where account = ? and meter = ? and customer = ?"
            " and ts >= ? and ts < ? and state = 'visible' and settles_at <= ?"
            " and not exists (select 1 from meter_event_cancels where event = seq and at <= ?) order by seq",
            (account, meter, customer, start, end, now, now),
        )
        return [(seq, ts, Decimal(value or "0")) for seq, ts, value in rows]

    def flush(self, now: int) -> int:
        """Let everything that waits settle now; tells how much waited."""
        waited = self._db.execute("update meter_events set settles_at = ? where settles_at > ?", (now, now)).rowcount
        return waited + self._db.execute("update meter_event_cancels set at = ? where at > ?", (now, now)).rowcount

    def ledger(self, account: str | None, now: int) -> list[dict[str, Any]]:
        """Every event ever received, in order; of one account when given. One that waits is `queued`."""
        cursor = self._db.execute(
            "select meter_events.*, meter_event_cancels.at as cancelled_at, meter_event_reports.report"
            " from meter_events left join meter_event_cancels on meter_event_cancels.event = meter_events.seq"
            " left join meter_event_reports on meter_event_reports.event = meter_events.seq"
            " where ? is null or meter_events.account = ? order by seq",
            (account, account),
        )
        names = [column[0] for column in cursor.description]
        return [_told(dict(zip(names, row, strict=True)), now) for row in cursor]


def _told(event: dict[str, Any], now: int) -> dict[str, Any]:
    if event["settles_at"] > now:
        return {**event, "state": "queued"}
    if event["cancelled_at"] is not None and event["cancelled_at"] <= now:
        return {**event, "state": "cancelled"}
    return event
