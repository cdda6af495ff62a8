"""late-through-dagster: late events posted to a running stack, until they count and until their days are proven.

Belongs here: this bench. Does not: starting stacks (`stack`).
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from urllib.parse import urlsplit

import psycopg

from bench.context import Context, say
from bench.measure import Row, series, value_at_most
from bench.stack import stack
from stripemeter.errors import Unavailable

_BATCH = 1_000
_DAYS = 10
_NEWEST_DAYS_AGO = 5
"""Past the lateness window of 48 hours, whatever the hour."""
_COUNTED_SECONDS = 120
_PROVEN_SECONDS = 600
_COUNTED = """
select coalesce(sum(event_count), 0)::bigint
from counters
where tenant_id = 'bench' and starts_with(customer_ref, %(prefix)s) and day between %(first)s and %(last)s
"""
_PROVEN = """
select count(distinct report.partition)
from dagster.event_logs as report
inner join dagster.runs as run on report.run_id = run.run_id
inner join counter_days as touched on report.partition = touched.day::text
where
    run.pipeline_name = 'recount'
    and report.id > %(after)s
    and report.dagster_event_type = 'ASSET_MATERIALIZATION'
    and report.asset_key = '["counters"]'
    and touched.day between %(first)s and %(last)s
    and touched.recounted_version = touched.dirty_version
"""
_LANES = """
select
    count(*) filter (where status = 'absorbed'),
    count(*)
from adjustments
where tenant_id = 'bench' and starts_with(customer_ref, %(prefix)s)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Burst:
    """Late events of one round: whose, and on which days."""

    prefix: str
    first: date
    last: date

    @property
    def scope(self) -> dict[str, object]:
        """As query parameters."""
        return {"prefix": self.prefix, "first": self.first, "last": self.last}


def late_through_dagster(context: Context) -> list[Row]:
    """Post late events over some counters, several times; note when all count, and when runs recounted their days."""
    scale = context.scale
    counted: list[float] = []
    proven: list[float] = []
    with stack(context) as running, psycopg.connect(running.record.database_url, autocommit=True) as connection:
        api = _Api(running.record.urls["api"])
        # By default late events of a closed month wait for a person: on the first of a month this bench has only such.
        api.send("PUT", "/v1/policies", {"tenantId": "bench", "lateApproval": "always"})
        for number in range(scale.late_rounds):
            today = datetime.now(UTC).date()
            last = today - timedelta(days=_NEWEST_DAYS_AGO)
            burst = _Burst(prefix=f"late_{number:02d}_", first=last - timedelta(days=_DAYS - 1), last=last)
            took = _measure(connection, api, burst, scale.late_events, scale.late_counters)
            counted.append(took[0])
            proven.append(took[1])
            say(f"late-through-dagster: counted {took[0]:.1f} s, days recounted {took[1]:.1f} s")
    what = f"{scale.late_events:,} late events over {scale.late_counters:,} counters of {_DAYS} days through Dagster"
    return [
        Row(
            bench="late-through-dagster",
            what=f"{what}: until all are in the counters",
            unit="s",
            system=series(counted),
            budget=value_at_most(15),
            note="from the last POST's answer; the fold, a sensor of Dagster, judges late events, writes their "
            "adjustments and counts them in the late lane: totals are right from then on",
        ),
        Row(
            bench="late-through-dagster",
            what=f"{what}: until runs have recounted their days",
            unit="s",
            system=series(proven),
            note="asked for by a sensor that looks once a minute and waits until a day has had no late event for "
            "60 s, so that a burst is one run; the run moves no total, it absorbs the late lane and proves the day",
        ),
    ]


def _measure(
    connection: psycopg.Connection[tuple[object, ...]], api: _Api, burst: _Burst, events: int, counters: int
) -> tuple[float, float]:
    """Seconds from the last answer until all count, and until their days are recounted by runs."""
    customers = [f"{burst.prefix}{number:04d}" for number in range(max(1, counters // _DAYS))]
    now = datetime.now(UTC)
    api.post([_event(customer, now, "now") for customer in customers])  # the watermark that the others are behind
    now_scope = burst.scope | {"first": now.date(), "last": now.date()}
    _until(lambda: _number(connection, _COUNTED, now_scope) == len(customers), _COUNTED_SECONDS, "punctual events")
    after = _number(connection, "select coalesce(max(id), 0) from dagster.event_logs", {})
    for batch in _batches(customers, burst, events):
        api.post(batch)
    started = time.monotonic()
    _until(lambda: _number(connection, _COUNTED, burst.scope) == events, _COUNTED_SECONDS, "late events counted")
    counted = time.monotonic() - started
    scope = burst.scope | {"after": after}
    _until(lambda: _number(connection, _PROVEN, scope) == _DAYS, _PROVEN_SECONDS, "days recounted by a run")
    proven = time.monotonic() - started
    lanes = connection.execute(_LANES, burst.scope).fetchone()
    if lanes != (events, events) or _number(connection, _COUNTED, burst.scope) != events:
        raise AssertionError(f"(absorbed, adjustments) of {events} late events are {lanes}")
    return counted, proven


def _batches(customers: list[str], burst: _Burst, events: int) -> Iterator[list[dict[str, object]]]:
    """The late events in POSTs of _BATCH, spread evenly over customers and days."""
    made = []
    for number in range(events):
        customer = customers[number % len(customers)]
        day = burst.first + timedelta(days=number // len(customers) % _DAYS)
        at = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(seconds=number % 86_400)
        made.append(_event(customer, at, str(number)))
    for start in range(0, events, _BATCH):
        yield made[start : start + _BATCH]


def _event(customer: str, at: datetime, key: str) -> dict[str, object]:
    return {
        "tenantId": "bench",
        "metric": "api_calls",
        "customerRef": customer,
        "quantity": 1,
        "ts": at.isoformat(),
        "idempotencyKey": f"{customer}:{key}",
    }


def _until(is_so: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise Unavailable(f"not within {seconds} s: {what}")
        time.sleep(0.05)


def _number(connection: psycopg.Connection[tuple[object, ...]], query: str, parameters: dict[str, object]) -> int:
    row = connection.execute(query, parameters).fetchone()
    assert row is not None
    return int(str(row[0]))


class _Api:
    """The stack's API, a connection per request: between rounds an idle one is closed by the server."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)

    def post(self, events: list[dict[str, object]]) -> None:
        """Send events; every one must be accepted."""
        answer = self.send("POST", "/v1/events/ingest", {"events": events})
        if answer["accepted"] != len(events):
            raise Unavailable(f"not every event was accepted: {answer}")

    def send(self, method: str, path: str, body: dict[str, object]) -> dict[str, object]:
        """One request with a JSON body; its answer."""
        with closing(http.client.HTTPConnection(str(self._target.hostname), self._target.port, timeout=60)) as sender:
            sender.request(method, path, json.dumps(body), {"content-type": "application/json"})
            response = sender.getresponse()
            content = response.read()
        if response.status != http.client.OK:
            raise Unavailable(f"{method} {path} was answered {response.status}: {content[:500]!r}")
        answer: dict[str, object] = json.loads(content)
        return answer
