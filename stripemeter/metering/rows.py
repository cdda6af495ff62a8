"""Rows of files: how columns become the members of an event, and which rows an operation takes.

Belongs here: column names, forcing the tenant, filters, one row to one event. Does not: reading files (`store.files`),
what an event must look like (`metering.events`: a row becomes an event object and is parsed as one).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

import msgspec

from stripemeter.errors import InvalidInput
from stripemeter.metering.events import IngestLimits, RejectedEvent, UsageEvent, parse_event

COLUMNS = {
    "tenantId": "tenantId",
    "tenant_id": "tenantId",
    "metric": "metric",
    "customerRef": "customerRef",
    "customer_ref": "customerRef",
    "resourceId": "resourceId",
    "resource_id": "resourceId",
    "quantity": "quantity",
    "ts": "ts",
    "timestamp": "ts",
    "created_at": "ts",
    "source": "source",
    "meta": "meta",
    "idempotencyKey": "idempotencyKey",
    "idempotency_key": "idempotencyKey",
}
"""Column names and the event members they hold. Source: the original's contract, CSV columns of a backfill."""
DEFAULT_SOURCE = "import"

_encode = msgspec.json.Encoder(decimal_format="number").encode
_check_json = msgspec.json.Decoder(msgspec.Raw).decode


class FailedRow(msgspec.Struct, frozen=True, gc=False):
    """A row that is no acceptable event, and why; `field` is '' when the row as a whole is meant."""

    field: str
    code: str
    message: str


class SkippedRow(msgspec.Struct, frozen=True, gc=False):
    """A good event that the operation was told to leave out."""


ParsedRow = UsageEvent | RejectedEvent | FailedRow | SkippedRow
_SKIPPED = SkippedRow()


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRules:
    """What an operation makes of rows.

    `metric` and `customer_ref` stand in for a row's missing ones, and rows of others are skipped; so are rows with
    `ts` outside `[start_at, end_at)`. `fields` is event member by column name (`fields_of`).
    """

    tenant_id: str
    metric: str | None
    customer_ref: str | None
    start_at: datetime | None
    end_at: datetime | None
    fields: Mapping[str, str]
    limits: IngestLimits


def fields_of(mapping: Mapping[str, str]) -> dict[str, str]:
    """Event member by column name: the known names, but for members the mapping (column -> field) takes from elsewhere.

    Raises:
        InvalidInput: a field no event has, or two columns for one.
    """
    chosen: dict[str, str] = {}
    for column, field in mapping.items():
        member = COLUMNS.get(field)
        if member is None:
            raise InvalidInput(f"no event has a field {field!r}: map to one of {', '.join(COLUMNS)}", field="map")
        if member in chosen.values():
            raise InvalidInput(f"two columns are mapped to {member}", field="map")
        chosen[column] = member
    taken = set(chosen.values())
    return {column: member for column, member in COLUMNS.items() if member not in taken} | chosen


def check_columns(columns: Iterable[str], *, rules: RowRules, mapping: Mapping[str, str]) -> None:
    """Refuse a file whose heading cannot give events.

    Raises:
        InvalidInput: a column twice, two columns for one member, a mapped column or a required one is not there.
    """
    seen: dict[str, str] = {}
    listed = list(columns)
    shown = ", ".join(listed)
    for column in listed:
        if listed.count(column) > 1:
            raise InvalidInput(f"the column {column!r} stands twice in the heading", field="columns")
        member = rules.fields.get(column)
        if member is not None and member in seen:
            raise InvalidInput(
                f"the columns {seen[member]!r} and {column!r} both hold {member}: rename one, or map one to {member}",
                field="columns",
            )
        if member is not None:
            seen[member] = column
    absent = [column for column in mapping if column not in listed]
    if absent:
        raise InvalidInput(f"no column {absent[0]!r} to map: the file has {shown}", field="map")
    required = ["quantity", "ts"]
    required += [] if rules.metric else ["metric"]
    required += [] if rules.customer_ref else ["customerRef"]
    for member in required:
        if member not in seen:
            raise InvalidInput(
                f"no column holds {member}: the heading is {shown}; map one to {member}", field="columns"
            )


def parse_row(values: Mapping[str, object], *, rules: RowRules, now: datetime) -> ParsedRow:
    """One row, by column name, as the event it becomes; columns no event has are ignored, None means absent."""
    members: dict[str, object] = {}
    fields = rules.fields
    for column, value in values.items():
        member = fields.get(column)
        if member is None or value is None:
            continue
        if member in members:
            return FailedRow(member, "invalid_input", f"two members of the row hold {member}")
        members[member] = value
    members.setdefault("tenantId", rules.tenant_id)
    members.setdefault("source", DEFAULT_SOURCE)
    if rules.metric is not None:
        members.setdefault("metric", rules.metric)
    if rules.customer_ref is not None:
        members.setdefault("customerRef", rules.customer_ref)
    try:
        meta = members.get("meta")
        if isinstance(meta, str):
            members["meta"] = _json_text(meta)
        event = parse_event(_encode(members), now=now, limits=rules.limits)
    except InvalidInput as error:
        return FailedRow(error.field, error.code, str(error))
    except (TypeError, ValueError, RecursionError) as error:  # a Parquet type JSON has no word for, a lone surrogate
        return FailedRow("", "invalid_input", f"the row cannot be read as an event: {error}")
    return _admit(event, rules)


def _admit(event: UsageEvent | RejectedEvent, rules: RowRules) -> ParsedRow:
    if event.tenant_id != rules.tenant_id:
        return FailedRow(
            "tenantId",
            "tenant_mismatch",
            f"the row names tenant {event.tenant_id!r}, the operation is for {rules.tenant_id!r}",
        )
    if isinstance(event, RejectedEvent):
        return event
    if rules.metric is not None and event.metric != rules.metric:
        return _SKIPPED
    if rules.customer_ref is not None and event.customer_ref != rules.customer_ref:
        return _SKIPPED
    if rules.start_at is not None and event.ts < rules.start_at:
        return _SKIPPED
    if rules.end_at is not None and event.ts >= rules.end_at:
        return _SKIPPED
    return event


def _json_text(meta: str) -> msgspec.Raw:
    # Checked before it is put into the row's document: `{}, "quantity": 9` must not become a member of it.
    try:
        return _check_json(meta)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
        raise InvalidInput(f"meta must be a JSON object: {error}", field="meta") from error
