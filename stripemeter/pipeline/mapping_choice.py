"""The mapping that says how a metric counts and what bills it, of all that a tenant has.

Belongs here: the choice, why the chosen one names no price. Does not: the price (`priced_usage`, `current_plans`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from stripemeter.store.mappings import PriceMapping

_MODES = ("live", "shadow", "off")


def choose_mappings(mapped: Iterable[PriceMapping], bound: Collection[str]) -> dict[str, PriceMapping]:
    """By meter: the live mapping, else that in shadow, else that which is off; where the customer is; the newest.

    Args:
        mapped: every mapping of the tenant.
        bound: accounts the customer is bound at.
    """
    ranked = sorted(mapped, key=lambda each: each.created_at, reverse=True)
    ranked.sort(key=lambda each: (_MODES.index(each.mode), each.stripe_account_id not in bound))
    chosen: dict[str, PriceMapping] = {}
    for mapping in ranked:
        chosen.setdefault(mapping.meter, mapping)
    return chosen


def why_unnamed(mapping: PriceMapping | None) -> str:
    """Why a metric's mapping (None: it has none) names no price."""
    if mapping is None:
        return "no mapping names a price for it"
    if mapping.mode == "off":
        return "its mapping is off"
    return f"it is mapped by the event name {mapping.stripe_event_name!r}, which names no price"
