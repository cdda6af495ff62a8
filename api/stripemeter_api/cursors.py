"""Cursors: where a page ended, as an opaque text for a URL.

Belongs here: packing, unpacking, refusing a cursor of another listing. Does not: what the values mean.

A cursor is not signed: it only says where to go on among rows the request's own tenantId selects anyway.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from stripemeter.errors import InvalidInput

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICK = timedelta(microseconds=1)
_decode = msgspec.json.Decoder(tuple[str, tuple[int | str, ...]]).decode
_encode = msgspec.json.Encoder().encode


def pack_cursor(listing: Sequence[object], key: Sequence[int | str]) -> str:
    """The text for `key`, bound to the filters and order of its listing."""
    return base64.urlsafe_b64encode(_encode((_mark(listing), tuple(key)))).rstrip(b"=").decode("ascii")


def unpack_cursor(text: str, listing: Sequence[object], kinds: Sequence[type]) -> list[int | str]:
    """The key in a cursor, each value of the kind expected in its place.

    Raises:
        InvalidInput: not one of our cursors, or one of a listing with other filters or another order.
    """
    try:
        mark, key = _decode(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, msgspec.MsgspecError) as error:
        raise _refused("is not a cursor of ours: send nextCursor as it came") from error
    if mark != _mark(listing):
        raise _refused("belongs to a listing with other filters or another order: repeat those of its first page")
    if [type(value) for value in key] != list(kinds):
        raise _refused("is not a cursor of ours: send nextCursor as it came")
    return list(key)


def to_microseconds(at: datetime) -> int:
    """Microseconds since 1970."""
    return (at - _EPOCH) // _TICK


def from_microseconds(microseconds: int) -> datetime:
    """The instant so many microseconds after 1970.

    Raises:
        InvalidInput: outside the years 0001 to 9999.
    """
    try:
        return _EPOCH + timedelta(microseconds=microseconds)
    except OverflowError as error:
        raise _refused("is not a cursor of ours: send nextCursor as it came") from error


def to_bigint(number: int) -> int:
    """The number, when Postgres can hold it.

    Raises:
        InvalidInput: it has more than 64 bits.
    """
    if not -(2**63) <= number < 2**63:
        raise _refused("is not a cursor of ours: send nextCursor as it came")
    return number


def _mark(listing: Sequence[object]) -> str:
    return hashlib.blake2b(repr(tuple(listing)).encode(), digest_size=6).hexdigest()


def _refused(reason: str) -> InvalidInput:
    return InvalidInput(f"cursor {reason}", field="cursor")
