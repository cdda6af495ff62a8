"""Pushers that die: at every step, and two at once. Whatever happened, the usage is at Stripe exactly once."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.pipeline.push import push_usage
from tests.emulator import RunningEmulator, start_emulator
from tests.stripe_bench import NOW, TODAY, open_bench, shadow_sink

YESTERDAY = TODAY - timedelta(days=1)
AFTER_THE_LEASE = NOW + timedelta(seconds=61)

DYING_PUSH = """
import os, sys
from tests.emulator import RunningEmulator
from tests.stripe_bench import NOW, shadow_sink
from stripemeter.billing.stripe_sink import StripeSink
from stripemeter.pipeline.push import push_usage
from stripemeter.store import push_entries
from stripemeter.store.postgres import open_pool

point, url, key, database_url = sys.argv[1:]

def die(*arguments, **values):
    os._exit(9)

def then_die(function):
    def wrapped(*arguments, **values):
        function(*arguments, **values)
        os._exit(9)
    return wrapped

if point == "inside the plan's transaction":
    push_entries.insert_planned = then_die(push_entries.insert_planned)
elif point == "after the plan":
    push_entries.claim = die
elif point == "inside the claim's transaction":
    push_entries.claim = then_die(push_entries.claim)
elif point == "after the claim, before sending":
    StripeSink.send_meter_event = die
elif point == "after sending, before settling":
    StripeSink.send_meter_event = then_die(StripeSink.send_meter_event)
elif point == "inside the settlement's transaction":
    push_entries.settle_accepted = then_die(push_entries.settle_accepted)
with open_pool(database_url) as pool:
    push_usage(pool, shadow_sink(RunningEmulator(url=url, key=key, process=None)), now=NOW)
sys.exit("it was to die")
"""


@pytest.mark.parametrize(
    ("point", "left", "arrived"),
    [
        ("inside the plan's transaction", [], 0),
        ("after the plan", ["planned"], 0),
        ("inside the claim's transaction", ["planned"], 0),
        ("after the claim, before sending", ["sending"], 0),
        ("after sending, before settling", ["sending"], 1),
        ("inside the settlement's transaction", ["sending"], 1),
    ],
)
def test_a_dead_pusher_is_finished_by_the_next(
    pool: ConnectionPool, database_url: str, emulator: RunningEmulator, point: str, left: list[str], arrived: int
) -> None:
    """A process that ends without a word leaves a row that says how far it came; the next push goes on from there."""
    bench = open_bench(pool, emulator)
    bench.bind()
    bench.count("5", YESTERDAY)
    died = subprocess.run(
        [sys.executable, "-c", DYING_PUSH, point, emulator.url, emulator.key, database_url],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": "."},
        check=False,
        timeout=60,
    )
    assert died.returncode == 9
    assert (bench.states(), len(emulator.ledger())) == (left, arrived)
    bench.count("7", YESTERDAY)
    push_usage(pool, bench.sink, now=AFTER_THE_LEASE)
    assert set(bench.states()) == {"accepted"}
    assert bench.at_stripe(YESTERDAY) == 7


def test_a_leased_row_is_left_alone(pool: ConnectionPool, database_url: str, emulator: RunningEmulator) -> None:
    """While a pusher may still be sending a row, another does not touch it."""
    bench = open_bench(pool, emulator)
    bench.bind()
    bench.count("5", YESTERDAY)
    subprocess.run(
        [
            sys.executable,
            "-c",
            DYING_PUSH,
            "after the claim, before sending",
            emulator.url,
            emulator.key,
            database_url,
        ],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": "."},
        check=False,
        timeout=60,
    )
    assert push_usage(pool, bench.sink, now=NOW + timedelta(seconds=30)).customers == 0
    assert emulator.ledger() == []


def test_pushers_at_once_are_harmless(pool: ConnectionPool, emulator: RunningEmulator) -> None:
    """Four pushers over the same customers: every delta once, one row per minute, nothing left."""
    bench = open_bench(pool, emulator)
    for number in range(6):
        bench.bind(f"c{number}")
        for age in (1, 2, 3):
            bench.count(f"{number + 1}.{age}", TODAY - timedelta(days=age), f"c{number}")
    with ThreadPoolExecutor(4) as pushers:
        reports = list(pushers.map(lambda _: push_usage(pool, shadow_sink(emulator), now=NOW, max_workers=2), range(4)))
    assert sum(report.accepted + report.already_accepted for report in reports) == 18
    assert len(emulator.ledger()) == 18
    assert push_usage(pool, bench.sink, now=AFTER_THE_LEASE).customers == 0


def test_an_emulator_that_dies_and_comes_back(pool: ConnectionPool, tmp_path: Path) -> None:
    """The other side killed while deltas are on their way: what it acknowledged it keeps, the rest is sent again."""
    first = start_emulator(state=tmp_path / "state.sqlite")
    bench = open_bench(pool, first)
    bench.bind()
    bench.count("5", YESTERDAY)
    first.fault({"match": {"path_re": "meter_events"}, "do": {"kind": "commit_then_reset"}, "times": 9})
    push_usage(pool, bench.sink, now=NOW)
    first.kill()
    port = int(first.url.rsplit(":", 1)[1])
    second = start_emulator(state=tmp_path / "state.sqlite", port=port, key=first.key)
    try:
        bench.count("6", YESTERDAY)
        push_usage(pool, bench.sink, now=NOW + timedelta(minutes=20))
        assert bench.at_stripe(YESTERDAY) == 6
    finally:
        second.kill()
