"""How the Dagster tests run a job and read what its checks said."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import dagster as dg

Report = Callable[..., None]
"""`report_usage(day, ..., count=2, customer="c1", quantity="1.5")`: events through the receiver, received now."""


def execute(
    definitions: dg.Definitions, job: str, instance: dg.DagsterInstance, tags: Mapping[str, str] | None = None
) -> dg.ExecuteInProcessResult:
    """One run of a job in this process; a failed one is an answer, not an exception."""
    return definitions.resolve_job_def(job).execute_in_process(instance=instance, tags=tags, raise_on_error=False)


def evaluations(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    """What every check of the run said, by name."""
    return {evaluation.check_name: evaluation for evaluation in result.get_asset_check_evaluations()}
