"""start, idle, freshness, to-stripe: the stack as `stripemeter up` runs it.

Belongs here: these four benches. Does not: starting stacks (`stack`).
"""

from __future__ import annotations

import http.client
import json
import random
import time
from datetime import UTC, datetime
from urllib.parse import urlsplit

import psycopg
from pydantic import SecretStr

from bench.context import Context, say
from bench.measure import Row, percentile, series, value_at_most
from bench.proc import cpu_seconds, parent, pss_mb
from bench.stack import Stack, has_emulator, stack
from stripemeter.billing import open_sink
from stripemeter.errors import Unavailable
from stripemeter.pipeline import stripe_setup
from stripemeter.runtime.settings import Settings
from stripemeter.runtime.stack import EMULATOR_KEY
from stripemeter.store.postgres import open_pool

_FRESH_LIMIT_SECONDS = 120
_PUSH_LIMIT_SECONDS = 300.0


def start(context: Context) -> list[Row]:
    """A fresh home to healthy, several times."""
    seconds: list[float] = []
    health: list[str] = []
    for _ in range(context.scale.starts):
        with stack(context) as running:
            seconds.append(running.start_seconds)
            health.append(running.health)
            say(f"start: {seconds[-1]:.1f} s, {running.health}")
    return [
        Row(
            bench="start",
            what="`stripemeter up -d --wait` on a fresh home until /health/ready answers 200",
            unit="s",
            system=series(seconds),
            budget=value_at_most(15),
            note=_emulator_note(
                f"initdb, migrations and Dagster's tables included; it said {', '.join(sorted(set(health)))}"
            ),
        )
    ]


def idle(context: Context) -> list[Row]:
    """Processor and memory of a stack nobody uses."""
    scale = context.scale
    with stack(context) as running:
        time.sleep(scale.idle_settle_seconds)
        before, started = _cpu_by_pid(running), time.monotonic()
        time.sleep(scale.idle_seconds)
        after, elapsed = _cpu_by_pid(running), time.monotonic() - started
        pss = {pid: pss_mb(pid) for pid in running.pids()}
        names = _roles(running)
    spent: dict[str, float] = {}
    memory: dict[str, float] = {}
    for pid in after:
        role = names.get(pid, "other")
        spent[role] = spent.get(role, 0) + max(0.0, after[pid] - before.get(pid, 0)) / elapsed * 100
        memory[role] = memory.get(role, 0) + pss.get(pid, 0)
    window = f"{elapsed:.0f} s, {scale.idle_settle_seconds:.0f} s after the start"
    rows = [
        Row(
            bench="idle",
            what=f"idle stack, all {len(after)} processes: processor",
            unit="% of a core",
            system=series([sum(spent.values())]),
            budget=value_at_most(6),
            note=_emulator_note(window),
        ),
        Row(
            bench="idle",
            what="idle stack: proportional set size",
            unit="MB",
            system=series([sum(memory.values())]),
            budget=value_at_most(700),
            note=_emulator_note("smaps_rollup, MB = 10^6"),
        ),
    ]
    for role in sorted(spent, key=lambda name: -memory[name]):
        rows.append(Row(bench="idle", what=f"{role}: processor", unit="% of a core", system=series([spent[role]])))
        rows.append(Row(bench="idle", what=f"{role}: memory", unit="MB", system=series([memory[role]])))
    return rows


def freshness(context: Context) -> list[Row]:
    """POST one event of a new customer, wait for its counter; again after a random pause."""
    scale = context.scale
    chance = random.Random(42)
    with stack(context) as running, psycopg.connect(running.record.database_url, autocommit=True) as connection:
        seconds = []
        for number in range(scale.fresh_events):
            time.sleep(chance.uniform(0, scale.fresh_pause_seconds * 2))
            seconds.append(_until_counted(running, connection, f"fresh_{number:04d}"))
            say(f"freshness: {seconds[-1]:.2f} s")
    note = _emulator_note("from before the POST until the counter row is visible, asked every 20 ms")
    return [
        Row(
            bench="freshness",
            what=f"event to counters through Dagster, {figure} of {len(seconds)}",
            unit="s",
            system=series([value]),
            budget=value_at_most(8) if figure == "p95" else None,
            note=note,
        )
        for figure, value in (
            ("p50", percentile(seconds, 50)),
            ("p95", percentile(seconds, 95)),
            ("max", max(seconds)),
        )
    ]


def to_stripe(context: Context) -> list[Row]:
    """POST one event for each of some bound customers at random moments; note when the push of each is accepted."""
    scale = context.scale
    chance = random.Random(42)
    customers = [f"bound_{number:04d}" for number in range(scale.pushed_events)]
    with stack(context) as running, psycopg.connect(running.record.database_url, autocommit=True) as connection:
        _bind(running, customers)
        posted: dict[str, float] = {}
        arrived: dict[str, float] = {}
        for customer in customers:
            posted[customer] = time.monotonic()
            _post(running.record.urls["api"], customer)
            _note_accepted(connection, posted, arrived, seconds=chance.uniform(0, scale.fresh_pause_seconds * 4))
        _note_accepted(connection, posted, arrived, seconds=_PUSH_LIMIT_SECONDS)
    missing = [customer for customer in customers if customer not in arrived]
    if missing:
        raise Unavailable(f"{len(missing)} of {len(customers)} events were not at Stripe {_PUSH_LIMIT_SECONDS} s later")
    seconds = [arrived[customer] - posted[customer] for customer in customers]
    figures = (("p50", percentile(seconds, 50)), ("p95", percentile(seconds, 95)), ("max", max(seconds)))
    return [
        Row(
            bench="to-stripe",
            what=f"event to Stripe (the emulator) through Dagster, {figure} of {len(seconds)}",
            unit="s",
            system=series([value]),
            budget=value_at_most(120) if figure == "p95" else None,
            note="from before the POST until the push entry is accepted, asked every 100 ms; shadow mode",
        )
        for figure, value in figures
    ]


def _bind(running: Stack, customers: list[str]) -> None:
    """Map the metric and bind every customer at the stack's emulator, as `stripemeter stripe map` and `bind` do."""
    settings = Settings().model_copy(
        update={
            "stripe_test_secret_key": SecretStr(EMULATOR_KEY),
            "stripe_api_base": running.record.urls["emulator"],
        }
    )
    sink = open_sink(settings, mode="shadow")
    now = datetime.now(UTC)
    with open_pool(running.record.database_url, max_size=2) as pool:
        stripe_setup.map_meter(
            pool, sink, tenant_id="bench", meter="api_calls", event_name="api_calls", aggregation="sum", now=now
        )
        for customer in customers:
            stripe_setup.bind(pool, sink, tenant_id="bench", customer_ref=customer, stripe_customer_id=None, now=now)


def _note_accepted(
    connection: psycopg.Connection[tuple[object, ...]],
    posted: dict[str, float],
    arrived: dict[str, float],
    *,
    seconds: float,
) -> None:
    """Watch the outbox for some seconds, or until everything posted was accepted."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for (customer,) in connection.execute(
            "select customer_ref from push_entries where state in ('accepted', 'confirmed')"
        ):
            if str(customer) not in arrived:
                arrived[str(customer)] = time.monotonic()
                say(f"to-stripe: {arrived[str(customer)] - posted[str(customer)]:.1f} s")
        if len(arrived) == len(posted) and seconds == _PUSH_LIMIT_SECONDS:
            return
        time.sleep(0.1)


def _until_counted(running: Stack, connection: psycopg.Connection[tuple[object, ...]], customer: str) -> float:
    started = time.monotonic()
    _post(running.record.urls["api"], customer)
    while time.monotonic() - started < _FRESH_LIMIT_SECONDS:
        if connection.execute("select 1 from counters where customer_ref = %s", (customer,)).fetchone():
            return time.monotonic() - started
        time.sleep(0.02)
    raise Unavailable(f"{customer} was not counted within {_FRESH_LIMIT_SECONDS} s")


def _post(api: str, customer: str) -> None:
    target = urlsplit(api)
    event = {
        "tenantId": "bench",
        "metric": "api_calls",
        "customerRef": customer,
        "quantity": 1,
        "ts": datetime.now(UTC).isoformat(),
    }
    connection = http.client.HTTPConnection(str(target.hostname), target.port, timeout=10)
    connection.request(
        "POST", "/v1/events/ingest", json.dumps({"events": [event]}), {"content-type": "application/json"}
    )
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    if answer.status != 200 or json.loads(body)["accepted"] != 1:
        raise Unavailable(f"the event was answered {answer.status}: {body!r}")


def _cpu_by_pid(running: Stack) -> dict[int, float]:
    return {pid: cpu_seconds(pid) for pid in running.pids()}


def _roles(running: Stack) -> dict[int, str]:
    """What each process is: its service's name, by the nearest ancestor that has one."""
    named = {service.pid: service.name for service in running.record.services if service.pid is not None}
    named[running.record.supervisor_pid] = "supervisor"
    roles = {}
    for pid in running.pids():
        ancestor = pid
        while ancestor not in named and ancestor > 1:
            ancestor = parent(ancestor)
        roles[pid] = named.get(ancestor, "other")
    return roles


def _emulator_note(text: str) -> str:
    return text if has_emulator() else f"{text}; without the Stripe emulator, which this tree lacks"
