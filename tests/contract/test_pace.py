"""How fast one account is asked: the bucket by a clock of its own, and the sink over HTTP."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock

import pytest
from psycopg_pool import ConnectionPool
from pydantic import SecretStr

from stripemeter.billing import open_sink
from stripemeter.billing.pace import Pace
from stripemeter.billing.stripe_sink import StripeSink
from stripemeter.errors import NotAllowed, Unavailable
from stripemeter.pipeline.push import push_usage
from tests.emulator import RunningEmulator
from tests.stripe_bench import NOW, SinkSettings, open_bench


@dataclass(slots=True)
class Clock:
    """Seconds that pass when told; sleeping tells them."""

    now: float = 0.0
    slept: list[float] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def __call__(self) -> float:
        """The time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let seconds pass."""
        with self.lock:
            self.slept.append(seconds)
            self.now += seconds


def _pace(clock: Clock, calls_per_second: float = 10) -> Pace:
    return Pace(calls_per_second=calls_per_second, clock=clock, sleep=clock.sleep)


def test_a_second_of_requests_goes_at_once_and_the_next_wait() -> None:
    """Ten at once, then a tenth of a second each: 30 requests take 2 seconds."""
    clock = Clock()
    pace = _pace(clock)
    for _ in range(10):
        pace.take()
    assert clock.slept == []
    for _ in range(20):
        pace.take()
    assert clock.now == pytest.approx(2.0)


def test_threads_share_the_bucket() -> None:
    """Turns are handed out once, whoever asks: 30 requests of 4 threads are told to wait for 20 different turns."""
    clock = Clock()
    waits: list[float] = []
    pace = Pace(calls_per_second=10, clock=clock, sleep=waits.append)
    with ThreadPoolExecutor(max_workers=4) as threads:
        list(threads.map(lambda _: pace.take(), range(30)))
    assert sorted(waits) == pytest.approx([turn / 10 for turn in range(1, 21)])


def test_a_refusal_halves_the_pace_once_and_it_comes_back() -> None:
    """Refusals of requests under way count once; a tenth returns every ten seconds, to the full pace and no more."""
    clock = Clock(now=100)
    pace = _pace(clock)
    for _ in range(4):
        pace.slow_down(None)
    assert pace.calls_per_second() == 5
    clock.now += 2
    pace.slow_down(None)
    assert pace.calls_per_second() == 2.5
    clock.now += 20
    assert pace.calls_per_second() == pytest.approx(4.5)
    clock.now += 1000
    assert pace.calls_per_second() == 10


def test_retry_after_is_heeded_and_a_long_one_is_not_slept() -> None:
    """A short pause is waited for; a long one is refused at once with the time to come back."""
    clock = Clock()
    pace = _pace(clock)
    pace.slow_down(3)
    pace.take()
    assert clock.now == pytest.approx(3.0)
    pace.slow_down(60)
    with pytest.raises(Unavailable) as refused:
        pace.take()
    assert refused.value.retry_after_seconds == 61
    clock.now += 61
    slept = len(clock.slept)
    pace.take()
    assert len(clock.slept) == slept


def test_a_429_pauses_the_whole_sink(emulator: RunningEmulator) -> None:
    """After a refusal with Retry-After the next request is not sent at all; a lock on an object pauses nothing."""
    sink = StripeSink(key=emulator.key, mode="shadow", api_base=emulator.url, calls_per_second=1000)
    locked = {"error": {"code": "lock_timeout", "type": "invalid_request_error", "message": "locked"}}
    emulator.fault({"do": {"kind": "status", "status": 429, "headers": {"Retry-After": "30"}, "body": locked}})
    with pytest.raises(Unavailable):
        sink.find_meter("calls")
    assert sink.find_meter("calls") is None
    emulator.fault({"do": {"kind": "status", "status": 429, "headers": {"Retry-After": "30"}}})
    with pytest.raises(Unavailable):
        sink.find_meter("calls")
    requests = len(emulator.journal())
    with pytest.raises(Unavailable, match="fewer requests"):
        sink.find_meter("calls")
    assert len(emulator.journal()) == requests


def test_the_setting_reaches_the_sink(emulator: RunningEmulator) -> None:
    """One request a minute lets the first through and refuses the second."""
    settings = SinkSettings(
        stripe_test_secret_key=SecretStr(emulator.key), stripe_api_base=emulator.url, stripe_calls_per_second=1 / 60
    )
    sink = open_sink(settings)
    sink.account_id()
    with pytest.raises(Unavailable, match="fewer requests"):
        sink.find_meter("calls")


def test_the_key_of_another_account_pushes_nothing(pool: ConnectionPool, emulator: RunningEmulator) -> None:
    """Mapped at one account, keyed for another: refused by name, and nothing is sent or planned."""
    bench = open_bench(pool, emulator)
    bench.bind()
    bench.count("3")
    with pool.connection() as connection:
        connection.execute("update price_mappings set stripe_account_id = 'acct_elsewhere'")
    with pytest.raises(NotAllowed, match="acct_elsewhere"):
        push_usage(pool, bench.sink, now=NOW)
    assert (emulator.ledger(), bench.entries()) == ([], [])
