"""The push epoch: whether this is the database that pushed.

Belongs here: the table `push_epochs`. Does not: what Stripe holds (`pipeline.import_target`), the
file that remembers what was sent (`store.push_witness`).

A database that was restored, copied or promoted lacks rows of the outbox that Stripe has usage of. The epoch that holds
names the cluster, its timeline, the database and the table it was started in: nothing is pushed from anywhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from stripemeter.errors import InvariantBroken, NotAllowed
from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries

_Q = load_queries("push_epochs")

FIRST_EPOCH = 1
"""Nothing came before it, so the outbox lacks nothing."""
REMEDY = (
    "nothing is pushed, for what was sent since might be sent twice: stop whatever still pushes from the old database, "
    "then run `stripemeter restore-fence`"
)
NO_EPOCH = f"this database has no push epoch; {REMEDY}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """The epoch that holds. `difference`: how this database is not the one it was started in; None when it is."""

    epoch: int
    state: str
    started_at: datetime
    reason: str
    difference: str | None

    @property
    def refusal(self) -> str:
        """Why nothing may be pushed; empty when it may."""
        if self.difference is not None:
            return f"this database is not the one usage was pushed from: it is {self.difference}; {REMEDY}"
        if self.state == "fenced":
            return f"pushing is fenced since {self.started_at:%Y-%m-%d %H:%M:%SZ} ({self.reason}); {REMEDY}"
        return ""


def load_fence(tx: Tx) -> Fence | None:
    """The epoch that holds; None when there is none: the tables were made without the migrations."""
    row = tx.execute(_Q["load_fence"]).fetchone()
    if row is None:
        return None
    return Fence(epoch=row[0], state=row[1], started_at=row[2], reason=row[3], difference=row[4])


def require_open(tx: Tx) -> Fence:
    """The epoch in which usage may be pushed from here.

    Raises:
        NotAllowed: this is another database than it was pushed from, or pushing is fenced.
    """
    fence = load_fence(tx)
    if fence is None or fence.refusal:
        raise NotAllowed(NO_EPOCH if fence is None else fence.refusal)
    return fence


def find_refusal(tx: Tx) -> str:
    """Why nothing may be pushed from here; empty when it may."""
    fence = load_fence(tx)
    return NO_EPOCH if fence is None else fence.refusal


def start_epoch(tx: Tx, *, reason: str, actor: str, now: datetime) -> int:
    """A new epoch, of this database, in which nothing is pushed yet."""
    row = tx.execute(_Q["start_epoch"], {"reason": reason, "actor": actor, "now": now}).fetchone()
    if row is None:
        raise InvariantBroken("sql/queries/push_epochs.sql start_epoch: no row")
    return int(row[0])


def open_epoch(tx: Tx, epoch: int, *, now: datetime) -> None:
    """Let pushing go on."""
    tx.execute(_Q["open_epoch"], {"epoch": epoch, "now": now})


def try_lock(tx: Tx) -> bool:
    """Become the only one who fences, until the session ends; False: somebody else is."""
    row = tx.execute(_Q["try_lock"]).fetchone()
    return row is not None and bool(row[0])


def find_unsent(tx: Tx, identifiers: Sequence[str]) -> list[str]:
    """Those of the identifiers that no row of the outbox was ever sent under."""
    return [row[0] for row in tx.execute(_Q["find_unsent"], {"identifiers": list(identifiers)})]
