"""No float where quantities and money live.

Belongs here: what counts as a float. Does not: mathematics on Decimal.

`0.1 + 0.2` on an invoice is a support ticket. Seconds and ratios that reach no bill are excused by name:
`timeout = 0.05  # allow-float: seconds`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tools.lints.source import Finding, Source

LINT = "float"
FOLDERS = tuple(f"stripemeter/{name}" for name in ("metering", "pricing", "pipeline", "store", "billing"))
_POLARS_FLOATS = frozenset({"Float32", "Float64"})


def check(source: Source) -> Iterator[Finding]:
    """Float literals, the name `float` (a call, an annotation, a cast) and Polars' float types."""
    if not source.is_under(*FOLDERS):
        return
    for node in ast.walk(source.tree()):
        match node:
            case ast.Constant(value=float() as number):
                yield from source.finding(node, LINT, f"{number} is a float: Decimal, or say what it measures")
            case ast.Name(id="float"):
                yield from source.finding(node, LINT, "float: quantities and money are Decimal")
            case ast.Attribute(attr=name) if name in _POLARS_FLOATS:
                yield from source.finding(node, LINT, f"{name}: frames hold quantities as Decimal")
            case _:
                pass
