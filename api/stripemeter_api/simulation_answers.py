"""The answers of /v1/simulations as plain values.

Belongs here: members of scenarios, runs and batches. Does not: their types (`simulation_documents`), routes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from stripemeter.pipeline.request_simulation import BatchState
from stripemeter.pricing.reading import plain
from stripemeter.store.scenarios import StoredScenario
from stripemeter.store.simulations import SimulationRun, StoredAssertion
from stripemeter_api.answers import instant, number_or_null, stored_json

_ALWAYS = ("model", "inputs", "expected", "tolerances")
"""Members of a scenario that an answer has even when nobody sent them."""
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def scenario_row(scenario: StoredScenario) -> dict[str, Any]:
    """A scenario without its document."""
    return {
        "id": str(scenario.id),
        "tenantId": scenario.tenant_id,
        "name": scenario.name,
        "description": scenario.description or None,
        "version": scenario.version,
        "tags": list(scenario.tags),
        "active": scenario.is_active,
        "revision": scenario.revision,
        "createdAt": instant(scenario.created_at),
        "updatedAt": instant(scenario.updated_at),
    }


def scenario_answer(scenario: StoredScenario) -> dict[str, Any]:
    """A whole scenario, its document digit by digit."""
    members = _members(scenario.document)
    del members["metadata"]
    return {**scenario_row(scenario), **dict.fromkeys(_ALWAYS), **members}


def run_row(run: SimulationRun) -> dict[str, Any]:
    """A run without scenario, result and assertions."""
    return {
        "id": str(run.id),
        "tenantId": run.tenant_id,
        "scenarioId": run.scenario_id and str(run.scenario_id),
        "scenarioName": run.scenario_name,
        "scenarioVersion": run.scenario_version,
        "scenarioRevision": run.scenario_revision,
        "batchId": run.batch_id and str(run.batch_id),
        "runType": run.run_type,
        "driver": run.driver,
        "name": run.name,
        "description": run.description,
        "metadata": stored_json(run.metadata),
        "seed": run.seed,
        "status": run.status,
        "passed": run.passed,
        "attempts": run.attempt_count,
        "error": run.error_message,
        "duration_ms": number_or_null(run.duration_ms),
        "stripeCalls": run.stripe_calls,
        "createdAt": instant(run.created_at),
        "startedAt": run.started_at and instant(run.started_at),
        "completedAt": run.completed_at and instant(run.completed_at),
    }


def run_answer(run: SimulationRun, assertions: Sequence[StoredAssertion]) -> dict[str, Any]:
    """A whole run."""
    unmet = [_difference(assertion) for assertion in assertions if not assertion.passed]
    return {
        **run_row(run),
        "scenario": stored_json(run.scenario),
        "result": stored_json(run.result),
        "comparison": None if run.passed is None else {"passed": run.passed, "differences": unmet},
        "assertions": [{**_difference(assertion), "passed": assertion.passed} for assertion in assertions],
    }


def batch_answer(state: BatchState) -> dict[str, Any]:
    """A batch and how far its runs are."""
    return {
        "id": str(state.batch.id),
        "tenantId": state.batch.tenant_id,
        "name": state.batch.name,
        "description": state.batch.description,
        "status": state.status,
        "passed": state.passed,
        "totalRuns": len(state.runs),
        "endedRuns": state.ended_count,
        "passedRuns": sum(run.passed is True for run in state.runs),
        "createdAt": instant(state.batch.created_at),
        "startedAt": state.started_at and instant(state.started_at),
        "completedAt": state.completed_at and instant(state.completed_at),
        "runs": [
            {
                "id": str(run.id),
                "status": run.status,
                "scenarioId": str(run.scenario_id),
                "passed": run.passed,
                "error": run.error_message,
            }
            for run in state.runs
        ],
    }


def _difference(assertion: StoredAssertion) -> dict[str, Any]:
    return {
        "path": assertion.path,
        "instant": assertion.instant and instant(assertion.instant),
        "actual": assertion.actual,
        "expected": assertion.expected,
        "diff": None if assertion.difference is None else plain(assertion.difference),
    }
