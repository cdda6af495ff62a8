"""A stack of small real services under the real supervisor and guardian, for the tests that kill it.

Run as `python small_stack.py FOLDER SCENARIO`; it writes what happens to FOLDER/journal, one fact a line.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from stripemeter.errors import Unavailable
from stripemeter.runtime.guardian import Guardian, start_guardian
from stripemeter.runtime.processes import STACK_MARK, end_members
from stripemeter.runtime.services import Service, Stage, command
from stripemeter.runtime.stack_record import acquire_lock
from stripemeter.runtime.supervisor import State, Supervised, Supervisor

# A service: says that it started, becomes ready when FOLDER/allow-NAME exists, leaves on SIGTERM unless told not to,
# and may start a child in a session of its own that nobody will wait for.
SERVICE = """
import os, signal, subprocess, sys, time
name, folder, manner = sys.argv[1:4]
def note(fact):
    with open(f"{folder}/journal", "a") as journal:
        journal.write(f"{fact} {name}\\n")
def leave(*_):
    note("left")
    sys.exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN if manner == "deaf" else leave)
note("started")
if manner == "broken":
    sys.exit("no such flux capacitor")
if manner == "parent":
    subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(3600)", "orphan"], start_new_session=True)
while not os.path.exists(f"{folder}/allow-{name}"):
    time.sleep(0.02)
open(f"{folder}/ready-{name}", "w").close()
while True:
    time.sleep(3600)
"""

SCENARIOS = {
    "ordered": [[("first", "plain")], [("second", "plain"), ("third", "plain")]],
    "broken": [[("first", "plain")], [("second", "broken")]],
    "deaf": [[("first", "deaf")]],
    "parent": [[("first", "parent")]],
}


def main() -> None:
    """Run one scenario until SIGTERM."""
    folder, scenario = Path(sys.argv[1]), sys.argv[2]
    mark = os.environ["SMALL_STACK_MARK"]
    env = {**os.environ, STACK_MARK: mark}
    lock = acquire_lock(folder)
    if lock is None:
        sys.exit("held")
    guardian = start_guardian(mark, lock_fd=lock, log=folder / "guardian.log")
    stages = [
        Stage(
            services=[_service(name, manner, folder, env) for name, manner in stage],
            after=(lambda: end_members(mark, grace_seconds=5)) if index == 0 else (lambda: None),
        )
        for index, stage in enumerate(SCENARIOS[scenario])
    ]
    _run(folder, stages, guardian)


def _run(folder: Path, stages: list[Stage], guardian: Guardian) -> None:
    def note(one: Supervised) -> None:
        pid = f" {one.pid}" if one.state is State.STARTING else ""
        with (folder / "journal").open("a", encoding="utf-8") as journal:
            journal.write(f"{one.state.value} {one.service.name}{pid}\n")

    def ready() -> None:
        (folder / "ready").touch()

    supervisor = Supervisor(stages=stages, on_change=note, on_ready=ready, on_tick=lambda: None)
    try:
        supervisor.run()
    except Unavailable as error:
        sys.exit(str(error))
    finally:
        guardian.dismiss()


def _service(name: str, manner: str, folder: Path, env: dict[str, str]) -> Service:
    start = command(
        [sys.executable, "-S", "-E", "-c", SERVICE, name, str(folder), manner], env=env, log=folder / f"{name}.log"
    )
    mark_of_readiness = folder / f"ready-{name}"

    def launch() -> subprocess.Popen[bytes]:
        mark_of_readiness.unlink(missing_ok=True)
        return start()

    return Service(
        name=name, launch=launch, is_ready=mark_of_readiness.exists, log=folder / f"{name}.log", grace_seconds=1
    )


if __name__ == "__main__":
    main()
