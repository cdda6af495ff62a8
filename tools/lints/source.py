"""What a lint reads and what it returns.

Belongs here: a parsed file, a finding, the escape comment. Does not: any rule.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ESCAPE = re.compile(r"#\s*allow-(?P<lint>[a-z-]+):\s*(?P<reason>\S.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line somebody has to look at; `path` is relative to the root of the repository."""

    path: str
    line: int
    lint: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.lint}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One text file; `path` is relative to the root of the repository, with forward slashes."""

    path: str
    text: str

    def tree(self) -> ast.Module:
        """The file as Python.

        Raises:
            SyntaxError: it is not Python.
        """
        return ast.parse(self.text, filename=self.path)

    def is_under(self, *folders: str) -> bool:
        """Whether the file lies in one of the folders, at any depth."""
        return any(self.path.startswith(f"{folder}/") for folder in folders)

    def finding(self, node: ast.expr | ast.stmt, lint: str, message: str) -> Iterator[Finding]:
        """The finding on `node`, or nothing when one of its lines excuses that lint."""
        if not self._is_excused(node, lint):
            yield Finding(path=self.path, line=node.lineno, lint=lint, message=message)

    def _is_excused(self, node: ast.expr | ast.stmt, lint: str) -> bool:
        # A definition spans its whole body; only its own head may excuse it.
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            last = node.body[0].lineno - 1
        else:
            last = node.end_lineno or node.lineno
        lines = self.text.splitlines()[node.lineno - 1 : max(last, node.lineno)]
        return any(found["lint"] == lint for line in lines for found in _ESCAPE.finditer(line))


def list_files(root: Path) -> list[Path]:
    """Every file of the repository at `root`: tracked, or new and not ignored; sorted."""
    # CI may check the repository out as one user and run as another; we only list names.
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, check=True, cwd=root, capture_output=True, text=True).stdout
    return sorted(path for name in listed.split("\0") if name and (path := root / name).is_file())


def load_sources(root: Path, *suffixes: str) -> list[Source]:
    """The files of the repository with one of the suffixes, sorted by path."""
    return [
        Source(path=path.relative_to(root).as_posix(), text=path.read_text(encoding="utf-8"))
        for path in list_files(root)
        if path.name.endswith(suffixes)
    ]
