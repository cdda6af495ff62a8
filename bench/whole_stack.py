"""start, idle, freshness: the stack as `stripemeter up` runs it.

Belongs here: these three benches. Does not: starting stacks (`stack`).
"""

from __future__ import annotations

import http.client
import json
import random
import time
from datetime import UTC, datetime
from urllib.parse import urlsplit

import psycopg

from bench.context import Context, say
from bench.measure import Row, percentile, series, value_at_most
from bench.proc import cpu_seconds, parent, pss_mb
from bench.stack import Stack, has_emulator, stack
from stripemeter.errors import Unavailable

_FRESH_LIMIT_SECONDS = 120


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
