"""The error report of an import or backfill: which rows were not taken, and why.

Belongs here: the file, what a crash leaves of it, reading its beginning, how long it is kept. Does not: judging rows
(`metering.rows`).
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self
from uuid import UUID

import msgspec
from psycopg_pool import ConnectionPool

from stripemeter.store.backfills import list_ended_before
from stripemeter.store.postgres import transaction

MAX_REPORT_BYTES = 16 * 1_048_576
"""Of a backfill that came over HTTP: a hundred thousand rows say what is wrong, and a bucket full of bad rows must not
fill the disk. The counts stay exact."""
MAX_LINE_BYTES = 65_536
"""Of one line that is read: messages quote forty characters of what came."""


_SUFFIX = ".errors.jsonl"


class RowError(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the error report. `row` counts from 1, without heading and empty lines."""

    row: int
    field: str
    code: str
    message: str


_decode_error = msgspec.json.Decoder(RowError).decode


class ErrorReport:
    """A JSON Lines file, one line per failed or conflicting row, that never holds more than was committed for long.

    Beyond `most_bytes` it leaves out lines.
    """

    def __init__(self, path: Path | None, *, committed_bytes: int, most_bytes: int | None) -> None:
        self.length = committed_bytes
        self._most_bytes = most_bytes
        self._file: BinaryIO | None = None
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("r+b" if committed_bytes and path.exists() else "w+b")
        # What was written for a batch that never committed is written again with it.
        self.length = min(committed_bytes, self._file.seek(0, io.SEEK_END))
        self._file.truncate(self.length)
        self._file.seek(self.length)

    def append(self, errors: Sequence[RowError]) -> None:
        """Write lines, on disk when it returns."""
        if self._file is None or not errors:
            return
        lines = b"".join(msgspec.json.encode(error) + b"\n" for error in errors)
        if self._most_bytes is not None:
            lines = lines[: lines.rfind(b"\n", 0, max(self._most_bytes - self.length, 0)) + 1]
        self._file.write(lines)
        self._file.flush()
        os.fsync(self._file.fileno())
        self.length += len(lines)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()


def report_path(home: Path, backfill_id: UUID) -> Path:
    """Where the report of a backfill that came over HTTP lies, in the state directory."""
    return home / "backfills" / f"{backfill_id}{_SUFFIX}"


def load_report(path: Path, *, committed_bytes: int, limit: int) -> list[RowError]:
    """The first errors of a report, of those that are committed; none where the file is not on this machine."""
    if not committed_bytes or not path.is_file():
        return []
    with path.open("rb") as report:
        return [_decode_error(line) for line in islice(_lines(report, committed_bytes), limit)]


def delete_old_reports(pool: ConnectionPool, home: Path, *, before: datetime) -> int:
    """Delete the reports of backfills that ended before an instant; returns how many. Their counts stay in the table.

    Files that belong to no operation, or to one that has not ended, are left alone.

    Raises:
        Unavailable: Postgres does not answer; nothing was deleted.
    """
    reports = {
        UUID(name): path
        for path in sorted(report_path(home, UUID(int=0)).parent.glob(f"*{_SUFFIX}"))
        if _is_uuid(name := path.name.removesuffix(_SUFFIX))
    }
    with transaction(pool) as tx:
        ended = list_ended_before(tx, list(reports), before)
    for backfill_id in ended:
        reports[backfill_id].unlink(missing_ok=True)
    return len(ended)


def _is_uuid(name: str) -> bool:
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False


def _lines(report: BinaryIO, committed_bytes: int) -> Iterator[bytes]:
    left = committed_bytes
    while left > 0 and (line := report.readline(min(left, MAX_LINE_BYTES))).endswith(b"\n"):
        left -= len(line)
        yield line
