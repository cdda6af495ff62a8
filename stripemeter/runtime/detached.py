"""A stack that outlives the command that started it, and the commands that find it again.

Belongs here: `up -d`, waiting for it, `down`. Does not: what a stack is (`runtime.stack`), terminals.

The supervisor is started as a process of its own session and reports its start through a pipe, one JSON word a line:
accepted, ready, already, failed. After `ready` it keeps nothing of its parent's.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import selectors
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stripemeter.errors import StripeMeterError, Unavailable
from stripemeter.runtime import log_files
from stripemeter.runtime.children import spawn
from stripemeter.runtime.guardian import end_stack
from stripemeter.runtime.run import Listener, run_stack
from stripemeter.runtime.settings import load_settings
from stripemeter.runtime.stack_record import RECORD, StackRecord, is_held, read_record
from stripemeter.runtime.supervisor import Supervised

STOP_SECONDS = 180
_POLL_SECONDS = 0.1


class StartFailed(Unavailable):
    """The stack did not start; the message is the supervisor's own."""

    code = "start_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A stack that runs in the background, and whether it did before we came."""

    record: StackRecord
    was_running: bool


def start_detached(home: Path, *, wait_seconds: float | None) -> Started:
    """Start a stack in the background.

    Args:
        home: the state directory, absolute.
        wait_seconds: how long to wait until every service is healthy; None returns as soon as the start was accepted.

    Raises:
        StartFailed: it could not start, or was not healthy in time (then it has been stopped again).
    """
    read_fd, write_fd = os.pipe()
    process = spawn(
        [sys.executable, "-P", "-m", "stripemeter.runtime.detached", str(write_fd)],
        log=subprocess.DEVNULL,
        death_signal=None,
        pass_fds=[write_fd],
    )
    os.close(write_fd)
    deadline = None if wait_seconds is None else time.monotonic() + wait_seconds
    try:
        return _await_word(home, process, read_fd, deadline)
    except BaseException:
        # Also on Ctrl-C: a half-started stack is nobody's.
        process.terminate()
        process.wait()
        raise
    finally:
        os.close(read_fd)


def wait_until_running(home: Path, *, deadline: float | None) -> StackRecord:
    """The record of a stack somebody else started, once it is healthy.

    Raises:
        StartFailed: it ended, or was not healthy before the deadline (monotonic). It is left alone.
    """
    while True:
        record = read_record(home)
        if record is None or not record.is_supervised:
            raise StartFailed(f"the stack in {home} ended while we waited: see {home / 'logs'}")
        if record.state == "running" or deadline is None:
            return record
        if time.monotonic() >= deadline:
            raise StartFailed(_not_healthy(record))
        time.sleep(_POLL_SECONDS)


def stop_stack(home: Path, *, timeout_seconds: float = STOP_SECONDS) -> bool:
    """Stop the stack of this home in order and wait until all of it is gone; False when none was running.

    Raises:
        Unavailable: it did not stop within the timeout.
    """
    was_running = is_held(home)
    record = read_record(home)
    if record is not None and was_running and record.is_supervised:
        os.kill(record.supervisor_pid, signal.SIGTERM)
    deadline = time.monotonic() + timeout_seconds
    # The supervisor lets go of the home before it is gone itself.
    while is_held(home) or (was_running and record is not None and record.is_supervised):
        if time.monotonic() >= deadline:
            raise Unavailable(
                f"the stack in {home} did not stop within {timeout_seconds:.0f} s. Wait, or run `stripemeter down` "
                "again to end it without waiting for runs in flight"
            )
        time.sleep(_POLL_SECONDS)
    if record is not None and not record.is_supervised:
        end_stack(record.mark, record.postgres)  # supervisor and guardian were both killed
        (home / RECORD).unlink(missing_ok=True)
    return was_running


def main() -> None:
    """The supervisor process behind `start_detached`."""
    report_fd = int(sys.argv[1])
    os.set_inheritable(report_fd, False)
    reporter = _Reporter(report_fd)
    try:
        settings = load_settings()
        listener = Listener(
            accepted=lambda _: _begin(settings.state, reporter),
            changed=_log_change,
            ready=lambda _: reporter.say("ready"),
            tick=lambda: None,
        )
        existing = run_stack(settings, listener)
    except StripeMeterError as error:
        reporter.say("failed", message=str(error))
        sys.exit(1)
    except BaseException:
        reporter.say("failed", message=f"a bug in the supervisor:\n{traceback.format_exc()}")
        raise
    if existing is not None:
        reporter.say("already")


@dataclass(slots=True)
class _Reporter:
    fd: int | None

    def say(self, word: str, **details: str) -> None:
        """Report one word; after a final one (or once nobody listens) the pipe is closed."""
        if self.fd is None:
            return
        try:
            os.write(self.fd, json.dumps({"word": word, **details}).encode() + b"\n")
        except BrokenPipeError:
            word = "unheard"
        if word != "accepted":
            os.close(self.fd)
            self.fd = None


def _begin(home: Path, reporter: _Reporter) -> None:
    log = home / "logs" / "supervisor.log"
    log_files.open_fresh(log)
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    reporter.say("accepted")


def _log_change(one: Supervised) -> None:
    now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
    sys.stdout.write(f"{now} {one.service.name} {one.state.value} pid={one.pid} restarts={one.restarts}\n")
    sys.stdout.flush()


def _await_word(home: Path, process: subprocess.Popen[bytes], fd: int, deadline: float | None) -> Started:
    for word in _words(fd, deadline):
        match word["word"]:
            case "accepted" if deadline is None:
                return Started(record=_record(home), was_running=False)
            case "ready":
                return Started(record=_record(home), was_running=False)
            case "already":
                process.wait()
                return Started(record=wait_until_running(home, deadline=deadline), was_running=True)
            case "failed":
                process.wait()
                raise StartFailed(word["message"])
    if process.poll() is not None:
        raise StartFailed(f"the supervisor ended: {log_files.tail(home / 'logs' / 'supervisor.log')}")
    raise StartFailed(_not_healthy(_record(home)))


def _words(fd: int, deadline: float | None) -> Iterator[dict[str, str]]:
    """What the supervisor reports, until it closes the pipe or the deadline passes."""
    buffered = b""
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not selector.select(left):
                return
            chunk = os.read(fd, 65536)
            if not chunk:
                return
            *lines, buffered = (buffered + chunk).split(b"\n")
            for line in lines:
                yield json.loads(line)


def _record(home: Path) -> StackRecord:
    record = read_record(home)
    if record is None:
        raise StartFailed(f"the stack in {home} ended at once: see {home / 'logs'}")
    return record


def _not_healthy(record: StackRecord) -> str:
    late = [service for service in record.services if service.state != "running"]
    logs = "\n".join(f"{service.name}:\n{log_files.tail(Path(service.log))}" for service in late[:1])
    names = ", ".join(f"{service.name} ({service.state})" for service in late)
    return f"not healthy in time, still missing: {names}. Raise --timeout or look at the log. End of the log of {logs}"


if __name__ == "__main__":
    main()
