"""Sending the demo's events: shuffled, some twice, some late, over HTTP.

Belongs here: batches, threads, retries, counting the answers. Does not: what the events are (`flights`).
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx2
import msgspec
import polars as pl

from stripemeter.errors import InvariantBroken, Unavailable

BATCH_EVENTS = 1000
SENDERS = 4
ATTEMPTS = 60
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class SendingPlan:
    """Row numbers of the events to send, in the order of sending: `first` with some rows twice, then `late`."""

    first: list[int]
    late: list[int]
    resent: list[int]


@dataclass(slots=True, kw_only=True)
class Answers:
    """What the receiver answered, in total and per customer."""

    accepted: int = 0
    duplicates: int = 0
    events_by_customer: Counter[str] = field(default_factory=Counter)
    duplicates_by_customer: Counter[str] = field(default_factory=Counter)


def plan_sending(event_count: int, *, seed: int, resent_share: float = 0.05, late_share: float = 0.01) -> SendingPlan:
    """A shuffled order in which a share of the events is sent twice and another only after the first fold."""
    shuffle = random.Random(seed)  # noqa: S311 - reproducible, not secret
    order = list(range(event_count))
    shuffle.shuffle(order)
    late_count = int(event_count * late_share)
    first, late = order[late_count:], order[:late_count]
    resent = shuffle.sample(first, int(event_count * resent_share))
    first = first + resent
    shuffle.shuffle(first)
    return SendingPlan(first=first, late=late, resent=resent)


def send_events(
    api_url: str, tenant_id: str, events: pl.DataFrame, order: Sequence[int], *, on_sent: Callable[[int], None]
) -> Answers:
    """Send rows of `events` in this order, a thousand a request, and add up the answers.

    Raises:
        Unavailable: the receiver did not answer for a minute.
        InvariantBroken: the receiver refused an event of the demo.
    """
    answers = Answers()
    rows = events[list(order)]
    with httpx2.Client(base_url=api_url, timeout=60) as client, ThreadPoolExecutor(SENDERS) as senders:
        for batch, statuses in senders.map(lambda batch: _send(client, tenant_id, batch), _batches(rows)):
            for customer, status in zip(batch["customer_ref"], statuses, strict=True):
                answers.events_by_customer[customer] += status == "accepted"
                answers.duplicates_by_customer[customer] += status == "duplicate"
            answers.accepted += statuses.count("accepted")
            answers.duplicates += statuses.count("duplicate")
            on_sent(batch.height)
    return answers


def _batches(rows: pl.DataFrame) -> Iterator[pl.DataFrame]:
    return rows.iter_slices(BATCH_EVENTS)


def _send(client: httpx2.Client, tenant_id: str, batch: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    body = _encode(
        {
            "events": [
                {
                    "tenantId": tenant_id,
                    "metric": metric,
                    "customerRef": customer,
                    "quantity": quantity,
                    "ts": ts,
                    "idempotencyKey": key,
                    "source": "import",
                }
                for metric, customer, quantity, ts, key in batch.iter_rows()
            ]
        }
    )
    for attempt in range(ATTEMPTS):
        try:
            answer = client.post("/v1/events/ingest", content=body, headers={"content-type": "application/json"})
        except httpx2.TransportError:
            time.sleep(min(0.1 * 2**attempt, 1))
            continue
        if answer.status_code in {500, 502, 503}:
            time.sleep(float(answer.headers.get("retry-after", "1")))
            continue
        return batch, _statuses(answer)
    raise Unavailable(f"{client.base_url} did not take a batch in {ATTEMPTS} attempts")


def _statuses(answer: httpx2.Response) -> list[str]:
    results = answer.json().get("results", []) if answer.status_code == 200 else []
    refused = [result for result in results if result["status"] not in {"accepted", "duplicate"}]
    if not results or refused:
        raise InvariantBroken(f"the receiver answered {answer.status_code}: {refused[:1] or answer.text[:500]}")
    return [result["status"] for result in results]
