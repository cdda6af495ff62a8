"""Request ids: adopted from the caller, or made.

Belongs here: the header and its bounds. Does not: logging.
"""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from typing import Any

import uuid_utils

HEADER = b"x-request-id"
MAX_CHARACTERS = 128

_KEY = "stripemeter.request_id"
_PRINTABLE = frozenset(range(0x20, 0x7F))


def adopt_request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The caller's `x-request-id` when it is 1 to MAX_CHARACTERS printable ASCII characters, else a new one.

    It is echoed in a header and written to logs, so anything a terminal or a header could trip over is replaced.
    """
    for name, value in headers:
        if name == HEADER and 0 < len(value) <= MAX_CHARACTERS and _PRINTABLE.issuperset(value):
            return value.decode("ascii")
    return str(uuid_utils.uuid7())


def remember_request_id(scope: MutableMapping[str, Any]) -> str:
    """The id of this request, adopted or made once and kept in its scope."""
    request_id: str = scope.setdefault(_KEY, "") or adopt_request_id(scope["headers"])
    scope[_KEY] = request_id
    return request_id


def request_id_of(scope: MutableMapping[str, Any]) -> str:
    """The id remembered for this request."""
    return remember_request_id(scope)
