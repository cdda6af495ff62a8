"""Simulations in Postgres: what is kept, what a run comes to, and what nobody can change afterwards."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import psycopg
import pytest
from psycopg_pool import ConnectionPool

from stripemeter.errors import Conflict, InvalidInput, NotFound, ScenarioError
from stripemeter.pipeline import scenarios
from stripemeter.pipeline.request_simulation import (
    RunWish,
    cancel_run,
    find_batch,
    find_run,
    request_batch,
    request_given,
    request_stored,
)
from stripemeter.pipeline.simulations import MOST_ATTEMPTS, NO_DELTA, run_simulation
from stripemeter.store import simulations
from stripemeter.store.postgres import connect, transaction
from stripemeter.store.scenarios import load_scenario, update_scenario
from stripemeter.store.simulations import RunTotal, begin_run, load_totals, release_run
from tests.simulations import NOW, ask, keep, no_account, statement, stored, story


def carry_out(database_url: str, run_id: UUID) -> simulations.SimulationRun:
    """Run it, a second by the clock."""
    instants = iter(NOW + timedelta(seconds=seconds) for seconds in range(100))
    return run_simulation(database_url, run_id, clock=lambda: next(instants), open_account=no_account)


def totals(pool: ConnectionPool) -> list[RunTotal]:
    """What ended runs came to."""
    with transaction(pool) as tx:
        return load_totals(tx)


def test_a_run_that_comes_as_expected(pool: ConnectionPool, database_url: str) -> None:
    """Completed and passed, with its invoice, an assertion for each expected value, and the totals."""
    run_id = ask(pool)
    done = carry_out(database_url, run_id)
    assert (done.status, done.passed, done.attempt_count, done.stripe_calls) == ("completed", True, 1, 0)
    assert done.duration_ms == 1000
    run, (assertion,) = find_run(pool, run_id, tenant_id="acme")
    assert (assertion.path, assertion.expected, assertion.actual) == ("expected.total", "220", "220")
    result: dict[str, Any] = msgspec.json.decode(run.result or "")
    assert result["invoices"][0]["total"] == "220.00"
    (total,) = totals(pool)
    assert (total.outcome, total.run_count, total.met_count, total.unmet_count) == ("passed", 1, 1, 0)
    assert (total.delta_cents_bound, total.seconds) == (0, 1)


def test_a_run_that_comes_otherwise_is_completed_and_has_not_passed(pool: ConnectionPool, database_url: str) -> None:
    """An expectation that is not met is a finding: 260 expected, 220 came, 4000 cents less."""
    run_id = ask(pool, expected={"total": 260, "currency": "USD"})
    done = carry_out(database_url, run_id)
    assert (done.status, done.passed, done.error_message) == ("completed", False, None)
    _, assertions = find_run(pool, run_id, tenant_id="acme")
    assert {(each.path, each.difference, each.passed) for each in assertions} == {
        ("expected.total", Decimal(-40), False),
        ("expected.currency", None, True),
    }
    (total,) = totals(pool)
    assert (total.outcome, total.met_count, total.unmet_count) == ("unmet", 1, 1)
    assert (total.delta_cents_bound, total.delta_cents) == (10_000, 4000)


def test_nothing_expected_is_no_verdict(pool: ConnectionPool, database_url: str) -> None:
    """There is an invoice, no assertion, and neither passed nor failed."""
    run_id = ask(pool, expected=None)
    done = carry_out(database_url, run_id)
    assert (done.status, done.passed) == ("completed", None)
    result = msgspec.json.decode(done.result or "")
    assert (result["passed"], result["assertions"], result["invoices"][0]["total"]) == (None, [], "220.00")
    (total,) = totals(pool)
    assert (total.outcome, total.met_count, total.unmet_count, total.delta_cents_bound) == ("unjudged", 0, 0, NO_DELTA)


def test_a_story_is_run(pool: ConnectionPool, database_url: str) -> None:
    """A timeline with its expectation at an instant, given with the request, on a seed of its own."""
    run_id = request_given(pool, story(), tenant_id=None, wish=RunWish(seed=7, run_type="ci"), now=NOW)
    done = carry_out(database_url, run_id)
    assert (done.status, done.passed, done.tenant_id, done.scenario_id) == ("completed", True, "default", None)
    assert (done.seed, done.run_type, msgspec.json.decode(done.result or "")["seed"]) == (7, "ci", 7)
    _, assertions = find_run(pool, run_id, tenant_id=None)
    assert [each.instant is not None for each in assertions] == [True] * len(assertions) != []


def test_what_cannot_be_run_is_refused_before_it_is_stored(pool: ConnectionPool) -> None:
    """The path of the statement is named; of a document that of the document; a NUL is no text."""
    for members, path in (
        ({"inputs": {}}, "inputs.usageItems"),
        ({"name": ""}, "name"),
        ({"version": ""}, "version"),
        ({"expected": {"totle": 220}}, "expected.totle"),
        ({"tolerances": {"absolute": 100}}, "tolerances.absolute"),
        ({"timelines": []}, "timelines"),
    ):
        with pytest.raises(ScenarioError) as refused:
            keep(pool, **members)
        assert refused.value.field == path
    with pytest.raises(InvalidInput) as refused_text:
        keep(pool, tags=["a", "b\x00"])
    assert refused_text.value.field == "tags[1]"
    with pytest.raises(ScenarioError) as refused:
        request_given(pool, {"metadata": {"name": ""}}, tenant_id=None, wish=RunWish(), now=NOW)
    assert refused.value.field == "metadata.name"
    with transaction(pool) as tx:
        assert tx.execute("select count(*) from simulation_scenarios").fetchone() == (0,)


def test_a_story_that_breaks_on_its_way_is_refused_too(
    pool: ConnectionPool, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Played without effect; one too long for that is stored, and its run ends as failed, naming the path."""
    generated = {"metric": "calls", "count": 3, "quantity": 1, "until": "2026-01-02", "late": {"every": 1, "by": "P9D"}}
    timeline = [{"subscribe": {"plan": "pro"}, "generate": generated}, {"after": "P2D", "expect": {"invoices": []}}]
    broken = story(timeline=timeline)
    with pytest.raises(ScenarioError, match="timeline"):
        scenarios.create_scenario(pool, tenant_id="acme", statement=broken, now=NOW)
    monkeypatch.setattr(scenarios, "QUICK_STEPS", 0)
    run_id = request_given(pool, broken, tenant_id=None, wish=RunWish(), now=NOW)
    done = carry_out(database_url, run_id)
    assert (done.status, done.passed, done.result) == ("failed", None, None)
    assert done.error_message is not None
    assert done.error_message.startswith("timeline[0].generate")
    assert [total.outcome for total in totals(pool)] == ["failed"]


def test_a_later_change_does_not_reach_a_run(pool: ConnectionPool, database_url: str) -> None:
    """The run keeps the scenario as it was when it was asked for; its revision says which."""
    kept = keep(pool, version="1.0")
    run_id = request_stored(pool, kept.id, tenant_id=None, wish=RunWish(), now=NOW)
    later = NOW + timedelta(hours=1)
    changed = scenarios.change_scenario(
        pool, kept.id, tenant_id="acme", members={"expected": {"total": 1}, "version": "2"}, is_active=None, now=later
    )
    assert (changed.revision, changed.updated_at, changed.created_at) == (2, later, NOW)
    assert scenarios.find_scenario(pool, kept.id, tenant_id="acme") == changed
    done = carry_out(database_url, run_id)
    assert (done.passed, done.scenario_version, done.scenario_revision) == (True, "1.0", 1)
    second = request_stored(pool, kept.id, tenant_id=None, wish=RunWish(), now=later)
    assert (carry_out(database_url, second).passed, stored(pool, second).scenario_version) == (False, "2")


def test_a_change_that_cannot_be_run_changes_nothing(pool: ConnectionPool) -> None:
    """Nor does one that somebody else came before."""
    kept = keep(pool)
    with pytest.raises(ScenarioError):
        scenarios.change_scenario(
            pool, kept.id, tenant_id=None, members={"inputs": None}, is_active=None, now=NOW + timedelta(hours=1)
        )
    assert scenarios.find_scenario(pool, kept.id, tenant_id=None) == kept
    with transaction(pool) as tx:
        assert not update_scenario(tx, replace(kept, name="mine", revision=3))
        assert load_scenario(tx, kept.id, tenant_id=None) == kept


def test_a_deactivated_scenario_is_read_and_not_run(pool: ConnectionPool) -> None:
    """Doing it twice changes nothing; `active` brings it back."""
    kept = keep(pool)
    for _ in range(2):
        scenarios.deactivate_scenario(pool, kept.id, tenant_id="acme", now=NOW)
    found = scenarios.find_scenario(pool, kept.id, tenant_id="acme")
    assert (found.is_active, found.revision) == (False, 2)
    with pytest.raises(Conflict, match="deactivated"):
        request_stored(pool, kept.id, tenant_id=None, wish=RunWish(), now=NOW)
    scenarios.change_scenario(pool, kept.id, tenant_id=None, members={}, is_active=True, now=NOW)
    request_stored(pool, kept.id, tenant_id=None, wish=RunWish(), now=NOW)


def test_tenants_do_not_see_each_other(pool: ConnectionPool) -> None:
    """Neither scenarios nor runs nor batches; and a run cannot be of another tenant's scenario or batch."""
    kept = keep(pool, "acme")
    run_id = request_stored(pool, kept.id, tenant_id="acme", wish=RunWish(), now=NOW)
    batch_id = request_batch(pool, [kept.id], tenant_id="acme", name="b", description=None, wish=RunWish(), now=NOW)
    for look in (
        lambda: scenarios.find_scenario(pool, kept.id, tenant_id="other"),
        lambda: scenarios.deactivate_scenario(pool, kept.id, tenant_id="other", now=NOW),
        lambda: request_stored(pool, kept.id, tenant_id="other", wish=RunWish(), now=NOW),
        lambda: find_run(pool, run_id, tenant_id="other"),
        lambda: cancel_run(pool, run_id, tenant_id="other", now=NOW),
        lambda: find_batch(pool, batch_id, tenant_id="other"),
    ):
        with pytest.raises(NotFound):
            look()
    with pytest.raises(psycopg.errors.ForeignKeyViolation), transaction(pool) as tx:
        tx.execute("update simulation_runs set tenant_id = 'other' where id = %s", [run_id])


def test_a_batch_is_of_all_its_scenarios_or_none(pool: ConnectionPool, database_url: str) -> None:
    """One run of each in the order asked for; one that is not there, or another tenant's, is named by its place."""
    first, second, foreign = keep(pool), keep(pool, expected={"total": 1}), keep(pool, "other")
    for ids in ([first.id, foreign.id], [first.id, UUID(int=0)]):
        with pytest.raises(InvalidInput) as refused:
            request_batch(pool, ids, tenant_id=None, name="b", description=None, wish=RunWish(), now=NOW)
        assert refused.value.field == "scenarioIds[1]"
    batch_id = request_batch(
        pool, [second.id, first.id, second.id], tenant_id=None, name="b", description="d", wish=RunWish(), now=NOW
    )
    state = find_batch(pool, batch_id, tenant_id="acme")
    assert [run.scenario_id for run in state.runs] == [second.id, first.id, second.id]
    with transaction(pool) as tx:
        assert simulations.list_unfinished(tx, batch_id) == [run.id for run in state.runs]
    for run in state.runs:
        carry_out(database_url, run.id)
    assert [run.passed for run in find_batch(pool, batch_id, tenant_id=None).runs] == [False, True, False]
    with transaction(pool) as tx:
        assert simulations.list_unfinished(tx, batch_id) == []


def test_an_ended_run_is_history(pool: ConnectionPool, database_url: str) -> None:
    """Nobody changes or deletes it or its assertions, nor deletes one that has not ended."""
    run_id, waiting = ask(pool), ask(pool)
    carry_out(database_url, run_id)
    for attempt in (
        "update simulation_runs set passed = false where id = %s",
        "delete from simulation_runs where id = %s",
        "update simulation_assertions set passed = false where run_id = %s",
        "delete from simulation_assertions where run_id = %s",
    ):
        with pytest.raises(psycopg.errors.RestrictViolation), transaction(pool) as tx:
            tx.execute(attempt, [run_id])
    with pytest.raises(psycopg.errors.RestrictViolation), transaction(pool) as tx:
        tx.execute("delete from simulation_runs where id = %s", [waiting])
    with pytest.raises(Conflict, match="has ended"):
        carry_out(database_url, run_id)


def test_a_cancelled_run_ends_and_stays_so(pool: ConnectionPool, database_url: str) -> None:
    """Waiting or begun; what comes of one that was begun is not stored. An ended one cannot be cancelled."""
    waiting, begun, done = ask(pool), ask(pool), ask(pool)
    assert cancel_run(pool, waiting, tenant_id="acme", now=NOW).status == "cancelled"
    assert cancel_run(pool, waiting, tenant_id="acme", now=NOW).status == "cancelled"

    def cancel_meanwhile(_done: int, _of: int) -> None:
        cancel_run(pool, begun, tenant_id=None, now=NOW)

    found = run_simulation(database_url, begun, clock=lambda: NOW, open_account=no_account, watch=cancel_meanwhile)
    assert (found.status, found.result, find_run(pool, begun, tenant_id=None)[1]) == ("cancelled", None, [])
    carry_out(database_url, done)
    with pytest.raises(Conflict, match="completed"):
        cancel_run(pool, done, tenant_id=None, now=NOW)
    assert {(total.outcome, total.run_count) for total in totals(pool)} == {("cancelled", 2), ("passed", 1)}


def test_a_run_whose_process_is_gone_is_begun_again_and_given_up_in_the_end(
    pool: ConnectionPool, database_url: str
) -> None:
    """While a session holds it nobody else is at it; without one it waits again; never more than so many times."""
    run_id = ask(pool)
    for attempt in range(MOST_ATTEMPTS):
        with connect(database_url, autocommit=True) as killed:
            assert begin_run(killed, run_id, now=NOW).attempt_count == attempt + 1
            with transaction(pool) as tx:
                assert simulations.list_waiting(tx, limit=9) == []
            with pytest.raises(Conflict, match="another process"):
                carry_out(database_url, run_id)
            release_run(killed, run_id)  # the server does it when it notices that the process is gone
        with transaction(pool) as tx:
            assert simulations.list_waiting(tx, limit=9) == [(run_id, None)]
        assert stored(pool, run_id).status == "running"
    done = carry_out(database_url, run_id)
    assert (done.status, done.passed) == ("failed", None)
    assert done.error_message is not None
    assert done.error_message.startswith("given up: begun 3 times")


def test_numbers_stay_as_they_were_sent(pool: ConnectionPool) -> None:
    """Digit by digit: a document is no float."""
    sent = statement()
    sent["inputs"]["usageItems"][0]["quantity"] = Decimal("25000.000000000001")
    kept = scenarios.create_scenario(pool, tenant_id="acme", statement={**sent, "expected": None}, now=NOW)
    assert "25000.000000000001" in scenarios.find_scenario(pool, kept.id, tenant_id="acme").document
