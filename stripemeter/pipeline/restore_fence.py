"""The fence after a restore: nothing is pushed until the outbox says again what Stripe holds.

Belongs here: the order of things, and who may begin. Does not: one target (`pipeline.import_target`), telling that
a database was restored (`store.push_epochs`, `store.push_witness`).

    fence   a new epoch, committed: from here on no row is claimed in this database
    wait    until SETTLED after the last event the old database may have sent
    read    every (Stripe meter, customer), each in a commit of its own
    open    the epoch: pushing goes on

Killed anywhere it is run again and goes on where it was. What only becomes known later (a customer that is bound anew,
an account whose key was missing) is not pushed while Stripe holds something of it; run again, this reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Literal

from psycopg_pool import ConnectionPool

from stripemeter.billing.sink import BillingSink
from stripemeter.errors import Conflict, InvalidInput, NotAllowed, StripeMeterError
from stripemeter.pipeline.import_target import SETTLED, Imported, first_import_day, import_target, preview_import
from stripemeter.store import push_epochs, push_imports
from stripemeter.store.mappings import list_mappings
from stripemeter.store.postgres import connect, database_url_of, transaction
from stripemeter.store.push_entries import PushTarget
from stripemeter.store.push_epochs import Fence
from stripemeter.store.push_witness import PushWitness

MAX_ROWS = 1000
WORKERS = 4
LATER = "customers or accounts that became known after the fence"


@dataclass(frozen=True, slots=True, kw_only=True)
class FenceOrder:
    """What an operator asks for.

    Args:
        actor: who.
        reason: why, for the record.
        stopped_at: when the old database's last push had ended; None: it is only known that it ended before the fence.
        is_by_hand: fence although nothing shows that the database was restored.
    """

    actor: str
    reason: str
    stopped_at: datetime | None = None
    is_by_hand: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FenceRow:
    """A target of which something changes, or that could not be read."""

    tenant_id: str
    meter: str
    customer_ref: str
    minutes: int
    quantity: Decimal
    arrived: int
    absent: int
    waits_for_operator: int
    unexplained: Decimal
    failure: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FenceReport:
    """What was done, or would be.

    Args:
        outcome: `not_needed`: this database pushes as it is; `preview`: nothing was changed; `fenced`: something is
            left, run again; `opened`: pushing goes on.
        why: what blocks pushing; empty when nothing does.
        ready_at: from when on Stripe's sums are trusted to have everything the old database sent.
        targets: how many (Stripe meter, customer) there are.
        done_before: of these, how many an earlier run had finished.
        minutes: rows made for what Stripe holds.
        quantity: what they add up to.
        failed: targets that could not be read.
        without_key: accounts usage is mapped to that no key is set for: not read.
        rows: targets with changes or failures, at most MAX_ROWS.
    """

    outcome: Literal["not_needed", "preview", "fenced", "opened"]
    why: str
    ready_at: datetime | None
    targets: int
    done_before: int
    minutes: int
    quantity: Decimal
    failed: int
    without_key: tuple[str, ...]
    rows: tuple[FenceRow, ...]


def find_contradiction(pool: ConnectionPool, sinks: Sequence[BillingSink], witnesses: Path) -> str:
    """What a witness knows and this database does not; empty: nothing.

    Raises:
        StripeRejected, Unavailable, OutcomeUnknown: an account could not be asked for, or Postgres is gone.
    """
    accounts = [sink.account_id() for sink in sinks]
    with transaction(pool) as tx:
        fence = push_epochs.load_fence(tx)
        epoch = fence.epoch if fence is not None else 0
        found = [PushWitness(witnesses, account).contradiction(tx, epoch) for account in accounts]
    return next((text for text in found if text), "")


def preview_fence(
    pool: ConnectionPool, sinks: Sequence[BillingSink], *, order: FenceOrder, gone_back: str, now: datetime
) -> FenceReport:
    """What `restore_fence` would read and import now; nothing is changed.

    Raises:
        InvalidInput: `stopped_at` is in the future.
        StripeRejected, Unavailable, OutcomeUnknown: an account could not be asked for, or Postgres is gone.
    """
    with transaction(pool) as tx:
        fence = push_epochs.load_fence(tx)
    why = _why(fence, order, gone_back)
    begun = _begun(fence, gone_back) if why else fence
    epoch = begun.epoch if begun is not None else None
    ready_at = _ready_at(order, begun.started_at if begun is not None else now, now)

    def preview(sink: BillingSink, target: PushTarget, first: date) -> Imported:
        return preview_import(pool, sink, target, first=first, now=now)

    found = _each_target(pool, sinks, preview, epoch=epoch, now=now)
    if not why:
        return _report("preview", LATER, found) if found.is_anything else _report("not_needed", "", found)
    return _report("preview", why, found, ready_at)


def restore_fence(
    pool: ConnectionPool, sinks: Sequence[BillingSink], *, order: FenceOrder, gone_back: str, now: datetime
) -> FenceReport:
    """Fence pushing, read what Stripe holds, and let pushing go on.

    Args:
        pool: the restored database.
        sinks: every account there is a key for.
        order: who, why, and what is known of the old database.
        gone_back: what the witness says against this database; empty: nothing.
        now: aware.

    Raises:
        InvalidInput: `stopped_at` is in the future.
        NotAllowed: Stripe may not have summed up yet what was sent last: pushing is fenced, run again at the time told.
        Conflict: somebody else is fencing.
        StripeRejected, Unavailable, OutcomeUnknown: an account could not be asked for, or Postgres is gone.
    """
    with _alone(pool):
        with transaction(pool) as tx:
            fence = push_epochs.load_fence(tx)
            why = _why(fence, order, gone_back)
            begun = _begun(fence, gone_back) if why else fence
            ready_at = _ready_at(order, begun.started_at if begun is not None else now, now)
            if begun is not None:
                epoch = begun.epoch
            else:
                epoch = push_epochs.start_epoch(tx, reason=order.reason, actor=order.actor, now=now)
        if why and now < ready_at:
            raise NotAllowed(
                "pushing is fenced; Stripe may not have summed up yet what was sent last: run this again after "
                f"{ready_at:%Y-%m-%d %H:%M:%SZ}, or say with --stopped-at when the old database's last push had ended"
            )

        def do_import(sink: BillingSink, target: PushTarget, first: date) -> Imported:
            return import_target(pool, sink, target, epoch=epoch, first=first, now=now)

        found = _each_target(pool, sinks, do_import, epoch=epoch, now=now)
        if not why:
            return _report("opened", LATER, found) if found.is_anything else _report("not_needed", "", found)
        if found.failures:
            return _report("fenced", why, found, ready_at)
        with transaction(pool) as tx:
            push_epochs.open_epoch(tx, epoch, now=now)
        return _report("opened", why, found, ready_at)


_Verb = Callable[[BillingSink, PushTarget, date], Imported]


@dataclass(slots=True, kw_only=True)
class _Found:
    targets: int = 0
    done_before: int = 0
    imported: list[Imported] = field(default_factory=list)
    failures: list[tuple[PushTarget, str]] = field(default_factory=list)
    without_key: tuple[str, ...] = ()

    @property
    def is_anything(self) -> bool:
        return bool(self.failures or any(imported.is_change for imported in self.imported))


@contextmanager
def _alone(pool: ConnectionPool) -> Iterator[None]:
    # A session of its own: the lock ends with it, also when the process is killed.
    with connect(database_url_of(pool), application_name="stripemeter-fence", autocommit=True) as session:
        if not push_epochs.try_lock(session):
            raise Conflict("another restore-fence is at it: wait until it has ended")
        yield


def _begun(fence: Fence | None, gone_back: str) -> Fence | None:
    """The fence of an earlier run that has not ended; None: it was none, or another restore came after it."""
    is_this = fence is not None and fence.state == "fenced" and fence.difference is None and not gone_back
    return fence if is_this else None


def _why(fence: Fence | None, order: FenceOrder, gone_back: str) -> str:
    if fence is None:
        return push_epochs.NO_EPOCH
    return fence.refusal or gone_back or ("asked for by hand" if order.is_by_hand else "")


def _ready_at(order: FenceOrder, started_at: datetime, now: datetime) -> datetime:
    if order.stopped_at is not None and order.stopped_at > now:
        raise InvalidInput(f"stopped-at is in the future: {order.stopped_at:%Y-%m-%d %H:%M:%SZ}", field="stopped-at")
    return (order.stopped_at or started_at) + SETTLED


def _each_target(
    pool: ConnectionPool, sinks: Sequence[BillingSink], verb: _Verb, *, epoch: int | None, now: datetime
) -> _Found:
    found = _Found()
    accounts: set[str] = set()
    for sink in sinks:
        account = sink.account_id()
        accounts.add(account)
        with transaction(pool) as tx:
            targets = push_imports.list_targets(tx, stripe_account_id=account, mode=sink.mode)
            left = targets if epoch is None else push_imports.find_unimported(tx, targets, epoch=epoch)
            first = first_import_day(tx, account, epoch=epoch, now=now)
        found.targets += len(targets)
        found.done_before += len(targets) - len(left)
        with ThreadPoolExecutor(max_workers=WORKERS, thread_name_prefix="fence") as workers:
            for outcome in workers.map(lambda target, s=sink, f=first: _tried(verb, s, target, f), left):
                if isinstance(outcome, Imported):
                    found.imported.append(outcome)
                else:
                    found.failures.append(outcome)
    with transaction(pool) as tx:
        mapped = {mapping.stripe_account_id for mapping in list_mappings(tx) if mapping.mode != "off"}
    found.without_key = tuple(sorted(mapped - accounts))
    return found


def _tried(verb: _Verb, sink: BillingSink, target: PushTarget, first: date) -> Imported | tuple[PushTarget, str]:
    try:
        return verb(sink, target, first)
    except StripeMeterError as error:
        # One target's trouble keeps no other from being read; pushing stays fenced.
        return target, str(error)


def _report(
    outcome: Literal["not_needed", "preview", "fenced", "opened"],
    why: str,
    found: _Found,
    ready_at: datetime | None = None,
) -> FenceReport:
    rows = [_failed_row(target, failure) for target, failure in found.failures]
    rows += [_row(imported) for imported in found.imported if imported.is_change]
    return FenceReport(
        outcome=outcome,
        why=why,
        ready_at=ready_at,
        targets=found.targets,
        done_before=found.done_before,
        minutes=sum(len(imported.changes.found) for imported in found.imported),
        quantity=sum((imported.quantity for imported in found.imported), Decimal(0)),
        failed=len(found.failures),
        without_key=found.without_key,
        rows=tuple(rows[:MAX_ROWS]),
    )


def _row(imported: Imported) -> FenceRow:
    changes = imported.changes
    return FenceRow(
        tenant_id=imported.target.tenant_id,
        meter=imported.target.meter,
        customer_ref=imported.target.customer_ref,
        minutes=len(changes.found),
        quantity=imported.quantity,
        arrived=len(changes.arrived),
        absent=len(changes.absent),
        waits_for_operator=len(changes.dropped) + len(changes.doubtful),
        unexplained=changes.unexplained,
        failure="",
    )


def _failed_row(target: PushTarget, failure: str) -> FenceRow:
    return FenceRow(
        tenant_id=target.tenant_id,
        meter=target.meter,
        customer_ref=target.customer_ref,
        minutes=0,
        quantity=Decimal(0),
        arrived=0,
        absent=0,
        waits_for_operator=0,
        unexplained=Decimal(0),
        failure=failure,
    )
