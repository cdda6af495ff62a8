"""Carrying a simulation run out, and what ended runs come to.

Belongs here: one attempt, its end in one transaction with its assertions, giving up. Does not: asking for runs
(`pipeline.request_simulation`), what comes of a scenario (`stripemeter.simulation`), when (Dagster).

The session that runs holds a lock that ends with it. A process that is killed leaves its run `running` with nobody at
it: whoever looks begins it again, and it ends as failed when that has happened too often.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, assert_never
from uuid import UUID

import msgspec
import psycopg
import structlog

from stripemeter.billing.clock_accounts import ClockAccount
from stripemeter.errors import InvalidInput, NotAllowed, OutcomeUnknown, StripeRejected, Unavailable
from stripemeter.pipeline.billing_plays import BillingRun, play_on_stripe
from stripemeter.pipeline.simulated_billing import billing_assertions
from stripemeter.simulation.running import ScenarioRun, run_scenario
from stripemeter.simulation.scenarios import Scenario, read_scenario
from stripemeter.store.postgres import Tx, connect
from stripemeter.store.simulations import (
    Outcome,
    RunEnd,
    RunTotal,
    SimulationRun,
    StoredAssertion,
    add_total,
    begin_run,
    end_run,
    load_run,
    release_run,
)

MOST_ATTEMPTS = 3
"""A scenario that takes its process with it three times would do so for ever."""
DELTA_CENTS_BOUNDS = tuple(map(Decimal, ("0", "1", "10", "100", "1000", "10000", "100000", "Infinity")))
NO_DELTA = Decimal(-1)
"""The band of runs in which no invoice total is expected."""
_CENTS = 100

OpenAccount = Callable[[], ClockAccount]
"""Opens the test account a run is played in: a sandbox, or the emulator."""
Watch = Callable[[int, int], None]
"""Called with how many steps are done, and of how many."""
_decode = msgspec.json.Decoder(float_hook=Decimal).decode
_encode = msgspec.json.Encoder(decimal_format="number").encode
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedScenario:
    """A scenario, and whether it expects anything at all."""

    scenario: Scenario
    has_expectations: bool


def read_judged(document: Mapping[str, object]) -> JudgedScenario:
    """The scenario of a document that may expect nothing: then there is an invoice, and no verdict on it.

    Raises:
        ScenarioError: it cannot be right.
    """
    if document.get("inputs") is None or document.get("expected") is not None:
        return JudgedScenario(scenario=read_scenario(document), has_expectations=True)
    # The simulator wants to be told at least a total; what it says of this one is dropped.
    return JudgedScenario(scenario=read_scenario({**document, "expected": {"total": 0}}), has_expectations=False)


def read_stored(document: str) -> Mapping[str, Any]:
    """A stored document, its numbers exact."""
    found: Mapping[str, Any] = _decode(document)
    return found


def run_simulation(
    database_url: str,
    run_id: UUID,
    *,
    clock: Callable[[], datetime],
    open_account: OpenAccount,
    watch: Watch | None = None,
) -> SimulationRun:
    """Carry a run out; returns it as it is then: completed, failed, or cancelled meanwhile.

    A scenario that cannot be run ends it as failed, and so does a Stripe that does not play along; an expectation that
    is not met does not.

    Args:
        database_url: where the run is.
        run_id: which.
        clock: aware.
        open_account: asked only for a run that is played on Stripe.
        watch: sees how far it is.

    Raises:
        Conflict: another process is at it, or it has ended.
        NotFound: no such run.
        Unavailable: Postgres went away; the run is begun again by whoever looks next.
    """
    try:
        with connect(database_url, application_name="stripemeter-simulation", autocommit=True) as connection:
            run = begin_run(connection, run_id, now=clock())
            try:
                end = _attempt(run, clock, open_account, watch)
                with connection.transaction():
                    end_simulation(connection, run_id, end, now=clock())
                return load_run(connection, run_id)
            finally:
                release_run(connection, run_id)
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise Unavailable(f"Postgres went away: {error}") from error


def end_simulation(tx: Tx, run_id: UUID, end: RunEnd, *, now: datetime) -> bool:
    """End a run, its assertions and the totals with it; False when it had ended already."""
    ended = end_run(tx, run_id, end, now=now)
    if ended is None:
        return False
    _, driver = ended
    delta = delta_cents(end.assertions)
    met = sum(assertion.passed for assertion in end.assertions)
    add_total(
        tx,
        RunTotal(
            driver=driver,
            outcome=_outcome(end),
            delta_cents_bound=NO_DELTA if delta is None else next(b for b in DELTA_CENTS_BOUNDS if delta <= b),
            run_count=1,
            seconds=(end.duration_ms or Decimal(0)) / 1000,
            met_count=met,
            unmet_count=len(end.assertions) - met,
            delta_cents=delta or Decimal(0),
            stripe_calls=end.stripe_calls,
        ),
    )
    _log.info("simulation_ended", run=str(run_id), status=end.status, passed=end.passed)
    return True


def delta_cents(assertions: Sequence[StoredAssertion]) -> Decimal | None:
    """The greatest difference of an invoice's total, in hundredths of its major unit; None: no total is compared."""
    return max(_total_deltas(assertions), default=None)


def _total_deltas(assertions: Sequence[StoredAssertion]) -> Iterator[Decimal]:
    for assertion in assertions:
        if assertion.difference is not None and assertion.path.rpartition(".")[2] == "total":
            yield abs(assertion.difference) * _CENTS


def _attempt(
    run: SimulationRun, clock: Callable[[], datetime], open_account: OpenAccount, watch: Watch | None
) -> RunEnd:
    if run.attempt_count > MOST_ATTEMPTS:
        times = f"begun {MOST_ATTEMPTS} times without coming to an end"
        return RunEnd(status="failed", error_message=f"given up: {times}, its process was killed or broke")
    started = clock()
    account = billed = None
    try:
        judged = read_judged(read_stored(run.scenario))
        done = run_scenario(judged.scenario, run.seed, watch)
        if run.driver == "stripe":
            account = open_account()
            billed = play_on_stripe(judged.scenario, account, seed=run.seed, progress=watch)
    except (InvalidInput, NotAllowed, StripeRejected, Unavailable, OutcomeUnknown) as error:
        calls = 0 if account is None else account.calls
        took = _since(started, clock)
        return RunEnd(status="failed", error_message=str(error), duration_ms=took, stripe_calls=calls)
    assertions = _own_assertions(done) if judged.has_expectations else []
    return _completed(done, billed, assertions, duration_ms=_since(started, clock))


def _since(started: datetime, clock: Callable[[], datetime]) -> Decimal:
    # A clock that is set back while a run lasts would make it shorter than nothing.
    return max(Decimal(0), Decimal((clock() - started) // timedelta(microseconds=1)) / 1000)


def _completed(
    done: ScenarioRun, billed: BillingRun | None, own: Sequence[StoredAssertion], *, duration_ms: Decimal
) -> RunEnd:
    assertions = [*own, *(() if billed is None else billing_assertions(billed))]
    passed = all(assertion.passed for assertion in assertions) if assertions else None
    record = {**done.to_dict(), "passed": passed}
    if not own:
        record["assertions"] = []  # nothing is expected: what was made up for the simulator's sake is dropped
    if billed is not None:
        record["stripe"] = billed.to_dict()
    return RunEnd(
        status="completed",
        passed=passed,
        result=_encode(record).decode(),
        duration_ms=duration_ms,
        stripe_calls=0 if billed is None else billed.calls,
        assertions=assertions,
    )


def _own_assertions(done: ScenarioRun) -> list[StoredAssertion]:
    return [
        StoredAssertion(**{name: getattr(each, name) for name in StoredAssertion.__dataclass_fields__})
        for each in done.assertions
    ]


def _outcome(end: RunEnd) -> Outcome:
    match end.status:
        case "failed" | "cancelled":
            return end.status
        case "completed":
            return "unjudged" if end.passed is None else "passed" if end.passed else "unmet"
        case _:
            assert_never(end.status)
