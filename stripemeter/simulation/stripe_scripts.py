"""Scripts: a story as it can be played on Stripe's test clocks, or why it cannot.

Belongs here: which entries Stripe has a notion of, when the clock stops and what is sent at each stop. Does not: Stripe
(`billing.clock_accounts`), playing and comparing (`pipeline.billing_plays`).

Each customer has a clock of its own. A fee, which a story owes in arrears, is at Stripe a metered price of which one
unit a period is used.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal

from stripemeter.errors import ScenarioError
from stripemeter.metering.events import UsageEvent, parse_event
from stripemeter.metering.segments import BEGINNING, BillingPhase, Segment, segment_at
from stripemeter.pricing import PerUnit, Price
from stripemeter.simulation.entries import (
    Action,
    Adjust,
    ApproveLate,
    Cancel,
    Change,
    Commit,
    Entry,
    GrantCredit,
    Reduce,
    Reprice,
    Send,
    Subscribe,
)
from stripemeter.simulation.plans import Plan
from stripemeter.simulation.scenarios import Scenario
from stripemeter.simulation.stories import FINALIZE_AFTER, Story
from stripemeter.simulation.traffic import LIMITS, Delivery, Generator

MOST_EVENTS = 10_000
"""Deliveries that are sent one by one: at a sandbox's 25 calls a second some seven minutes."""
OLDEST = timedelta(days=35)
"""Source: Stripe API, MeterEvent.timestamp: at most 35 days old."""
MOST_DIGITS = 15
"""Source: Stripe's changelog 2026-04-22: values of meter events have at most 15 significant digits."""
_SECOND = timedelta(seconds=1)
_LONGEST_STEP = timedelta(days=10)
_REASONS: Mapping[type[Action], str] = {
    Cancel: "the end of a subscription is not played",
    Commit: "Stripe's subscriptions have no commitments",
    Reduce: "discounts are not played",
    Adjust: "an adjustment is the pipeline's to push, and no event of a customer's",
    ApproveLate: "approving late usage is the pipeline's to push, and no event of a customer's",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedEvent:
    """A meter event to send.

    Args:
        stop: at which stop of the clock.
        metric: or the fee's name.
        at: its timestamp, whole seconds; never the second in which a period begins.
        quantity: at most 15 significant digits.
        key: the same for deliveries of one event.
    """

    stop: datetime
    metric: str
    at: datetime
    quantity: Decimal
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceChange:
    """Another price of a metric, from an instant on."""

    at: datetime
    metric: str
    price: Price


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What happens to one customer.

    Args:
        customer_ref: whose.
        currency: of the plan.
        prices: by metric at the beginning, fees as prices of one unit.
        changes: of prices, in order; after the usage of their stop is sent.
        fees: which of them are fees.
        phase: how its periods are cut.
        subscribed_at: when the subscription begins.
        segments: its periods that become final, in order.
        events: by stop, in the order of arrival.
        entries: what else happens, in order.
        stops: every instant the clock stops at, in order; the first is where it begins.
    """

    customer_ref: str
    currency: str
    prices: Mapping[str, Price]
    changes: Sequence[PriceChange]
    fees: frozenset[str]
    phase: BillingPhase
    subscribed_at: datetime
    segments: Sequence[Segment]
    events: Sequence[ScriptedEvent]
    entries: Sequence[Entry]
    stops: Sequence[datetime]

    def segment(self, at: datetime) -> Segment:
        """The period that holds an instant; the first one begins with the subscription."""
        return segment_at([self.phase], at)

    @property
    def is_first_whole(self) -> bool:
        """Whether the subscription begins where a period does; else its first period ends at the anchor."""
        return _whole_segment(self.phase, self.subscribed_at).start == self.subscribed_at


def scripts_of(scenario: Scenario, seed: int) -> list[Script]:
    """The scripts of every customer with a plan.

    Raises:
        ScenarioError: a test clock cannot play it; `field` is the path of what cannot be, the message says why.
    """
    story = scenario.story
    if story is None:
        raise _refused("needs a timeline: an invoice without a clock is not played on one", "timeline")
    if story.finalize_after != FINALIZE_AFTER:
        raise _refused("when Stripe finalizes is a setting of the account: an hour after the period", "finalizeAfter")
    deliveries = list(_deliveries(story, seed))
    if len(deliveries) > MOST_EVENTS:
        raise _refused(f"has {len(deliveries)} deliveries; at most {MOST_EVENTS} are sent", "timeline")
    scripts = [script for ref in story.customers if (script := _script(story, ref, deliveries)) is not None]
    if story.tax_pct:
        raise _refused("taxes are not played", "taxRate")
    if not scripts:
        raise _refused("nobody subscribes to anything", "timeline")
    return scripts


def _script(story: Story, ref: str, deliveries: Sequence[Delivery]) -> Script | None:
    entries = [entry for entry in story.entries if _customer_of(entry.action) in (ref, None)]
    for entry in entries:
        if reason := _REASONS.get(type(entry.action)):  # type: ignore[arg-type] # no action has no reason
            raise _refused(reason, entry.path)
    subscribed = [entry for entry in entries if isinstance(entry.action, Subscribe)]
    if not subscribed:
        return None
    if len(subscribed) > 1:
        raise _refused("a second plan of a customer is not played", subscribed[1].path)
    subscribe, subscribed_at = subscribed[0].action, subscribed[0].at
    assert isinstance(subscribe, Subscribe)
    plan, phase = story.plans[subscribe.plan], subscribe.phase
    if phase is None:
        raise _refused("the periods of the subscription are not known", subscribed[0].path)
    _check_plan(story, plan, phase, subscribed_at, subscribed[0].path)
    usage, changes = _prices_of(story, plan, subscribed_at, entries)
    segments = list(_segments(phase, subscribed_at, story.end))
    done = Send | Generator | Subscribe | Change | Reprice | None
    others = [entry for entry in entries if not isinstance(entry.action, done)]
    instants = [*(entry.at for entry in others), *(change.at for change in changes)]
    stops = _stops(story, subscribed_at, segments, instants)
    fees = {fee.name: _fee_price(fee.amount_minor, plan.currency) for fee in plan.fees}
    prices = {**fees, **usage}
    events = [
        *(
            _scripted(event, at, path, phase, segments, stops, changes)
            for event, at, path in _events(deliveries, ref, prices)
        ),
        *(_fee_event(ref, name, segment, stops) for name in fees for segment in segments),
    ]
    return Script(
        customer_ref=ref,
        currency=plan.currency,
        prices=prices,
        changes=changes,
        fees=frozenset(fees),
        phase=phase,
        subscribed_at=subscribed_at,
        segments=segments,
        events=sorted(events, key=lambda event: event.stop),
        entries=others,
        stops=stops,
    )


def _check_plan(story: Story, plan: Plan, phase: BillingPhase | None, at: datetime, path: str) -> None:
    for metric in plan.prices:
        if metric in story.rules.meters:
            raise _refused(f"{metric} has a meter of its own, whose deltas are the pipeline's to push", path)
    for fee in plan.fees:
        is_whole = phase is not None and _whole_segment(phase, at).start == at
        if phase is None or (fee.cadence, 1) != (phase.cadence, phase.cadence_count) or not is_whole:
            raise _refused(f"the fee {fee.name} is not owed in whole periods of the subscription", path)


def _prices_of(
    story: Story, plan: Plan, since: datetime, entries: Sequence[Entry]
) -> tuple[dict[str, Price], list[PriceChange]]:
    """What a customer's metrics cost when they subscribe, and every change of that."""
    book = {(each.name, metric): price for each in story.plans.values() for metric, price in each.prices.items()}
    held, first, prices, changes = plan, dict(plan.prices), dict(plan.prices), list[PriceChange]()
    for entry in entries:
        match entry.action:
            case Reprice(plan=name, metric=metric, price=price):
                book[name, metric] = price
            case Change(new=name):
                held = story.plans[name]
                if plan.fees or held.fees:
                    raise _refused("a fee that changes is not owed in whole periods", entry.path)
                if held.prices.keys() != plan.prices.keys():
                    raise _refused("a change to a plan of other metrics is not played", entry.path)
            case GrantCredit(grant=grant) if grant.metrics is not None and changes:
                raise _refused("a grant for metrics whose prices changed is not played", entry.path)
        for metric, known in list(prices.items()):
            price = book[held.name, metric]
            if price == known:
                continue
            prices[metric] = price
            if entry.at > since:
                changes.append(PriceChange(at=entry.at, metric=metric, price=price))
            else:
                first[metric] = price
    return first, changes


def _whole_segment(phase: BillingPhase, at: datetime) -> Segment:
    return segment_at([replace(phase, starts_at=BEGINNING)], at)


def _customer_of(action: Action | None) -> str | None:
    """None: of all."""
    return getattr(action, "customer_ref", None)


def _segments(phase: BillingPhase, since: datetime, end: datetime) -> Iterator[Segment]:
    segment = segment_at([phase], since)
    while segment.end + FINALIZE_AFTER <= end:
        yield Segment(start=max(segment.start, since), end=segment.end)
        segment = segment_at([phase], segment.end)


def _stops(story: Story, since: datetime, segments: Sequence[Segment], entries: Sequence[datetime]) -> list[datetime]:
    wanted = {story.start, since, story.end, *entries}
    for segment in segments:
        # Usage is sent a second before the invoice becomes final, and read a second later.
        wanted |= {segment.end + FINALIZE_AFTER - _SECOND, segment.end + FINALIZE_AFTER}
    stops: list[datetime] = []
    for at in sorted(each for each in wanted if story.start <= each <= story.end):
        while stops and at - stops[-1] > _LONGEST_STEP:
            stops.append(stops[-1] + _LONGEST_STEP)
        stops.append(at)
    return stops


def _deliveries(story: Story, seed: int) -> Iterator[Delivery]:
    """In the order of arrival, as the play takes them."""
    found: list[Delivery] = []
    for entry in story.entries:
        match entry.action:
            case Send(deliveries=deliveries):
                found += deliveries
            case Generator():
                found += entry.action.deliveries(seed, entry.at)
            case _:
                pass
    yield from sorted(found, key=lambda delivery: delivery.at)


def _events(
    deliveries: Sequence[Delivery], ref: str, prices: Mapping[str, Price]
) -> Iterator[tuple[UsageEvent, datetime, str]]:
    """What ingest would accept of a customer, when it arrives; what no price bills is not sent."""
    for delivery in deliveries:
        event = parse_event(delivery.document, now=delivery.at, limits=LIMITS)
        if isinstance(event, UsageEvent) and event.customer_ref == ref and event.metric in prices:
            yield event, delivery.at, delivery.origin


def _scripted(
    event: UsageEvent,
    arrives_at: datetime,
    path: str,
    phase: BillingPhase,
    segments: Sequence[Segment],
    stops: Sequence[datetime],
    changes: Sequence[PriceChange],
) -> ScriptedEvent:
    stop = _stop_for(max(arrives_at, event.ts), segments, stops)
    if stop - event.ts > OLDEST:
        raise _refused(f"Stripe takes usage of the last {OLDEST.days} days; this is of {event.ts:%Y-%m-%d}", path)
    quantity = Decimal(event.quantity)
    if len(quantity.normalize().as_tuple().digits) > MOST_DIGITS:
        raise _refused(f"Stripe takes at most {MOST_DIGITS} significant digits, not {event.quantity}", path)
    begins_at = segment_at([phase], event.ts).start
    for change in changes:
        if change.metric == event.metric and event.ts < change.at < stop:
            raise _refused("whose usage is that comes after a price change before which it was is not documented", path)
        if change.metric == event.metric and change.at <= event.ts:
            begins_at = max(begins_at, change.at)
    return ScriptedEvent(
        stop=stop,
        metric=event.metric,
        # Whose the second is in which a period or a price begins is not documented.
        at=max(event.ts.replace(microsecond=0), begins_at + _SECOND),
        quantity=quantity,
        key=event.key_hash.hex(),
    )


def _fee_event(ref: str, name: str, segment: Segment, stops: Sequence[datetime]) -> ScriptedEvent:
    return ScriptedEvent(
        stop=stops[bisect_left(stops, segment.start + _SECOND)],
        metric=name,
        at=segment.start + _SECOND,
        quantity=Decimal(1),
        key=f"{ref}:{name}:{segment.start.isoformat()}",
    )


def _stop_for(at: datetime, segments: Sequence[Segment], stops: Sequence[datetime]) -> datetime:
    """The first stop at or after an instant; before an invoice becomes final for what arrives in that very second."""
    for segment in segments:
        final_at = segment.end + FINALIZE_AFTER
        if final_at - _SECOND < at <= final_at:
            return final_at - _SECOND
    return stops[min(bisect_left(stops, at), len(stops) - 1)]


def _fee_price(amount_minor: int, currency: str) -> Price:
    return Price(currency=currency, model=PerUnit(unit_minor=Decimal(amount_minor)))


def _refused(reason: str, field: str) -> ScenarioError:
    return ScenarioError(f"{field}: cannot be played on Stripe's test clocks: {reason}", field=field)
