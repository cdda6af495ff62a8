"""The demo, from an empty or a used stack to the proof.

Belongs here: the order of things, and what is waited for. Does not: terminals (`cli.demo`), how the stack runs.

The tenant carries the day the year is shifted to, so a demo run again the same day finds every event a duplicate, and
one run another day starts another year instead of conflicting with this one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Protocol

import httpx2
import polars as pl
from psycopg_pool import ConnectionPool

from stripemeter.billing.sink import BillingSink
from stripemeter.demo.flights import METRICS, Flights
from stripemeter.demo.proof import CarrierProof, StripeIds, prove_carrier
from stripemeter.demo.sending import Answers, SendingPlan, plan_sending, send_events
from stripemeter.errors import Unavailable
from stripemeter.metering.deltas import first_open_day
from stripemeter.pipeline.prove import TenantConservation, conservation
from stripemeter.pipeline.stripe_setup import bind, map_meter
from stripemeter.store.postgres import transaction
from stripemeter.store.reconciliations import load_local_days

FOLD_SECONDS = 300
PUSH_SECONDS = 600
"""How long the stack may take to catch up before the demo calls it failed; both waits end on a condition."""


class Show(Protocol):
    """What the demo tells whoever watches."""

    def step(self, text: str) -> None:
        """A new step begins."""

    def sending(self, total: int) -> Callable[[int], None]:
        """A progress bar over `total` events; the answer is called with every number sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoReport:
    """What the demo did and found."""

    tenant_id: str
    sent: int
    resent: int
    answers: tuple[Answers, ...]
    first_at_stripe: date
    held_days: int
    carriers: tuple[CarrierProof, ...]
    conservation: TenantConservation

    @property
    def failures(self) -> list[str]:
        """Everything that is not as it must be; empty is a pass."""
        unequal = [f"{proof.carrier}: {text}" for proof in self.carriers for text in proof.differences]
        answered = sum(one.accepted + one.duplicates for one in self.answers)
        if answered != self.sent + self.resent:
            unequal.append(f"sent {self.sent + self.resent} events, {answered} answers")
        if not self.conservation.holds or self.conservation.accepted != self.sent:
            unequal.append(f"conservation: {self.conservation}")
        return unequal


def run_demo(
    flights: Flights, *, api_url: str, pool: ConnectionPool, sink: BillingSink, now: datetime, seed: int, show: Show
) -> DemoReport:
    """Send a year of flights through the running stack and compare source, counters and Stripe.

    Raises:
        Unavailable: the stack did not answer, or did not catch up in time.
    """
    tenant_id = f"nycflights-{flights.last_day}"
    events = flights.events
    plan = plan_sending(events.height, seed=seed)
    show.step("connecting 16 carriers and 3 meters to the Stripe emulator")
    stripe = _connect(pool, sink, tenant_id, sorted(events["customer_ref"].unique()), now)
    answers = tuple(_send(api_url, tenant_id, events, plan, show))
    show.step("waiting for Dagster to push what Stripe lacks")
    _wait(lambda: _is_pushed(pool, sink), PUSH_SECONDS, "the push")
    show.step("comparing every carrier, metric and day: source, usage API, Stripe")
    first_at_stripe = first_open_day(datetime.now(UTC))
    truth = events.group_by("customer_ref", "metric", day=pl.col("ts").dt.date()).agg(pl.col("quantity").sum())
    with httpx2.Client(base_url=api_url, timeout=60) as client:
        carriers = tuple(
            prove_carrier(
                client,
                sink,
                stripe,
                tenant_id=tenant_id,
                carrier=carrier,
                truth=truth.filter(pl.col("customer_ref") == carrier),
                year=(flights.first_day, flights.last_day),
                first_at_stripe=first_at_stripe,
            )
            for carrier in stripe.customers
        )
    (conserved,) = (one for one in conservation(pool) if one.tenant_id == tenant_id)
    return DemoReport(
        tenant_id=tenant_id,
        sent=events.height,
        resent=len(plan.resent),
        answers=answers,
        first_at_stripe=first_at_stripe,
        held_days=(first_at_stripe - flights.first_day) // timedelta(days=1),
        carriers=carriers,
        conservation=conserved,
    )


def _send(api_url: str, tenant_id: str, events: pl.DataFrame, plan: SendingPlan, show: Show) -> Iterator[Answers]:
    show.step(f"sending {len(plan.first):,} events in shuffled order, {len(plan.resent):,} of them twice")
    yield send_events(api_url, tenant_id, events, plan.first, on_sent=show.sending(len(plan.first)))
    show.step("waiting for the fold")
    _wait(lambda: _is_folded(api_url), FOLD_SECONDS, "the fold")
    show.step(f"sending {len(plan.late):,} events that arrive after the first fold")
    yield send_events(api_url, tenant_id, events, plan.late, on_sent=show.sending(len(plan.late)))
    show.step("waiting for the fold")
    _wait(lambda: _is_folded(api_url), FOLD_SECONDS, "the fold")


def _connect(pool: ConnectionPool, sink: BillingSink, tenant_id: str, carriers: list[str], now: datetime) -> StripeIds:
    """Map every metric and bind every carrier; what an earlier run did stays as it is."""
    mapped = {
        metric: map_meter(
            pool,
            sink,
            tenant_id=tenant_id,
            meter=metric,
            event_name=f"{tenant_id}-{metric}",
            aggregation="sum",
            now=now,
        )
        for metric in METRICS
    }
    bound = {
        carrier: bind(pool, sink, tenant_id=tenant_id, customer_ref=carrier, stripe_customer_id=None, now=now)
        for carrier in carriers
    }
    return StripeIds(
        meters={metric: fed for metric, mapping in mapped.items() if (fed := mapping.stripe_meter_id) is not None},
        customers={carrier: binding.stripe_customer_id for carrier, binding in bound.items()},
    )


def _is_folded(api_url: str) -> bool:
    answer = httpx2.get(f"{api_url}/health/ready", timeout=30)
    return bool(answer.status_code == 200 and answer.json()["metrics"]["writerLag"] == 0)


def _is_pushed(pool: ConnectionPool, sink: BillingSink) -> bool:
    """Stripe has acknowledged every day it takes, in one look: a row under way hides what else its customer lacks."""
    now = datetime.now(UTC)
    account = sink.account_id()
    with transaction(pool) as tx:
        days = load_local_days(
            tx, stripe_account_id=account, mode=sink.mode, first_day=first_open_day(now), today=now.date()
        )
    return all(day.counted == day.accepted for day in days)


def _wait(condition: Callable[[], bool], seconds: int, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Unavailable(
                f"{what} did not catch up within {seconds} s: see `stripemeter status` and the Dagster UI"
            )
        time.sleep(1)
