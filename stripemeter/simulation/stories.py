"""Stories: a scenario with a clock: customers, plans and what happens when.

Belongs here: the document around a timeline. Does not: entries (`timelines`), making them happen (`playing`).

    start: "2026-01-01"
    plans: [{name: pro, currency: USD, usage: [{metric: calls, priceConfig: {...}}]}]
    timeline: [...]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, get_args

from stripemeter.access.dunning import DunningPolicy
from stripemeter.errors import InvalidInput
from stripemeter.metering.meter_changes import FROM_THE_BEGINNING
from stripemeter.metering.meters import MeterVersion, parse_meter
from stripemeter.metering.rulebook import LateApproval, Policy, TenantRules
from stripemeter.pricing.contracts import MOST_TAX_PCT
from stripemeter.pricing.reading import (
    elements_of,
    members_of,
    naming,
    parse_instant,
    parse_number,
    parse_whole,
    refused,
    required,
    within,
)
from stripemeter.simulation.entries import Entry, Expect
from stripemeter.simulation.plans import Plan, parse_name, parse_plan
from stripemeter.simulation.timelines import TimelineReader, parse_expect
from stripemeter.simulation.traffic import parse_duration

STORY = ("start", "customers", "meters", "lateness", "plans", "taxRate", "finalizeAfter", "dunning", "timeline")
FINALIZE_AFTER = timedelta(hours=1)
"""Source: Stripe, subscription invoices: a draft is finalised about an hour after it was made."""
_LATENESS = ("windows", "approval", "closeAfter")
_DUNNING = {"retryDays": "retry_days", "daysUntilBlocked": "days_until_blocked", "daysRecovered": "days_recovered"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A scenario with a clock.

    Args:
        start: the clock's first instant.
        customers: by their references; the first one's are meant where an expectation at the end names none.
        rules: how usage is counted; billing phases come with the subscriptions.
        plans: by name.
        tax_pct: exclusive tax of every invoice.
        finalize_after: how long after its period's end an invoice becomes final.
        dunning: what follows from payments that fail.
        entries: in the order of time.
        at_end: what should be seen after the last of them.
    """

    start: datetime
    customers: tuple[str, ...]
    rules: TenantRules
    plans: Mapping[str, Plan]
    tax_pct: Decimal
    finalize_after: timedelta
    dunning: DunningPolicy
    entries: tuple[Entry, ...]
    at_end: Expect | None

    @property
    def end(self) -> datetime:
        """The clock's last instant."""
        return self.entries[-1].at


def parse_story(members: Mapping[str, Any], expected: object) -> Story:
    """The story of a scenario's members.

    Args:
        members: those of STORY.
        expected: what should be seen at the end; None: nothing is.

    Raises:
        InvalidInput: it cannot be right, or expects nothing anywhere.
    """
    start = parse_instant(required(members, "start", ""), "start")
    named = elements_of(members.get("customers", ["customer"]), "customers", least=1)
    customers = tuple(parse_name(name, within("customers", number)) for number, name in enumerate(named))
    if len(set(customers)) < len(customers):
        raise refused("must not name anybody twice", "customers")
    plans = _parse_plans(members)
    tax_pct = parse_number(members.get("taxRate", 0), "taxRate")
    if not 0 <= tax_pct <= MOST_TAX_PCT:
        raise refused(f"must be 0 to {MOST_TAX_PCT} percent, not {tax_pct}", "taxRate")
    entries = TimelineReader(start, customers, plans).read(required(members, "timeline", ""), "timeline")
    at_end = None if expected is None else parse_expect(expected, customers, "expected")
    if at_end is None and not any(isinstance(entry.action, Expect) for entry in entries):
        raise refused("expects nothing: add an `expect` to an entry, or `expected`", "timeline")
    return Story(
        start=start,
        customers=customers,
        rules=_parse_rules(members),
        plans=plans,
        tax_pct=tax_pct,
        finalize_after=_duration(members, "finalizeAfter", FINALIZE_AFTER, ""),
        dunning=_parse_dunning(members.get("dunning", {}), "dunning"),
        entries=entries,
        at_end=at_end,
    )


def _parse_plans(members: Mapping[str, Any]) -> dict[str, Plan]:
    plans: dict[str, Plan] = {}
    for number, document in enumerate(elements_of(members.get("plans", []), "plans")):
        plan = parse_plan(document, within("plans", number))
        if plan.name in plans:
            raise refused(f"{plan.name!r} is the name of two plans", f"plans[{number}].name")
        plans[plan.name] = plan
    return plans


def _parse_rules(members: Mapping[str, Any]) -> TenantRules:
    meters: dict[str, list[MeterVersion]] = {}
    for number, document in enumerate(elements_of(members.get("meters", []), "meters")):
        definition = parse_meter(document, field=within("meters", number))
        if definition.name in meters:
            raise refused(f"{definition.name!r} is the name of two meters", f"meters[{number}].name")
        meters[definition.name] = [
            MeterVersion(definition=definition, version=1, effective_on=FROM_THE_BEGINNING, is_active=True)
        ]
    lateness = members_of(members.get("lateness", {}), _LATENESS, "lateness")
    windows = lateness.get("windows", {})
    if not isinstance(windows, Mapping):
        raise refused(f"must be an object, not a {type(windows).__name__}", "lateness.windows")
    approval = lateness.get("approval", Policy().late_approval)
    if approval not in get_args(LateApproval):
        known = ", ".join(get_args(LateApproval))
        raise refused(f"must be one of {known}, not {approval!r:.40}", "lateness.approval")
    close_after = _duration(lateness, "closeAfter", Policy().close_after, "lateness")
    return TenantRules(
        meters=meters,
        windows={metric: parse_duration(each, within("lateness.windows", metric)) for metric, each in windows.items()},
        policy=Policy(late_approval=approval, close_after=close_after),
    )


def _parse_dunning(document: object, field: str) -> DunningPolicy:
    members = members_of(document, tuple(_DUNNING), field)
    decided: dict[str, Any] = {}
    for name, value in members.items():
        place = within(field, name)
        if name == "retryDays":
            days = elements_of(value, place)
            decided[_DUNNING[name]] = tuple(parse_whole(day, within(place, number)) for number, day in enumerate(days))
        else:
            decided[_DUNNING[name]] = parse_whole(value, place)
    with naming(field, {ours: theirs for theirs, ours in _DUNNING.items()}):
        return _policy(decided)


def _policy(decided: Mapping[str, Any]) -> DunningPolicy:
    try:
        return DunningPolicy(**decided)
    except InvalidInput as error:
        # Its message has no colon after the path, as those of prices have.
        raise refused(str(error).removeprefix(f"{error.field} "), error.field) from error


def _duration(members: Mapping[str, Any], name: str, default: timedelta, field: str) -> timedelta:
    return parse_duration(members[name], within(field, name)) if name in members else default
