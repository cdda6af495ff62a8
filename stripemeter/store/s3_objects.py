"""Objects in S3: finding one, reading one as a stream, fetching a small one at once.

Belongs here: requests to S3 and what their errors mean. Does not: formats (`files`), the lake (`lake`).

S3 is configured by the usual variables: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT_URL`.
"""

from __future__ import annotations

import io
import os
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError as ObjectStoreError
from obstore.store import S3Store

from stripemeter.errors import Conflict, InvalidInput, NotFound, Unavailable

if TYPE_CHECKING:
    from obstore.store import RetryConfig

READ_BYTES = 4 * 1_048_576
"""Of one request to S3: large enough that round trips do not count."""
PATIENCE = timedelta(seconds=5)
"""Of one request for a small object that somebody waits for; an import waits and tries again for minutes."""

_IMPATIENT: RetryConfig = {"max_retries": 1, "retry_timeout": PATIENCE}


def find_object(location: str) -> tuple[int, str]:
    """The size of an object as it is now, and its version.

    Raises:
        NotFound: there is none.
        InvalidInput: no s3:// address with bucket and key.
        Unavailable: S3 does not answer.
    """
    try:
        found = obstore.head(_bucket(location), _key(location))
    except FileNotFoundError as error:
        raise NotFound(f"no object {location}") from error
    except (ObjectStoreError, OSError) as error:
        raise Unavailable(f"cannot read {location}: {first_line(error)}") from error
    return found["size"], str(found["e_tag"])


def fetch_object(location: str, *, most_bytes: int) -> tuple[bytes, str]:
    """The content of a small object as it is now, and its version; S3 has seconds to give it.

    Raises:
        NotFound: there is none.
        InvalidInput: it is larger, or no s3:// address with bucket and key.
        Unavailable: S3 does not answer, or the object changed meanwhile.
    """
    store, key = _bucket(location, retry_config=_IMPATIENT, timeout=PATIENCE), _key(location)
    try:
        found = obstore.head(store, key)
        if found["size"] > most_bytes:
            raise InvalidInput(
                f"{location} has {found['size']} bytes, at most {most_bytes} are read for an answer", field="file"
            )
        content = obstore.get(store, key, options={"if_match": str(found["e_tag"])}).bytes()
    except FileNotFoundError as error:
        raise NotFound(f"no object {location}") from error
    except (ObjectStoreError, OSError) as error:
        raise Unavailable(f"cannot read {location}: {first_line(error)}") from error
    return bytes(content), str(found["e_tag"])


class S3Reader(io.RawIOBase):
    """An object as a seekable stream of ranged reads, all of the version that was found at first."""

    def __init__(self, location: str, *, size: int, version: str) -> None:
        self._location = location
        self._size = size
        self._version = version
        self._store = _bucket(location)
        self._key = _key(location)
        self._position = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go on at a position; nothing is read yet."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Where it goes on."""
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] # any writable buffer
        """Read as much as fits, or to the end."""
        end = min(self._position + len(buffer), self._size)
        if end <= self._position:
            return 0
        try:
            answer = obstore.get(
                self._store, self._key, options={"range": (self._position, end), "if_match": self._version}
            )
            chunk = answer.bytes()
        except obstore.exceptions.PreconditionError as error:
            raise Conflict(f"{self._location} changed while it was read: start again") from error
        except (ObjectStoreError, OSError) as error:
            raise Unavailable(f"cannot read {self._location}: {first_line(error)}") from error
        buffer[: len(chunk)] = memoryview(chunk)
        self._position += len(chunk)
        return len(chunk)


def first_line(error: Exception) -> str:
    """What an error says first."""
    return str(error).partition("\n")[0][:300]


def _bucket(
    location: str, *, retry_config: RetryConfig | None = None, timeout: timedelta = timedelta(seconds=30)
) -> S3Store:
    parts = urlsplit(location)
    if not parts.netloc or not parts.path.strip("/"):
        raise InvalidInput(f"{location} is not s3://BUCKET/KEY", field="file")
    is_plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    return S3Store(parts.netloc, client_options={"allow_http": is_plain, "timeout": timeout}, retry_config=retry_config)


def _key(location: str) -> str:
    # Not urlsplit: a key may hold ? and #.
    return location.removeprefix("s3://").partition("/")[2]
