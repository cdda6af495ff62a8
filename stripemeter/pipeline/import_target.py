"""Importing: bringing the outbox of one Stripe meter and customer to what Stripe holds, after a restore.

Belongs here: one target, from reading to the commit. Does not: who is imported and when (`pipeline.restore_fence`,
`pipeline.push`), what a minute means (`metering.imports`).

Stripe is read between two transactions. The second locks the target and reads its rows again: when they changed
meanwhile nothing is written and all of it is read anew. Writing and noting that it is done are one commit, so a process
that dies anywhere leaves a target imported or untouched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from psycopg_pool import ConnectionPool

from stripemeter.billing.sink import BillingSink
from stripemeter.errors import Conflict, StripeMeterError
from stripemeter.metering.deltas import first_open_day
from stripemeter.metering.imports import IN_FLIGHT, Changes, SentRow, explain_minutes
from stripemeter.pipeline.read_minutes import read_differences
from stripemeter.store import push_entries, push_imports
from stripemeter.store.customers import load_phases_of
from stripemeter.store.postgres import Tx, transaction
from stripemeter.store.push_entries import PushTarget

SETTLED = timedelta(hours=1)
"""How long after something was sent Stripe's summaries are trusted to have it: they are eventually consistent, and
Stripe publishes no bound."""

UNREAD = (
    "Stripe holds usage of this customer that was not pushed from this database since it was restored: look at it with "
    "`stripemeter restore-fence`, and take it for ours with --yes"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What a reading of one target called for, done or (in a preview) not."""

    target: PushTarget
    changes: Changes

    @property
    def quantity(self) -> Decimal:
        """What the minutes found add up to."""
        return sum((found.delta for found in self.changes.found), Decimal(0))

    @property
    def is_change(self) -> bool:
        """Whether anything was not as the outbox said."""
        changes = self.changes
        parts = (changes.found, changes.arrived, changes.absent, changes.dropped, changes.doubtful)
        return any(parts) or changes.unexplained != 0


def first_import_day(tx: Tx, stripe_account_id: str, *, epoch: int | None, now: datetime) -> date:
    """The oldest day that something may have been sent for after the newest row from before an epoch was written.

    `epoch`: None when it is still to be started.
    """
    planned_at = push_imports.load_last_planned_at(tx, stripe_account_id=stripe_account_id, epoch=epoch)
    return first_open_day(now if planned_at is None else min(now, planned_at))


def preview_import(
    pool: ConnectionPool, sink: BillingSink, target: PushTarget, *, first: date, now: datetime
) -> Imported:
    """What an import would change; nothing is written.

    Raises:
        StripeRejected, Unavailable, OutcomeUnknown: Stripe could not be read.
    """
    return _read(pool, sink, target, first=first, now=now)[1]


def import_target(
    pool: ConnectionPool, sink: BillingSink, target: PushTarget, *, epoch: int, first: date, now: datetime
) -> Imported:
    """Make the outbox say what Stripe holds of a target from a day on, and note that it was done in this epoch.

    Raises:
        StripeRejected, Unavailable, OutcomeUnknown: Stripe could not be read. Nothing was written.
        Conflict: a row of it was sent less than SETTLED ago, or changed meanwhile. Nothing was written.
    """
    rows, imported = _read(pool, sink, target, first=first, now=now)
    _write(pool, rows, imported, epoch=epoch, first=first, now=now)
    return imported


def find_unread(
    pool: ConnectionPool, sink: BillingSink, targets: Sequence[PushTarget], *, epoch: int, now: datetime
) -> dict[PushTarget, str]:
    """Those of the targets that must not be pushed before an operator has looked, and why.

    The fence could not know of them: a customer bound since, an account whose key was missing. Where Stripe holds what
    the outbox says that is noted, and pushing begins; where it holds more, it may be ours from before the restore or
    somebody else's, and nobody here can tell.
    """
    held_back: dict[PushTarget, str] = {}
    with transaction(pool) as tx:
        unread = push_imports.find_unimported(tx, targets, epoch=epoch)
        first = first_import_day(tx, sink.account_id(), epoch=epoch, now=now)
    for target in unread:
        try:
            rows, imported = _read(pool, sink, target, first=first, now=now)
            if imported.is_change:
                held_back[target] = UNREAD
            else:
                _write(pool, rows, imported, epoch=epoch, first=first, now=now)
        except StripeMeterError as error:
            # One customer's trouble is not another's.
            held_back[target] = str(error)
    return held_back


def _write(
    pool: ConnectionPool, rows: list[SentRow], imported: Imported, *, epoch: int, first: date, now: datetime
) -> None:
    target = imported.target
    with transaction(pool) as tx:
        push_entries.lock_targets(tx, [target])
        if push_imports.load_rows(tx, target, first_day=first) != rows:
            raise Conflict(f"{target.customer_ref!r} is pushed on {target.stripe_event_name!r} meanwhile: run again")
        push_imports.apply_changes(tx, target, imported.changes, epoch=epoch, now=now)


def _read(
    pool: ConnectionPool, sink: BillingSink, target: PushTarget, *, first: date, now: datetime
) -> tuple[list[SentRow], Imported]:
    with transaction(pool) as tx:
        rows = push_imports.load_rows(tx, target, first_day=first)
        corrections = push_imports.load_corrections(tx, target, first_day=first)
        phases = load_phases_of(tx, target.tenant_id, target.customer_ref, target.meter)
    _require_settled(rows, target, now)
    reading = read_differences(sink, target, rows, corrections, first=first, last=now.astimezone(UTC).date())
    return rows, Imported(target=target, changes=explain_minutes(rows, reading, corrections, phases))


def _require_settled(rows: list[SentRow], target: PushTarget, now: datetime) -> None:
    for row in rows:
        is_fresh = row.last_attempt_at is not None and now < row.last_attempt_at + SETTLED
        if is_fresh and row.state in (*IN_FLIGHT, "accepted"):
            raise Conflict(
                f"a row of {target.customer_ref!r} on {target.stripe_event_name!r} was sent less than an hour ago: "
                "run again when Stripe has summed it up"
            )
