"""Backfills as somebody asks for them over HTTP: recording one, looking at them, cancelling.

Belongs here: which source a request means, refusing what cannot give events or may not be read before it is recorded.
Does not: running it (`pipeline.backfill`), reverting it (`pipeline.revert`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import date, datetime
from uuid import UUID

import msgspec
from psycopg_pool import ConnectionPool

from stripemeter.errors import Conflict, InvalidInput
from stripemeter.metering.events import IngestLimits
from stripemeter.pipeline.backfill import check_source
from stripemeter.store.backfills import (
    Backfill,
    BackfillStatus,
    NewBackfill,
    SourceType,
    count_backfills,
    create_backfill,
    finish_backfill,
    list_backfills,
    load_backfill,
)
from stripemeter.store.files import FileFormat, format_of, open_rows, payload_source
from stripemeter.store.postgres import transaction

# Source: Amazon S3 User Guide, bucket naming rules; older buckets have capitals, underscores and up to 255 characters.
_S3 = re.compile(r"s3://[A-Za-z0-9][A-Za-z0-9._-]{1,254}/[^\x00-\x1f]+")
# A decimal stays the number it was.
_encode = msgspec.json.Encoder(decimal_format="number").encode


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillRequest:
    """What was asked for. The period's days are both included; of several sources the first given is meant."""

    tenant_id: str
    metric: str
    customer_ref: str | None
    period_start: date
    period_end: date | None
    reason: str
    actor: str
    events: Sequence[Mapping[str, object]] | None
    csv_data: str | None
    source_url: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillPage:
    """Operations, newest first; `total` of all pages where it was asked for."""

    backfills: list[Backfill]
    has_more: bool
    total: int | None


def new_backfill(asked: BackfillRequest, *, max_events: int, readable: Collection[str]) -> NewBackfill:
    """The operation a request means; nothing is read from elsewhere.

    Args:
        asked: what was sent.
        max_events: how many events may come along.
        readable: the folders that requests may name objects of: s3://BUCKET/ or s3://BUCKET/FOLDER/.

    Raises:
        InvalidInput: no source, too many events, an address that is not s3:// or in no such folder, a period that ends
            before it starts.
    """
    period_end = asked.period_end or asked.period_start
    if period_end < asked.period_start:
        raise InvalidInput(f"periodEnd {period_end} is before periodStart {asked.period_start}", field="periodEnd")
    source_type, source, source_format, payload = _source(asked, max_events, readable)
    return NewBackfill(
        tenant_id=asked.tenant_id,
        metric=asked.metric,
        customer_ref=asked.customer_ref,
        period_start=asked.period_start,
        period_end=period_end,
        reason=asked.reason,
        actor=asked.actor,
        source_type=source_type,
        source=source,
        source_version="" if payload is None else "payload",
        source_format=source_format,
        source_size=len(payload or b""),
        payload=payload,
    )


def record_backfill(pool: ConnectionPool, new: NewBackfill, *, limits: IngestLimits, now: datetime) -> UUID:
    """Record an operation, pending and durable, for whoever runs it; returns its id.

    An object in S3 is looked at by whoever runs it: a request does not wait for S3.

    Raises:
        InvalidInput: the payload's heading cannot give events.
    """
    if new.payload is not None:
        try:
            check_source(new, limits=limits)
        except InvalidInput as error:
            raise InvalidInput(f"csvData: {error}", field="csvData") from error
        with closing(open_rows(payload_source(new.payload), new.source_format)) as rows:
            new = replace(new, source_row_count=sum(1 for _ in rows))
    with transaction(pool) as tx:
        return create_backfill(tx, new, now=now)


def find_backfill(pool: ConnectionPool, backfill_id: UUID, *, tenant_id: str | None) -> Backfill:
    """One operation, of a tenant when one is given.

    Raises:
        NotFound: there is none of that id.
    """
    with transaction(pool) as tx:
        return load_backfill(tx, backfill_id, tenant_id=tenant_id)


def list_page(
    pool: ConnectionPool,
    *,
    tenant_id: str | None,
    status: BackfillStatus | None,
    limit: int,
    offset: int,
    after: tuple[datetime, UUID] | None,
) -> BackfillPage:
    """`limit` operations from `offset`, or those beyond `after` (then without a total)."""
    with transaction(pool) as tx:
        found = list_backfills(tx, tenant_id=tenant_id, status=status, limit=limit + 1, offset=offset, after=after)
        total = None if after is not None else count_backfills(tx, tenant_id=tenant_id, status=status)
    return BackfillPage(backfills=found[:limit], has_more=len(found) > limit, total=total)


def cancel_backfill(pool: ConnectionPool, backfill_id: UUID, *, tenant_id: str | None, now: datetime) -> Backfill:
    """Stop an operation for good, running or waiting; what it has stored stays. Doing it again changes nothing.

    Raises:
        NotFound: there is none of that id.
        Conflict: it had ended otherwise.
    """
    with transaction(pool) as tx:
        load_backfill(tx, backfill_id, tenant_id=tenant_id)
        finish_backfill(tx, backfill_id, status="cancelled", now=now)
        backfill = load_backfill(tx, backfill_id)
    if backfill.status != "cancelled":
        raise Conflict(f"backfill {backfill_id} had ended before: it is {backfill.status}")
    return backfill


def parse_source_url(source_url: str, readable: Collection[str]) -> FileFormat:
    """The format of an object in S3 that a request names; the object is not looked at.

    Raises:
        InvalidInput: no s3:// address, in none of the folders `readable`, or its name says no format.
    """
    if not _S3.fullmatch(source_url):
        raise InvalidInput(
            "sourceUrl must be s3://BUCKET/KEY: files of a machine are read by the command line alone",
            field="sourceUrl",
        )
    _require_readable(source_url, readable)
    try:
        return format_of(source_url)
    except InvalidInput as error:
        raise InvalidInput(str(error), field="sourceUrl") from error


def _source(
    asked: BackfillRequest, max_events: int, readable: Collection[str]
) -> tuple[SourceType, str, FileFormat, bytes | None]:
    if asked.events is not None:
        if not 1 <= len(asked.events) <= max_events:
            raise InvalidInput(f"events must have 1 to {max_events} members, not {len(asked.events)}", field="events")
        return "events", "", "jsonl", b"".join(_encode(event) + b"\n" for event in asked.events)
    if asked.csv_data is not None:
        return "csv", "", "csv", asked.csv_data.encode()
    if asked.source_url is None:
        raise InvalidInput("Either events or csvData must be provided, or a sourceUrl", field="events")
    return "url", asked.source_url, parse_source_url(asked.source_url, readable), None


def _require_readable(source_url: str, readable: Collection[str]) -> None:
    """Refuse what is in none of the folders: the server reads with its own credentials, whoever asks."""
    if not {"", ".", ".."}.isdisjoint(source_url.removeprefix("s3://").split("/")):
        raise InvalidInput("sourceUrl must not have empty, . or .. parts", field="sourceUrl")
    if not readable:
        raise InvalidInput(
            "sourceUrl is not accepted by this server: its operator names the folders that may be read in "
            "STRIPEMETER_BACKFILL_SOURCES",
            field="sourceUrl",
        )
    if not source_url.startswith(tuple(readable)):
        raise InvalidInput(
            "sourceUrl is in no folder that this server may read for requests: its operator names them in "
            "STRIPEMETER_BACKFILL_SOURCES",
            field="sourceUrl",
        )
