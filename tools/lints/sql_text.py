"""SQL lives in `sql/`, under a name.

Belongs here: recognising SQL inside a Python string. Does not: judging SQL (sqlfluff, squawk).

SQL in Python escapes the linter, the reviewer who reads `sql/queries` and, sooner or later, its parameters.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tools.lints.source import Finding, Source

LINT = "sql-text"
FOLDERS = ("stripemeter", "stripemeter_assets", "api/stripemeter_api")
_OBJECTS = "table|index|unique|database|schema|role|user|function|view|materialized|sequence|type|extension|trigger"
_STATEMENT = re.compile(
    r"""\s*(?:
        select\s+\S | insert\s+into\s | update\s+\S+\s+set\s | delete\s+from\s | truncate\s+\w | merge\s+into\s
        | with\s+(?:recursive\s+)?\w+\s+as\s | copy\s+\S+\s+(?:\(|from|to) | lock\s+table\s | show\s+\w+\s*;?$
        | (?:create|alter|drop)\s+(?:or\s+replace\s+|temp(?:orary)?\s+)?(?:"""
    + _OBJECTS
    + r""")\b
        | set\s+(?:local\s+|session\s+)?\w+\s*(?:=|to)\s | (?:listen|notify|vacuum|analyze)\s+\w+\s*;?$
    )""",
    re.IGNORECASE | re.VERBOSE,
)


def check(source: Source) -> Iterator[Finding]:
    """Strings and f-strings that start like a SQL statement; docstrings may talk about SQL."""
    if not source.is_under(*FOLDERS):
        return
    tree = source.tree()
    statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in statements
            and _STATEMENT.match(node.value)
        ):
            yield from source.finding(node, LINT, "SQL in Python: give it a name in sql/queries")
