"""Law 5: approve then revert = nothing happened, whatever is sent, adjusted, folded or recounted between.

Two tenants live the same life, step for step. One of them also approves adjustments and takes them back: while one
stands the two differ, and once the last is reverted every reader answers the same for both: current usage, history,
queries by either reader and the days a push would send.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from psycopg_pool import ConnectionPool

from stripemeter.metering.days import days_between
from stripemeter.pipeline import adjustments
from stripemeter.pipeline.adjustments import create_adjustment, decide
from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.meters import put_meter
from stripemeter.pipeline.prove import conservation, counters_equal_ledger
from stripemeter.pipeline.recount import recount_day, recount_slice
from stripemeter.store import adjustments as store
from stripemeter.store.adjustments import NewAdjustment, Period
from stripemeter.store.metered_windows import load_metered_windows
from stripemeter.store.postgres import transaction
from stripemeter.store.usage import load_current_usage, load_usage_history
from stripemeter.store.usage_windows import UsageQuestion, load_usage_windows
from tests.laws.worlds import NOW, Fact, Ingest, ingest_into

METERS = ["sum", "count", "min", "max", "last", "avg", "unique", "percentile", "time_weighted"]
"""One of each aggregation over the metric, under its own name; the metric itself is a sum."""
NAMES = ["api_calls", *METERS]
CUSTOMERS = ["x", "y"]
DAYS = [(NOW - timedelta(days=age)).date() for age in (0, 1, 3, 6)]
"""Of the open month: what comes late there is approved by itself, and a recount absorbs it."""
CLOSED = NOW - timedelta(days=40)
"""Of a closed month: what comes late here waits for a person. Never recounted: absorbed, it could not be reverted."""
View = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """An adjustment somebody makes and approves."""

    customer: str
    metric: str
    day: date
    period: Period
    delta: Decimal

    def asked_by(self, tenant: str) -> NewAdjustment:
        """As a tenant asks for it."""
        day = self.day.replace(day=1) if self.period == "month" else self.day
        return NewAdjustment(
            tenant_id=tenant,
            metric=self.metric,
            customer_ref=self.customer,
            period=self.period,
            day=day,
            effective_at=datetime.combine(day, time(), UTC),
            delta=self.delta,
            reason="correction",
            request_id=None,
            note=None,
            actor="ann",
        )


Step = Fact | Correction | date | Literal["fold"]
EVENTS = st.builds(
    lambda customer, day, second, quantity: Fact(
        customer=customer, ts=datetime.combine(day, time(9, 0, second), UTC), quantity=quantity
    ),
    st.sampled_from(CUSTOMERS),
    st.sampled_from(DAYS),
    st.integers(0, 59),
    st.sampled_from(["1", "2.5", "0", "0.000000000001"]),
)
CORRECTIONS = st.builds(
    Correction,
    customer=st.sampled_from(CUSTOMERS),
    metric=st.sampled_from(NAMES),
    day=st.sampled_from([*DAYS, CLOSED.date()]),
    period=st.sampled_from(["day", "month"]),
    # No three of them add up to nothing, so that an approval always shows.
    delta=st.sampled_from([Decimal(4), Decimal("-1.5"), Decimal("0.000000000001")]),
)
STEPS = st.lists(st.one_of(EVENTS, EVENTS, CORRECTIONS, st.sampled_from(DAYS), st.just("fold")), max_size=6)


class Twins:
    """Two tenants with the same meters, mappings, bindings, history, and an event each that waits for approval."""

    def __init__(self, pool: ConnectionPool, ingest: Ingest, number: int, *, has_meters: bool) -> None:
        self._pool, self._ingest = pool, ingest
        self.plain, self.undone = f"plain-{number}", f"undone-{number}"
        self.names = NAMES if has_meters else NAMES[:1]
        self._sent = itertools.count()
        for tenant in (self.plain, self.undone):
            self._set_rules(tenant, METERS if has_meters else [])
        self.live(Fact(customer="x", ts=CLOSED, quantity="2"))
        self.live(Fact(customer="x", ts=NOW - timedelta(hours=1)))
        self.live("fold")
        self.live(Fact(customer="x", ts=CLOSED, quantity="7"))
        self.live("fold")

    def live(self, step: Step) -> None:
        """The same happens to both."""
        match step:
            case Fact():
                key = str(next(self._sent))
                facts = [replace(step, tenant=tenant, key=key) for tenant in (self.plain, self.undone)]
                self._ingest.accept(facts)
            case Correction():
                for tenant in (self.plain, self.undone):
                    self.approve(self.create(tenant, step), tenant)
            case date():
                recount_day(self._pool, step, now=NOW)
            case "fold":
                while fold(self._pool, now=NOW).has_more:
                    pass

    def create(self, tenant: str, asked: Correction) -> UUID:
        """A pending adjustment; of a meter the tenant has."""
        named = replace(asked, metric=asked.metric if asked.metric in self.names else self.names[0])
        created, _ = create_adjustment(self._pool, named.asked_by(tenant), now=NOW, max_delta=Decimal(100))
        return created.id

    def approve(self, adjustment_id: UUID, tenant: str) -> None:
        """It counts."""
        assert not decide(self._pool, tenant, adjustment_id, "approved", actor="bob", now=NOW).was_so_before

    def revert(self, adjustment_id: UUID) -> None:
        """It never did."""
        assert not decide(self._pool, self.undone, adjustment_id, "reverted", actor="bob", now=NOW).was_so_before

    def late(self) -> UUID:
        """The event of the closed month that waits."""
        with transaction(self._pool) as tx:
            ((found,),) = tx.execute(
                "select id from adjustments where tenant_id = %(tenant)s and status = 'pending'"
                " and reason = 'late_event'",
                {"tenant": self.undone},
            ).fetchall()
        assert isinstance(found, UUID)
        return found

    def view(self, tenant: str) -> View:
        """What every reader answers."""
        found: View = {}
        days = days_between(CLOSED.date(), NOW.date())
        for customer, at in itertools.product(CUSTOMERS, (NOW, CLOSED)):
            found[f"current {customer} {at}"] = load_current_usage(
                self._pool, tenant_id=tenant, customer_ref=customer, at=at, now=NOW
            ).metrics
        for customer, name in itertools.product(CUSTOMERS, self.names):
            found[f"history {customer} {name}"] = load_usage_history(
                self._pool, tenant_id=tenant, customer_ref=customer, metric=name, buckets=days, last_on=days[-1],
                step="day", now=NOW,
            ).buckets  # fmt: skip
        for name in self.names:
            found |= self._queried(tenant, name, days)
        with transaction(self._pool) as tx:
            found["push"] = tx.execute(
                "select meter, customer_ref, segment_start, day, counted from push_days"
                " where tenant_id = %(tenant)s and counted <> 0 order by 1, 2, 3, 4",
                {"tenant": tenant},
            ).fetchall()
        return found

    def _queried(self, tenant: str, name: str, days: Sequence[date]) -> View:
        edges = [datetime.combine(day, time(), UTC) for day in (*days, days[-1] + timedelta(days=1))]
        question = UsageQuestion(tenant_id=tenant, metric=name, edges=edges, group_by="customerRef")
        if name not in METERS:
            return {f"query {name} {by}": load_usage_windows(self._pool, question, reader=by).cells
                    for by in ("counters", "ledger")}  # fmt: skip
        metered = load_metered_windows(self._pool, question, now=NOW)
        assert metered is not None
        return {f"query {name}": metered.cells}

    def _set_rules(self, tenant: str, meters: Sequence[str]) -> None:
        for name in meters:
            document = {"name": name, "metrics": ["api_calls"], "aggregation": name}
            if name == "percentile":
                document["percentile"] = "90"
            put_meter(
                self._pool, tenant, document, effective_on=None, actor="ann", expected_version=None, now=NOW
            )  # fmt: skip
        with transaction(self._pool) as tx:
            for meter, aggregation in (("api_calls", "sum"), ("count", "count")):
                tx.execute(
                    "insert into price_mappings (id, tenant_id, meter, aggregation, stripe_account_id,"
                    " stripe_event_name, stripe_meter_id, mode, created_at) values (gen_random_uuid(), %(tenant)s,"
                    " %(meter)s, %(aggregation)s, 'acct_1', %(meter)s, 'mtr_1', 'live', now())",
                    {"tenant": tenant, "meter": meter, "aggregation": aggregation},
                )
            for customer in CUSTOMERS:
                tx.execute(
                    "insert into customer_bindings values (%(tenant)s, %(customer)s, 'acct_1', %(bound)s, now())",
                    {"tenant": tenant, "customer": customer, "bound": f"cus_{tenant}_{customer}"},
                )


@pytest.fixture
def ingest(database_url: str) -> Iterator[Ingest]:
    """A group commit on this test's database."""
    with ingest_into(database_url) as opened:
        yield opened


def check_law(pool: ConnectionPool, ingest: Ingest, *, has_meters: bool, examples: int) -> None:
    """One or two corrections and a late event, approved and reverted at any place of a life of any steps."""
    numbers = itertools.count()

    @given(
        first=STEPS,
        between=STEPS,
        last=STEPS,
        undone=st.lists(CORRECTIONS, min_size=1, max_size=2),
        is_first_in_last_out=st.booleans(),
    )
    @settings(max_examples=examples, phases=[Phase.generate])
    def law(
        first: list[Step], between: list[Step], last: list[Step], undone: list[Correction], is_first_in_last_out: bool
    ) -> None:
        twins = Twins(pool, ingest, next(numbers), has_meters=has_meters)
        for step in first:
            twins.live(step)
        before = twins.view(twins.undone)
        assert before == twins.view(twins.plain)
        approved = [twins.create(twins.undone, correction) for correction in undone]
        approved.append(twins.late())
        for adjustment_id in approved:
            twins.approve(adjustment_id, twins.undone)
        assert twins.view(twins.undone) != before, "an approval that does not show proves nothing"
        for step in between:
            twins.live(step)
        for adjustment_id in reversed(approved) if is_first_in_last_out else approved:
            twins.revert(adjustment_id)
        reverted = twins.view(twins.undone)
        assert reverted == twins.view(twins.plain)
        assert between or reverted == before
        for step in last:
            twins.live(step)
        assert not last or twins.view(twins.undone) == twins.view(twins.plain)
        assert counters_equal_ledger(pool, [*DAYS, CLOSED.date()]) == ()
        assert all(row.holds for row in conservation(pool))

    law()


@pytest.mark.parametrize("has_meters", [False, True])
def test_approve_then_revert_is_as_if_nothing_happened(pool: ConnectionPool, ingest: Ingest, has_meters: bool) -> None:
    """For plain metrics, and with a meter of every aggregation."""
    check_law(pool, ingest, has_meters=has_meters, examples=3 if has_meters else 8)


def test_the_law_sees_a_late_event_that_stays(
    pool: ConnectionPool, ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A revert that does not count the customer's day again is found."""

    def once(tx: Any, day: date, **scope: Any) -> int:  # noqa: ANN401 - passed on
        status = tx.execute("select count(*) from adjustments where status = 'reverted'").fetchone()
        return 0 if status[0] else recount_slice(tx, day, **scope)

    monkeypatch.setattr(adjustments, "recount_slice", once)
    with pytest.raises((AssertionError, ExceptionGroup)):
        check_law(pool, ingest, has_meters=False, examples=3)


def test_the_law_sees_a_correction_that_stays(
    pool: ConnectionPool, ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A revert that takes back half of what was approved is found by the readers of manual corrections."""
    set_status = store.set_status

    def half(tx: Any, stands: Any, action: Any, *rest: Any, **members: Any) -> None:  # noqa: ANN401 - passed on
        set_status(tx, stands, action, *rest, **members)
        if action == "reverted" and stands.event_seq is None:
            tx.execute(
                "update adjustments set status = 'approved', delta = delta / 2 where id = %(id)s", {"id": stands.id}
            )

    monkeypatch.setattr(store, "set_status", half)
    with pytest.raises((AssertionError, ExceptionGroup)):
        check_law(pool, ingest, has_meters=False, examples=3)
