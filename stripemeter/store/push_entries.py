"""The outbox of pushes: one row per delta, written before anything is sent.

Belongs here: planning, claiming and settling rows, and finding who needs a push. Does not: deciding what an answer
means (`pipeline.push_rows`), the rules of minutes and identifiers (`metering.deltas`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import class_row, dict_row

from stripemeter.errors import Conflict
from stripemeter.metering.days import day_bounds
from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries

_Q = load_queries("push")


@dataclass(frozen=True, slots=True, kw_only=True)
class PushTarget:
    """One Stripe meter and one of its customers: the unit that has at most one row in flight."""

    mapping_id: UUID
    tenant_id: str
    meter: str
    customer_ref: str
    stripe_account_id: str
    stripe_event_name: str
    stripe_meter_id: str
    stripe_customer_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LackingDay:
    """A day that is not what was sent. `counted` is ours, `planned` is or may be at Stripe."""

    segment_start: datetime
    day: date
    counted: Decimal
    planned: Decimal
    entry_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpushedDay:
    """A day of a customer and meter that Stripe lacks something of."""

    tenant_id: str
    customer_ref: str
    meter: str
    day: date
    segment_start: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldDay:
    """A day older than Stripe takes."""

    tenant_id: str
    meter: str
    customer_ref: str
    segment_start: datetime
    day: date
    lacking: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class PushEntry:
    """One row of the outbox that is planned or being sent."""

    id: UUID
    mapping_id: UUID
    tenant_id: str
    meter: str
    customer_ref: str
    stripe_account_id: str
    stripe_event_name: str
    stripe_customer_id: str
    segment_start: datetime
    day: date
    seq: int
    delta: Decimal
    total_before: Decimal
    total_after: Decimal
    stamped_at: datetime
    identifier: str
    planned_at: datetime
    state: str
    attempt: int
    key_no: int
    first_attempt_at: datetime | None
    last_attempt_at: datetime | None
    lease_until: datetime | None
    next_attempt_at: datetime | None
    probed_at: datetime | None
    probed_quantity: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A row Stripe acknowledged, now or (is_already_accepted) at an earlier attempt."""

    entry_id: UUID
    is_already_accepted: bool
    request_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockingEntry:
    """A row that stops its customer until an operator acts."""

    id: UUID
    mapping_id: UUID
    tenant_id: str
    meter: str
    customer_ref: str
    stripe_account_id: str
    stripe_event_name: str
    stripe_customer_id: str
    segment_start: datetime
    day: date
    delta: Decimal
    state: str
    http_status: int | None
    error_code: str | None
    error_message: str | None
    settled_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StateCount:
    """Rows of one meter in one state."""

    tenant_id: str
    meter: str
    state: str
    entries: int
    quantity: Decimal


def find_targets(
    tx: Tx, *, stripe_account_id: str, mode: str, first_day: date, today: date, now: datetime
) -> list[PushTarget]:
    """Who needs a push, in one query: lacking days, or an open row whose time has come."""
    values = {
        "stripe_account_id": stripe_account_id,
        "mode": mode,
        "first_day": first_day,
        "today": today,
        "now": now,
    }
    with tx.cursor(row_factory=class_row(PushTarget)) as cursor:
        return cursor.execute(_Q["find_targets"], values).fetchall()


def has_due_entry(tx: Tx, *, modes: Sequence[str], now: datetime) -> bool:
    """Whether a row in flight may be sent now."""
    row = tx.execute(_Q["has_due_entry"], {"modes": list(modes), "now": now}).fetchone()
    return row is not None and bool(row[0])


def scan_unpushed(
    tx: Tx, *, modes: Sequence[str], first_day: date, today: date, minute: datetime
) -> Iterator[UnpushedDay]:
    """Days a push would plan now, if their segment has a whole minute of the day; read as far as they are asked for."""
    values = {"modes": list(modes), "first_day": first_day, "today": today, "minute": minute}
    with tx.cursor("unpushed", row_factory=class_row(UnpushedDay)) as cursor:
        yield from cursor.execute(_Q["scan_unpushed"], values)


def lock_targets(tx: Tx, targets: Sequence[PushTarget]) -> None:
    """Become the only planner of these targets until the transaction ends."""
    tx.execute(_Q["lock_targets"], _keys(targets))


def load_open_entries(tx: Tx, targets: Sequence[PushTarget]) -> dict[int, PushEntry]:
    """The row in flight of each target that has one, by the target's place in the list."""
    with tx.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(_Q["load_open_entries"], _keys(targets)).fetchall()
    return {row.pop("place") - 1: PushEntry(**row) for row in rows}


def find_blocked(tx: Tx, targets: Sequence[PushTarget]) -> set[int]:
    """The places of the targets of which a refused or doubtful row waits for an operator."""
    return {row[0] - 1 for row in tx.execute(_Q["find_blocked"], _keys(targets))}


def load_lacking_days(
    tx: Tx, targets: Sequence[PushTarget], *, first_day: date, today: date
) -> dict[int, list[LackingDay]]:
    """The days of each target that are not what was sent, oldest first, by the target's place in the list."""
    values = {
        "tenant_ids": [target.tenant_id for target in targets],
        "mapping_ids": [target.mapping_id for target in targets],
        "customer_refs": [target.customer_ref for target in targets],
        "first_day": first_day,
        "today": today,
    }
    found: dict[int, list[LackingDay]] = {}
    with tx.cursor(row_factory=dict_row) as cursor:
        for row in cursor.execute(_Q["load_lacking_days"], values):
            found.setdefault(row.pop("place") - 1, []).append(LackingDay(**row))
    return found


def load_used_minutes(tx: Tx, places: Sequence[tuple[PushTarget, date]]) -> list[set[datetime]]:
    """Minutes of each day that some row of its target has."""
    bounds = [day_bounds(day) for _, day in places]
    values = {"starts": [start for start, _ in bounds], "ends": [end for _, end in bounds]}
    used: list[set[datetime]] = [set() for _ in places]
    for place, stamped_at in tx.execute(_Q["load_used_minutes"], _keys([target for target, _ in places]) | values):
        used[place - 1].add(stamped_at)
    return used


def insert_planned(tx: Tx, entries: Sequence[PushEntry]) -> None:
    """Write new rows before anything is sent.

    Raises:
        Conflict: a target has a row in flight or the minute is taken: somebody else planned. Nothing was written.
    """
    try:
        with tx.cursor() as cursor:
            cursor.executemany(_Q["insert_planned"], [_values(entry) for entry in entries])
    except psycopg.errors.UniqueViolation as error:
        raise Conflict("somebody else pushes the same customer on the same Stripe meter") from error


def claim(tx: Tx, entry_ids: Sequence[UUID], *, now: datetime, lease_until: datetime) -> dict[UUID, tuple[int, int]]:
    """Take rows for sending: `(attempt, key_no)` of each; without those that somebody else has or that are settled."""
    rows = tx.execute(_Q["claim"], {"ids": list(entry_ids), "now": now, "lease_until": lease_until})
    return {row[0]: (row[1], row[2]) for row in rows}


def settle_accepted(tx: Tx, arrivals: Sequence[Arrival], *, now: datetime) -> None:
    """Stripe has them."""
    values = {
        "ids": [arrival.entry_id for arrival in arrivals],
        "are_already_accepted": [arrival.is_already_accepted for arrival in arrivals],
        "request_ids": [arrival.request_id for arrival in arrivals],
        "now": now,
    }
    tx.execute(_Q["settle_accepted"], values)


def settle_rejected(
    tx: Tx,
    entry_id: UUID,
    *,
    now: datetime,
    http_status: int,
    error_code: str | None,
    error_message: str,
    request_id: str | None,
) -> None:
    """Stripe refused it; the target waits for an operator."""
    _settle(
        tx,
        "settle_rejected",
        entry_id,
        now=now,
        http_status=http_status,
        error_code=error_code,
        error_message=error_message,
        request_id=request_id,
    )


def settle_open(
    tx: Tx, entry_id: UUID, *, next_attempt_at: datetime, is_new_key: bool, http_status: int | None, error_message: str
) -> None:
    """Not known, or not now: it stays in flight and is tried again later, under a new Idempotency-Key if asked."""
    _settle(
        tx,
        "settle_open",
        entry_id,
        next_attempt_at=next_attempt_at,
        key_steps=1 if is_new_key else 0,
        http_status=http_status,
        error_message=error_message,
    )


def hold_for_probe(tx: Tx, entry_id: UUID, *, now: datetime, lease_until: datetime) -> bool:
    """Take a row for reading back its minute; False when somebody else has it."""
    return tx.execute(_Q["hold_for_probe"], {"id": entry_id, "now": now, "lease_until": lease_until}).rowcount > 0


def settle_probe(tx: Tx, entry_id: UUID, *, now: datetime, quantity: Decimal, next_attempt_at: datetime) -> None:
    """Write down what the row's minute held."""
    _settle(tx, "settle_probe", entry_id, now=now, quantity=quantity, next_attempt_at=next_attempt_at)


def settle_rearmed(tx: Tx, entry_id: UUID) -> None:
    """Proven absent: planned again, under its identifier."""
    _settle(tx, "settle_rearmed", entry_id)


def settle_cancelled(tx: Tx, entry_id: UUID, *, now: datetime, error_message: str) -> None:
    """Not at Stripe and never will be: its delta is lacking again."""
    _settle(tx, "settle_cancelled", entry_id, now=now, error_message=error_message)


def settle_quarantined(tx: Tx, entry_id: UUID, *, now: datetime, error_message: str) -> None:
    """Its minute holds something else: it stays counted as sent, and the target waits for an operator."""
    _settle(tx, "settle_quarantined", entry_id, now=now, error_message=error_message)


def release(tx: Tx, *, tenant_id: str, entry_id: UUID, now: datetime) -> bool:
    """Let the customer of a rejected row go on; False when there is no such row waiting."""
    return tx.execute(_Q["release"], {"tenant_id": tenant_id, "id": entry_id, "now": now}).rowcount > 0


def load_held(tx: Tx, *, stripe_account_id: str, mode: str, first_day: date, limit: int) -> tuple[int, list[HeldDay]]:
    """How many days are too old for Stripe and not what was sent, and the newest of them."""
    values = {"stripe_account_id": stripe_account_id, "mode": mode, "first_day": first_day, "limit": limit}
    count = tx.execute(_Q["count_held"], values).fetchone()
    with tx.cursor(row_factory=class_row(HeldDay)) as cursor:
        return (count[0] if count else 0), cursor.execute(_Q["list_held"], values).fetchall()


def list_blocking(tx: Tx, *, stripe_account_id: str | None = None, limit: int = 100) -> list[BlockingEntry]:
    """Rows that wait for an operator, newest first."""
    with tx.cursor(row_factory=class_row(BlockingEntry)) as cursor:
        return cursor.execute(_Q["list_blocking"], {"stripe_account_id": stripe_account_id, "limit": limit}).fetchall()


def count_blocked(tx: Tx, *, stripe_account_id: str) -> int:
    """How many customers of meters wait for an operator at an account."""
    row = tx.execute(_Q["count_blocked"], {"stripe_account_id": stripe_account_id}).fetchone()
    return 0 if row is None else int(row[0])


def count_states(tx: Tx, *, tenant_id: str | None = None) -> list[StateCount]:
    """How many rows are in each state."""
    with tx.cursor(row_factory=class_row(StateCount)) as cursor:
        return cursor.execute(_Q["count_states"], {"tenant_id": tenant_id}).fetchall()


def _settle(tx: Tx, query: str, entry_id: UUID, **values: Any) -> None:  # noqa: ANN401 - any parameter
    tx.execute(_Q[query], {"id": entry_id, **values})


def _keys(targets: Sequence[PushTarget]) -> dict[str, list[Any]]:
    return {
        "stripe_account_ids": [target.stripe_account_id for target in targets],
        "stripe_event_names": [target.stripe_event_name for target in targets],
        "stripe_customer_ids": [target.stripe_customer_id for target in targets],
    }


def _values(entry: PushEntry) -> dict[str, Any]:
    # `dataclasses.asdict` copies every value deeply, which a push of many rows notices.
    return {name: getattr(entry, name) for name in _ENTRY_NAMES}


_ENTRY_NAMES = tuple(column.name for column in fields(PushEntry))
