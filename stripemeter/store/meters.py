"""Meters as stated: one row per version, added and never changed.

Belongs here: the table `meters`. Does not: what a definition means (`metering.meters`), changing one with all that
follows (`pipeline.meters`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from stripemeter.metering.meters import MeterVersion, parse_meter
from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries

_Q = load_queries("meters")


def load_meter_versions(tx: Tx, tenants: Sequence[str] | None) -> dict[str, dict[str, list[MeterVersion]]]:
    """By tenant and meter: its versions, ascending. Of these tenants, or of all; tenants without any are absent."""
    found: defaultdict[str, defaultdict[str, list[MeterVersion]]] = defaultdict(lambda: defaultdict(list))
    wanted = None if tenants is None else list(tenants)
    for tenant, name, version, effective_on, is_active, document in tx.execute(
        _Q["load_meter_versions"], {"tenants": wanted}
    ):
        found[tenant][name].append(
            MeterVersion(
                definition=parse_meter(document), version=version, effective_on=effective_on, is_active=is_active
            )
        )
    return {tenant: dict(meters) for tenant, meters in found.items()}
