"""The pure packages take `now` and frames, and give back values.

Belongs here: clocks, identities and files reached without an import import-linter could forbid.
Does not: imports (`[tool.importlinter]`).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tools.lints.source import Finding, Source

LINT = "purity"
FOLDERS = tuple(f"stripemeter/{name}" for name in ("metering", "pricing", "access", "alerting"))
_CLOCKS = frozenset({"now", "today", "utcnow", "uuid1", "uuid4", "uuid7", "monotonic", "perf_counter"})
_FILES = ("read_", "scan_", "write_", "sink_")


def check(source: Source) -> Iterator[Finding]:
    """Calls that read a clock, draw an identity, or read or write a file."""
    if not source.is_under(*FOLDERS):
        return
    for node in ast.walk(source.tree()):
        match node:
            case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)) if name in _CLOCKS:
                yield from source.finding(node, LINT, f"{name}() in a pure package: take it as an argument")
            case ast.Call(func=ast.Attribute(attr=name)) if name.startswith(_FILES):
                yield from source.finding(node, LINT, f"{name}() in a pure package: reading and writing is the store's")
            case ast.Call(func=ast.Name(id="open")):
                yield from source.finding(node, LINT, "open() in a pure package: reading and writing is the store's")
            case _:
                pass
