"""A query has a purpose, in words, and a caller.

Belongs here: the headers of `sql/queries`. Does not: the SQL below them (sqlfluff).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tools.lints.source import Finding, Source

LINT = "query"
_HEADER = re.compile(r"^-- name: (?P<name>[a-z][a-z0-9_]*)[ \t]*\n(?P<next>[^\n]*)", re.MULTILINE)
_PURPOSE = re.compile(r"-- [A-Z].*")


def check(source: Source, python: str) -> Iterator[Finding]:
    """Queries without a purpose line, and queries no Python (`python`: its whole text) asks for by name."""
    if not source.is_under("sql/queries"):
        return
    for header in _HEADER.finditer(source.text):
        line = source.text.count("\n", 0, header.start()) + 1
        if not _PURPOSE.match(header["next"]):
            message = f"{header['name']}: the line under the name says what it is for, as a sentence"
            yield Finding(path=source.path, line=line, lint=LINT, message=message)
        if f'"{header["name"]}"' not in python:
            yield Finding(path=source.path, line=line, lint=LINT, message=f"{header['name']}: nothing asks for it")
