"""Simulations asked for: the sensor asks for what waits, the job does it, and what a killed process left goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

import dagster as dg
import msgspec
import pytest
from psycopg_pool import ConnectionPool

from stripemeter.errors import ScenarioError
from stripemeter.pipeline import simulations as runner
from stripemeter.pipeline.billing_plays import BillingRun, Compared
from stripemeter.pipeline.request_simulation import (
    RunWish,
    cancel_run,
    find_batch,
    find_run,
    request_batch,
    request_given,
)
from stripemeter.pipeline.simulated_billing import billing_assertions
from stripemeter.store.postgres import transaction
from stripemeter_assets import simulations
from stripemeter_assets.resources import PostgresResource
from tests.emulator import RunningEmulator
from tests.simulations import NOW, ask, keep, statement, stored, story

Tick = Callable[[], list[dg.RunRequest] | dg.SkipReason]
Execute = Callable[[dg.RunRequest], dg.ExecuteInProcessResult]


@pytest.fixture
def tick(instance: dg.DagsterInstance, postgres_resource: PostgresResource) -> Tick:
    """One tick of the sensor, as the code server evaluates it."""

    def evaluate() -> object:
        with dg.build_sensor_context(instance=instance, resources={"postgres": postgres_resource}) as context:
            return simulations.pending_simulations(context)

    return evaluate  # type: ignore[return-value]


@pytest.fixture
def execute(definitions: dg.Definitions, instance: dg.DagsterInstance) -> Execute:
    """The run a request asks for, in this process; a failed one is an answer."""

    def run(request: dg.RunRequest) -> dg.ExecuteInProcessResult:
        return definitions.resolve_job_def("simulations").execute_in_process(
            instance=instance, run_config=request.run_config, tags=request.tags, raise_on_error=False
        )

    return run


def only(requests: list[dg.RunRequest] | dg.SkipReason) -> dg.RunRequest:
    """The one request."""
    assert isinstance(requests, list), requests
    (request,) = requests
    return request


def test_a_pending_run_is_carried_out_once(tick: Tick, execute: Execute, pool: ConnectionPool) -> None:
    """Green though it came otherwise than expected, and asked for no more; a cancelled one is left alone."""
    assert isinstance(tick(), dg.SkipReason)
    run_id = ask(pool, expected={"total": 260})
    request = only(tick())
    assert request.tags == {simulations.OPERATION_TAG: str(run_id)}
    assert execute(request).success
    assert (stored(pool, run_id).status, stored(pool, run_id).passed) == ("completed", False)
    assert isinstance(tick(), dg.SkipReason)
    cancelled = ask(pool)
    request = only(tick())
    cancel_run(pool, cancelled, tenant_id=None, now=NOW)
    assert execute(request).success
    assert stored(pool, cancelled).attempt_count == 0


def test_a_batch_is_one_run_of_dagsters(
    tick: Tick, execute: Execute, pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its runs ends by itself: one that cannot be run makes it red, and keeps none of the others."""
    broken, right, wrong = keep(pool, version="broken"), keep(pool), keep(pool, expected={"total": 260})
    with transaction(pool) as tx:  # as a scenario would be that a later release reads no more
        tx.execute("update simulation_scenarios set document = '{}' where id = %s", [broken.id])
    ids = [broken.id, right.id, wrong.id]
    batch_id = request_batch(pool, ids, tenant_id=None, name="b", description=None, wish=RunWish(), now=NOW)
    request = only(tick())
    assert request.tags == {simulations.OPERATION_TAG: str(batch_id)}
    assert not execute(request).success
    runs = find_batch(pool, batch_id, tenant_id=None).runs
    assert [(run.status, run.passed) for run in runs] == [("failed", None), ("completed", True), ("completed", False)]
    assert (runs[0].error_message or "").startswith("metadata: is missing")
    monkeypatch.setattr(simulations, "PAUSE", timedelta(0))
    assert isinstance(tick(), dg.SkipReason)


def test_a_long_batch_lets_others_run_in_between(
    tick: Tick, execute: Execute, pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Dagster run begins no more after a while; what is left waits for the next."""
    kept = keep(pool)
    ids = [kept.id] * 3
    batch_id = request_batch(pool, ids, tenant_id=None, name="b", description=None, wish=RunWish(), now=NOW)
    monkeypatch.setattr(simulations, "ENOUGH", timedelta(0))
    for ended in (1, 2, 3):
        assert execute(only(tick())).success
        runs = find_batch(pool, batch_id, tenant_id=None).runs
        assert [run.status for run in runs] == ["completed"] * ended + ["pending"] * (3 - ended)
    assert isinstance(tick(), dg.SkipReason)


def test_one_run_at_a_time_and_a_pause_after_it_broke(
    tick: Tick, pool: ConnectionPool, definitions: dg.Definitions, instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Not asked for while a run is under way, nor for a while after one broke; then again, for it still waits."""
    run_id = ask(pool)
    request = only(tick())
    run = instance.create_run_for_job(
        definitions.resolve_job_def("simulations"),
        run_config=request.run_config,
        tags=dict(request.tags),
        status=dg.DagsterRunStatus.STARTED,
    )
    assert isinstance(tick(), dg.SkipReason)
    instance.report_run_failed(run)
    assert isinstance(tick(), dg.SkipReason)
    monkeypatch.setattr(simulations, "PAUSE", timedelta(0))
    assert only(tick()).tags == {simulations.OPERATION_TAG: str(run_id)}


def test_what_breaks_is_not_running_for_ever(
    tick: Tick, execute: Execute, pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of ours breaks the Dagster run, every time; after the third the simulation ends as failed."""
    monkeypatch.setattr(simulations, "PAUSE", timedelta(0))
    run_id = ask(pool)

    def broken(*_: object) -> object:
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(runner, "run_scenario", broken)
        for _ in range(runner.MOST_ATTEMPTS):
            assert not execute(only(tick())).success
            assert stored(pool, run_id).status == "running"
        assert not execute(only(tick())).success
    assert stored(pool, run_id).status == "failed"
    assert isinstance(tick(), dg.SkipReason)


def test_a_run_on_stripe_compares_invoice_by_invoice(
    tick: Tick, execute: Execute, pool: ConnectionPool, emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each thing both said is an assertion, its calls are counted; without Stripe it fails, and says why."""
    monkeypatch.delenv("STRIPE_SANDBOX_KEY", raising=False)
    monkeypatch.setenv("STRIPEMETER_STRIPE_API_BASE", emulator.url)
    wish = RunWish(driver="stripe")
    run_id = request_given(pool, story(), tenant_id=None, wish=wish, now=NOW)
    assert execute(only(tick())).success
    run, assertions = find_run(pool, run_id, tenant_id=None)
    assert (run.status, run.passed, run.error_message) == ("completed", True, None)
    assert run.stripe_calls > 5
    (total,) = [each for each in assertions if each.path.startswith("stripe.") and each.path.endswith(".total")]
    assert (total.expected, total.actual, total.difference) == ("6", "6", 0)
    assert any(each.path.startswith("timeline[2].expect") for each in assertions)
    result = msgspec.json.decode(run.result or "")
    assert result["stripe"]["stripeCalls"] == run.stripe_calls
    with pytest.raises(ScenarioError, match="timeline"):  # an invoice without a clock
        request_given(pool, statement(), tenant_id=None, wish=wish, now=NOW)
    monkeypatch.setenv("STRIPEMETER_STRIPE_API_BASE", "http://127.0.0.1:1")
    alone = request_given(pool, story(), tenant_id=None, wish=wish, now=NOW)
    assert not execute(only(tick())).success
    assert (stored(pool, alone).status, stored(pool, alone).passed) == ("failed", None)


def test_what_stripe_bills_otherwise_is_not_passed() -> None:
    """Amounts in major units, ours expected and Stripe's found; an invoice only one has is compared with nothing."""
    ours = {"currency": "usd", "total": 600, "status": "paid", "lines of calls": [600]}
    theirs = {"currency": "usd", "total": 550, "status": "paid", "lines of calls": [500, 50]}
    compared = [
        Compared(customer_ref="c1", what="invoice", ours=ours, theirs=theirs),
        Compared(customer_ref="c1", what="second", ours={}, theirs={"currency": "jpy", "total": 7}),
    ]
    run = BillingRun(scenario="s", seed=1, calls=9, events=0, refused_events=0, invoices=compared, standings=[])
    found = {each.path: (each.expected, each.actual, each.difference, each.passed) for each in billing_assertions(run)}
    assert found == {
        "stripe.c1.invoice.currency": ("usd", "usd", None, True),
        "stripe.c1.invoice.total": ("6", "5.5", Decimal("-0.5"), False),
        "stripe.c1.invoice.status": ("paid", "paid", None, True),
        "stripe.c1.invoice.lines of calls": ("[600]", "[500,50]", None, False),
        "stripe.c1.second.currency": (None, "jpy", None, False),
        "stripe.c1.second.total": (None, "7", None, False),
    }
    assert runner.delta_cents(billing_assertions(run)) == 50


KILLED = """
import sys
from datetime import UTC, datetime
from uuid import UUID
from stripemeter.pipeline.simulations import run_simulation

def begun(done, of):
    print("begun", flush=True)
    sys.stdin.read()

run_simulation(sys.argv[1], UUID(sys.argv[2]), clock=lambda: datetime.now(UTC), open_account=None, watch=begun)
"""


def test_a_run_killed_midway_is_taken_up_again(
    tick: Tick, execute: Execute, pool: ConnectionPool, database_url: str
) -> None:
    """While its process lives nobody asks for it; killed, it is `running` with nobody at it, and is begun again."""
    run_id = ask(pool)
    with _at_work(database_url, run_id) as process:
        assert stored(pool, run_id).status == "running"
        assert isinstance(tick(), dg.SkipReason)
        process.send_signal(signal.SIGKILL)
        process.wait(20)
    with transaction(pool) as tx:  # until the server has noticed, the lock is held: one waits for it, and lets it go
        key = "hashtextextended('stripemeter.simulation:' || %s, 0)"
        tx.execute(f"select pg_advisory_xact_lock({key})", [str(run_id)])
    assert stored(pool, run_id).status == "running"
    assert execute(only(tick())).success
    done = stored(pool, run_id)
    assert (done.status, done.passed, done.attempt_count) == ("completed", True, 2)


def _at_work(database_url: str, run_id: UUID) -> subprocess.Popen[str]:
    """A process in the middle of a run."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED), database_url, str(run_id)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process
