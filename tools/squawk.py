"""Squawk over the `migrate:up` half of every migration.

Belongs here: what squawk is shown. Does not: its rules (`tools/squawk.toml`).

The `migrate:down` half drops what the up half made, which is exactly what squawk forbids an up half to do; it runs on
a developer's database only. So it is blanked out, line by line: the line numbers in a finding stay true.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIGURATION = ROOT / "tools" / "squawk.toml"
_DOWN = re.compile(r"^-- migrate:down", re.MULTILINE)


def main() -> int:
    """Lint every migration; findings go to standard output, the exit status says whether there were any."""
    findings = [finding for path in sorted((ROOT / "sql" / "migrations").glob("*.sql")) for finding in check(path)]
    sys.stdout.writelines(f"{finding}\n" for finding in findings)
    return 1 if findings else 0


def check(path: Path) -> list[str]:
    """Findings in one migration, as `file:line:column: rule and advice`."""
    up_half = blank_down_half(path.read_text(encoding="utf-8"))
    in_transaction = [] if "transaction:false" in up_half else ["--assume-in-transaction"]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        copy.write_text(up_half, encoding="utf-8")
        finished = subprocess.run(
            [
                str(Path(sys.executable).parent / "squawk"),
                *("--config", str(CONFIGURATION), "--reporter", "gcc", *in_transaction, str(copy)),
            ],
            check=False,
            capture_output=True,
            text=True,
        )
    if finished.returncode == 0:
        return []
    return (finished.stdout or finished.stderr).replace(f"{folder}/", "sql/migrations/").splitlines()


def blank_down_half(text: str) -> str:
    """`text` with every line from `-- migrate:down` on emptied."""
    down = _DOWN.search(text)
    return text if down is None else text[: down.start()] + "\n" * text.count("\n", down.start())


if __name__ == "__main__":
    sys.exit(main())
