"""The push's witness: a file outside the database that remembers what was sent.

Belongs here: writing it before anything is sent, and asking it whether the database has forgotten. Does not: other
signs of a restore (`store.push_epochs`).

A snapshot of the database's disk, put back, looks in every respect like the database that pushed. But of the events
sent since, the last one at the latest is named here and not there: names are written, to the disk, after their rows
were committed and before their first byte leaves, and the newest names are always kept. The file must not be restored
together with the database.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from stripemeter.errors import Unavailable
from stripemeter.store import push_epochs
from stripemeter.store.postgres import Tx

MOST_LINES = 4000
KEPT_LINES = 2000
"""Far more than rows are ever claimed at once, by all pushes together."""


class PushWitness:
    """What was sent to one account from this state directory. Safe to use from several threads and processes.

    Args:
        directory: where the files of all accounts are; made when there is none.
        stripe_account_id: the account.
    """

    def __init__(self, directory: Path, stripe_account_id: str) -> None:
        self._path = directory / f"{stripe_account_id}.sent"

    def record(self, epoch: int, identifiers: Sequence[str]) -> None:
        """Remember, on the disk, that these are about to be sent.

        Raises:
            Unavailable: the file cannot be written: nothing may be sent.
        """
        text = "".join(f"{epoch} {identifier}\n" for identifier in identifiers)
        with self._locked(), self._path.open("ab") as file:
            # What a killed process left of a line must not become part of this one.
            file.write(b"\n" + text.encode() if file.tell() else text.encode())
            file.flush()
            os.fsync(file.fileno())

    def contradiction(self, tx: Tx, epoch: int) -> str:
        """What this file knows and the database, in this epoch, does not; empty: nothing.

        Raises:
            Unavailable: the file cannot be read.
        """
        with self._locked():
            lines = self._lines()
            if len(lines) > MOST_LINES:
                self._keep(lines[-KEPT_LINES:])
        if any(number > epoch for number, _ in lines):
            return f"usage was pushed from here in a later epoch than this database's; {push_epochs.REMEDY}"
        ours = [identifier for number, identifier in lines if number == epoch]
        unknown = push_epochs.find_unsent(tx, ours)
        if not unknown:
            return ""
        return (
            f"{len(unknown)} events that were sent from here, such as {unknown[0]}, are not in this database: "
            f"it is from an earlier time; {push_epochs.REMEDY}"
        )

    def _lines(self) -> list[tuple[int, str]]:
        if not self._path.exists():
            return []
        parts = [line.split(" ") for line in self._path.read_text(encoding="utf-8").splitlines()]
        # Half a line: its process was killed while it wrote, so before it sent anything of it.
        return [(int(part[0]), part[1]) for part in parts if len(part) == 2 and part[0].isdigit()]

    def _keep(self, lines: Sequence[tuple[int, str]]) -> None:
        with tempfile.NamedTemporaryFile(dir=self._path.parent, delete=False) as file:
            file.write("".join(f"{number} {identifier}\n" for number, identifier in lines).encode())
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).replace(self._path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with (self._path.parent / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise Unavailable(f"cannot use {self._path}, which remembers what was pushed: {error}") from error
