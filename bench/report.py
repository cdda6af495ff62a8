"""The report: JSON per bench, a table on the terminal, RESULTS.md.

Belongs here: writing and rendering rows. Does not: measuring, judging (`measure`).

The machine is described without its name or any path, so that results may be committed.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

from bench.measure import Budget, Row, Rule, Series, Verdict

ROOT = Path(__file__).parent
RESULTS = ROOT / "results"
PAGE = ROOT / "RESULTS.md"


def machine() -> str:
    """Processor, cores, memory, kernel, Python."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    model = next((line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")), "?")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    kernel = platform.release().partition("-")[0]
    return (
        f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, Linux {kernel}, Python {platform.python_version()}, "
        "embedded PostgreSQL with fsync and synchronous_commit on"
    )


def save(bench: str, rows: Sequence[Row], *, command: str, generator: str, loads: tuple[float, float]) -> None:
    """Write one bench's rows; they replace its earlier ones."""
    RESULTS.mkdir(exist_ok=True)
    document = {
        "bench": bench,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "command": command,
        "load_generator": generator,
        "load_average_before": loads[0],
        "load_average_after": loads[1],
        "rows": [asdict(row) for row in rows],
    }
    text = json.dumps(document, indent=2, default=_plain)
    (RESULTS / f"{bench}.json").write_text(f"{text}\n", encoding="utf-8")


def table(rows: Sequence[Row]) -> str:
    """Limit and system side by side, one line each, for a terminal."""
    lines = [f"{'':<7} {'ratio':>7}  {'system':>12}  {'limit':>12}  what"]
    for row in rows:
        ratio = f"{row.ratio.median:.3g}" if row.ratio is not None else ""
        limit = f"{_number(row.limit.median)}" if row.limit is not None else ""
        budget = f"   [{budget_text(row)}]" if row.budget is not None else ""
        against = f"   vs {row.limit_name}" if row.limit_name else ""
        lines.append(
            f"{row.verdict.value:<7} {ratio:>7}  {_number(row.system.median):>12}  {limit:>12}  "
            f"{row.what} ({row.unit}){against}{budget}"
        )
    return "\n".join(lines)


def render(benches: Sequence[str]) -> list[str]:
    """Write RESULTS.md from the saved rows of all benches; returns those never measured here, which the page names."""
    missing = [bench for bench in benches if not (RESULTS / f"{bench}.json").exists()]
    documents = [
        json.loads((RESULTS / f"{bench}.json").read_text(encoding="utf-8")) for bench in benches if bench not in missing
    ]
    if not documents:
        return missing
    parts = [(ROOT / "RESULTS.head.md").read_text(encoding="utf-8"), f"Machine: {documents[0]['machine']}.\n"]
    if missing:
        parts.append(f"Not measured for this page: {', '.join(f'`{bench}`' for bench in missing)}.\n")
    parts += [_summary(documents), *(_section(document) for document in documents)]
    PAGE.write_text("\n".join(parts), encoding="utf-8")
    return missing


def budget_text(row: Row) -> str:
    """The budget in words."""
    if row.budget is None:
        return ""
    bound = "1/50" if row.budget.bound == 1 / 50 else f"{row.budget.bound:g}"
    unit = f" {row.unit}" if row.budget.rule is Rule.VALUE_AT_MOST else ""
    return f"{row.budget.rule.value} {bound}{unit}"


def _summary(documents: Sequence[dict[str, Any]]) -> str:
    lines = ["## Budgets\n", "| bench | what | measured | budget | |", "|---|---|---|---|---|"]
    for document in documents:
        for row in map(_row, document["rows"]):
            if row.budget is not None:
                measured = row.system if row.budget.rule is Rule.VALUE_AT_MOST else row.ratio
                assert measured is not None
                shown = f"{_number(measured.median)}{_spread(measured)}"
                verdict = "met" if row.verdict is Verdict.MET else "**missed**"
                lines.append(f"| {row.bench} | {row.what} | {shown} | {budget_text(row)} | {verdict} |")
    return "\n".join(lines) + "\n"


def _section(document: dict[str, Any]) -> str:
    lines = [
        f"## {document['bench']}\n",
        _conditions(document),
        "| what | unit | system | limit | ratio | n |",
        "|---|---|---|---|---|---|",
    ]
    notes: dict[str, None] = {}
    for row in map(_row, document["rows"]):
        limit = f"{_number(row.limit.median)}{_spread(row.limit)}" if row.limit is not None else ""
        ratio = f"**{row.ratio.median:.3g}**{_spread(row.ratio)}" if row.ratio is not None else ""
        against = f" / {row.limit_name}" if row.limit_name else ""
        shown = f"{_number(row.system.median)}{_spread(row.system)}"
        lines.append(f"| {row.what}{against} | {row.unit} | {shown} | {limit} | {ratio} | {len(row.system.samples)} |")
        if row.note:
            notes.setdefault(row.note)
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n"


def _conditions(document: dict[str, Any]) -> str:
    return (
        f"`{document['command']}`, {document['measured_at']}, load generator {document['load_generator']}, "
        f"load average {document['load_average_before']:.1f} before and {document['load_average_after']:.1f} after.\n"
    )


def _row(plain: dict[str, Any]) -> Row:
    return Row(
        bench=plain["bench"],
        what=plain["what"],
        unit=plain["unit"],
        system=Series(samples=tuple(plain["system"]["samples"])),
        limit=Series(samples=tuple(plain["limit"]["samples"])) if plain["limit"] else None,
        limit_name=plain["limit_name"],
        budget=Budget(rule=Rule(plain["budget"]["rule"]), bound=plain["budget"]["bound"]) if plain["budget"] else None,
        note=plain["note"],
    )


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    raise TypeError(type(value).__name__)


def _spread(of: Series) -> str:
    return f" ({_number(of.lowest)}-{_number(of.highest)})" if len(of.samples) > 1 else ""


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
