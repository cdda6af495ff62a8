"""Where SQL lives and how it is loaded.

Belongs here: finding the `sql/` tree (checkout or wheel) and splitting its query files by name.
Does not: any SQL text, any connection.

A query file holds queries separated by headers of the form

    -- name: load_counters
    -- One row per counter of a day.
    select ...

Names are unique within a file. Python never assembles SQL: it takes a text from here and passes parameters.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import LiteralString, cast

_PACKAGE = Path(__file__).resolve().parent.parent
_HEADER = re.compile(r"^-- name: (?P<name>[a-z][a-z0-9_]*)[ \t]*\n", re.MULTILINE)


def shipped(relative: str) -> Path:
    """Path of a non-Python file of the distribution: inside the wheel, else inside the checkout.

    Raises:
        FileNotFoundError: neither place has it.
    """
    for base in (_PACKAGE / "_shipped", _PACKAGE.parent):
        path = base / relative
        if path.exists():
            return path
    raise FileNotFoundError(f"{relative}: not in the wheel and not in a checkout beside {_PACKAGE}")


@functools.cache
def load_queries(module: str) -> Mapping[str, LiteralString]:
    """Queries of `sql/queries/<module>.sql` by name.

    Raises:
        FileNotFoundError: no such module.
        ValueError: text before the first header, or a name used twice.
    """
    text = shipped(f"sql/queries/{module}.sql").read_text(encoding="utf-8")
    preamble, *parts = _HEADER.split(text)
    if any(line and not line.startswith("--") for line in preamble.splitlines()):
        raise ValueError(f"sql/queries/{module}.sql: SQL before the first '-- name:' header")
    names, bodies = parts[::2], parts[1::2]
    if len(set(names)) != len(names):
        raise ValueError(f"sql/queries/{module}.sql: a name is used twice")
    # The files are part of the distribution, so their text is as literal as a string in this module.
    return {name: cast("LiteralString", body.strip()) for name, body in zip(names, bodies, strict=True)}
