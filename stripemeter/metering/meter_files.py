"""Meters as a file: a tenant and its definitions, and what applying them would change.

Belongs here: parsing and writing the decoded file, planning. Does not: YAML (`cli.yaml_files`), changing anything
(`pipeline.meters`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

from stripemeter.metering.days import parse_day
from stripemeter.metering.meter_changes import end_version, newest_of, put_version
from stripemeter.metering.meters import DEFAULT_MAX_GROUPS, MeterDefinition, MeterVersion, meter_document, parse_meter
from stripemeter.metering.parsing import elements_of, invalid, members_of, parse_text, within

MAX_METERS = 1000
"""Of one file."""
_EFFECTIVE = "effectiveFrom"


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedMeter:
    """One meter of a file, from `effective_on` on; None: as `meter_changes.put_version` has it."""

    definition: MeterDefinition
    effective_on: date | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterFile:
    """What a file says: the meters of a tenant, each name once."""

    tenant_id: str
    meters: tuple[StatedMeter, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedChange:
    """One version that applying a file would make.

    Args:
        action: what it does to the meter.
        version: the version.
        based_on: the newest version before, 0 for none.
        members: what changes of the definition: member, before, after.
    """

    action: Literal["create", "change", "remove"]
    version: MeterVersion
    based_on: int
    members: tuple[tuple[str, object, object], ...] = ()


def parse_meter_file(document: object) -> MeterFile:
    """What a decoded file says.

    Raises:
        InvalidInput: it is no such file; `field` names the member.
    """
    members = members_of(document, ("tenant", "meters"), "")
    for name in ("tenant", "meters"):
        if name not in members:
            raise invalid("is required", name)
    listed = members["meters"]
    entries = [] if listed == [] else elements_of(listed, "meters", most=MAX_METERS)
    meters = tuple(_parse_entry(entry, within("meters", index)) for index, entry in enumerate(entries))
    names = [meter.definition.name for meter in meters]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise invalid(f"{name!r} stands twice", f"meters[{index}].name")
    return MeterFile(tenant_id=parse_text(members["tenant"], "tenant"), meters=meters)


def meter_file_document(
    tenant_id: str, versions: Mapping[str, Sequence[MeterVersion]], *, today: date
) -> dict[str, Any]:
    """The file that says what the tenant's newest versions say: applying it changes nothing.

    Members that have their default are left out; so is the day a version counts from, unless it is still to come.
    """
    newest = [found for each in versions.values() if (found := newest_of(each)) is not None and found.is_active]
    return {
        "tenant": tenant_id,
        "meters": [_entry(version, today) for version in sorted(newest, key=lambda each: each.definition.name)],
    }


def plan_changes(
    file: MeterFile, versions: Mapping[str, Sequence[MeterVersion]], *, today: date
) -> list[PlannedChange]:
    """The versions that saying each meter of the file would make, in its order; empty when all is so already."""
    return [
        _planned(version, versions.get(meter.definition.name, ()))
        for meter in file.meters
        if (
            version := put_version(
                versions.get(meter.definition.name, ()), meter.definition, effective_on=meter.effective_on, today=today
            )
        )
    ]


def plan_removals(
    file: MeterFile, versions: Mapping[str, Sequence[MeterVersion]], *, today: date
) -> list[PlannedChange]:
    """The versions that would end, from today, the meters the file does not name; by name."""
    stated = {meter.definition.name for meter in file.meters}
    ended = ((end_version(each, effective_on=None, today=today), each) for name, each in _others(versions, stated))
    return [_planned(version, each) for version, each in ended if version is not None]


def _others(
    versions: Mapping[str, Sequence[MeterVersion]], stated: set[str]
) -> Iterator[tuple[str, Sequence[MeterVersion]]]:
    for name in sorted(versions):
        newest = newest_of(versions[name])
        if name not in stated and newest is not None and newest.is_active:
            yield name, versions[name]


def _planned(version: MeterVersion, before: Sequence[MeterVersion]) -> PlannedChange:
    newest = newest_of(before)
    if not version.is_active:
        return PlannedChange(action="remove", version=version, based_on=version.version - 1)
    if newest is None or not newest.is_active:
        return PlannedChange(action="create", version=version, based_on=version.version - 1)
    old, new = meter_document(newest.definition), meter_document(version.definition)
    members = tuple((name, old[name], new[name]) for name in new if old[name] != new[name])
    return PlannedChange(action="change", version=version, based_on=newest.version, members=members)


def _parse_entry(document: object, field: str) -> StatedMeter:
    if not isinstance(document, Mapping) or _EFFECTIVE not in document:
        return StatedMeter(definition=parse_meter(document, field=field), effective_on=None)
    definition = {name: value for name, value in document.items() if name != _EFFECTIVE}
    place = within(field, _EFFECTIVE)
    day = parse_day(parse_text(document[_EFFECTIVE], place), field=place)
    return StatedMeter(definition=parse_meter(definition, field=field), effective_on=day)


def _entry(version: MeterVersion, today: date) -> dict[str, Any]:
    document = meter_document(version.definition)
    defaults: dict[str, object] = {
        "filter": None,
        "percentile": None,
        "dimensions": [],
        "maxGroups": DEFAULT_MAX_GROUPS,
    }
    entry = {name: value for name, value in document.items() if name not in defaults or value != defaults[name]}
    return entry | ({_EFFECTIVE: version.effective_on.isoformat()} if version.effective_on > today else {})
