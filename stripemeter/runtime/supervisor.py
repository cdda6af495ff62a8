"""The supervisor: starts stages in order, restarts what dies, stops everything in reverse order.

Belongs here: the life of processes. Does not: which processes, what is written about them (`runtime.stack`).

One thread and one loop: the kernel's parent-death signal fires when the *thread* that started a child ends.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from stripemeter.errors import StripeMeterError, Unavailable
from stripemeter.runtime.log_files import bound, tail
from stripemeter.runtime.services import Service, Stage

FIRST_BACKOFF_SECONDS = 0.5
MAX_BACKOFF_SECONDS = 30.0
STEADY_SECONDS = 60.0
"""A service that was ready this long starts its backoff afresh."""
FIRST_START_ATTEMPTS = 3
"""A service that was never ready and dies this often cannot start: the whole start fails."""
_POLL_SECONDS = 0.1
_IDLE_SECONDS = 1.0
_BOUND_LOGS_SECONDS = 60.0


class State(StrEnum):
    """Where one service is in its life."""

    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(slots=True, kw_only=True)
class Supervised:
    """One service and what became of it so far."""

    service: Service
    process: subprocess.Popen[bytes] | None = None
    state: State = State.WAITING
    restarts: int = 0
    failures: int = 0
    """Deaths in a row without `STEADY_SECONDS` of readiness between them."""
    was_ready: bool = False
    since: float = field(default_factory=time.monotonic)
    """When the state began; the next start is due `backoff` after it while RESTARTING."""

    @property
    def pid(self) -> int | None:
        """Its process, while it has one."""
        return self.process.pid if self.process is not None else None

    def enter(self, state: State) -> None:
        """Begin a state now."""
        self.state, self.since = state, time.monotonic()


@dataclass(slots=True, kw_only=True)
class Supervisor:
    """Runs the stages until told to stop.

    Args:
        stages: in starting order.
        on_change: told after every change of a state.
        on_ready: told once, when every service is ready.
        on_tick: called about once a second, and more often while something starts.
    """

    stages: Sequence[Stage]
    on_change: Callable[[Supervised], None]
    on_ready: Callable[[], None]
    on_tick: Callable[[], None]
    supervised: list[list[Supervised]] = field(init=False)
    _stop_requests: int = 0
    _wake_fd: int = -1

    def __post_init__(self) -> None:
        self.supervised = [[Supervised(service=service) for service in stage.services] for stage in self.stages]

    @property
    def all(self) -> list[Supervised]:
        """Every service, in starting order."""
        return [one for stage in self.supervised for one in stage]

    def run(self) -> None:
        """Start, keep alive, and stop on SIGTERM, SIGINT or SIGHUP; a second signal stops without grace.

        Raises:
            Unavailable: a service could not start; the message ends with its log. Everything is stopped by then.
            StripeMeterError: what a stage's `before` raised. Everything is stopped by then.
        """
        with _Signals(self._request_stop) as wake_fd:
            self._wake_fd = wake_fd
            try:
                for stage, services in zip(self.stages, self.supervised, strict=True):
                    stage.before()
                    self._bring_up(services)
                    if self._stop_requests:
                        return
                self.on_ready()
                self._watch()
            finally:
                self._stop_all()

    def _request_stop(self) -> None:
        self._stop_requests += 1

    def _bring_up(self, services: Sequence[Supervised]) -> None:
        for one in services:
            self._launch(one)
        while not self._stop_requests and not all(one.was_ready for one in services):
            self._wait(_POLL_SECONDS)
            self._look_after_all()
            for one in services:
                _refuse_endless_start(one)

    def _watch(self) -> None:
        next_bound = time.monotonic()
        while not self._stop_requests:
            is_busy = any(one.state is not State.RUNNING for one in self.all)
            self._wait(_POLL_SECONDS if is_busy else _IDLE_SECONDS)
            self._look_after_all()
            if time.monotonic() >= next_bound:
                next_bound = time.monotonic() + _BOUND_LOGS_SECONDS
                for one in self.all:
                    bound(one.service.log)

    def _look_after_all(self) -> None:
        for one in self.all:
            self._look_after(one)
        self.on_tick()

    def _look_after(self, one: Supervised) -> None:
        now = time.monotonic()
        if one.process is not None and one.process.poll() is not None:
            if one.state is State.RUNNING and now - one.since >= STEADY_SECONDS:
                one.failures = 0
            self._note_death(one)
        elif one.state is State.STARTING and _is_ready(one):
            one.was_ready = True
            self._enter(one, State.RUNNING)
        elif one.state is State.RESTARTING and now - one.since >= _backoff(one.failures):
            one.restarts += 1
            self._launch(one)

    def _launch(self, one: Supervised) -> None:
        try:
            one.process = one.service.launch()
        except StripeMeterError as error:
            if not one.was_ready and not error.retryable:
                raise
            _log(one, f"cannot start: {error}")
            self._note_death(one)
        else:
            self._enter(one, State.STARTING)

    def _note_death(self, one: Supervised) -> None:
        one.process = None
        one.failures += 1
        self._enter(one, State.RESTARTING)

    def _enter(self, one: Supervised, state: State) -> None:
        one.enter(state)
        self.on_change(one)

    def _wait(self, seconds: float) -> None:
        """Sleep until something may have happened: a signal, a child's death, or the time is over."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_fd, selectors.EVENT_READ)
            if selector.select(seconds):
                os.read(self._wake_fd, 4096)

    def _stop_all(self) -> None:
        for stage, services in reversed(list(zip(self.stages, self.supervised, strict=True))):
            self._stop_stage(services)
            stage.after()

    def _stop_stage(self, services: Sequence[Supervised]) -> None:
        alive = [one for one in services if one.process is not None and one.process.poll() is None]
        for one in alive:
            if one.process is not None:
                one.process.send_signal(one.service.stop_signal)
            self._enter(one, State.STOPPING)
        requests_before = self._stop_requests
        for one in alive:
            self._await_exit(one, requests_before)
        for one in services:
            one.process = None
            if one.state is not State.WAITING:
                self._enter(one, State.STOPPED)

    def _await_exit(self, one: Supervised, requests_before: int) -> None:
        deadline = one.since + one.service.grace_seconds
        while one.process is not None and one.process.poll() is None:
            is_forced = self._stop_requests > max(requests_before, 1)
            if is_forced or time.monotonic() >= deadline:
                one.process.send_signal(one.service.last_signal)
                one.process.wait()
                return
            self._wait(_POLL_SECONDS)
            self.on_tick()


class _Signals:
    """Turns signals into calls and a readable descriptor; the old handlers come back at the end."""

    def __init__(self, on_stop: Callable[[], None]) -> None:
        self._on_stop = on_stop
        self._read_fd, self._write_fd = os.pipe()
        self._old: dict[signal.Signals, object] = {}

    def __enter__(self) -> int:
        os.set_blocking(self._read_fd, False)
        os.set_blocking(self._write_fd, False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._old[number] = signal.signal(number, lambda _number, _frame: self._on_stop())
        self._old[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        return self._read_fd

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        os.close(self._read_fd)
        os.close(self._write_fd)


def _is_ready(one: Supervised) -> bool:
    try:
        return one.service.is_ready()
    except StripeMeterError as error:
        if not one.was_ready:
            raise
        _log(one, f"not ready: {error}")
        return False


def _log(one: Supervised, text: str) -> None:
    with one.service.log.open("a", encoding="utf-8") as log:
        log.write(f"supervisor: {one.service.name}: {text}\n")


def _refuse_endless_start(one: Supervised) -> None:
    if one.was_ready:
        return
    seconds = one.service.start_seconds
    if one.failures >= FIRST_START_ATTEMPTS:
        reason = f"{one.service.name} cannot start: it ended {one.failures} times before it was ready"
    elif one.state is State.STARTING and time.monotonic() - one.since > seconds:
        reason = f"{one.service.name} was not ready within {seconds:.0f} s"
    else:
        return
    raise Unavailable(f"{reason}. End of {one.service.log}:\n{tail(one.service.log)}")


def _backoff(failures: int) -> float:
    return min(FIRST_BACKOFF_SECONDS * 2.0 ** (failures - 1), MAX_BACKOFF_SECONDS)
