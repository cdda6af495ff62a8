"""Changes of meters: the version a change makes, if any, and whose counters it touches.

Belongs here: deciding, from the versions there are. Does not: storing them (`store.meters`), counting again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date

from stripemeter.errors import Conflict
from stripemeter.metering.meters import MeterDefinition, MeterVersion, version_on

FROM_THE_BEGINNING = date(1, 1, 1)
"""Effective for all of history."""


def newest_of(versions: Iterable[MeterVersion]) -> MeterVersion | None:
    """The version made last; None when there is none."""
    return max(versions, key=lambda version: version.version, default=None)


def check_expected(versions: Sequence[MeterVersion], expected: int | None) -> None:
    """Refuse a change that was decided on an older version than the newest (0: on none); None expects anything.

    Raises:
        Conflict: somebody was faster.
    """
    newest = newest_of(versions)
    found = 0 if newest is None else newest.version
    if expected is not None and expected != found:
        raise Conflict(f"version {expected} was expected, version {found} is the newest: read it and decide again")


def put_version(
    versions: Sequence[MeterVersion], definition: MeterDefinition, *, effective_on: date | None, today: date
) -> MeterVersion | None:
    """The version that makes a definition count from a day on; None when it does so already.

    Args:
        versions: those there are.
        definition: what shall count.
        effective_on: from which day; by default a meter's first version counts all of history, others from today.
        today: the UTC day.
    """
    start = effective_on or (today if versions else FROM_THE_BEGINNING)
    if all(found is not None and found.definition == definition for found in _in_effect(versions, start)):
        return None
    return MeterVersion(definition=definition, version=_next(versions), effective_on=start, is_active=True)


def create_version(
    versions: Sequence[MeterVersion],
    definition: MeterDefinition,
    *,
    effective_on: date | None,
    expected: int | None,
    today: date,
) -> MeterVersion | None:
    """As `put_version`, of a meter that must not exist; None when the newest version is what this very request made.

    Whoever lost the answer asks again, and must not be told that somebody else was faster.

    Raises:
        Conflict: there is another meter of the name, or another version is the newest than was expected.
    """
    newest = newest_of(versions)
    if newest is None or not newest.is_active:
        check_expected(versions, expected)
        return put_version(versions, definition, effective_on=effective_on, today=today)
    before = newest_of(version for version in versions if version.version < newest.version)
    start = effective_on or (FROM_THE_BEGINNING if before is None else newest.effective_on)
    is_made_by_create = before is None or not before.is_active
    is_as_asked = newest.definition == definition and newest.effective_on == start
    if not is_made_by_create or not is_as_asked or expected not in {None, newest.version - 1}:
        raise Conflict(f"there is a meter {definition.name!r}: change it with PUT /v1/meters/{{name}}")
    return None


def end_version(versions: Sequence[MeterVersion], *, effective_on: date | None, today: date) -> MeterVersion | None:
    """The version that ends a meter from a day on, by default today; None when nothing counts from then on already."""
    newest = newest_of(versions)
    start = effective_on or today
    if newest is None or all(found is None for found in _in_effect(versions, start)):
        return None
    return MeterVersion(definition=newest.definition, version=_next(versions), effective_on=start, is_active=False)


def touched_meters(tenant: Mapping[str, Sequence[MeterVersion]], name: str) -> set[str]:
    """The meters under whose names a day's counters show that events of a changed meter happened.

    Those are its metrics in every version, the meter itself, every meter that reads one of its metrics, and ''
    (events that no meter counts).

    Args:
        tenant: every version of the tenant's meters, the new one included.
        name: the meter that changed.
    """
    metrics = {metric for version in tenant[name] for metric in version.definition.metrics}
    readers = {
        other
        for other, versions in tenant.items()
        if any(metrics.intersection(version.definition.metrics) for version in versions)
    }
    return {"", name, *metrics, *readers}


def _in_effect(versions: Sequence[MeterVersion], start: date) -> list[MeterVersion | None]:
    """What counts on `start` and on each later day on which that changes."""
    later = {version.effective_on for version in versions if version.effective_on > start}
    return [version_on(versions, day) for day in (start, *sorted(later))]


def _next(versions: Sequence[MeterVersion]) -> int:
    newest = newest_of(versions)
    return 1 if newest is None else newest.version + 1
