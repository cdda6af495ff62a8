"""`make check`: every check that needs no server, in one go, with one verdict.

Belongs here: which tools run, on what, in which order. Does not: what they enforce (`pyproject.toml`,
`tools/squawk.toml`, `tools/lints`).

All of them run even when one fails: a person mends a list faster than a series of first errors.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


def main() -> int:
    """Run the checks named on the command line, or all; returns 1 when any of them found something."""
    wanted = sys.argv[1:]
    checks = _checks()
    unknown = set(wanted) - set(checks)
    if unknown:
        sys.stderr.write(f"no check named {', '.join(sorted(unknown))}; there are {', '.join(checks)}\n")
        return 2
    failed = [name for name, command in checks.items() if (not wanted or name in wanted) and not _passes(name, command)]
    sys.stdout.write(f"check failed: {', '.join(failed)}\n" if failed else "check passed\n")
    return 1 if failed else 0


def _checks() -> dict[str, list[str]]:
    return {
        "format": [str(BIN / "ruff"), "format", "--check", "--quiet"],
        "lint": [str(BIN / "ruff"), "check", "--quiet"],
        "types": [str(BIN / "mypy"), "--no-error-summary"],
        "imports": [str(BIN / "lint-imports"), "--no-cache"],
        "sql": [str(BIN / "sqlfluff"), "lint", "--disable-progress-bar", "sql"],
        "migrations": [sys.executable, "-m", "tools.squawk"],
        "lints": [sys.executable, "-m", "tools.lints"],
    }


def _passes(name: str, command: list[str]) -> bool:
    started = time.monotonic()
    finished = subprocess.run(command, check=False, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    passed = finished.returncode == 0
    sys.stdout.write(f"{name:<11}{'ok' if passed else 'FAILED':<7}{time.monotonic() - started:5.1f} s\n")
    if not passed:
        sys.stdout.write(f"{finished.stdout.decode().rstrip()}\n")
    sys.stdout.flush()
    return passed


if __name__ == "__main__":
    sys.exit(main())
