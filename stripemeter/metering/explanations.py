"""Explanations: what the rules make of single events, in words.

Belongs here: where an event counts, which meters refuse it and why, its state. Does not: the rules (`readings`,
`meters`), reading the ledger (`store.explanations`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from itertools import groupby
from typing import Any, Literal

import polars as pl

from stripemeter.metering.days import days_between
from stripemeter.metering.meters import MeterVersion, Unread, decode_meta, read_event, version_on
from stripemeter.metering.readings import UNMATCHED, read_meters
from stripemeter.metering.rulebook import Rulebook, TenantRules
from stripemeter.metering.segments import Segment

EventState = Literal["counted", "late", "pending_fold", "voided", "unmatched"]
Lane = Literal["main", "late"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedReading:
    """What a meter reads of an event. `version`: None is the implicit meter of the metric."""

    meter: str
    version: int | None
    customer_ref: str
    segment: Segment
    dimensions: str
    quantity: Decimal
    lane: Lane


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a meter does not count an event."""

    meter: str
    version: int
    reason: Unread


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionSpan:
    """Adjoining days that one version of a meter counts; None: the implicit meter, if there is a metric so named."""

    version: MeterVersion | None
    first_on: date
    last_on: date


def explain_readings(events: pl.DataFrame, rulebook: Rulebook) -> Mapping[int, Sequence[CountedReading]]:
    """What every event gives which meter, by seq; an event that no meter counts is absent.

    Args:
        events: shape LEDGER_EVENTS, as `read_meters` takes it.
        rulebook: the rules of every tenant in the frame.
    """
    found: defaultdict[int, list[CountedReading]] = defaultdict(list)
    for row in read_meters(events, rulebook).sort("seq", "meter").iter_rows(named=True):
        if row["meter"] == UNMATCHED:
            continue
        rules = rulebook.of(row["tenant_id"])
        version = version_on(rules.meters.get(row["meter"], ()), row["ts"].date())
        found[row["seq"]].append(
            CountedReading(
                meter=row["meter"],
                version=None if version is None else version.version,
                customer_ref=row["customer_ref"],
                segment=rules.segment_of(row["customer_ref"], row["meter"], row["ts"]),
                dimensions=row["dimensions"],
                quantity=row["quantity"],
                lane="late" if row["is_late"] else "main",
            )
        )
    return found


def explain_refusals(event: Mapping[str, Any], rules: TenantRules) -> Sequence[Refusal]:
    """The meters of its day that do not count an event (a row of LEDGER_EVENTS), by name, each with its reason."""
    refusals = []
    ts: datetime = event["ts"]
    meta = decode_meta(event["meta"])
    for name in sorted(rules.meters):
        version = version_on(rules.meters[name], ts.date())
        if version is None:
            continue
        reading = read_event(
            version.definition,
            metric=event["metric"],
            quantity=event["quantity"],
            resource_id=event["resource_id"],
            source=event["source"],
            meta=meta,
        )
        if isinstance(reading, str):
            refusals.append(Refusal(meter=name, version=version.version, reason=reading))
    return refusals


def explain_state(*, is_voided: bool, is_folded: bool, late_status: str | None, is_read: bool) -> EventState:
    """The one word for what became of an event; what takes it out of the count comes first."""
    if is_voided:
        return "voided"
    if not is_folded:
        return "pending_fold"
    if late_status is not None:
        return "late"
    return "counted" if is_read else "unmatched"


def explain_versions(rules: TenantRules, meter: str, first_on: date, last_on: date) -> Sequence[VersionSpan]:
    """Which version of a meter counts which of these days, ascending."""
    versions = rules.meters.get(meter, ())
    spans = []
    for version, days in groupby(days_between(first_on, last_on), key=lambda day: version_on(versions, day)):
        first, *rest = days
        spans.append(VersionSpan(version=version, first_on=first, last_on=rest[-1] if rest else first))
    return spans
