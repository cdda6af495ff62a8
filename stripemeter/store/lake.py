"""The lake: one Parquet file of events and one of counters per UTC day.

Belongs here: where a day's files lie, how a frame becomes bytes and back, how bytes become durable. Does not: which
files are valid (`store.archived_days`), questions to them (`store.lake_query`).

A file is written in two steps, because two systems must agree on it. `stage_day` makes it durable under a name that
nobody reads and that contains its hash; once the manifest that names the hash is committed, `publish_day` renames it to
`part.parquet`. Whoever dies between the two leaves a staged file that the next `publish_day` moves into place.
"""

from __future__ import annotations

import hashlib
import io
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Protocol

import polars as pl

from stripemeter.errors import InvalidInput, InvariantBroken, Unavailable
from stripemeter.metering.frames import ARCHIVED_EVENTS, COUNTERS

PART = "part.parquet"
ROW_GROUP_ROWS = 250_000
"""Stated, because the library's own choice may change with its version, and with it every byte."""
COMPRESSION_LEVEL = 3
_TEMPORARY = ".tmp-"
_STAGED = ".staged-"
_EVENT_ORDER = ("tenant_id", "metric", "customer_ref", "ts", "seq")
_COUNTER_ORDER = ("tenant_id", "customer_ref", "meter", "segment_start", "dimensions", "is_late")


@dataclass(frozen=True, slots=True, kw_only=True)
class DayFiles:
    """The sha256 of a day's two files, in hexadecimal."""

    events_sha256: str
    counters_sha256: str


class Lake(Protocol):
    """Where files lie: folders of small names. Every method either has its effect durably or raises Unavailable."""

    def write(self, folder: str, name: str, content: bytes) -> None:
        """Make a file exist with this content: never half of it."""
        ...

    def read(self, folder: str, name: str) -> bytes | None:
        """The content of a file; None when there is none."""
        ...

    def rename(self, folder: str, name: str, to: str) -> None:
        """Give a file another name in its folder, in place of what had it."""
        ...

    def delete(self, folder: str, name: str) -> None:
        """Make a file not exist."""
        ...

    def names(self, folder: str) -> list[str]:
        """The names in a folder, sorted; empty when there is no such folder."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalLake:
    """A lake in a directory of this machine, created when first written."""

    root: Path

    def write(self, folder: str, name: str, content: bytes) -> None:
        """As `Lake.write`: a temporary file, fsync, rename, fsync of every directory that changed."""
        directory = self.root / folder
        temporary = directory / f"{_TEMPORARY}{secrets.token_hex(8)}"
        try:
            _make_directory(directory)
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(directory / name)
            _fsync_directory(directory)
        except OSError as error:
            with suppress(OSError):  # what hindered the write may hinder this; publishing deletes it, too
                temporary.unlink()
            raise Unavailable(f"cannot write to the lake: {error}") from error

    def read(self, folder: str, name: str) -> bytes | None:
        """As `Lake.read`."""
        try:
            return (self.root / folder / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unavailable(f"cannot read the lake: {error}") from error

    def rename(self, folder: str, name: str, to: str) -> None:
        """As `Lake.rename`."""
        try:
            (self.root / folder / name).replace(self.root / folder / to)
            _fsync_directory(self.root / folder)
        except OSError as error:
            raise Unavailable(f"cannot write to the lake: {error}") from error

    def delete(self, folder: str, name: str) -> None:
        """As `Lake.delete`."""
        try:
            (self.root / folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise Unavailable(f"cannot write to the lake: {error}") from error

    def names(self, folder: str) -> list[str]:
        """As `Lake.names`."""
        try:
            return sorted(path.name for path in (self.root / folder).iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise Unavailable(f"cannot read the lake: {error}") from error


def open_lake(location: str) -> LocalLake:
    """The lake at a path of this machine.

    Raises:
        InvalidInput: a URL: object storage is not supported yet.
    """
    if "://" in location:
        raise InvalidInput(
            f"STRIPEMETER_LAKE must be a path of this machine, not {location!r}: object storage is not supported yet",
            field="STRIPEMETER_LAKE",
        )
    return LocalLake(root=Path(location).expanduser().resolve())


def stage_day(lake: Lake, day: date, *, events: pl.DataFrame, counters: pl.DataFrame) -> DayFiles:
    """Make a day's files durable without publishing them. The same frames give the same bytes, whatever their order.

    Args:
        lake: where.
        day: the UTC day all of them belong to.
        events: shape ARCHIVED_EVENTS.
        counters: shape COUNTERS; its `day` is in the folder's name, not in the file.
    """
    events_file = _to_parquet(ARCHIVED_EVENTS.validate(events).sort(_EVENT_ORDER))
    counters_file = _to_parquet(COUNTERS.validate(counters).sort(_COUNTER_ORDER).drop("day"))
    files = DayFiles(events_sha256=_sha256(events_file), counters_sha256=_sha256(counters_file))
    lake.write(folder("events", day), f"{_STAGED}{files.events_sha256}", events_file)
    lake.write(folder("counters", day), f"{_STAGED}{files.counters_sha256}", counters_file)
    return files


def publish_day(lake: Lake, day: date, files: DayFiles) -> None:
    """Move a day's staged files into place and delete whatever else lies beside them; nothing to do is no error.

    The day must be locked and `files` be what its committed manifest says: every other staged file is then a leftover.
    """
    for kind, sha256 in (("events", files.events_sha256), ("counters", files.counters_sha256)):
        place = folder(kind, day)
        if f"{_STAGED}{sha256}" in lake.names(place):
            lake.rename(place, f"{_STAGED}{sha256}", PART)
        for name in lake.names(place):
            if name.startswith((_TEMPORARY, _STAGED)):
                lake.delete(place, name)


def load_events(lake: Lake, day: date, *, sha256: str | None = None) -> pl.DataFrame:
    """A day's events, shape ARCHIVED_EVENTS; with `sha256` only if the file has it.

    Raises:
        InvariantBroken: no file, or not the one asked for.
    """
    return ARCHIVED_EVENTS.validate(_from_parquet(_load(lake, "events", day, sha256)))


def load_counters(lake: Lake, day: date, *, sha256: str | None = None) -> pl.DataFrame:
    """A day's counters, shape COUNTERS; with `sha256` only if the file has it.

    Raises:
        InvariantBroken: no file, or not the one asked for.
    """
    frame = _from_parquet(_load(lake, "counters", day, sha256)).with_columns(day=pl.lit(day))
    return COUNTERS.validate(frame.select(list(COUNTERS.columns)))


def folder(kind: str, day: date) -> str:
    """Where a day's file of a kind (`events`, `counters`) lies, below the lake's root."""
    return f"{kind}/month={day:%Y-%m}/day={day.isoformat()}"


def _load(lake: Lake, kind: str, day: date, sha256: str | None) -> bytes:
    content = lake.read(folder(kind, day), PART)
    if content is None:
        raise InvariantBroken(f"the lake has no {folder(kind, day)}/{PART}: archive the day again")
    if sha256 is not None and _sha256(content) != sha256:
        raise InvariantBroken(f"{folder(kind, day)}/{PART} is not the file that was archived: archive the day again")
    return content


def _to_parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.rechunk().write_parquet(
        buffer,
        compression="zstd",
        compression_level=COMPRESSION_LEVEL,
        statistics="full",
        row_group_size=ROW_GROUP_ROWS,
    )
    return buffer.getvalue()


def _from_parquet(content: bytes) -> pl.DataFrame:
    try:
        return pl.read_parquet(io.BytesIO(content))
    except pl.exceptions.PolarsError as error:
        raise InvariantBroken(f"a file of the lake cannot be read: {error}") from error


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _make_directory(directory: Path) -> None:
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    for path in missing:  # its name is durable only once the directory that holds it is
        _fsync_directory(path.parent)


def _fsync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
