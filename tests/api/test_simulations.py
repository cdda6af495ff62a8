"""Simulations over HTTP: the original's routes, members and words."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

import httpx2
import pytest

from stripemeter.pipeline.simulations import run_simulation
from stripemeter_api.simulation_documents import (
    BatchAccepted,
    BatchAnswer,
    ScenarioAnswer,
    ScenarioChanged,
    ScenarioCreated,
    ScenarioPage,
    SimulationAccepted,
    SimulationAnswer,
    SimulationPage,
)
from tests.api.serving import Api
from tests.simulations import no_account, statement, story

SCENARIOS, RUNS, BATCH = "/v1/simulations/scenarios", "/v1/simulations/runs", "/v1/simulations/batch"
Create = Callable[..., str]


@pytest.fixture
def create(api: Api, tenant: str) -> Create:
    """`create(**members)`: keep a scenario of this test's tenant; its id."""

    def post(**members: object) -> str:
        answer = api.post(SCENARIOS, json={"tenantId": tenant, **statement(**members)})
        assert answer.status_code == 201, answer.text
        return str(ScenarioCreated.model_validate(answer.json()).id)

    return post


def refused(answer: httpx2.Response, status: int, error: str) -> list[str]:
    """The paths a refusal names, in the original's words."""
    problem = answer.json()
    assert (answer.status_code, problem["error"]) == (status, error), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem.get("errors") == problem.get("details")
    return [item["path"] for item in problem.get("details") or []]


def run_all(database_url: str, *run_ids: str) -> None:
    """Carry runs out, as the Dagster job does."""
    for run_id in run_ids:
        run_simulation(database_url, UUID(run_id), clock=lambda: datetime.now(UTC), open_account=no_account)


def test_a_scenario_is_kept_read_changed_and_deactivated(api: Api, tenant: str, create: Create) -> None:
    """Read digit by digit as it was sent; PUT changes what it names; DELETE leaves it to be read."""
    made = create(tags=["a", "b"], description="three tiers", tolerances={"absolute": "0.010"})
    path = f"{SCENARIOS}/{made}"
    found = api.get(path)
    answer = ScenarioAnswer.model_validate(found.json())
    assert (answer.name, answer.tenant_id, answer.tags, answer.active) == ("tiers", tenant, ["a", "b"], True)
    assert (answer.version, answer.revision, answer.model) == ("1", 1, "tiered")
    assert '"tolerances":{"absolute":"0.010"}' in found.text
    assert found.json()["inputs"] == statement()["inputs"]
    changed = api.put(path, json={"name": "more tiers", "expected": None, "tags": ["c"]})
    assert (changed.status_code, ScenarioChanged.model_validate(changed.json()).name) == (200, "more tiers")
    after = api.get(path).json()
    assert (after["name"], after["expected"], after["tags"], after["revision"]) == ("more tiers", None, ["c"], 2)
    assert (after["description"], after["inputs"]) == ("three tiers", found.json()["inputs"])
    for _ in range(2):
        assert (api.delete(path).status_code, api.get(path).json()["active"]) == (204, False)
    assert api.post(RUNS, json={"scenarioId": made}).status_code == 409
    assert api.put(path, json={"active": True}).status_code == 200
    assert api.get(path).json()["active"] is True


def test_what_cannot_be_run_is_400_in_the_originals_words(api: Api, tenant: str, create: Create) -> None:
    """`Invalid request body` for its form, `Invalid scenario configuration` for what it says; `details` names it."""
    form, content = "Invalid request body", "Invalid scenario configuration"

    def post(**members: object) -> httpx2.Response:
        return api.post(SCENARIOS, json={"tenantId": tenant, **statement(), **members})

    assert refused(post(name=""), 400, form) == ["name"]
    assert refused(post(name="n" * 256), 400, form) == ["name"]
    assert refused(post(inputs="x", tags=[1]), 400, form) == ["tags[0]", "inputs"]
    assert refused(api.post(SCENARIOS, json={"inputs": {}}), 400, form) == ["name"]
    assert refused(api.post(SCENARIOS, content=b"{"), 400, form) != []
    assert refused(post(active=False), 400, form) == ["active"]
    assert refused(post(inputs={"customerId": "c\x00"}), 400, form) == ["inputs.customerId"]
    assert refused(post(inputs={}), 400, content) == ["inputs.usageItems"]
    assert refused(post(expected={"total": "x"}), 400, content) == ["expected.total"]
    assert refused(post(tolerances={"relative": 2}), 400, content) == ["tolerances.relative"]
    assert refused(post(exspected={"total": 1}), 400, content) == ["exspected"]
    items = [
        {"metric": "m", "quantity": 1, "priceConfig": {"model": "tiered", "currency": "USD", "tiers": [{"upTo": 9}]}}
    ]
    (named,) = refused(post(inputs={**statement()["inputs"], "usageItems": items}), 400, content)
    assert named.startswith("inputs.usageItems[0].priceConfig")
    kept = create()
    assert refused(api.put(f"{SCENARIOS}/{kept}", json={"inputs": {}}), 400, content) == ["inputs.usageItems"]
    assert refused(api.put(f"{SCENARIOS}/{kept}", json={"name": None}), 400, content) == ["name"]
    foreign = {"tenantId": "other"}
    assert refused(api.put(f"{SCENARIOS}/{kept}", params={"tenantId": tenant}, json=foreign), 400, form) == ["tenantId"]
    assert api.get(f"{SCENARIOS}/{kept}").json()["revision"] == 1
    assert api.post(SCENARIOS, content=b'{"name":"' + b"n" * 1_048_576 + b'"}').status_code == 413
    assert refused(api.get(SCENARIOS, params={"limit": 101}), 400, "Validation Error") == ["limit"]


def test_what_is_not_there_is_404_in_the_originals_words(api: Api, tenant: str, create: Create) -> None:
    """An id nobody has, one that is none, and another tenant's."""
    kept = create()
    run_id = api.post(RUNS, json={"scenarioId": kept}).json()["runId"]
    batch_id = api.post(BATCH, json={"name": "b", "scenarioIds": [kept]}).json()["batchId"]
    for place, thing, own in ((SCENARIOS, "Scenario", kept), (RUNS, "Run", run_id), (BATCH, "Batch", batch_id)):
        for asked in (str(uuid.uuid4()), "none", f"{own}?tenantId=other"):
            refused(api.get(f"{place}/{asked}"), 404, f"{thing} not found")
        assert api.get(f"{place}/{own}", params={"tenantId": tenant}).status_code == 200
    for answer in (
        api.put(f"{SCENARIOS}/{uuid.uuid4()}", json={}),
        api.put(f"{SCENARIOS}/{kept}", json={"tenantId": "other"}),
        api.delete(f"{SCENARIOS}/{kept}?tenantId=other"),
        api.post(RUNS, json={"scenarioId": str(uuid.uuid4())}),
        api.post(RUNS, json={"scenarioId": kept, "tenantId": "other"}),
    ):
        refused(answer, 404, "Scenario not found")
    refused(api.post(f"{RUNS}/{run_id}/cancel?tenantId=other"), 404, "Run not found")


def test_scenarios_are_listed_filtered_and_sorted(api: Api, tenant: str, create: Create) -> None:
    """Totals are those of all that match, and equals come in one order on every page."""
    ids = [create(name=name, tags=tags) for name, tags in (("b", ["x"]), ("a", ["x", "y"]), ("b", []), ("c", ["x"]))]
    api.delete(f"{SCENARIOS}/{ids[3]}")

    def page(**parameters: str | int) -> ScenarioPage:
        answer = api.get(SCENARIOS, params={"tenantId": tenant, **parameters})
        assert answer.status_code == 200, answer.text
        return ScenarioPage.model_validate(answer.json())

    assert [str(row.id) for row in page().scenarios] == ids[::-1]
    assert [str(row.id) for row in page(sortBy="updatedAt", sortOrder="asc").scenarios] == ids
    by_name = [page(sortBy="name", sortOrder="asc", limit=1, offset=offset) for offset in range(5)]
    assert [row.name for found in by_name for row in found.scenarios] == ["a", "b", "b", "c"]
    assert {row.id for found in by_name for row in found.scenarios} == set(map(UUID, ids))
    assert {(found.total, found.limit) for found in by_name} == {(4, 1)}
    assert [row.name for row in page(sortBy="name").scenarios] == ["c", "b", "b", "a"]
    assert (page(tag="x").total, page(tag="x", active=True).total, page(active=False).total) == (3, 2, 1)
    assert page(tag="z").scenarios == []


def test_a_run_is_asked_for_carried_out_and_read(api: Api, tenant: str, create: Create, database_url: str) -> None:
    """202 and pending; then its result, its comparison and each assertion; what did not come is a difference."""
    kept = create(expected={"total": 260, "currency": "USD"})
    members = {"name": "nightly", "description": "d", "metadata": {"commit": 1.50}, "runType": "ci", "seed": 7}
    answer = api.post(RUNS, json={"scenarioId": kept, **members})
    assert answer.status_code == 202
    run_id = str(SimulationAccepted.model_validate(answer.json()).run_id)
    waiting = SimulationAnswer.model_validate(api.get(f"{RUNS}/{run_id}").json())
    assert (waiting.status, waiting.result, waiting.comparison, waiting.assertions) == ("pending", None, None, [])
    api.put(f"{SCENARIOS}/{kept}", json={"expected": {"total": 220}})
    run_all(database_url, run_id)
    found = api.get(f"{RUNS}/{run_id}").json()
    done = SimulationAnswer.model_validate(found)
    assert (done.status, done.passed, done.error, done.attempts) == ("completed", False, None, 1)
    assert (done.scenario_id, done.scenario_revision, done.tenant_id) == (UUID(kept), 1, tenant)
    assert (found["name"], found["description"], found["metadata"], found["runType"]) == (
        "nightly",
        "d",
        {"commit": 1.5},
        "ci",
    )
    assert (found["seed"], found["driver"], found["stripeCalls"]) == (7, "pure", 0)
    assert found["duration_ms"] >= 0
    assert found["comparison"] == {
        "passed": False,
        "differences": [{"path": "expected.total", "instant": None, "actual": "220", "expected": "260", "diff": "-40"}],
    }
    assert [(each.path, each.passed) for each in done.assertions] == [
        ("expected.total", False),
        ("expected.currency", True),
    ]
    assert found["result"]["invoices"][0]["total"] == "220.00"
    assert found["scenario"]["expected"] == {"total": 260, "currency": "USD"}
    again = api.post(RUNS, json={"scenarioId": kept}).json()["runId"]
    run_all(database_url, again)
    assert api.get(f"{RUNS}/{again}").json()["comparison"] == {"passed": True, "differences": []}


def test_a_scenario_may_come_with_the_request(api: Api, tenant: str, database_url: str) -> None:
    """As it is kept, or as a file has it; one that cannot be run is refused at its path within the request."""
    head = {"metadata": {"name": "file", "version": "2"}}
    document = {name: value for name, value in statement().items() if name != "name"}
    ids = []
    for scenario in (statement(), {**head, **document}, story()):
        answer = api.post(RUNS, json={"tenantId": tenant, "scenario": scenario})
        assert answer.status_code == 202, answer.text
        ids.append(answer.json()["runId"])
    run_all(database_url, *ids)
    runs = [SimulationAnswer.model_validate(api.get(f"{RUNS}/{run_id}").json()) for run_id in ids]
    assert [(run.scenario_name, run.scenario_version, run.passed) for run in runs] == [
        ("tiers", "1", True),
        ("file", "2", True),
        ("month", "1", True),
    ]
    assert {run.scenario_id for run in runs} == {None}
    form, content = "Invalid request body", "Invalid scenario configuration"
    assert refused(api.post(RUNS, json={}), 400, form) == ["scenarioId"]
    both = {"scenarioId": str(uuid.uuid4()), "scenario": statement()}
    assert refused(api.post(RUNS, json=both), 400, form) == ["scenarioId"]
    assert refused(api.post(RUNS, json={"scenario": {**statement(), "inputs": {}}}), 400, content) == [
        "scenario.inputs.usageItems"
    ]
    assert refused(api.post(RUNS, json={"scenario": {**head, "name": "x", **document}}), 400, content) == [
        "scenario.name"
    ]
    assert refused(api.post(RUNS, json={"scenario": statement(), "runType": "hourly"}), 400, form) == ["runType"]
    no_clock = {"scenario": statement(), "driver": "stripe"}
    assert refused(api.post(RUNS, json=no_clock), 400, content) == ["scenario.timeline"]
    on_stripe = api.post(RUNS, json={"scenario": story(), "driver": "stripe"}).json()["runId"]
    assert api.get(f"{RUNS}/{on_stripe}").json()["driver"] == "stripe"


def test_a_scenario_that_names_no_tenant_is_the_defaults(api: Api) -> None:
    """The original's clients name none."""
    made = api.post(SCENARIOS, json=statement()).json()["id"]
    assert api.get(f"{SCENARIOS}/{made}").json()["tenantId"] == "default"


def test_runs_are_listed_and_cancelled(api: Api, tenant: str, create: Create, database_url: str) -> None:
    """Newest first, filtered, with true totals; a cancelled run stays so, an ended one cannot be cancelled."""
    first, second = create(), create()
    ids = [
        api.post(RUNS, json={"scenarioId": scenario, "runType": run_type}).json()["runId"]
        for scenario, run_type in ((first, "manual"), (second, "ci"), (first, "scheduled"))
    ]

    def page(**parameters: str | int) -> SimulationPage:
        answer = api.get(RUNS, params={"tenantId": tenant, **parameters})
        return SimulationPage.model_validate(answer.json())

    assert [str(row.id) for row in page().runs] == ids[::-1]
    assert [str(row.id) for row in page(limit=1, offset=1).runs] == [ids[1]]
    assert (page(limit=1).total, page(scenarioId=first).total, page(runType="ci").total) == (3, 2, 1)
    for _ in range(2):
        cancelled = api.post(f"{RUNS}/{ids[0]}/cancel")
        assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    run_all(database_url, ids[1])
    assert api.post(f"{RUNS}/{ids[1]}/cancel").status_code == 409
    statuses = ("cancelled", "completed", "pending", "running", "failed")
    assert [page(status=status).total for status in statuses] == [1, 1, 1, 0, 0]


def test_a_batch_ends_when_all_its_runs_have(api: Api, tenant: str, create: Create, database_url: str) -> None:
    """Pending, running, completed; passed only when every run passed."""
    right, wrong = create(), create(expected={"total": 1})
    body = {"name": "all", "description": "d", "scenarioIds": [right, wrong, right]}
    answer = api.post(BATCH, json=body)
    accepted = BatchAccepted.model_validate(answer.json())
    assert (answer.status_code, accepted.total_runs) == (202, 3)

    def read() -> BatchAnswer:
        return BatchAnswer.model_validate(api.get(f"{BATCH}/{accepted.batch_id}").json())

    assert (read().status, read().passed, read().started_at) == ("pending", None, None)
    runs = [str(run.id) for run in read().runs]
    run_all(database_url, runs[0])
    assert (read().status, read().passed, read().ended_runs, read().completed_at) == ("running", None, 1, None)
    run_all(database_url, *runs[1:])
    done = read()
    assert (done.status, done.passed, done.total_runs, done.ended_runs, done.passed_runs) == (
        "completed",
        False,
        3,
        3,
        2,
    )
    assert [(run.status, run.passed) for run in done.runs] == [
        ("completed", True),
        ("completed", False),
        ("completed", True),
    ]
    assert done.completed_at is not None
    assert api.get(RUNS, params={"tenantId": tenant, "scenarioId": wrong}).json()["runs"][0]["batchId"] == str(done.id)
    passing = api.post(BATCH, json={**body, "scenarioIds": [right]}).json()["batchId"]
    run_all(database_url, api.get(f"{BATCH}/{passing}").json()["runs"][0]["id"])
    assert api.get(f"{BATCH}/{passing}").json()["passed"] is True


def test_a_batch_of_what_cannot_be_run_is_refused(api: Api, create: Create) -> None:
    """None at all, too many, one that is not there; nothing of it is stored."""
    kept, gone, form = create(), create(), "Invalid request body"
    api.delete(f"{SCENARIOS}/{gone}")
    assert refused(api.post(BATCH, json={"name": "b", "scenarioIds": []}), 400, form) == ["scenarioIds"]
    assert refused(api.post(BATCH, json={"name": "b", "scenarioIds": [kept] * 101}), 400, form) == ["scenarioIds"]
    assert refused(api.post(BATCH, json={"scenarioIds": [kept]}), 400, form) == ["name"]
    on_stripe = {"name": "b", "scenarioIds": [kept], "driver": "stripe"}
    assert refused(api.post(BATCH, json=on_stripe), 400, form) == ["scenarioIds[0]"]  # it has no clock
    for other in (gone, str(uuid.uuid4())):
        answer = api.post(BATCH, json={"name": "b", "scenarioIds": [kept, other]})
        assert refused(answer, 400, form) == ["scenarioIds[1]"]
    assert api.get(RUNS, params={"scenarioId": kept}).json()["total"] == 0
