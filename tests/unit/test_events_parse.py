"""Parsing: what an event becomes. What is refused stands in tests/api/test_ingest_malformed.py, over HTTP."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from stripemeter.errors import InvalidInput
from stripemeter.metering.events import IngestLimits, RejectedEvent, UsageEvent, parse_ingest
from tests.laws.worlds import NOW, Fact, parse


def parse_raw(body: str, limits: IngestLimits | None = None) -> list[UsageEvent | RejectedEvent]:
    """A body as text."""
    return parse_ingest(body.encode(), header_key=None, now=NOW, limits=limits or IngestLimits())


def event_of(**members: Any) -> UsageEvent:  # noqa: ANN401 - JSON
    """A good event but for these members."""
    document = {**Fact().document(), **members}
    (event,) = parse_raw(json.dumps({"events": [document]}))
    assert isinstance(event, UsageEvent)
    return event


def test_an_event_keeps_everything_that_was_sent() -> None:
    """Names, text of meta, source; the instant in UTC."""
    ts = datetime(2026, 11, 23, 9, 30, 0, 123456, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    event = event_of(ts=ts.isoformat(), resourceId="r", meta={"b": 1, "a": "é"}, source="etl", idempotencyKey="k")
    assert event.ts == ts
    assert event.ts.tzinfo is UTC
    assert (event.tenant_id, event.metric, event.customer_ref, event.resource_id) == (
        "acme",
        "api_calls",
        "cust_1",
        "r",
    )
    assert (event.idempotency_key, event.source) == ("k", "etl")
    assert json.loads(event.meta or "") == {"b": 1, "a": "é"}


def test_optional_members_may_be_absent_or_null() -> None:
    """Null means absent, in storage and in the payload."""
    absent, null = event_of(), event_of(resourceId=None, meta=None, idempotencyKey=None)
    assert absent == null
    assert (absent.resource_id, absent.meta, absent.source) == (None, None, "http")
    assert absent.idempotency_key.startswith("evt_")
    assert len(absent.idempotency_key) == len("evt_") + 32, "at least 128 bits"


def test_the_source_is_not_billable() -> None:
    """A retry through another road is the same event."""
    first, second = event_of(source="sdk"), event_of(source="etl")
    assert (first.key_hash, first.payload_hash) == (second.key_hash, second.payload_hash)


def test_members_nobody_knows_are_ignored() -> None:
    """A newer client may send more than we read."""
    assert event_of(colour="blue") == event_of()


@pytest.mark.parametrize(
    ("ahead", "is_rejected"), [(timedelta(hours=1), False), (timedelta(hours=1, microseconds=1), True)]
)
def test_an_event_may_lie_exactly_an_hour_ahead(ahead: timedelta, is_rejected: bool) -> None:
    """To the microsecond; beyond it the event is a value with a code, not an exception."""
    (event,) = parse([Fact(ts=NOW + ahead)])
    assert isinstance(event, RejectedEvent) is is_rejected


def test_meta_is_measured_as_it_was_sent() -> None:
    """White space counts: the limit is about bytes on the wire."""
    document = json.dumps({"events": [{**Fact().document(), "meta": "@"}]})
    for size, kind in ((4096, UsageEvent), (4097, RejectedEvent)):
        (event,) = parse_raw(document.replace('"@"', "{" + " " * (size - 2) + "}"))
        assert isinstance(event, kind)


def test_limits_are_the_operators() -> None:
    """Smaller batches, UUID tenants."""
    two = json.dumps({"events": [Fact().document()] * 2})
    with pytest.raises(InvalidInput) as refused:
        parse_raw(two, IngestLimits(max_batch=1))
    assert (refused.value.field, refused.value.index) == ("events", -1)
    with pytest.raises(InvalidInput) as refused:
        parse_raw(two, IngestLimits(is_tenant_uuid=True))
    assert (refused.value.field, refused.value.index) == ("events[0].tenantId", 0)
    named = json.dumps({"events": [replace(Fact(), tenant=str(uuid.UUID(int=7))).document()]})
    assert len(parse_raw(named, IngestLimits(is_tenant_uuid=True))) == 1


@pytest.mark.parametrize("text", ["\\\\u0000", "\\\\\\\\u0000", "u0000", "\\\\\\u0030"])
def test_what_only_looks_like_nul_is_kept(text: str) -> None:
    """An escaped backslash before `u0000` is text, in names and in meta."""
    document = json.dumps({"events": [{**Fact().document(), "customerRef": "@", "meta": {"k": "@"}}]})
    (event,) = parse_raw(document.replace("@", text))
    assert isinstance(event, UsageEvent)
    assert event.customer_ref == json.loads(f'"{text}"')


def test_the_first_offender_is_named() -> None:
    """Index and path of the first of several."""
    events = [Fact().document(), {**Fact().document(), "quantity": -1}, {**Fact().document(), "quantity": "x"}]
    with pytest.raises(InvalidInput, match="at least 0") as refused:
        parse_raw(json.dumps({"events": events}))
    assert (refused.value.field, refused.value.index) == ("events[1].quantity", 1)
