"""The soak: usage, pushes and everything that can go wrong, at random, for a while; then the totals must be equal.

`python -m tests.faults.soak --seed N --seconds N` (or `--pushes N`). Real processes: embedded PostgreSQL, the Stripe
emulator, a pusher.
Every decision comes from the seed: usage, faults, clock, who is killed at which step. Which thread of a pusher comes
first is the machine's. The clock is moved, never waited for.

The last line is `faults F, segments S, difference D`: faults that happened, customers' days of a segment that were
compared, and the sum of the differences between our counters and what the emulator received. Exit 1 unless D is 0.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from psycopg_pool import ConnectionPool

from stripemeter.metering.deltas import fixed_point
from stripemeter.pipeline.push_doubts import recheck_day, settle_doubts
from stripemeter.runtime.embedded_postgres import EmbeddedPostgres, find_bin_directory
from stripemeter.store.migrations import migrate
from stripemeter.store.postgres import open_pool, transaction
from stripemeter.store.push_doubts import DayRows
from tests.emulator import RunningEmulator, start_emulator
from tests.faults.naive_push import VARIANTS, Variant
from tests.stripe_bench import NOW, StripeBench, open_bench

ROOT = Path(__file__).parents[2]
LONGEST_DELAY_SECONDS = 0.9
GENERATION = timedelta(days=20)
"""How long a generation of customers lives: every day with usage stays inside Stripe's window of 34 days."""
KILLED_AT = ("plan", "claim", "send", "accept", "reopen", "backoff", "read back", "note reading", "re-arm")
CALM_PUSHES = 60
MOST_LOOKS = 6

SENDING: list[dict[str, Any]] = [
    {"kind": "status", "status": 500},
    {"kind": "status", "status": 500, "committed": True},
    {"kind": "status", "status": 503, "committed": True},
    {"kind": "status", "status": 429},
    {"kind": "status", "status": 409},
    {"kind": "reset_before_commit"},
    {"kind": "commit_then_reset"},
    {"kind": "commit_then_truncate"},
    {"kind": "duplicate_delivery"},
]
RARE: list[dict[str, Any]] = [
    {"kind": "status", "status": 401},
    {"kind": "delay_request", "seconds": 0.7},
    {"kind": "delay_request", "seconds": LONGEST_DELAY_SECONDS},
    {"kind": "accept_then_async_reject"},
    {"kind": "drop_async"},
]
READING: list[dict[str, Any]] = [
    {"kind": "status", "status": 500},
    {"kind": "status", "status": 429},
    {"kind": "reset_before_commit"},
    {"kind": "commit_then_truncate"},
]
CLOCK_STEPS = [(30, 40), (61, 25), (720, 20), (5_400, 9), (90_000, 6)]
"""Seconds and weights; the last is longer than Stripe remembers an identifier."""


@dataclass(slots=True, kw_only=True)
class Tally:
    """What has happened so far."""

    faults: int = 0
    segments: int = 0
    difference: Decimal = Decimal(0)
    kinds: dict[str, int] = field(default_factory=dict)

    def count(self, kind: str, times: int = 1) -> None:
        """So many more faults of a kind."""
        if times:
            self.faults += times
            self.kinds[kind] = self.kinds.get(kind, 0) + times


class Database:
    """Embedded PostgreSQL that comes back when it was killed."""

    def __init__(self, directory: Path) -> None:
        self._server = EmbeddedPostgres(
            directory=directory, bin_directory=find_bin_directory(None), shared_buffers_mb=64, fsync=True
        )
        self._process = self._server.start()
        self.url = self._server.database_url()
        migrate(self.url)

    @property
    def pid(self) -> int:
        """Its postmaster."""
        return self._process.pid

    def is_dead(self) -> bool:
        """Whether it was killed."""
        return self._process.poll() is not None

    def restart(self) -> None:
        """Start it again, crash recovery included."""
        self._process = self._server.start()

    def stop(self) -> None:
        """End it."""
        self._server.stop(self._process)


class Pusher:
    """The pusher's process, with the next one already starting."""

    def __init__(self, variant: Variant, emulator: RunningEmulator, database: Database) -> None:
        self._command = [sys.executable, "-m", "tests.faults.soak_worker", variant, emulator.url, database.url]
        self._database = database
        self._process, self._next = self._start(), self._start()

    def push(self, order: dict[str, Any]) -> str:
        """One push; `killed` when the process died of it. A database that dies is started again meanwhile."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        if order["victim"]:
            self._await_database(seconds=0.5)
        told = self._process.stdout.readline().decode().strip()
        self._await_database(seconds=0)
        if told:
            return told
        self._end(self._process)
        self._process, self._next = self._next, self._start()
        return "killed"

    def close(self) -> None:
        """End both."""
        for process in (self._process, self._next):
            process.kill()
            self._end(process)

    def _await_database(self, *, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self._database.is_dead():
            time.sleep(0.01)  # a process id is all there is to watch
        if self._database.is_dead():
            self._database.restart()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        process.communicate(timeout=30)


class Soak:
    """One run."""

    def __init__(
        self,
        *,
        seed: int,
        customers: int,
        variant: Variant,
        pool: ConnectionPool,
        database: Database,
        emulator: RunningEmulator,
    ) -> None:
        self.tally = Tally()
        self._random = random.Random(seed)
        self._customers = [f"c{number}" for number in range(customers)]
        self._pool = pool
        self._database = database
        self._emulator = emulator
        self._pusher = Pusher(variant, emulator, database)
        self._now = NOW
        self._late_until = 0.0
        self._pushes = 0

    def run(self, goes_on: Callable[[int], bool]) -> None:
        """Generations of customers while it goes on after so many pushes; the last is settled and compared too."""
        try:
            while goes_on(self._pushes):
                self._live_generation(goes_on)
        finally:
            self._pusher.close()

    def _live_generation(self, goes_on: Callable[[int], bool]) -> None:
        account = RunningEmulator(
            url=self._emulator.url, key=f"sk_test_{uuid.uuid4().hex}", process=self._emulator.process
        )
        bench = open_bench(self._pool, account, tenant=uuid.uuid4().hex)
        refs = {bench.bind(customer): customer for customer in self._customers}
        self._emulator.freeze(self._now)
        born, counted = self._now, dict[tuple[str, date], Decimal]()
        while goes_on(self._pushes) and self._now < born + GENERATION:
            self._pushes += 1
            self._use(bench, counted)
            scripted = self._script_faults()
            self._push(bench, is_calm=False)
            self.tally.count("requests", scripted - int(self._emulator.control("GET", "/faults")["pending"]))
            self._emulator.fault()
            self._pass_time()
        self._calm_down(bench)
        self._look_at_short_days(bench, refs, counted)
        self._compare(counted, self._held(bench, refs))

    def _use(self, bench: StripeBench, counted: dict[tuple[str, date], Decimal]) -> None:
        for customer in self._random.sample(self._customers, k=self._random.randint(0, len(self._customers))):
            day = self._now.date() - timedelta(days=self._random.choice([0, 0, 1, 2]))
            before = counted.get((customer, day), Decimal(0))
            change = Decimal(self._random.randint(1, 99_999)).scaleb(-self._random.randint(0, 6))
            is_less = before > 0 and self._random.random() < 0.2
            counted[customer, day] = max(Decimal(0), before - change) if is_less else before + change
            bench.count(fixed_point(counted[customer, day]), day, customer)

    def _script_faults(self) -> int:
        faults: list[dict[str, Any]] = []
        for _ in range(self._random.randint(0, 2 * len(self._customers))):
            does = self._random.choice(RARE if self._random.random() < 0.06 else SENDING)
            nth = self._random.randint(1, len(self._customers))
            faults.append({"match": {"path_re": "meter_events$", "nth": nth}, "do": does})
            if does["kind"] == "delay_request":
                self._late_until = time.monotonic() + 3 * LONGEST_DELAY_SECONDS
        if self._random.random() < 0.3:
            does = self._random.choice(READING)
            faults.append({"match": {"path_re": "event_summaries$"}, "do": does, "times": 2})
        self._emulator.fault(*faults)
        return sum(fault.get("times", 1) for fault in faults)

    def _push(self, bench: StripeBench, *, is_calm: bool) -> None:
        order: dict[str, Any] = {"now": self._now.isoformat(), "key": bench.emulator.key, "seam": None, "victim": 0}
        luck = self._random.random()
        if not is_calm and luck < 0.15:
            order |= {
                "seam": self._random.choice(KILLED_AT),
                "when": self._random.choice(["before", "after"]),
                "nth": self._random.randint(1, 4),
                "victim": self._database.pid if luck < 0.04 else 0,
            }
        died_before = self._database.pid
        told = self._pusher.push(order)
        if self._database.pid != died_before:
            self.tally.count("database killed")
            self._pool.check()
        if told == "killed":
            self.tally.count("pusher killed")

    def _pass_time(self) -> None:
        steps, weights = zip(*CLOCK_STEPS, strict=True)
        seconds = self._random.choices(steps, weights)[0]
        if seconds >= 3_600:
            # No request lives for an hour in the network: those on their way arrive first.
            time.sleep(max(0.0, self._late_until - time.monotonic()))
        if seconds > 86_400:
            self.tally.count("a day passed")
        self._pass(timedelta(seconds=seconds))

    def _calm_down(self, bench: StripeBench) -> None:
        """Pushes in which nothing goes wrong, until nothing is under way and nothing lacks."""
        time.sleep(max(0.0, self._late_until - time.monotonic()))
        for number in range(CALM_PUSHES):
            self._pass(timedelta(seconds=700))
            self._push(bench, is_calm=True)
            if number >= 3 and self._is_done(bench):
                return

    def _is_done(self, bench: StripeBench) -> bool:
        with transaction(self._pool) as tx:
            row = tx.execute(
                """
                select
                    (select count(*) from push_entries where tenant_id = %(tenant)s and state in ('planned', 'sending'))
                    + (select count(*) from push_days where tenant_id = %(tenant)s and counted <> planned)
                """,
                {"tenant": bench.tenant},
            ).fetchone()
        return row is not None and row[0] == 0

    def _look_at_short_days(
        self, bench: StripeBench, refs: dict[str, str], counted: dict[tuple[str, date], Decimal]
    ) -> None:
        """An operator has the days read back that Stripe holds too little of: what it dropped is sent again."""
        for _ in range(MOST_LOOKS):
            held = self._held(bench, refs)
            short = {key[1] for key, total in counted.items() if held.get(key, Decimal(0)) != total}
            if not short:
                return
            self._pass(timedelta(minutes=65))
            for day in sorted(short):
                rows = DayRows(tenant_id=bench.tenant, day=day)
                recheck_day(self._pool, bench.sink, rows, actor="soak", reason="short", now=self._now)
            for _ in range(2):
                settle_doubts(self._pool, bench.sink, now=self._now)
                self._pass(timedelta(minutes=11))
            self._calm_down(bench)

    def _held(self, bench: StripeBench, refs: dict[str, str]) -> dict[tuple[str, date], Decimal]:
        """What the emulator counted, added up here and not by the product."""
        held: dict[tuple[str, date], Decimal] = {}
        account = bench.sink.account_id()
        for event in self._emulator.control("GET", f"/ledger?account={account}")["events"]:
            if event["state"] == "visible":
                key = refs[event["customer"]], datetime.fromtimestamp(event["ts"], UTC).date()
                held[key] = held.get(key, Decimal(0)) + Decimal(event["value"])
        return held

    def _compare(self, counted: dict[tuple[str, date], Decimal], held: dict[tuple[str, date], Decimal]) -> None:
        """Our counters against the events the emulator counted."""
        for key in sorted({*counted, *held}):
            ours, theirs = counted.get(key, Decimal(0)), held.get(key, Decimal(0))
            self.tally.segments += 1
            self.tally.difference += abs(ours - theirs)
            if ours != theirs:
                _say(f"{key[0]} {key[1]}: counted {fixed_point(ours)}, Stripe has {fixed_point(theirs)}")

    def _pass(self, span: timedelta) -> None:
        self._now += span
        self._emulator.freeze(self._now)


@contextmanager
def soaking(*, seed: int, customers: int, variant: Variant) -> Iterator[Soak]:
    """A soak with processes of its own, on a temporary directory."""
    with tempfile.TemporaryDirectory(prefix="stripemeter-soak-") as folder:
        Path(folder).chmod(0o755)  # PostgreSQL runs as another user when this is root
        database = Database(Path(folder) / "postgres")
        try:
            emulator = start_emulator()
            try:
                with open_pool(database.url, max_size=2) as pool:
                    yield Soak(
                        seed=seed,
                        customers=customers,
                        variant=variant,
                        pool=pool,
                        database=database,
                        emulator=emulator,
                    )
            finally:
                emulator.kill()
        finally:
            database.stop()


def main() -> int:
    """Soak, say what happened; 0 when there was something to compare and it is equal."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description="Faults at random, totals equal.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60, help="how long faults go on; settling comes after")
    parser.add_argument("--pushes", type=int, help="so many pushes instead, however long they take")
    parser.add_argument("--customers", type=int, default=24)
    parser.add_argument("--variant", choices=VARIANTS, default="product", help="a naive push, to see it caught")
    options = parser.parse_args()
    with soaking(seed=options.seed, customers=options.customers, variant=options.variant) as soak:
        deadline = time.monotonic() + options.seconds
        wanted = options.pushes
        soak.run(lambda done: time.monotonic() < deadline if wanted is None else done < wanted)
        tally = soak.tally
    for kind, times in sorted(tally.kinds.items()):
        _say(f"{kind}: {times}")
    _say(f"faults {tally.faults}, segments {tally.segments}, difference {fixed_point(tally.difference)}")
    return 0 if tally.faults and tally.segments and tally.difference == 0 else 1


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
