"""The log files of a stack: one per service, fresh at every start, bounded, read back by lines.

Belongs here: rotating, bounding, tailing. Does not: what the services write.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_LOG_BYTES = 20 * 1024 * 1024
"""A file is cut when it grows past this; the part cut off stays in one `.1` file."""


def open_fresh(path: Path) -> None:
    """Begin a new log: the last start's becomes `<name>.1`, an older one is gone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.replace(_previous(path))
    path.touch(mode=0o640)


def bound(path: Path, *, max_bytes: int = MAX_LOG_BYTES) -> None:
    """Cut a log that grew too long. Its writer keeps its descriptor (append mode), so the file is emptied in place.

    Lines written between the copy and the cut are lost: a bounded disk is worth more than they are.
    """
    if path.exists() and path.stat().st_size > max_bytes:
        shutil.copyfile(path, _previous(path))
        os.truncate(path, 0)


def tail(path: Path, lines: int = 12) -> str:
    """The last lines of a log; `(no log)` when there is no file."""
    if not path.exists():
        return "(no log)"
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 256 * lines))
        return "\n".join(file.read().decode("utf-8", errors="replace").splitlines()[-lines:])


@dataclass(slots=True, kw_only=True)
class Follower:
    """Reads what is appended to one log, whole lines at a time, across cuts and rotations."""

    path: Path
    offset: int = 0

    def new_lines(self) -> Iterator[str]:
        """Lines completed since the last call; none while the file does not exist."""
        if not self.path.exists():
            return
        if self.path.stat().st_size < self.offset:
            self.offset = 0
        with self.path.open("rb") as file:
            file.seek(self.offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self.offset += len(line)
                yield line.decode("utf-8", errors="replace").rstrip("\n")

    def skip_to_end(self) -> None:
        """Forget what is there already."""
        self.offset = self.path.stat().st_size if self.path.exists() else 0


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")
