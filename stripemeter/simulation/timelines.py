"""Timelines: what happens in a story, entry by entry.

Belongs here: reading entries. Does not: what they are (`entries`), making them happen (`playing`).

    timeline:
      - {at: "2026-01-01", subscribe: {plan: pro}}
      - {after: P10D, events: [{metric: calls, quantity: 5}]}
      - {at: "2026-02-01T02:00:00Z", expect: {invoice: {total: 29}}}

`at` is an instant, or a duration since the start; `after` is one since the entry before. Entries stand in the order of
time; the members of one happen in the order they are written.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar

from stripemeter.metering.segments import parse_phase
from stripemeter.pricing.reading import (
    elements_of,
    instant_text,
    members_of,
    parse_instant,
    parse_number,
    parse_text,
    parse_whole,
    refused,
    required,
    within,
)
from stripemeter.simulation.entries import (
    Action,
    Adjust,
    ApproveLate,
    Cancel,
    Change,
    Commit,
    Entry,
    Expect,
    GrantCredit,
    MoveExpiry,
    Payments,
    PayNow,
    Reduce,
    Reprice,
    Send,
    Subscribe,
)
from stripemeter.simulation.expectations import SELECTORS, parse_expected_state
from stripemeter.simulation.plans import Plan, parse_commitment, parse_discount, parse_grant, parse_name, parse_price
from stripemeter.simulation.traffic import Generator, customer_of, parse_duration, parse_events, parse_generator


class TimelineReader:
    """Reads a timeline, remembering who holds what.

    Args:
        start: the clock's first instant.
        customers: of the story.
        plans: by name.
    """

    MEMBERS: ClassVar = (
        "subscribe",
        "change",
        "cancel",
        "price",
        "events",
        "generate",
        "credit",
        "creditExpiry",
        "commitment",
        "discount",
        "adjust",
        "approveLate",
        "payments",
        "pay",
        "expect",
    )
    """What can happen; one action each."""

    def __init__(self, start: datetime, customers: Collection[str], plans: Mapping[str, Plan]) -> None:
        self._start = start
        self._now = start
        self._customers = customers
        self._plans = plans
        self._held: dict[str, list[str]] = {}
        self._known: dict[tuple[str, str, str], datetime] = {}
        """Credit and commitments by kind, customer and name: since when they hold."""
        readers: tuple[Callable[[object, str], Action], ...] = (
            self._subscribe,
            self._change,
            self._cancel,
            self._reprice,
            self._send,
            self._generate,
            self._credit,
            self._expiry,
            self._commitment,
            self._discount,
            self._adjust,
            self._approve,
            self._payments,
            self._pay,
            self._expect,
        )
        self._readers = dict(zip(self.MEMBERS, readers, strict=True))

    def read(self, document: object, field: str) -> tuple[Entry, ...]:
        """Every entry.

        Raises:
            InvalidInput: one cannot be right, or comes before the one before it.
        """
        entries: list[Entry] = []
        for number, element in enumerate(elements_of(document, field, least=1)):
            place = within(field, number)
            members = members_of(element, ("at", "after", "note", *self._readers), place)
            if "note" in members:
                parse_text(members["note"], within(place, "note"))
            self._now = self._instant(members, place)
            actions = [name for name in members if name in self._readers]
            for name in actions:
                path = within(place, name)
                entries.append(Entry(path=path, at=self._now, action=self._readers[name](members[name], path)))
            if not actions:
                entries.append(Entry(path=place, at=self._now, action=None))
        return tuple(entries)

    def _instant(self, members: Mapping[str, Any], field: str) -> datetime:
        if "at" in members and "after" in members:
            raise refused("needs either at or after", field)
        if "after" in members:
            return _later(self._now, parse_duration(members["after"], within(field, "after")), within(field, "after"))
        place = within(field, "at")
        at = members.get("at", self._now)
        if isinstance(at, str) and at.startswith("P"):
            at = _later(self._start, parse_duration(at, place), place)
        instant = parse_instant(at, place)
        if instant < self._now:
            raise refused(f"must not be before {instant_text(self._now)}, when the entry before it happens", place)
        return instant

    def _of(self, document: object, known: Sequence[str], field: str) -> tuple[str, dict[str, Any]]:
        """The customer, and the other members."""
        members = dict(members_of(document, ("customerRef", *known), field))
        return customer_of(members.pop("customerRef", None), self._customers, field), members

    def _plan(self, members: Mapping[str, Any], name: str, field: str) -> Plan:
        plan = parse_text(required(members, name, field), within(field, name))
        if plan not in self._plans:
            raise refused(f"{plan!r:.40} is none of the plans {', '.join(self._plans)}", within(field, name))
        return self._plans[plan]

    def _subscribe(self, document: object, field: str) -> Subscribe:
        ref, members = self._of(document, ("plan", "cadence", "count", "anchorAt"), field)
        plan = self._plan(members, "plan", field)
        phase = None
        if ref not in self._held:
            anchor = members.get("anchorAt", self._now)
            phase = parse_phase(
                cadence=members.get("cadence", "month"),
                count=parse_whole(members.get("count", 1), within(field, "count")),
                anchor_at=parse_instant(anchor, within(field, "anchorAt")),
                starts_at=self._now,
                field=field,
            )
        elif len(members) > 1:
            raise refused("only the first subscription says how time is cut", field)
        self._hold(ref, plan, within(field, "plan"))
        return Subscribe(customer_ref=ref, plan=plan.name, phase=phase)

    def _change(self, document: object, field: str) -> Change:
        ref, members = self._of(document, ("from", "to"), field)
        old, new = self._plan(members, "from", field), self._plan(members, "to", field)
        self._leave(ref, old, within(field, "from"))
        self._hold(ref, new, within(field, "to"))
        return Change(customer_ref=ref, old=old.name, new=new.name)

    def _cancel(self, document: object, field: str) -> Cancel:
        ref, members = self._of(document, ("plan",), field)
        plan = self._plan(members, "plan", field)
        self._leave(ref, plan, within(field, "plan"))
        return Cancel(customer_ref=ref, plan=plan.name)

    def _hold(self, ref: str, plan: Plan, field: str) -> None:
        held = self._held.setdefault(ref, [])
        for other in (self._plans[name] for name in held):
            if other.currency != plan.currency:
                raise refused(f"is in {plan.currency}, {other.name} in {other.currency}: one invoice has one", field)
            twice = {*other.prices, *(fee.name for fee in other.fees)} & {*plan.prices, *(f.name for f in plan.fees)}
            if twice:
                raise refused(f"{min(twice)!r} is in {other.name} as well, which {ref} holds", field)
        held.append(plan.name)

    def _leave(self, ref: str, plan: Plan, field: str) -> None:
        if plan.name not in self._held.get(ref, []):
            raise refused(f"{ref} does not hold {plan.name} then", field)
        self._held[ref].remove(plan.name)

    def _currency_of(self, ref: str) -> str:
        """Of what a customer holds; that of the first plan before they hold any."""
        for name in (*self._held.get(ref, ()), *self._plans):
            return self._plans[name].currency
        return "USD"

    def _reprice(self, document: object, field: str) -> Reprice:
        members = members_of(document, ("plan", "metric", "priceConfig"), field)
        plan = self._plan(members, "plan", field)
        of_metric = {name: value for name, value in members.items() if name != "plan"}
        metric, price = parse_price(of_metric, plan.currency, field)
        if metric not in plan.prices:
            raise refused(f"{metric!r:.40} has no price in {plan.name}", within(field, "metric"))
        return Reprice(plan=plan.name, metric=metric, price=price)

    def _send(self, document: object, field: str) -> Send:
        return Send(deliveries=parse_events(document, self._now, self._customers, field))

    def _generate(self, document: object, field: str) -> Generator:
        return parse_generator(document, self._now, self._customers, field)

    def _credit(self, document: object, field: str) -> GrantCredit:
        ref, members = self._with_ref(document, field)
        terms = {"effectiveAt": self._now, "createdAt": self._now, **members}
        grant = parse_grant(terms, self._currency_of(ref), field)
        self._remember("credit", ref, grant.name, grant.effective_at or self._now, within(field, "reason"))
        return GrantCredit(customer_ref=ref, grant=grant)

    def _expiry(self, document: object, field: str) -> MoveExpiry:
        ref, members = self._of(document, ("reason", "expiresAt"), field)
        reason = parse_text(required(members, "reason", field), within(field, "reason"))
        effective_at = self._known.get(("credit", ref, reason))
        if effective_at is None:
            raise refused(f"{ref} has no credit {reason!r:.40} then", within(field, "reason"))
        at = parse_instant(required(members, "expiresAt", field), within(field, "expiresAt"))
        if at <= effective_at:
            raise refused(f"must be after {instant_text(effective_at)}, its start", within(field, "expiresAt"))
        return MoveExpiry(customer_ref=ref, reason=reason, expires_at=at)

    def _commitment(self, document: object, field: str) -> Commit:
        ref, members = self._with_ref(document, field)
        commitment = parse_commitment(members, self._currency_of(ref), field)
        self._remember("commitment", ref, commitment.name, self._now, within(field, "name"))
        return Commit(customer_ref=ref, commitment=commitment)

    def _discount(self, document: object, field: str) -> Reduce:
        ref, members = self._with_ref(document, field)
        ends_at = members.pop("endDate", None)
        return Reduce(
            customer_ref=ref,
            discount=parse_discount(members, self._currency_of(ref), field),
            ends_at=None if ends_at is None else parse_instant(ends_at, within(field, "endDate")),
        )

    def _adjust(self, document: object, field: str) -> Adjust:
        ref, members = self._of(document, ("metric", "delta", "effectiveAt"), field)
        delta = parse_number(required(members, "delta", field), within(field, "delta"))
        if not delta.is_finite() or not delta or abs(delta) >= 10**26:
            raise refused("must be a number other than 0 of at most 26 digits", within(field, "delta"))
        return Adjust(
            customer_ref=ref,
            metric=parse_name(required(members, "metric", field), within(field, "metric")),
            delta=delta,
            effective_at=parse_instant(members.get("effectiveAt", self._now), within(field, "effectiveAt")),
        )

    def _approve(self, document: object, field: str) -> ApproveLate:
        if document is not True:
            raise refused("must be true", field)
        return ApproveLate()

    def _payments(self, document: object, field: str) -> Payments:
        if isinstance(document, str):
            document = {"outcome": document}
        ref, members = self._of(document, ("outcome",), field)
        outcome = required(members, "outcome", field)
        if outcome not in ("fail", "succeed"):
            raise refused(f"must be fail or succeed, not {outcome!r:.40}", within(field, "outcome"))
        return Payments(customer_ref=ref, succeed=outcome == "succeed")

    def _pay(self, document: object, field: str) -> PayNow:
        ref, _ = self._of({} if document is True else document, (), field)
        return PayNow(customer_ref=ref)

    def _expect(self, document: object, field: str) -> Expect:
        return parse_expect(document, self._customers, field)

    def _with_ref(self, document: object, field: str) -> tuple[str, dict[str, Any]]:
        """The customer, and all other members, whatever they are called."""
        names = [name for name in document if isinstance(name, str)] if isinstance(document, Mapping) else []
        return self._of(document, names, field)

    def _remember(self, kind: str, ref: str, name: str, since: datetime, field: str) -> None:
        if (kind, ref, name) in self._known:
            raise refused(f"{ref} has a {kind} {name!r:.40} already: it is known by it", field)
        self._known[kind, ref, name] = since


def parse_expect(document: object, customers: Collection[str], field: str) -> Expect:
    """What should be seen of a customer.

    Raises:
        InvalidInput: nothing could ever meet it, or it expects nothing.
    """
    if not isinstance(document, Mapping):
        raise refused(f"must be an object, not a {type(document).__name__}", field)
    expected = {name: value for name, value in document.items() if name not in SELECTORS}
    span = None
    if document.get("from") is not None or document.get("until") is not None:
        span = (
            parse_instant(required(document, "from", field), within(field, "from")),
            parse_instant(required(document, "until", field), within(field, "until")),
        )
        if span[0] >= span[1]:
            raise refused("must be after from", within(field, "until"))
    return Expect(
        customer_ref=customer_of(document.get("customerRef"), customers, field),
        span=span,
        expected=parse_expected_state(expected, field),
    )


def _later(at: datetime, by: timedelta, field: str) -> datetime:
    try:
        return at + by
    except OverflowError as error:
        raise refused("is after the year 9999", field) from error
