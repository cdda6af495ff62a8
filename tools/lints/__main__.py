"""`python -m tools.lints`: every lint over the whole repository; prints findings, exits 1 when there are any."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from tools.lints import floats, glue, length, purity, queries, sql_text
from tools.lints.source import Finding, load_sources

ROOT = Path(__file__).resolve().parent.parent.parent


def main() -> int:
    """Run them all; returns the exit status."""
    findings = list(lint(ROOT))
    sys.stdout.writelines(f"{finding}\n" for finding in findings)
    return 1 if findings else 0


def lint(root: Path) -> Iterator[Finding]:
    """Findings of every lint in the repository at `root`, file by file."""
    decisions = "".join(source.text for source in load_sources(root, ".md") if source.is_under("docs/decisions"))
    python = load_sources(root, ".py")
    product = "".join(source.text for source in python if not source.is_under("tests", "tools"))
    for source in python:
        for module in (floats, sql_text, glue, purity):
            yield from module.check(source)
    for source in load_sources(root, *length.SUFFIXES):
        yield from length.check(source, decisions)
    for source in load_sources(root, ".sql"):
        yield from queries.check(source, product)


if __name__ == "__main__":
    sys.exit(main())
