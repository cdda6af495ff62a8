"""Lines of a stream of bytes as text, and where the next one begins.

Belongs here: UTF-8, over-long lines, positions. Does not: what lines mean (`files`).
"""

from __future__ import annotations

from typing import BinaryIO

MAX_LINE_BYTES = 1_048_576
"""Of one line: as much as a whole request may have. A longer one is a failed row and is never held whole."""
BOM = b"\xef\xbb\xbf"


class UnreadableLineError(Exception):
    """A line that cannot be read as text; the lines after it can."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class TextLines:
    """Lines of a stream as text, and where the next one begins. An over-long line is read past, never held."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.position = 0
        self.count = 0

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()

    def seek(self, position: int) -> None:
        """Go on at a position."""
        self._stream.seek(position)
        self.position = position

    def __iter__(self) -> TextLines:
        return self

    def __next__(self) -> str:
        line = self._stream.readline(MAX_LINE_BYTES)
        if not line:
            raise StopIteration
        is_first = self.position == 0
        self.position += len(line)
        self.count += 1
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = self._stream.readline(MAX_LINE_BYTES)
                self.position += len(line)
            raise UnreadableLineError("row_too_long", f"the line has more than {MAX_LINE_BYTES} bytes")
        if is_first:
            line = line.removeprefix(BOM)
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UnreadableLineError("not_utf8", f"the line is not UTF-8: {error.reason}") from error
