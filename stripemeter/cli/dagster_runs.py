"""Asking the running Dagster for a run and following it, as its own UI does: GraphQL over HTTP.

Belongs here: three requests and what their answers mean. Does not: importing Dagster, choosing the days.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any

import httpx2

from stripemeter.errors import InvalidInput, Unavailable

JOB = "recount"
LOCATION = "stripemeter"
REPOSITORY = "__repository__"  # what Dagster calls the repository of a module's only `Definitions`
FIRST_DAY = date(2000, 1, 1)
"""Start of Dagster's partitions (`stripemeter_assets.partitions.DAYS`; a test compares them)."""
POLL_SECONDS = 1.0
_TIMEOUT_SECONDS = 60
_FINISHED = frozenset({"SUCCESS", "FAILURE", "CANCELED"})

_LAUNCH = """
mutation Recount($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on Error { message }
  }
}
"""
_FOLLOW = """
query Follow($runId: ID!, $cursor: String) {
  runOrError(runId: $runId) { __typename ... on Run { status } }
  logsForRun(runId: $runId, afterCursor: $cursor) {
    __typename
    ... on EventConnection {
      cursor
      hasMore
      events {
        __typename
        ... on MessageEvent { message stepKey }
        ... on ExecutionStepFailureEvent { error { message } failureMetadata { description } }
      }
    }
  }
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What happened since the last look: the lines the run logged, and its status."""

    status: str
    lines: tuple[str, ...]

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will happen."""
        return self.status in _FINISHED


def launch_recount(dagster_url: str, first: date, last: date) -> str:
    """Ask for one run that recounts every day from first to last, both included; returns its id.

    Raises:
        Unavailable: Dagster does not answer.
        InvalidInput: the first day has no partition, or Dagster refuses; the message is its own.
    """
    if first < FIRST_DAY:
        raise InvalidInput(f"{first} is no partition of Dagster's, they begin {FIRST_DAY}: recount it with --local")
    tags = (
        {"dagster/partition": first.isoformat()}
        if first == last
        else {
            "dagster/asset_partition_range_start": first.isoformat(),
            "dagster/asset_partition_range_end": last.isoformat(),
        }
    )
    params = {
        "selector": {"repositoryLocationName": LOCATION, "repositoryName": REPOSITORY, "jobName": JOB},
        "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
    }
    answer = _post(dagster_url, _LAUNCH, {"params": params})["launchRun"]
    if answer["__typename"] != "LaunchRunSuccess":
        raise InvalidInput(
            f"Dagster refuses to recount {first} to {last}: {answer.get('message', answer['__typename'])}"
        )
    return str(answer["run"]["runId"])


def follow(dagster_url: str, run_id: str) -> Iterator[Progress]:
    """What the run says, until it is finished: a look per second.

    Raises:
        Unavailable: Dagster does not answer; the run goes on by itself.
        InvalidInput: there is no such run.
    """
    cursor: str | None = None
    while True:
        answer = _post(dagster_url, _FOLLOW, {"runId": run_id, "cursor": cursor})
        if answer["runOrError"]["__typename"] != "Run":
            raise InvalidInput(f"Dagster knows no run {run_id}")
        log = answer["logsForRun"]
        cursor = log.get("cursor", cursor)
        progress = Progress(status=answer["runOrError"]["status"], lines=tuple(_day_lines(log.get("events", ()))))
        # The status is read before the log, so a finished run's last lines are in this very answer, or in the next.
        if not log.get("hasMore"):
            yield progress
            if progress.is_finished:
                return
            time.sleep(POLL_SECONDS)
        elif progress.lines:
            yield Progress(status="STARTED", lines=progress.lines)


def _day_lines(events: list[dict[str, Any]]) -> Iterator[str]:
    for event in events:
        if event["__typename"] == "LogMessageEvent" and event.get("stepKey") == "counters":
            yield event["message"]
        elif event["__typename"] == "ExecutionStepFailureEvent":
            told = event.get("failureMetadata") or {}
            yield told.get("description") or (event.get("error") or {}).get("message") or event["message"]
        elif event["__typename"] == "RunFailureEvent":
            yield event["message"]


def _post(dagster_url: str, query: str, variables: dict[str, Any]) -> dict[str, Any]:
    try:
        response = httpx2.post(
            f"{dagster_url}/graphql", json={"query": query, "variables": variables}, timeout=_TIMEOUT_SECONDS
        )
        response.raise_for_status()
        answer = response.json()
    except (httpx2.HTTPError, ValueError) as error:
        raise Unavailable(
            f"Dagster does not answer at {dagster_url}: {error}. Start the stack with `stripemeter up`, or recount in "
            "this process with --local"
        ) from error
    if answer.get("errors"):
        raise InvalidInput(f"Dagster at {dagster_url} refuses: {answer['errors'][0]['message']}")
    data: dict[str, Any] = answer["data"]
    return data
