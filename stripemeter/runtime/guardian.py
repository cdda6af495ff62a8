"""The guardian: a tiny process that outlives a killed supervisor for as long as its stack takes to end.

Belongs here: noticing that the supervisor is gone and ending what it left. Does not: starting or restarting anything.

It reads the supervisor's words from a pipe. End of file means that the supervisor left or was killed: then everything
that still carries the stack's mark is ended (run workers are nobody's children by then), PostgreSQL last and cleanly.
It holds the lock of the home until it leaves, so no second stack starts among the remains of the first.

Standard library and `runtime.processes` only: it stays resident.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from stripemeter.runtime.children import spawn
from stripemeter.runtime.processes import end_members, end_process, started_ticks

MEMBERS_GRACE_SECONDS = 5
POSTGRES_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Guardian:
    """The supervisor's end of the pipe."""

    process: subprocess.Popen[bytes]

    def watch_postgres(self, pid: int) -> None:
        """Remember which PostgreSQL is to be stopped last."""
        self._say({"postgres": pid, "ticks": started_ticks(pid)})

    def dismiss(self) -> None:
        """Let it see to the end of whatever is left, and wait until it has left itself."""
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        self.process.wait()

    def _say(self, word: dict[str, object]) -> None:
        if self.process.poll() is not None or self.process.stdin is None:
            return  # killed: the supervisor starts another one and repeats what it must know
        with contextlib.suppress(BrokenPipeError):  # killed a moment ago
            self.process.stdin.write(json.dumps(word).encode() + b"\n")
            self.process.stdin.flush()


def start_guardian(mark: str, *, lock_fd: int, log: Path) -> Guardian:
    """Start a guardian for the stack with this mark; it shares the home's lock."""
    with log.open("ab") as output:
        process = spawn(
            [sys.executable, "-P", "-m", "stripemeter.runtime.guardian", mark],
            log=output,
            stdin=subprocess.PIPE,
            death_signal=None,
            pass_fds=[lock_fd],
        )
    return Guardian(process=process)


def main() -> None:
    """Read words until the pipe closes, then end what is left of the stack."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    mark = sys.argv[1]
    postgres: tuple[int, int] | None = None
    for line in sys.stdin.buffer:
        word = json.loads(line)
        if word["ticks"] is not None:
            postgres = (word["postgres"], word["ticks"])
    end_stack(mark, postgres)


def end_stack(mark: str, postgres: tuple[int, int] | None) -> None:
    """End everything that carries the mark, then PostgreSQL (pid, start ticks): fast, then at once."""
    keep = frozenset() if postgres is None else frozenset({postgres[0]})
    end_members(mark, grace_seconds=MEMBERS_GRACE_SECONDS, except_pids=keep)
    if postgres is not None:
        signals = [signal.SIGINT, signal.SIGQUIT, signal.SIGKILL]
        end_process(*postgres, signals, seconds_each=POSTGRES_SECONDS)
    end_members(mark, grace_seconds=0)


if __name__ == "__main__":
    main()
