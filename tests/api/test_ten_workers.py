"""Ten receivers at once: whoever is asked, in whatever order, every event counts once and the totals are the same."""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from stripemeter.metering.days import day_of
from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.prove import conservation, counters_equal_ledger
from stripemeter.pipeline.recount import recount_day
from stripemeter.store.postgres import open_pool
from tests.api.serving import Api, StartApi, post_events

WORKERS = 10
EVENTS = 300
NOON = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(hours=12)


def batches(seed: int) -> list[list[dict[str, Any]]]:
    """All events, shuffled, in requests of 30: what one client sends to its worker."""
    events = [
        {
            "customerRef": f"c{number % 3}",
            "quantity": "0.1",
            "ts": (NOON + timedelta(minutes=number)).isoformat(),
            "idempotencyKey": f"k{number}",
        }
        for number in range(EVENTS)
    ]
    random.Random(seed).shuffle(events)
    return [events[start : start + 30] for start in range(0, EVENTS, 30)]


def send(api: Api, seed: int) -> list[tuple[str, str]]:
    """(key, status) of every event, each sent to this worker once."""
    answers = [post_events(api, batch) for batch in batches(seed)]
    return [(result["idempotencyKey"], result["status"]) for answer in answers for result in answer["results"]]


def test_ten_workers_count_every_event_once(start_api: StartApi, own_database_url: str) -> None:
    """Each worker gets every event in an order of its own, while folds and recounts run: ten answers, one total."""
    apis = [start_api(DATABASE_URL=own_database_url) for _ in range(WORKERS)]
    days = sorted({day_of(NOON), day_of(NOON + timedelta(minutes=EVENTS - 1))})
    with open_pool(own_database_url) as pool, ThreadPoolExecutor(WORKERS) as clients:
        sending = [clients.submit(send, api, seed) for seed, api in enumerate(apis)]
        while not all(each.done() for each in sending):
            fold(pool, max_events=50)
            recount_day(pool, days[0])
        results = [result for each in sending for result in each.result()]
        while fold(pool).has_more:
            pass
        assert counters_equal_ledger(pool, days) == ()
        (row,) = conservation(pool)
    accepted = Counter(key for key, status in results if status == "accepted")
    assert len(accepted) == EVENTS
    assert set(accepted.values()) == {1}
    assert {status for _, status in results} == {"accepted", "duplicate"}
    assert row.holds
    assert (row.received, row.counted) == (EVENTS * WORKERS, EVENTS)
    asked = {"tenantId": "acme", "at": NOON.isoformat()}
    for api in apis:
        totals = [
            api.get("/v1/usage/current", params={**asked, "customerRef": f"c{number}"}).json()["metrics"]
            for number in range(3)
        ]
        assert [Decimal(str(one["current"])) for (one,) in totals] == [Decimal(10)] * 3
