"""The rulebook: what tenants decided about counting, as one value.

Belongs here: meters, other names of customers, billing phases, lateness and policies, and the questions counting asks
of them. Does not: reading them from tables (`store.rulebook`), counting (`readings`, `aggregation`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Literal

from stripemeter.metering.days import LATENESS_WINDOW
from stripemeter.metering.meters import MeterDefinition, MeterVersion, version_on
from stripemeter.metering.segments import DEFAULT_PHASES, BillingPhase, Segment, segment_at

LateApproval = Literal["while_open", "always", "never"]
CLOSE_AFTER = timedelta(hours=48)
"""How long after its end a segment is open unless the tenant says otherwise: as long as an event may be punctual."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a tenant decided about late events and adjustments.

    Args:
        late_approval: when a late event counts without a person: while its segment is open, always, never.
        close_after: how long after its end a segment is open.
        is_four_eyes: whoever created an adjustment may not approve it.
    """

    late_approval: LateApproval = "while_open"
    close_after: timedelta = CLOSE_AFTER
    is_four_eyes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantRules:
    """One tenant's decisions; empty ones mean the defaults.

    Args:
        meters: every version of its meters, by name.
        aliases: customer's own reference by other reference.
        phases: billing phases by (customer, meter), ascending; meter '' holds for meters without phases of their own.
        windows: lateness windows by metric.
        policy: the rest.
    """

    meters: Mapping[str, Sequence[MeterVersion]] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    phases: Mapping[tuple[str, str], Sequence[BillingPhase]] = field(default_factory=dict)
    windows: Mapping[str, timedelta] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)

    def customer_of(self, ref: str) -> str:
        """The customer a reference means."""
        return self.aliases.get(ref, ref)

    def refs_of(self, customer_ref: str) -> set[str]:
        """Every reference that means the customer, its own included."""
        return {customer_ref, *(alias for alias, own in self.aliases.items() if own == customer_ref)}

    def phases_of(self, customer_ref: str, meter: str) -> Sequence[BillingPhase]:
        """How the customer's segments of a meter are cut."""
        own = self.phases.get((customer_ref, meter))
        return own or self.phases.get((customer_ref, "")) or DEFAULT_PHASES

    def segment_of(self, customer_ref: str, meter: str, at: datetime) -> Segment:
        """The segment of a customer and meter that holds an instant."""
        return segment_at(self.phases_of(customer_ref, meter), at)

    def window_of(self, metric: str) -> timedelta:
        """How far behind the watermark an event of the metric may fold."""
        return self.windows.get(metric, LATENESS_WINDOW)

    def meter_on(self, name: str, day: date) -> MeterDefinition | None:
        """The definition that counts a day under this name; None: the implicit meter, if there is a metric so named."""
        version = version_on(self.meters.get(name, ()), day)
        return None if version is None else version.definition

    def meters_reading(self, metric: str, day: date) -> list[MeterDefinition]:
        """Every explicit meter that reads events of a metric on a day, by name, that of the metric's own name first."""
        found = [self.meter_on(name, day) for name in sorted(self.meters, key=lambda name: (name != metric, name))]
        return [definition for definition in found if definition is not None and metric in definition.metrics]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rulebook:
    """The decisions of those tenants that made any."""

    tenants: Mapping[str, TenantRules] = field(default_factory=dict)

    def of(self, tenant_id: str) -> TenantRules:
        """A tenant's rules: the defaults when it decided nothing."""
        return self.tenants.get(tenant_id, _DEFAULTS)


_DEFAULTS = TenantRules()
