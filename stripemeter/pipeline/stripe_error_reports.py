"""Error reports: which acknowledged rows Stripe says it did not count, and what that makes us doubt.

Belongs here: reading reports that wait in the inbox, and which rows each casts doubt on. Does not: believing them: the
rows' minutes are read back (`pipeline.push_doubts`).

A report names samples, never all. Doubted are the rows it names, what else was accepted of their customers and meters,
and, when it counts more errors than it names or names a batch, every row of its meter that was sent shortly before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from psycopg_pool import ConnectionPool

from stripemeter.billing.sink import BillingSink, ErrorReport, Mode
from stripemeter.errors import InvalidInput, OutcomeUnknown, StripeRejected, Unavailable
from stripemeter.metering.deltas import identifier_of, is_ours
from stripemeter.pipeline.stripe_events import ERROR_REPORTS
from stripemeter.store import push_doubts, stripe_events
from stripemeter.store.mappings import list_mappings
from stripemeter.store.postgres import Tx, transaction
from stripemeter.store.push_doubts import ReportedRow
from stripemeter.store.stripe_events import EventOutcome, StripeEvent

MAX_REPORTS = 100
"""Reports read in one go; the rest is read by the next."""
SENT_BEFORE = timedelta(minutes=10)
"""How long before it is validated an event may have been sent. Stripe publishes no bound; what is older than this and
dropped is found by the reconciliation."""
MAX_MESSAGE = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportsRead:
    """What the reports that waited came to, for one account.

    Args:
        reports: how many were read.
        named: samples that are rows of ours.
        foreign: samples that are not.
        doubted: rows doubted because of them.
        failed: events that can never be read.
        waiting: events that are tried again, and why.
    """

    stripe_account_id: str
    reports: int
    named: int
    foreign: int
    doubted: int
    failed: int
    waiting: tuple[str, ...]


def has_waiting_report(pool: ConnectionPool, *, modes: Sequence[Mode] = ("shadow",)) -> bool:
    """Whether `read_reports` would find one for an account of these modes; it asks nobody."""
    with transaction(pool) as tx:
        return any(
            stripe_events.list_waiting(tx, types=ERROR_REPORTS, is_live=mode == "live", limit=1) for mode in modes
        )


def read_reports(pool: ConnectionPool, sink: BillingSink, *, now: datetime) -> ReportsRead:
    """Read every report that waits for this account, and doubt the rows it is about. Again changes nothing.

    Raises:
        StripeRejected: the key is refused.
        Unavailable, OutcomeUnknown: the account could not be asked for, or Postgres is gone.
    """
    account = sink.account_id()
    with transaction(pool) as tx:
        waiting = stripe_events.list_waiting(tx, types=ERROR_REPORTS, is_live=sink.mode == "live", limit=MAX_REPORTS)
        mapped = {mapping.stripe_account_id for mapping in list_mappings(tx)}
    found: list[_Read] = []
    for event in waiting:
        if event.stripe_account_id in (None, account):
            found.append(_read(pool, sink, event, account, now))
        elif event.stripe_account_id not in mapped:
            _end(pool, event, "ignored", f"of {event.stripe_account_id}, to which nothing is mapped", now)
    return ReportsRead(
        stripe_account_id=account,
        reports=sum(read.outcome == "done" for read in found),
        named=sum(read.named for read in found),
        foreign=sum(read.foreign for read in found),
        doubted=sum(read.doubted for read in found),
        failed=sum(read.outcome == "failed" for read in found),
        waiting=tuple(read.trouble for read in found if read.trouble),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    outcome: Literal["done", "failed", "waiting"]
    named: int = 0
    foreign: int = 0
    doubted: int = 0
    trouble: str = ""


def _read(pool: ConnectionPool, sink: BillingSink, event: StripeEvent, account: str, now: datetime) -> _Read:
    try:
        report = sink.load_error_report(event.id)
    except InvalidInput as error:
        _end(pool, event, "failed", str(error), now)
        return _Read(outcome="failed")
    except (StripeRejected, Unavailable, OutcomeUnknown) as error:
        if isinstance(error, StripeRejected) and error.status in (401, 403):
            raise
        with transaction(pool) as tx:
            stripe_events.note_trouble(tx, event.id, str(error)[:MAX_MESSAGE])
        return _Read(outcome="waiting", trouble=f"{event.id}: {error}")
    if report is None:
        _end(pool, event, "failed", f"{account} has no such event, or has forgotten it after 30 days", now)
        return _Read(outcome="failed")
    rows = _named_rows(report)
    with transaction(pool) as tx:
        doubted = _doubt(tx, report, rows, account, now)
        stripe_events.mark_processed(tx, event.id, "done", now=now)
    return _Read(outcome="done", named=len(rows), foreign=len(report.samples) - len(rows), doubted=doubted)


def _has_unnamed(report: ErrorReport, rows: list[ReportedRow]) -> bool:
    """Whether it may be about rows of ours that it does not name: not all are sampled, or a sample is our batch."""
    ours = sum(is_ours(sample.request_key) for sample in report.samples)
    return report.error_count > len(report.samples) or ours > len(rows)


def _named_rows(report: ErrorReport) -> list[ReportedRow]:
    """The samples that carry an identifier of ours."""
    found = [(identifier_of(sample.request_key), sample) for sample in report.samples]
    return [
        ReportedRow(
            identifier=identifier,
            error_code=sample.code[:MAX_MESSAGE],
            error_message=f"{sample.code}: {sample.message} ({report.event_id})"[:MAX_MESSAGE],
        )
        for identifier, sample in found
        if identifier is not None
    ]


def _doubt(tx: Tx, report: ErrorReport, rows: list[ReportedRow], account: str, now: datetime) -> int:
    doubted = push_doubts.raise_reported(tx, rows, stripe_account_id=account, stripe_event_id=report.event_id, now=now)
    doubted += push_doubts.raise_neighbours(
        tx,
        [row.identifier for row in rows],
        stripe_account_id=account,
        stripe_event_id=report.event_id,
        error_message=f"Stripe reported another row of this customer and meter ({report.event_id})",
        now=now,
    )
    if report.stripe_meter_id is not None and _has_unnamed(report, rows):
        doubted += push_doubts.raise_unnamed(
            tx,
            stripe_account_id=account,
            stripe_meter_id=report.stripe_meter_id,
            sent=(report.validated_from - SENT_BEFORE, report.validated_until),
            stripe_event_id=report.event_id,
            error_message=f"Stripe reported {report.error_count} rows of this meter and named some ({report.event_id})",
            now=now,
        )
    return doubted


def _end(pool: ConnectionPool, event: StripeEvent, outcome: EventOutcome, message: str, now: datetime) -> None:
    with transaction(pool) as tx:
        stripe_events.mark_processed(tx, event.id, outcome, now=now, error_message=message[:MAX_MESSAGE])
