"""Plays on Stripe: the same scenario on Stripe's test clocks and in our own run, invoice by invoice.

Belongs here: carrying a script out, comparing. Does not: what can be played (`simulation.stripe_scripts`), calls
(`billing.clock_accounts`).

What is compared is what Stripe says at the end: every final invoice with its lines, and wherever the scenario looks,
the standing that follows from Stripe's own attempts to collect.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from stripemeter.access.dunning import DunningPolicy, PaymentAttempt, standing_of
from stripemeter.billing.clock_accounts import BAD_CARD, GOOD_CARD, ClockAccount, ClockedInvoice
from stripemeter.errors import InvalidInput, InvariantBroken, ScenarioError
from stripemeter.pricing import Price
from stripemeter.pricing.currencies import to_minor
from stripemeter.pricing.reading import instant_text, parse_instant
from stripemeter.simulation.entries import Action, Expect, GrantCredit, MoveExpiry, Payments, PayNow
from stripemeter.simulation.running import ScenarioRun, run_scenario
from stripemeter.simulation.scenarios import Scenario
from stripemeter.simulation.stripe_scripts import PriceChange, Script, ScriptedEvent, scripts_of

Progress = Callable[[int, int], None]
"""Called with how many stops of clocks are done, and of how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Something both said; equal or not.

    Args:
        customer_ref: whose.
        what: an invoice by its period, or a place where the scenario looks.
        ours: JSON-able.
        theirs: Stripe's.
    """

    customer_ref: str
    what: str
    ours: Mapping[str, Any]
    theirs: Mapping[str, Any]

    @property
    def differences(self) -> list[str]:
        """In words, one for each member that differs."""
        names = sorted({*self.ours, *self.theirs})
        pairs = [(name, self.ours.get(name), self.theirs.get(name)) for name in names]
        return [f"{name}: ours {ours}, Stripe's {theirs}" for name, ours, theirs in pairs if ours != theirs]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "customerRef": self.customer_ref,
            "what": self.what,
            "isEqual": not self.differences,
            "differences": self.differences,
            "ours": self.ours,
            "theirs": self.theirs,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class BillingRun:
    """What came of a scenario on Stripe.

    Args:
        scenario: its name.
        seed: of what was drawn.
        calls: requests made to Stripe.
        events: meter events sent.
        refused_events: of those, deliveries of an event Stripe had.
        invoices: compared, in order.
        standings: compared, in order.
    """

    scenario: str
    seed: int
    calls: int
    events: int
    refused_events: int
    invoices: Sequence[Compared]
    standings: Sequence[Compared]

    @property
    def passed(self) -> bool:
        """Whether both say the same."""
        return not any(each.differences for each in (*self.invoices, *self.standings))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "scenario": self.scenario,
            "seed": self.seed,
            "passed": self.passed,
            "stripeCalls": self.calls,
            "meterEvents": self.events,
            "refusedMeterEvents": self.refused_events,
            "invoices": [each.to_dict() for each in self.invoices],
            "standings": [each.to_dict() for each in self.standings],
        }


def play_on_stripe(
    scenario: Scenario, account: ClockAccount, *, seed: int | None = None, progress: Progress | None = None
) -> BillingRun:
    """Play a scenario on test clocks, and compare with our own run of it; what was made at Stripe is taken back.

    Raises:
        ScenarioError: a test clock cannot play it; `field` is the path of what cannot be. Nothing was asked of Stripe.
        StripeRejected, Unavailable, OutcomeUnknown: Stripe.
    """
    seed = scenario.seed if seed is None else seed
    scripts = scripts_of(scenario, seed)
    ours = run_scenario(scenario, seed)
    assert scenario.story is not None  # a script has one
    plays = [_Play(script=script, account=account, dunning=scenario.story.dunning) for script in scripts]
    of, done = sum(len(script.stops) for script in scripts), 0
    try:
        for play in plays:
            for _ in play.run():
                done += 1
                if progress is not None:
                    progress(done, of)
    finally:
        account.close()
    return BillingRun(
        scenario=scenario.name,
        seed=seed,
        calls=account.calls,
        events=sum(play.sent for play in plays),
        refused_events=sum(play.refused for play in plays),
        invoices=[each for play in plays for each in _compare_invoices(play, ours)],
        standings=[each for play in plays for each in _compare_standings(play, ours)],
    )


@dataclass(slots=True, kw_only=True)
class _Play:
    """One customer on their clock."""

    script: Script
    account: ClockAccount
    dunning: DunningPolicy
    sent: int = 0
    refused: int = 0
    invoices: list[ClockedInvoice] = field(default_factory=list)
    seen: dict[str, tuple[datetime, list[PaymentAttempt]]] = field(default_factory=dict)
    prices: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, str] = field(default_factory=dict)
    """By price, those of before included."""
    _items: dict[str, str] = field(default_factory=dict)
    _clock: str = ""
    _customer: str = ""
    _now: datetime | None = None
    _meters: dict[str, tuple[str, str]] = field(default_factory=dict)
    _held: defaultdict[tuple[str, datetime], Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    _grants: dict[str, str] = field(default_factory=dict)
    _failed: dict[tuple[str, int], PaymentAttempt] = field(default_factory=dict)

    def run(self) -> Any:  # noqa: ANN401 - a generator of nothing: one step for each stop
        """Everything, stop by stop."""
        events = defaultdict[datetime, list[ScriptedEvent]](list)
        for event in self.script.events:
            events[event.stop].append(event)
        self._open(self.script.stops[0])
        for stop in self.script.stops:
            self._move(stop)
            if stop == self.script.subscribed_at:
                self._subscribe(stop)
            self._send(events[stop])
            for change in self.script.changes:
                if change.at == stop:
                    self._change_price(change)
            for entry in self.script.entries:
                if entry.at == stop and entry.action is not None:
                    self._act(entry.action, entry.path, stop)
            yield
        self._look()

    def _open(self, start: datetime) -> None:
        self._clock, self._now = self.account.create_clock(start), start
        self._customer = self.account.create_customer(self._clock)
        for metric, price in self.script.prices.items():
            self._meters[metric] = self.account.create_meter(metric)
            self.prices[metric] = self._create_price(metric, price)

    def _create_price(self, metric: str, price: Price) -> str:
        phase = self.script.phase
        try:
            made = self.account.create_price(price, self._meters[metric][0], phase.cadence, phase.cadence_count)
        except InvalidInput as error:
            raise ScenarioError(
                f"plans: cannot be played on Stripe's test clocks: the price of {metric}: {error}", field="plans"
            ) from error
        self.metrics[made] = metric
        return made

    def _subscribe(self, now: datetime) -> None:
        ends_at = None if self.script.is_first_whole else self.script.segment(now).end
        items = self.account.subscribe(self._customer, list(self.prices.values()), period_ends_at=ends_at)
        self._items = {metric: items[price] for metric, price in self.prices.items()}

    def _change_price(self, change: PriceChange) -> None:
        self.prices[change.metric] = self._create_price(change.metric, change.price)
        self.account.change_price(self._items[change.metric], self.prices[change.metric])

    def _move(self, to: datetime) -> None:
        """Stop where Stripe tries to collect, too: nothing else says when an attempt was made."""
        if self._now == to:
            return
        while (retry := self._next_retry()) is not None and retry < to:
            self._advance(retry)
        self._advance(to)

    def _advance(self, to: datetime) -> None:
        if self._now != to:
            self.account.advance(self._clock, to)
            self._now = to
        self._look()

    def _next_retry(self) -> datetime | None:
        ahead = [each.next_attempt_at for each in self.invoices if each.status == "open"]
        return min((at for at in ahead if at is not None and self._now is not None and at > self._now), default=None)

    def _look(self) -> None:
        """Read every invoice; an attempt that was not there before was made when the last look said it would be."""
        before = {each.invoice_id: each for each in self.invoices}
        self.invoices = self.account.list_invoices(self._customer)
        for invoice in self.invoices:
            if invoice.finalized_at is None:
                continue
            known = before.get(invoice.invoice_id)
            made = invoice.attempt_count - (1 if invoice.status == "paid" else 0)
            for number in range(1, made + 1):
                if (invoice.invoice_id, number) not in self._failed:
                    first_at = known.next_attempt_at if known is not None and number > 1 else invoice.finalized_at
                    self._failed[invoice.invoice_id, number] = PaymentAttempt(
                        invoice_id=invoice.invoice_id,
                        at=first_at or invoice.finalized_at,
                        outcome="failed",
                        number=number,
                        next_attempt_at=invoice.next_attempt_at,
                    )

    def _attempts(self) -> list[PaymentAttempt]:
        paid = [
            PaymentAttempt(invoice_id=each.invoice_id, at=each.paid_at, outcome="paid", number=each.attempt_count)
            for each in self.invoices
            if each.paid_at is not None
        ]
        return [*self._failed.values(), *paid]

    def _send(self, events: Sequence[ScriptedEvent]) -> None:
        touched: set[tuple[str, datetime]] = set()
        for event in events:
            _, event_name = self._meters[event.metric]
            self.sent += 1
            if not self.account.send_event(event_name, self._customer, event.quantity, event.at, event.key):
                self.refused += 1
                continue
            period = event.metric, self.script.segment(event.at).start
            self._held[period] += event.quantity
            touched.add(period)
        for metric, start in sorted(touched):
            end = self.script.segment(start).end
            held = self._held[metric, start]
            self.account.wait_for_usage(self._meters[metric][0], self._customer, start, end, held)

    def _act(self, action: Action, path: str, now: datetime) -> None:
        match action:
            case GrantCredit(grant=grant):
                self._grants[grant.name] = self.account.create_grant(self._customer, grant, self._scope(grant.metrics))
            case MoveExpiry(reason=reason, expires_at=expires_at):
                self.account.move_expiry(self._grants[reason], expires_at)
            case Payments(succeed=succeed):
                self.account.use_card(self._customer, GOOD_CARD if succeed else BAD_CARD)
            case PayNow():
                for invoice in self.account.list_invoices(self._customer):
                    if invoice.status == "open":
                        self.account.pay(self._customer, invoice.invoice_id)
                self._look()
            case Expect():
                self.seen[path] = now, self._attempts()
            case _:
                raise InvariantBroken(f"{path}: a script has no {type(action).__name__}")

    def _scope(self, metrics: tuple[str, ...] | None) -> list[str] | None:
        """The prices a grant pays: never a fee's, which is metered at Stripe only."""
        if metrics is None:
            usage = [price for metric, price in self.prices.items() if metric not in self.script.fees]
            return usage if self.script.fees else None
        return [self._price_of(metric) for metric in metrics]

    def _price_of(self, metric: str) -> str:
        """Of a metric no plan prices too: a grant that pays nothing of what the customer has still exists."""
        if metric not in self.prices:
            self._meters[metric] = self.account.create_meter(metric)
            return self._create_price(metric, next(iter(self.script.prices.values())))
        return self.prices[metric]


def _compare_invoices(play: _Play, run: ScenarioRun) -> list[Compared]:
    """By the end of their period; an invoice only one has is compared with nothing."""
    ref = play.script.customer_ref
    finals = [each for each in run.invoices if each["customerId"] == ref and each["status"] != "draft"]
    ours = {instant_text(parse_instant(each["periodEnd"], "periodEnd")): _ours(each) for each in finals}
    theirs = {
        instant_text(max(line.end for line in each.lines)): _theirs(each, play.metrics)
        for each in play.invoices
        if each.finalized_at is not None and each.lines
    }
    return [
        Compared(customer_ref=ref, what=f"invoice to {end}", ours=ours.get(end, {}), theirs=theirs.get(end, {}))
        for end in sorted({*ours, *theirs})
    ]


def _ours(document: Mapping[str, Any]) -> dict[str, Any]:
    currency = document["currency"]
    lines: defaultdict[str, list[int]] = defaultdict(list)
    quantities: defaultdict[str, Decimal] = defaultdict(Decimal)
    for line in document["lines"]:
        lines[line["metric"]].append(_minor(line["amount"], currency))
    for item in document["lineItems"]:
        quantities[item["metric"]] += Decimal(item["quantity"])
    return {
        "status": document["status"],
        "finalizedAt": document["finalizedAt"],
        "currency": currency.lower(),
        **{f"lines of {metric}": amounts for metric, amounts in lines.items()},
        **{f"quantity of {metric}": _text(quantity) for metric, quantity in quantities.items()},
        "subtotal": _minor(document["subtotal"], currency),
        "credits": _minor(document["credits"], currency),
        "total": _minor(document["total"], currency),
    }


def _theirs(invoice: ClockedInvoice, metrics: Mapping[str, str]) -> dict[str, Any]:
    lines: defaultdict[str, list[int]] = defaultdict(list)
    quantities: defaultdict[str, Decimal] = defaultdict(Decimal)
    for line in invoice.lines:
        metric = metrics.get(line.price_id, line.price_id)
        lines[metric].append(line.amount_minor)
        quantities[metric] += line.quantity
    return {
        "status": invoice.status,
        "finalizedAt": None if invoice.finalized_at is None else instant_text(invoice.finalized_at),
        "currency": invoice.currency,
        **{f"lines of {metric}": amounts for metric, amounts in lines.items()},
        **{f"quantity of {metric}": _text(quantity) for metric, quantity in quantities.items()},
        "subtotal": invoice.subtotal_minor,
        "credits": invoice.credited_minor,
        "total": invoice.total_minor,
    }


def _compare_standings(play: _Play, run: ScenarioRun) -> list[Compared]:
    ours = {each.path: each.seen["access"] for each in run.observations if "access" in each.seen}
    compared = []
    for path, (at, attempts) in play.seen.items():
        standing = standing_of(attempts, play.dunning, at)
        theirs = {
            "state": standing.state,
            "nextAttemptAt": None if standing.next_attempt_at is None else instant_text(standing.next_attempt_at),
            "blockedAt": None if standing.blocked_at is None else instant_text(standing.blocked_at),
            "unpaidInvoices": len(standing.unpaid_invoices),
        }
        mine = {name: ours[path][name] for name in ("state", "nextAttemptAt", "blockedAt")}
        mine["unpaidInvoices"] = len(ours[path]["unpaidInvoices"])
        compared.append(
            Compared(customer_ref=play.script.customer_ref, what=f"access at {path}", ours=mine, theirs=theirs)
        )
    return compared


def _minor(amount: str, currency: str) -> int:
    minor = to_minor(Decimal(amount), currency)
    if minor != int(minor):
        raise InvariantBroken(f"an invoice of ours has an amount of {amount} {currency}")
    return int(minor)


def _text(quantity: Decimal) -> str:
    return format(quantity.normalize(), "f")
