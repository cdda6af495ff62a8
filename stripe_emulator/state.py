"""What the emulator remembers: one SQLite database, in memory or in a file.

Belongs here: tables, the clock, transactions. Does not: what a request means, meter events (`received_events`).

With a file, an answer leaves only after its transaction is on disk (`synchronous=full`), so a restarted emulator
keeps everything it acknowledged.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stripe_emulator.outbox import Outbox
from stripe_emulator.received_events import ReceivedEvents
from stripe_emulator.wire import Json

_TABLES = """
create table if not exists objects (
    seq integer primary key autoincrement,
    account text not null,
    kind text not null,
    id text not null,
    name text not null,
    body text not null,
    unique (account, kind, id)
);
create index if not exists objects_by_name on objects (account, kind, name);
create table if not exists idempotency_keys (
    account text not null,
    key text not null,
    request text not null,
    status integer not null,
    body blob not null,
    request_id text not null,
    saved_at integer not null,
    primary key (account, key)
);
create table if not exists alarms (
    account text not null,
    kind text not null,
    id text not null,
    at integer not null,
    clock text not null default '',
    primary key (account, kind, id)
);
create index if not exists alarms_by_time on alarms (account, at);
create table if not exists settings (name text primary key, value text not null);
"""
_STATE_TABLES = (
    "objects",
    "meter_events",
    "meter_event_cancels",
    "meter_event_reports",
    "deliveries",
    "idempotency_keys",
    "alarms",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """An object as it was stored; `seq` is the order of creation."""

    seq: int
    body: Json


class State:
    """The emulator's memory. Used from one thread.

    Args:
        file: where to keep it; in memory when None.
    """

    def __init__(self, file: Path | None = None) -> None:
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(file or ":memory:", isolation_level=None, check_same_thread=False)
        self._db.execute("pragma journal_mode=wal")
        self._db.execute("pragma synchronous=full")
        self._db.executescript(_TABLES)
        if "clock" not in {row[1] for row in self._db.execute("pragma table_info(alarms)")}:
            self._db.execute(
                "alter table alarms add column clock text not null default ''"
            )  # an earlier version's file
        self.events = ReceivedEvents(self._db)
        self.deliveries = Outbox(self._db)
        self._snapshots: dict[str, sqlite3.Connection] = {}

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is on disk at its end, or nothing is."""
        self._db.execute("begin immediate")
        try:
            yield
        except BaseException:
            self._db.execute("rollback")
            raise
        self._db.execute("commit")

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Inside a transaction: everything inside happens, or nothing does and the transaction goes on."""
        self._db.execute("savepoint attempt")
        try:
            yield
        except BaseException:
            self._db.execute("rollback to attempt")
            raise
        finally:
            self._db.execute("release attempt")

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def keep_snapshot(self, name: str) -> None:
        """Keep everything as it is now under a name, in memory; a former one of the name is forgotten."""
        kept = sqlite3.connect(":memory:", check_same_thread=False)
        self._db.backup(kept)
        self._snapshots[name] = kept

    def restore_snapshot(self, name: str) -> bool:
        """Everything as it was kept, the clock included; false when nothing was kept under the name."""
        kept = self._snapshots.get(name)
        if kept is None:
            return False
        kept.backup(self._db)
        return True

    def now(self) -> int:
        """The emulator's clock, in seconds since the Unix epoch."""
        settings = dict(self._db.execute("select name, value from settings where name in ('frozen', 'offset')"))
        if "frozen" in settings:
            return int(settings["frozen"])
        return int(time.time()) + int(settings.get("offset", "0"))

    def set_clock(self, *, frozen: int | None = None, offset: int = 0) -> None:
        """Stop the clock at `frozen`, or let it run `offset` seconds beside the real one."""
        with self.transaction():
            self._db.execute("delete from settings where name in ('frozen', 'offset')")
            name, value = ("offset", offset) if frozen is None else ("frozen", frozen)
            self._db.execute("insert into settings values (?, ?)", (name, str(value)))

    def clock_offset(self) -> int:
        """Seconds a running clock is ahead of the real one."""
        row = self._db.execute("select value from settings where name = 'offset'").fetchone()
        return int(row[0]) if row else 0

    def is_frozen(self) -> bool:
        """Whether the clock stands still."""
        return self._db.execute("select 1 from settings where name = 'frozen'").fetchone() is not None

    def setting(self, name: str) -> str | None:
        """A setting of the whole emulator, None when it was never set."""
        row = self._db.execute("select value from settings where name = ?", (name,)).fetchone()
        return str(row[0]) if row else None

    def change_setting(self, name: str, value: str | None) -> None:
        """Set a setting; None forgets it."""
        with self.transaction():
            self._db.execute("delete from settings where name = ?", (name,))
            if value is not None:
                self._db.execute("insert into settings values (?, ?)", (name, value))

    def set_alarm(self, account: str, kind: str, object_id: str, at: int | None, *, clock: str = "") -> None:
        """Have something happen to an object at an instant of the emulator's or of a test clock; None: nothing will."""
        self._db.execute("delete from alarms where account = ? and kind = ? and id = ?", (account, kind, object_id))
        if at is not None:
            self._db.execute(
                "insert into alarms (account, kind, id, at, clock) values (?, ?, ?, ?, ?)",
                (account, kind, object_id, at, clock),
            )

    def forget_alarms(self, account: str, clock: str) -> None:
        """Nothing more happens by a test clock."""
        self._db.execute("delete from alarms where account = ? and clock = ?", (account, clock))

    def next_alarm(self, account: str, now: int, *, clock: str = "") -> tuple[str, str, int] | None:
        """`(kind, id, at)` of the first alarm of the emulator's clock, or of a test clock, that has rung."""
        row: tuple[str, str, int] | None = self._db.execute(
            "select kind, id, at from alarms where account = ? and at <= ? and clock = ?"
            " order by at, kind, rowid limit 1",
            (account, now, clock),
        ).fetchone()
        return row

    def insert_object(self, account: str, kind: str, body: Json, *, name: str = "") -> None:
        """Remember a new object under its id."""
        self._db.execute(
            "insert into objects (account, kind, id, name, body) values (?, ?, ?, ?, ?)",
            (account, kind, body["id"], name, json.dumps(body)),
        )

    def replace_object(self, account: str, kind: str, body: Json) -> None:
        """Overwrite an object."""
        self._db.execute(
            "update objects set body = ? where account = ? and kind = ? and id = ?",
            (json.dumps(body), account, kind, body["id"]),
        )

    def remove_object(self, account: str, kind: str, object_id: str) -> None:
        """Forget one object."""
        self._db.execute("delete from objects where account = ? and kind = ? and id = ?", (account, kind, object_id))

    def find_object(self, account: str, kind: str, object_id: str) -> StoredObject | None:
        """The object with this id."""
        row = self._db.execute(
            "select seq, body from objects where account = ? and kind = ? and id = ?", (account, kind, object_id)
        ).fetchone()
        return StoredObject(seq=row[0], body=json.loads(row[1])) if row else None

    def accounts_with(self, kinds: tuple[str, ...]) -> list[str]:
        """Accounts that have an object of one of the kinds."""
        marks = ", ".join("?" * len(kinds))
        rows = self._db.execute(f"select distinct account from objects where kind in ({marks})", kinds)  # noqa: S608
        return [row[0] for row in rows]

    def list_objects(self, account: str, kind: str, *, name: str | None = None) -> list[StoredObject]:
        """Objects of a kind, newest first; only those called `name` when given."""
        rows = self._db.execute(
            "select seq, body from objects where account = ? and kind = ? and (? is null or name = ?)"
            " order by seq desc",
            (account, kind, name, name),
        )
        return [StoredObject(seq=seq, body=json.loads(body)) for seq, body in rows]

    def find_saved(self, account: str, key: str, *, saved_after: int) -> tuple[str, int, bytes, str] | None:
        """`(request, status, body, request_id)` an idempotency key replays, unless it is too old."""
        row: tuple[str, int, bytes, str] | None = self._db.execute(
            "select request, status, body, request_id from idempotency_keys"
            " where account = ? and key = ? and saved_at > ?",
            (account, key, saved_after),
        ).fetchone()
        return row

    def save_answer(self, account: str, key: str, request: str, status: int, body: bytes, request_id: str) -> None:
        """Remember what an idempotency key replays."""
        self._db.execute(
            "insert or replace into idempotency_keys values (?, ?, ?, ?, ?, ?, ?)",
            (account, key, request, status, body, request_id, self.now()),
        )

    def forget(self, account: str | None) -> None:
        """Forget one account, or everything but the clock."""
        with self.transaction():
            for table in _STATE_TABLES:
                self._db.execute(
                    f"delete from {table} where ? is null or account = ?",  # noqa: S608 - our own names
                    (account, account),
                )
