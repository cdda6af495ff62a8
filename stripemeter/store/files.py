"""Reading files of rows: CSV, JSON Lines and Parquet, from a path or from S3, never more than a batch in memory.

Belongs here: opening, reading on from a position, what a row looks like as columns. Does not: what columns mean
(`metering.rows`), storing.

S3 is configured as `s3_objects` says.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, Protocol, cast
from urllib.parse import urlsplit

import msgspec
import polars as pl

from stripemeter.errors import InvalidInput, NotFound
from stripemeter.metering.rows import FailedRow
from stripemeter.store.s3_objects import READ_BYTES, S3Reader, fetch_object, find_object, first_line
from stripemeter.store.text_lines import TextLines, UnreadableLineError

FileFormat = Literal["csv", "jsonl", "parquet"]
FORMATS: Mapping[str, FileFormat] = {
    ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip
PARQUET_ROWS = 50_000
"""Of one look into a Parquet file: slices, because Polars' own batches run ahead of a slow reader (measured: twice the
memory)."""

Row = Mapping[str, object] | FailedRow
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One state of one file: `version` changes when its content does.

    `location` is an absolute path or s3://; '' where `content` is the file.
    """

    location: str
    size: int
    version: str
    content: bytes | None = None

    @property
    def is_remote(self) -> bool:
        """Whether it lies in S3."""
        return self.location.startswith("s3://")


class Rows(Protocol):
    """Rows in the order of the file. After each, `position` is where to read on; `size` is the position of the end.

    `line` is the last line read of the file, counted from where reading began; of Parquet the row.
    """

    position: int
    size: int

    @property
    def line(self) -> int:
        """The line that the last row ended on."""
        ...

    @property
    def columns(self) -> Sequence[str] | None:
        """The heading; None where each row has its own names."""
        ...

    def __iter__(self) -> Iterator[Row]:
        """The rows from `position` on."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


def find_source(location: str) -> SourceFile:
    """The file as it is now.

    Raises:
        NotFound: there is none.
        InvalidInput: not a file, or an s3:// address without bucket or key.
        Unavailable: S3 does not answer.
    """
    if not location.startswith("s3://"):
        path = Path(location).expanduser().resolve()
        if not path.exists():
            raise NotFound(f"no file {path}")
        if not path.is_file():
            raise InvalidInput(f"{path} is not a file", field="file")
        status = path.stat()
        return SourceFile(location=str(path), size=status.st_size, version=f"{status.st_size}-{status.st_mtime_ns}")
    size, version = find_object(location)
    return SourceFile(location=location, size=size, version=version)


def fetch_source(location: str, *, most_bytes: int) -> SourceFile:
    """A small object in S3 as it is now, with its content, for whoever waits for an answer: S3 has seconds to give it.

    Raises:
        NotFound: there is none.
        InvalidInput: it is larger, or no s3:// address with bucket and key.
        Unavailable: S3 does not answer, or the object changed meanwhile.
    """
    content, version = fetch_object(location, most_bytes=most_bytes)
    return SourceFile(location=location, size=len(content), version=version, content=content)


def payload_source(content: bytes) -> SourceFile:
    """Content that came along, as a file that never changes."""
    return SourceFile(location="", size=len(content), version="payload", content=content)


def format_of(location: str) -> FileFormat:
    """The format a file's name says.

    Raises:
        InvalidInput: it says none.
    """
    ending = Path(urlsplit(location).path if location.startswith("s3://") else location).suffix.lower()
    if ending not in FORMATS:
        raise InvalidInput(
            f"cannot tell the format of {location}: name it (csv, jsonl or parquet; compressed files are not read)",
            field="format",
        )
    return FORMATS[ending]


def open_rows(source: SourceFile, file_format: FileFormat, *, position: int = 0) -> Rows:
    """The rows of a file from a position that an earlier reader of the same version reported.

    Raises:
        NotFound: the file is gone.
        InvalidInput: no heading, or no Parquet file.
        Unavailable: S3 does not answer.
    """
    if file_format == "parquet":
        return ParquetRows(source, position=position)
    return read_text_rows(open_stream(source), file_format, size=source.size, position=position)


def read_text_rows(stream: BinaryIO, file_format: FileFormat, *, size: int, position: int = 0) -> Rows:
    """Rows of a seekable stream of CSV or JSON Lines."""
    return (CsvRows if file_format == "csv" else JsonlRows)(stream, size=size, position=position)


def open_stream(source: SourceFile) -> BinaryIO:
    """The file's bytes, seekable.

    Raises:
        NotFound: the file is gone.
    """
    if source.content is not None:
        return io.BytesIO(source.content)
    if source.is_remote:
        return cast(
            "BinaryIO",
            io.BufferedReader(S3Reader(source.location, size=source.size, version=source.version), READ_BYTES),
        )
    try:
        return Path(source.location).open("rb", buffering=262_144)
    except FileNotFoundError as error:
        raise NotFound(f"no file {source.location}") from error


class CsvRows:
    """RFC 4180 with a heading: commas, quotes, line ends inside quotes, LF or CRLF, UTF-8 with or without BOM."""

    def __init__(self, stream: BinaryIO, *, size: int, position: int) -> None:
        self._lines = TextLines(stream)
        self.size = size
        try:
            self._columns = next(csv.reader(self._lines, strict=True), [])
        except (csv.Error, UnreadableLineError) as error:
            self.close()
            raise InvalidInput(f"the heading cannot be read: {error}", field="columns") from error
        if not self._columns:
            self.close()
            raise InvalidInput("the file is empty: its first line must name the columns", field="columns")
        if position:
            self._lines.seek(position)
        self.position = self._lines.position

    @property
    def columns(self) -> Sequence[str]:
        """The heading."""
        return self._columns

    @property
    def line(self) -> int:
        """The line that the last row ended on."""
        return self._lines.count

    def close(self) -> None:
        """Let go of the file."""
        self._lines.close()

    def __iter__(self) -> Iterator[Row]:
        """One per record; empty lines are none. Empty cells are absent."""
        records = csv.reader(self._lines, strict=True)
        columns = self._columns
        width = len(columns)
        while True:
            row: Row | None
            try:
                record = next(records)
            except StopIteration:
                return
            except csv.Error as error:
                row = FailedRow("", "malformed_csv", f"the row is not CSV: {error}")
            except UnreadableLineError as error:
                row = FailedRow("", error.code, str(error))
            else:
                if len(record) == width:
                    row = {name: cell for name, cell in zip(columns, record, strict=True) if cell}
                elif record:
                    row = FailedRow("", "malformed_csv", f"{len(record)} cells, the heading has {width}")
                else:
                    row = None
            self.position = self._lines.position
            if row is not None:
                yield row


class JsonlRows:
    """One JSON object per line, UTF-8; empty lines are no rows."""

    def __init__(self, stream: BinaryIO, *, size: int, position: int) -> None:
        self._lines = TextLines(stream)
        self.size = size
        if position:
            self._lines.seek(position)
        self.position = position

    @property
    def columns(self) -> None:
        """Each row has its own names."""
        return

    @property
    def line(self) -> int:
        """The line that the last row ended on."""
        return self._lines.count

    def close(self) -> None:
        """Let go of the file."""
        self._lines.close()

    def __iter__(self) -> Iterator[Row]:
        """One per line that is not empty; null is absent."""
        while True:
            row: Row | None
            try:
                line = next(self._lines).strip()
            except StopIteration:
                return
            except UnreadableLineError as error:
                row = FailedRow("", error.code, str(error))
            else:
                row = _json_row(line) if line else None
            self.position = self._lines.position
            if row is not None:
                yield row


class ParquetRows:
    """A Parquet file, batch by batch; positions are rows. Struct and text columns may hold `meta`."""

    def __init__(self, source: SourceFile, *, position: int) -> None:
        options = {"aws_allow_http": "true"} if source.is_remote else None
        try:
            self._frame = (
                pl.scan_parquet(source.location, storage_options=options, glob=False)
                if source.content is None
                else pl.scan_parquet(io.BytesIO(source.content))
            )
            self._columns = self._frame.collect_schema().names()
            self.size = int(self._frame.select(pl.len()).collect().item())
        except (pl.exceptions.PolarsError, OSError) as error:
            raise InvalidInput(
                f"{source.location} cannot be read as Parquet: {first_line(error)}", field="file"
            ) from error
        self.position = position

    @property
    def columns(self) -> Sequence[str]:
        """The columns."""
        return self._columns

    @property
    def line(self) -> int:
        """The row."""
        return self.position

    def close(self) -> None:
        """Nothing stays open between batches."""

    def __iter__(self) -> Iterator[Row]:
        """One per row."""
        while self.position < self.size:
            # `position` moves inside the loop: the slice is that of where it stood.
            for row in self._frame.slice(self.position, PARQUET_ROWS).collect().iter_rows(named=True):
                self.position += 1
                yield row


def _json_row(line: str) -> Row:
    try:
        members = _decode_object(line)
    except msgspec.ValidationError as error:
        return FailedRow("", "malformed_json", f"the line must be a JSON object: {error}")
    except (msgspec.DecodeError, RecursionError) as error:
        return FailedRow("", "malformed_json", f"the line is not JSON: {error}")
    return {name: value for name, value in members.items() if bytes(value) != b"null"}
