"""How the Dagster tests report usage, run a job and read what its checks said."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import dagster as dg
import msgspec

from stripemeter.metering.events import IngestLimits, parse_ingest
from stripemeter.pipeline.ingest import GroupCommit

Report = Callable[..., None]
"""`report_usage(day, ..., count=2, customer="c1", quantity="1.5")`: events through the receiver, received now."""


def report(database_url: str, *days: date, count: int = 2, customer: str = "c1", quantity: str = "1.5") -> None:
    """Events of these days through the receiver's own path, received now; the same call again reports duplicates."""
    asyncio.run(_accept(database_url, _events(days, count, customer, quantity)))


def execute(
    definitions: dg.Definitions, job: str, instance: dg.DagsterInstance, tags: Mapping[str, str] | None = None
) -> dg.ExecuteInProcessResult:
    """One run of a job in this process; a failed one is an answer, not an exception."""
    return definitions.resolve_job_def(job).execute_in_process(instance=instance, tags=tags, raise_on_error=False)


def evaluations(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    """What every check of the run said, by name."""
    return {evaluation.check_name: evaluation for evaluation in result.get_asset_check_evaluations()}


def _events(days: Sequence[date], count: int, customer: str, quantity: str) -> list[dict[str, Any]]:
    return [
        {
            "tenantId": "acme",
            "metric": "api_calls",
            "customerRef": customer,
            "quantity": quantity,
            "ts": f"{day.isoformat()}T00:00:0{number % 10}Z",
            "idempotencyKey": f"{customer}-{day.isoformat()}-{number}",
        }
        for day in days
        for number in range(count)
    ]


async def _accept(database_url: str, events: list[dict[str, Any]]) -> None:
    now = datetime.now(UTC)
    receiver = GroupCommit(database_url, clock=lambda: now)
    receiver.start()
    body = msgspec.json.encode({"events": events})
    limits = IngestLimits(max_batch=10_000)
    await receiver.accept(parse_ingest(body, header_key=None, now=now, limits=limits))
    await receiver.stop()
