"""The rulebook, read: everything tenants decided about counting, in one snapshot of the caller's transaction.

Belongs here: putting the tables of rules together. Does not: writing them (`store.meters`, `store.customers`,
`store.policies`), applying them (`metering`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import timedelta

from stripemeter.metering.rulebook import Policy, Rulebook, TenantRules
from stripemeter.store.customers import load_aliases, load_phases
from stripemeter.store.meters import load_meter_versions
from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries

_Q = load_queries("rulebook")


def load_rulebook(tx: Tx, tenants: Iterable[str] | None = None) -> Rulebook:
    """The rules of these tenants (None: of all); a tenant that decided nothing is absent.

    Whoever counts holds the fold's cursor or the day's lock: rules change under the cursor's lock alone.
    """
    wanted = None if tenants is None else sorted(set(tenants))
    meters = load_meter_versions(tx, wanted)
    aliases = load_aliases(tx, wanted)
    phases = load_phases(tx, wanted)
    windows: defaultdict[str, dict[str, timedelta]] = defaultdict(dict)
    for tenant, metric, seconds in tx.execute(_Q["load_windows"], {"tenants": wanted}):
        windows[tenant][metric] = timedelta(seconds=seconds)
    policies = {
        tenant: Policy(late_approval=approval, close_after=timedelta(seconds=seconds), is_four_eyes=is_four_eyes)
        for tenant, approval, seconds, is_four_eyes in tx.execute(_Q["load_policies"], {"tenants": wanted})
    }
    deciding = {*meters, *aliases, *phases, *windows, *policies}
    return Rulebook(
        tenants={
            tenant: TenantRules(
                meters=meters.get(tenant, {}),
                aliases=aliases.get(tenant, {}),
                phases=phases.get(tenant, {}),
                windows=windows.get(tenant, {}),
                policy=policies.get(tenant, Policy()),
            )
            for tenant in deciding
        }
    )
