"""Nobody reads a file of more than 400 lines.

Belongs here: the bound. Does not: where to cut (the charter on top of the file).

The escape is a decision record that names the file.
"""

from __future__ import annotations

from collections.abc import Iterator

from tools.lints.source import Finding, Source

LINT = "length"
MOST_LINES = 400
SUFFIXES = (".py", ".ts", ".js", ".mjs", ".css")


def check(source: Source, decisions: str) -> Iterator[Finding]:
    """The file, when it is too long and no decision record (`decisions`: their whole text) names its path."""
    lines = source.text.count("\n")
    if source.path.endswith(SUFFIXES) and lines > MOST_LINES and source.path not in decisions:
        message = f"{lines} lines, at most {MOST_LINES}: cut it, or name it in docs/decisions"
        yield Finding(path=source.path, line=1, lint=LINT, message=message)
