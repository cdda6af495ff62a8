"""Meters, stored: one row per version, never changed.

Belongs here: the table `meters`, and on which days a tenant counted. Does not: what a definition means
(`metering.meters`), what a change brings about (`pipeline.meters`).
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import msgspec

from stripemeter.metering.meters import MeterDefinition, MeterVersion, meter_document, parse_meter
from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries

_Q = load_queries("meters")
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedVersion:
    """A version, who made it and when."""

    version: MeterVersion
    actor: str
    created_at: datetime


def load_meter_versions(
    tx: Tx, tenants: Collection[str] | None = None
) -> Mapping[str, Mapping[str, list[MeterVersion]]]:
    """Every version, ascending, by tenant and name; of these tenants when given. Tenants without meters are absent."""
    found: defaultdict[str, defaultdict[str, list[MeterVersion]]] = defaultdict(lambda: defaultdict(list))
    wanted = None if tenants is None else sorted(tenants)
    for tenant_id, name, *row in tx.execute(_Q["load_meter_versions"], {"tenants": wanted}):
        found[tenant_id][name].append(_recorded(row).version)
    return {tenant_id: dict(meters) for tenant_id, meters in found.items()}


def list_meters(tx: Tx, tenant_id: str) -> Mapping[str, list[RecordedVersion]]:
    """Every version of a tenant's meters, ascending, by name in order."""
    found: defaultdict[str, list[RecordedVersion]] = defaultdict(list)
    for _, name, *row in tx.execute(_Q["load_meter_versions"], {"tenants": [tenant_id]}):
        found[name].append(_recorded(row))
    return dict(found)


def find_meter(tx: Tx, tenant_id: str, name: str) -> list[RecordedVersion]:
    """Every version of one meter, ascending; empty when it never was one."""
    rows = tx.execute(_Q["find_meter"], {"tenant_id": tenant_id, "name": name})
    return [_recorded(row) for _, _, *row in rows]


def append_meter_version(tx: Tx, tenant_id: str, version: MeterVersion, *, actor: str, now: datetime) -> None:
    """Record one more version. Under the cursor's lock: versions are numbered without gaps."""
    tx.execute(
        _Q["append_meter_version"],
        {
            "tenant_id": tenant_id,
            "name": version.definition.name,
            "version": version.version,
            "effective_on": version.effective_on,
            "is_active": version.is_active,
            "definition": _encode(meter_document(version.definition)).decode(),
            "actor": actor,
            "now": now,
        },
    )


def count_meters(tx: Tx, tenant_id: str) -> int:
    """How many meters a tenant has or had."""
    row = tx.execute(_Q["count_meters"], {"tenant_id": tenant_id}).fetchone()
    return 0 if row is None else int(row[0])


def load_counted_ranges(tx: Tx, tenant_id: str, meters: Iterable[str], first: date) -> list[tuple[date, date]]:
    """Unbroken ranges of days, first and last included, from `first` on, with counters of one of these meters."""
    parameters = {"tenant_id": tenant_id, "meters": sorted(meters), "first_day": first}
    return [(row[0], row[1]) for row in tx.execute(_Q["load_counted_ranges"], parameters)]


def _recorded(row: list[Any]) -> RecordedVersion:
    version, effective_on, is_active, definition, actor, created_at = row
    return RecordedVersion(
        version=MeterVersion(
            definition=_definition(definition), version=version, effective_on=effective_on, is_active=is_active
        ),
        actor=actor,
        created_at=created_at,
    )


@functools.lru_cache(maxsize=4096)
def _definition(text: str) -> MeterDefinition:
    # Rows never change, and every fold reads them all.
    return parse_meter(msgspec.json.decode(text))
