"""Values in force: what a segment begins with where the last value reported is what counts.

Belongs here: the newest value before a segment, unfolded events included. Does not: the number of the segment
(`metering.answers`), the same for a push (the SQL function `gauge_changes`).

Seats that were reported once are used until another number is reported, in every segment on the way: what is billed and
what a customer is shown of a segment without events is that value, not nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal

from stripemeter.metering.answers import Part
from stripemeter.metering.days import day_of
from stripemeter.metering.rulebook import Rulebook, TenantRules
from stripemeter.store.metered_usage import Head, load_levels
from stripemeter.store.postgres import Tx


def load_values_in_force(  # noqa: PLR0913 - the scope of a read
    tx: Tx,
    rulebook: Rulebook,
    head: Head,
    parts: Sequence[Part],
    mapped: Mapping[str, str],
    *,
    tenant_id: str,
    customer_ref: str,
    metric: str | None,
    at: datetime,
    now: datetime,
) -> dict[str, Decimal]:
    """By meter: the last value reported before the segment that holds an instant; a meter without one is absent.

    Args:
        tx: the snapshot.
        rulebook: of the tenant.
        head: how far the fold is.
        parts: of the customer, those of the day each segment begins on among them.
        mapped: how the tenant's mapped meters count.
        tenant_id: whose.
        customer_ref: whose.
        metric: only this meter.
        at: which segment.
        now: a segment that begins later has no value in force yet.

    Raises:
        TookTooLong: there are more rows than one read may take.
    """
    rules = rulebook.of(tenant_id)
    found = {}
    for meter in _counted_by_last(rules, mapped, metric):
        start = rules.segment_of(customer_ref, meter, at).start
        if start > now:
            continue
        earlier = load_levels(
            tx, rulebook, head, tenant_id=tenant_id, customers=[customer_ref], meter=meter, before=day_of(start)
        )
        same_day = [part for part in parts if part.meter == meter]
        newest = _newest_before([*earlier, *same_day], start)
        if newest is not None:
            found[meter] = newest.quantity_last
    return found


def _counted_by_last(rules: TenantRules, mapped: Mapping[str, str], metric: str | None) -> list[str]:
    """The meters (or that one) of which a version counts the last value, or a mapping bills it."""
    defined = {
        name
        for name, versions in rules.meters.items()
        if any(version.definition.aggregation == "last" for version in versions)
    }
    named = defined | {meter for meter, aggregation in mapped.items() if aggregation == "last"}
    return sorted(named if metric is None else named & {metric})


def _newest_before(parts: Iterable[Part], start: datetime) -> Part | None:
    before = (part for part in parts if part.last_ts < start)
    return max(before, key=lambda part: (part.last_ts, part.last_seq), default=None)
