"""The files of a backtest: its page, its summary and its numbers, in one directory.

Belongs here: their names, writing them. Does not: what is in them (`backtest_report`, `backtest_page`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from stripemeter.errors import InvalidInput
from stripemeter.pipeline.backtest_page import render_page
from stripemeter.pipeline.backtest_report import report_document, report_markdown
from stripemeter.pipeline.backtests import Backtest


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFiles:
    """Where the reports are."""

    page: Path
    markdown: Path
    json: Path


def write_reports(backtest: Backtest, directory: Path) -> ReportFiles:
    """Write backtest.html, backtest.md and backtest.json into a directory, in place of earlier ones.

    Raises:
        InvalidInput: they cannot be written there.
    """
    files = ReportFiles(
        page=directory / "backtest.html", markdown=directory / "backtest.md", json=directory / "backtest.json"
    )
    numbers = msgspec.json.format(msgspec.json.encode(report_document(backtest)), indent=2).decode()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        files.page.write_text(render_page(backtest), encoding="utf-8")
        files.markdown.write_text(report_markdown(backtest), encoding="utf-8")
        files.json.write_text(f"{numbers}\n", encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"the reports cannot be written to {directory}: {error}", field="out") from error
    return files
