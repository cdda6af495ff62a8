"""The lake: per UTC day a Parquet file of events, one of counters, one of their items, and the rules they follow.

Belongs here: where a day's files lie, how a frame becomes bytes and back, how bytes become durable. Does not: which
files are valid (`store.archived_days`), questions to them (`store.lake_query`).

A file is written in two steps, because two systems must agree on it. `stage_day` makes it durable under a name that
nobody reads and that contains its hash; once the manifest that names the hash is committed, `publish_day` renames it to
`part.parquet` (`part.json`, the rules). Whoever dies between the two leaves a staged file that the next `publish_day`
moves into place; until then whoever knows the hash from the manifest reads it under the staged name.

The rules name the hashes of the other files, so a day says by itself whether its files belong together.
"""

from __future__ import annotations

import hashlib
import io
import os
import secrets
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal, Protocol, assert_never

import polars as pl

from stripemeter.errors import InvalidInput, InvariantBroken, Unavailable
from stripemeter.metering.aggregation import Counted
from stripemeter.metering.day_rules import DayRules, read_day_rules, rules_of_day, write_day_rules
from stripemeter.metering.frames import ARCHIVED_EVENTS, COUNTER_ITEMS, COUNTERS
from stripemeter.metering.rulebook import Rulebook

Kind = Literal["events", "counters", "counter_items", "rules"]
PART = "part.parquet"
ROW_GROUP_ROWS = 250_000
"""Stated, because the library's own choice may change with its version, and with it every byte."""
COMPRESSION_LEVEL = 3
_TEMPORARY = ".tmp-"
_STAGED = ".staged-"
_EVENT_ORDER = ("tenant_id", "metric", "customer_ref", "ts", "seq")
_COUNTER_ORDER = ("tenant_id", "customer_ref", "meter", "segment_start", "dimensions", "is_late")
_ITEM_ORDER = (*_COUNTER_ORDER, "item")
_PARTS: Mapping[Kind, str] = {"events": PART, "counters": PART, "counter_items": PART, "rules": "part.json"}
"""Published names by kind, in the order of publishing: the rules last, because they vouch for the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DayFiles:
    """The sha256 of a day's files, in hexadecimal; None for what a day archived by an earlier release has not."""

    events_sha256: str
    counters_sha256: str
    items_sha256: str | None
    rules_sha256: str | None

    def of(self, kind: Kind) -> str | None:
        """That of one kind."""
        match kind:
            case "events":
                return self.events_sha256
            case "counters":
                return self.counters_sha256
            case "counter_items":
                return self.items_sha256
            case "rules":
                return self.rules_sha256
            case _:
                assert_never(kind)


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


def stage_day(lake: Lake, day: date, *, events: pl.DataFrame, counted: Counted, rulebook: Rulebook) -> DayFiles:
    """Make a day's files durable without publishing them. The same day gives the same bytes, in any order.

    Args:
        lake: where.
        day: the UTC day all of them belong to.
        events: shape ARCHIVED_EVENTS.
        counted: what they make by the rulebook; its `day` is in the folder's name, not in the files.
        rulebook: the rules of every tenant in the frame; those that the day's events meet are kept.
    """
    contents: dict[Kind, bytes] = {
        "events": _to_parquet(ARCHIVED_EVENTS.validate(events).sort(_EVENT_ORDER)),
        "counters": _to_parquet(COUNTERS.validate(counted.counters).sort(_COUNTER_ORDER).drop("day")),
        "counter_items": _to_parquet(COUNTER_ITEMS.validate(counted.items).sort(_ITEM_ORDER).drop("day")),
    }
    hashes = {kind: _sha256(content) for kind, content in contents.items()}
    rules = DayRules(
        day=day,
        files={str(kind): digest for kind, digest in hashes.items()},
        rulebook=rules_of_day(rulebook, events, day),
    )
    contents["rules"] = write_day_rules(rules)
    hashes["rules"] = _sha256(contents["rules"])
    for kind, content in contents.items():
        lake.write(folder(kind, day), f"{_STAGED}{hashes[kind]}", content)
    return DayFiles(
        events_sha256=hashes["events"],
        counters_sha256=hashes["counters"],
        items_sha256=hashes["counter_items"],
        rules_sha256=hashes["rules"],
    )


def publish_day(lake: Lake, day: date, files: DayFiles) -> None:
    """Move a day's staged files into place and delete whatever else lies beside them; nothing to do is no error.

    The day must be locked and `files` be what its committed manifest says: every other staged file is then a leftover.
    """
    for kind, part in _PARTS.items():
        place, staged = folder(kind, day), f"{_STAGED}{files.of(kind)}"
        if staged in lake.names(place):
            lake.rename(place, staged, part)
        for name in lake.names(place):
            if name.startswith((_TEMPORARY, _STAGED)):
                lake.delete(place, name)


def load_events(lake: Lake, day: date, *, sha256: str | None = None) -> pl.DataFrame:
    """A day's events, shape ARCHIVED_EVENTS; with `sha256` only if the file has it.

    Raises:
        InvariantBroken: no file, or not the one asked for.
    """
    return ARCHIVED_EVENTS.validate(_from_parquet(_load(lake, "events", day, sha256)))


def load_events_of(
    lake: Lake,
    day: date,
    *,
    sha256: str,
    tenant_id: str,
    metrics: Collection[str] | None = None,
    customer_refs: Collection[str] | None = None,
) -> pl.DataFrame:
    """A tenant's events of a day, of these metrics and references or of all; shape ARCHIVED_EVENTS.

    Files are sorted by tenant and metric, so what is asked for is nearly all that is decoded.

    Raises:
        InvariantBroken: no file, or not the one asked for.
    """
    asked = pl.col("tenant_id") == tenant_id
    for name, wanted in (("metric", metrics), ("customer_ref", customer_refs)):
        if wanted is not None:
            asked &= pl.col(name).is_in(sorted(wanted))
    content = _load(lake, "events", day, sha256)
    return ARCHIVED_EVENTS.validate(pl.scan_parquet(io.BytesIO(content)).filter(asked).collect())


def load_counters(lake: Lake, day: date, *, sha256: str | None = None) -> pl.DataFrame:
    """A day's counters, shape COUNTERS; with `sha256` only if the file has it.

    Raises:
        InvariantBroken: no file, or not the one asked for.
    """
    frame = _from_parquet(_load(lake, "counters", day, sha256)).with_columns(day=pl.lit(day))
    return COUNTERS.validate(frame.select(list(COUNTERS.columns)))


def load_items(lake: Lake, day: date, *, sha256: str | None = None) -> pl.DataFrame:
    """A day's counter items, shape COUNTER_ITEMS; with `sha256` only if the file has it.

    Raises:
        InvariantBroken: no file, or not the one asked for.
    """
    frame = _from_parquet(_load(lake, "counter_items", day, sha256)).with_columns(day=pl.lit(day))
    return COUNTER_ITEMS.validate(frame.select(list(COUNTER_ITEMS.columns)))


def load_rules(lake: Lake, day: date, *, sha256: str | None = None) -> DayRules:
    """The rules a day was counted by; with `sha256` only if the file has it.

    Raises:
        InvariantBroken: no file, not the one asked for, or one of another day.
    """
    place = f"{folder('rules', day)}/{_PARTS['rules']}"
    try:
        rules = read_day_rules(_load(lake, "rules", day, sha256))
    except InvalidInput as error:
        raise InvariantBroken(f"{place} cannot be read: {error}") from error
    if rules.day != day or set(rules.files) != set(_PARTS) - {"rules"}:
        raise InvariantBroken(f"{place} is of {rules.day} and {sorted(rules.files)}: archive the day again")
    return rules


def require_files(lake: Lake, day: date, files: DayFiles) -> None:
    """Nothing, when every file of a day is there with its hash.

    Raises:
        InvariantBroken: one is not; names it.
    """
    for kind in _PARTS:
        sha256 = files.of(kind)
        if sha256 is not None:
            _load(lake, kind, day, sha256)


def find_file(lake: LocalLake, kind: Kind, day: date, sha256: str) -> Path:
    """Where a day's file of a kind lies that has this hash: published, or staged while its archive is under way.

    Raises:
        InvariantBroken: no such file; names where it should be.
    """
    place = folder(kind, day)
    for name in (_PARTS[kind], f"{_STAGED}{sha256}"):
        content = lake.read(place, name)
        if content is not None and _sha256(content) == sha256:
            return lake.root / place / name
    raise InvariantBroken(f"{place}/{_PARTS[kind]} is not there as it was archived: archive the day again")


def folder(kind: Kind, day: date) -> str:
    """Where a day's file of a kind lies, below the lake's root."""
    return f"{kind}/month={day:%Y-%m}/day={day.isoformat()}"


def _load(lake: Lake, kind: Kind, day: date, sha256: str | None) -> bytes:
    place, part = folder(kind, day), _PARTS[kind]
    content = lake.read(place, part)
    if content is not None and sha256 in (None, _sha256(content)):
        return content
    # Committed, and its archive has not published it yet: the name contains the hash.
    staged = None if sha256 is None else lake.read(place, f"{_STAGED}{sha256}")
    if staged is not None and _sha256(staged) == sha256:
        return staged
    if content is None:
        raise InvariantBroken(f"the lake has no {place}/{part}: archive the day again")
    raise InvariantBroken(f"{place}/{part} is not the file that was archived: archive the day again")


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
