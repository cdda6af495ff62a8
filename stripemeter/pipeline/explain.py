"""Explaining: from a number to its events, and from an event to where it counts or why it does not.

Belongs here: putting together, in one snapshot, what stands in the ledger, the counters and the rulebook. Does not: the
rules (`metering.explanations`), SQL, what an answer looks like.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from psycopg_pool import ConnectionPool

from stripemeter.errors import NotFound
from stripemeter.metering.days import day_of
from stripemeter.metering.explanations import (
    CountedReading,
    EventState,
    Refusal,
    VersionSpan,
    explain_readings,
    explain_refusals,
    explain_state,
    explain_versions,
)
from stripemeter.metering.meters import Unread
from stripemeter.metering.rulebook import Rulebook, TenantRules
from stripemeter.metering.segments import Segment, day_segment
from stripemeter.store import explanations as store
from stripemeter.store.explanations import RefusedPayload, StoredAdjustment, StoredCounter, StoredEvent
from stripemeter.store.lateness import load_aggregations
from stripemeter.store.postgres import Tx, transaction
from stripemeter.store.rulebook import load_rulebook
from stripemeter.store.voids import find_key

OUT_OF_COUNT = frozenset({"pending", "rejected", "reverted"})
"""Statuses of a late event's adjustment under which it counts nowhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedEvent:
    """What became of an event.

    Args:
        event: what stands in the ledger.
        customer_ref: whose usage it is, by the customer's own reference.
        state: in one word.
        is_counting: whether its readings are in the counters now.
        readings: the meters that read it, where and as what.
        refusals: the meters of its day that do not, and why.
        refused: other payloads that came under its key.
        is_recount_pending: its day waits to be counted again, so the counters may still follow other rules.
    """

    event: StoredEvent
    customer_ref: str
    state: EventState
    is_counting: bool
    readings: Sequence[CountedReading]
    refusals: Sequence[Refusal]
    refused: Sequence[RefusedPayload]
    is_recount_pending: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageEventRow:
    """An event of a page: what the meter reads of it, or why it does not."""

    event: StoredEvent
    state: EventState
    is_counting: bool
    reading: CountedReading | None
    reason: Unread | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedUsage:
    """What a customer's usage of a meter over some days is made of.

    `is_in_lake` says that the lake alone has events of some of these days; they are in the page as all others.
    """

    customer_ref: str
    refs: Sequence[str]
    aggregation: str
    counters: Sequence[tuple[StoredCounter, Segment]]
    adjustments: Sequence[StoredAdjustment]
    has_more_adjustments: bool
    versions: Sequence[VersionSpan]
    events: Sequence[UsageEventRow]
    has_more: bool
    is_in_lake: bool
    is_recount_pending: bool


def explain_event(pool: ConnectionPool, tenant_id: str, idempotency_key: str) -> ExplainedEvent:
    """What became of the event a tenant sent under a key.

    Raises:
        NotFound: it sent none.
        InvariantBroken: its month was dropped and the lake does not have it.
        Unavailable: Postgres or the lake does not answer.
    """
    with transaction(pool) as tx:
        store.begin_snapshot(tx)
        ts = find_key(tx, tenant_id, idempotency_key)
        if ts is None:
            raise NotFound(f"no event with key {idempotency_key!r}")
        event = store.find_event(tx, tenant_id, idempotency_key, ts)
        if event is None:
            raise NotFound(f"the event with key {idempotency_key!r}, of {day_of(ts)}, is not in the ledger")
        rulebook = load_rulebook(tx, [tenant_id])
        rules = rulebook.of(tenant_id)
        readings = explain_readings(store.as_frame([event]), rulebook).get(event.seq, ())
        state, is_counting = _state(event, readings)
        return ExplainedEvent(
            event=event,
            customer_ref=rules.customer_of(event.customer_ref),
            state=state,
            is_counting=is_counting,
            readings=readings,
            refusals=explain_refusals(store.as_frame([event]).row(0, named=True), rules),
            refused=store.load_refused(tx, tenant_id, idempotency_key),
            is_recount_pending=store.has_recount_pending(tx, tenant_id, day_of(ts), day_of(ts)),
        )


def explain_usage(
    pool: ConnectionPool,
    *,
    tenant_id: str,
    customer_ref: str,
    meter: str,
    first_on: date,
    last_on: date,
    limit: int,
    after: tuple[datetime, int] | None = None,
) -> ExplainedUsage:
    """What a customer's usage of a meter over the UTC days, both included, is made of.

    Events not counted yet are in the page too: they are part of what reads answer.

    Raises:
        TookTooLong: too much of the days lives in the lake alone.
        InvariantBroken: a month was dropped and the lake does not have it.
        Unavailable: Postgres or the lake does not answer, or not in time.
    """
    with transaction(pool) as tx:
        store.begin_snapshot(tx)
        rulebook = load_rulebook(tx, [tenant_id])
        rules = rulebook.of(tenant_id)
        customer = rules.customer_of(customer_ref)
        refs = sorted(rules.refs_of(customer))
        versions = explain_versions(rules, meter, first_on, last_on)
        metrics = _metrics(versions, meter)
        events = store.load_events(
            tx,
            tenant_id=tenant_id,
            customer_refs=refs,
            metrics=metrics,
            first_on=first_on,
            last_on=last_on,
            after=after,
            most=limit + 1,
        )
        adjustments, has_more_adjustments = store.load_adjustments(
            tx,
            tenant_id=tenant_id,
            customer_refs=refs,
            meter=meter,
            metrics=metrics,
            first_on=first_on,
            last_on=last_on,
        )
        return ExplainedUsage(
            customer_ref=customer,
            refs=refs,
            aggregation=_aggregation(tx, tenant_id, meter, versions),
            counters=[
                (counter, day_segment(rules.phases_of(customer, meter), counter.day, counter.segment_start))
                for counter in store.load_counters(
                    tx, tenant_id=tenant_id, customer_ref=customer, meter=meter, first_on=first_on, last_on=last_on
                )
            ],
            adjustments=adjustments,
            has_more_adjustments=has_more_adjustments,
            versions=versions,
            events=_rows(events[:limit], rulebook, rules, meter),
            has_more=len(events) > limit,
            is_in_lake=store.has_dropped(tx, first_on, last_on),
            is_recount_pending=store.has_recount_pending(tx, tenant_id, first_on, last_on),
        )


def _metrics(versions: Sequence[VersionSpan], meter: str) -> set[str]:
    return {
        metric
        for span in versions
        for metric in ((meter,) if span.version is None else span.version.definition.metrics)
    }


def _aggregation(tx: Tx, tenant_id: str, meter: str, versions: Sequence[VersionSpan]) -> str:
    """How the last of the days counts."""
    version = versions[-1].version
    if version is not None:
        return version.definition.aggregation
    return load_aggregations(tx, [tenant_id]).get((tenant_id, meter), "sum")


def _rows(events: Sequence[StoredEvent], rulebook: Rulebook, rules: TenantRules, meter: str) -> Sequence[UsageEventRow]:
    if not events:
        return ()
    frame = store.as_frame(events)
    readings = explain_readings(frame, rulebook)
    return [
        _row(event, readings, explain_refusals(document, rules), meter)
        for event, document in zip(events, frame.iter_rows(named=True), strict=True)
    ]


def _row(
    event: StoredEvent, readings: Mapping[int, Sequence[CountedReading]], refusals: Sequence[Refusal], meter: str
) -> UsageEventRow:
    own = readings.get(event.seq, ())
    state, is_counting = _state(event, own)
    reading = next((reading for reading in own if reading.meter == meter), None)
    reason = next((refusal.reason for refusal in refusals if refusal.meter == meter), None)
    # A day without a version of the meter: the implicit one reads events of its own metric alone.
    return UsageEventRow(
        event=event,
        state=state,
        is_counting=is_counting and reading is not None,
        reading=reading,
        reason=None if reading is not None else reason or "metric",
    )


def _state(event: StoredEvent, readings: Sequence[CountedReading]) -> tuple[EventState, bool]:
    state = explain_state(
        is_voided=event.voided_at is not None,
        is_folded=event.is_folded,
        late_status=event.late_status,
        is_read=bool(readings),
    )
    is_counting = state == "counted" or (state == "late" and event.late_status not in OUT_OF_COUNT)
    return state, is_counting and bool(readings)
