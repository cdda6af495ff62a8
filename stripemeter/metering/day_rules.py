"""The rules a day was counted by, as a small document: what the lake needs to count the day again by itself.

Belongs here: which rules a day's events can meet, writing and reading the document. Does not: where it lies
(`store.lake`), the rules themselves (`rulebook`).

Windows and policies are left out: they decide whether an event is late, and the archived event says so already.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import msgspec
import polars as pl

from stripemeter.errors import InvalidInput
from stripemeter.metering.frames import ARCHIVED_EVENTS
from stripemeter.metering.meters import MeterVersion, meter_document, parse_meter, version_on
from stripemeter.metering.rulebook import Rulebook, TenantRules
from stripemeter.metering.segments import BillingPhase, Cadence, parse_phase

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DayRules:
    """The rules of a day, and which files they belong to: sha256 in hexadecimal by kind."""

    day: date
    files: Mapping[str, str]
    rulebook: Rulebook


class _Meter(msgspec.Struct, kw_only=True, rename="camel"):
    version: int
    effective_on: date
    definition: dict[str, Any]


class _Phase(msgspec.Struct, kw_only=True, rename="camel"):
    customer_ref: str
    meter: str
    starts_at: datetime
    cadence: Cadence
    count: int
    anchor_at: datetime


class _Tenant(msgspec.Struct, kw_only=True):
    aliases: dict[str, str]
    meters: list[_Meter]
    phases: list[_Phase]


class _Document(msgspec.Struct, kw_only=True):
    format: int
    day: date
    files: dict[str, str]
    tenants: dict[str, _Tenant]


_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder(_Document).decode


def rules_of_day(rulebook: Rulebook, events: pl.DataFrame, day: date) -> Rulebook:
    """Those of the rules that decide how a day's events count; tenants whose events meet the defaults alone are absent.

    Args:
        rulebook: the rules of every tenant in the frame.
        events: shape ARCHIVED_EVENTS, all of one day.
        day: that day.
    """
    met = ARCHIVED_EVENTS.validate(events).select("tenant_id", "metric", "customer_ref").unique()
    metrics: defaultdict[str, set[str]] = defaultdict(set)
    refs: defaultdict[str, set[str]] = defaultdict(set)
    for tenant, metric, ref in met.iter_rows():
        metrics[tenant].add(metric)
        refs[tenant].add(ref)
    tenants = {
        tenant: _met(rulebook.tenants[tenant], metrics[tenant], refs[tenant], day)
        for tenant in metrics
        if tenant in rulebook.tenants
    }
    return Rulebook(tenants={tenant: rules for tenant, rules in tenants.items() if rules != TenantRules()})


def write_day_rules(rules: DayRules) -> bytes:
    """The document as JSON; the same rules give the same bytes."""
    document = _Document(
        format=FORMAT,
        day=rules.day,
        files=dict(rules.files),
        tenants={tenant: _tenant_document(own) for tenant, own in rules.rulebook.tenants.items()},
    )
    return _encode(document) + b"\n"


def read_day_rules(content: bytes) -> DayRules:
    """What `write_day_rules` wrote.

    Raises:
        InvalidInput: it is no such document, or of a format this release does not know.
    """
    try:
        document = _decode(content)
    except msgspec.MsgspecError as error:
        raise InvalidInput(f"not a day's rules: {error}", field="rules") from error
    if document.format != FORMAT:
        raise InvalidInput(f"a day's rules of format {document.format}, and this release reads {FORMAT}", field="rules")
    tenants = {tenant: _rules_of(own) for tenant, own in document.tenants.items()}
    return DayRules(day=document.day, files=document.files, rulebook=Rulebook(tenants=tenants))


def _met(rules: TenantRules, metrics: set[str], refs: set[str], day: date) -> TenantRules:
    effective = {name: version_on(versions, day) for name, versions in rules.meters.items()}
    aliases = {ref: rules.aliases[ref] for ref in refs if ref in rules.aliases}
    customers = {aliases.get(ref, ref) for ref in refs}
    return TenantRules(
        meters={
            name: [version]
            for name, version in effective.items()
            if version is not None and metrics & {name, *version.definition.metrics}
        },
        aliases=aliases,
        phases={key: list(phases) for key, phases in rules.phases.items() if key[0] in customers},
    )


def _tenant_document(rules: TenantRules) -> _Tenant:
    return _Tenant(
        aliases=dict(rules.aliases),
        meters=[
            _Meter(
                version=version.version,
                effective_on=version.effective_on,
                definition=meter_document(version.definition),
            )
            for _, versions in sorted(rules.meters.items())
            for version in versions
        ],
        phases=[
            _Phase(
                customer_ref=customer,
                meter=meter,
                starts_at=phase.starts_at,
                cadence=phase.cadence,
                count=phase.cadence_count,
                anchor_at=phase.anchor_at,
            )
            for (customer, meter), phases in sorted(rules.phases.items())
            for phase in phases
        ],
    )


def _rules_of(document: _Tenant) -> TenantRules:
    meters: defaultdict[str, list[MeterVersion]] = defaultdict(list)
    for each in document.meters:
        definition = parse_meter(each.definition, field="definition")
        meters[definition.name].append(
            MeterVersion(definition=definition, version=each.version, effective_on=each.effective_on, is_active=True)
        )
    return TenantRules(meters=dict(meters), aliases=document.aliases, phases=_phases_of(document.phases))


def _phases_of(documents: Sequence[_Phase]) -> dict[tuple[str, str], Sequence[BillingPhase]]:
    phases: defaultdict[tuple[str, str], list[BillingPhase]] = defaultdict(list)
    for each in documents:
        phases[each.customer_ref, each.meter].append(
            parse_phase(
                cadence=each.cadence,
                count=each.count,
                anchor_at=each.anchor_at,
                starts_at=each.starts_at,
                field="phase",
            )
        )
    return dict(phases)
