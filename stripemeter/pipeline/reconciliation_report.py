"""The report of a reconciliation as one HTML file, and its drift-over-time plot.

Belongs here: rendering, saving, deleting old files. Does not: comparing (`pipeline.reconcile`), Dagster's metadata.

The page loads nothing: no script, no font, no image from elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from decimal import Decimal
from html import escape
from pathlib import Path

from stripemeter.pipeline.reconcile import ReconciledRow, ReconciliationReport
from stripemeter.store.reconciliation_runs import ReconciliationRun

KEPT_FOR = timedelta(days=14)
MOST_KEPT = 2000
"""A busy stack compares after every push: a day's worth of files, a few tens of megabytes."""
_WIDTH, _HEIGHT, _MARGIN = 720, 180, 40
_STYLE = (
    "body{font:14px system-ui,sans-serif;margin:2em}table{border-collapse:collapse}"
    "td,th{border:1px solid #ccc;padding:2px 8px;text-align:left}"
)


def save_report(
    home: Path,
    reports: Mapping[str, ReconciliationReport],
    runs: Mapping[str, Sequence[ReconciliationRun]],
    *,
    now: datetime,
) -> Path:
    """Write the page into `reports/` of the state directory; its path."""
    path = _folder(home) / f"reconciliation-{now:%Y%m%dT%H%M%S%fZ}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_report(reports, runs, now=now), encoding="utf-8")
    return path


def render_report(
    reports: Mapping[str, ReconciliationReport],
    runs: Mapping[str, Sequence[ReconciliationRun]],
    *,
    now: datetime,
) -> str:
    """The page: per account the counts, the plot and every day that is not ok."""
    parts = [_section(mode, report, runs.get(mode, ())) for mode, report in reports.items()]
    title = f"Reconciliation of {now:%Y-%m-%d %H:%M:%S} UTC"
    body = "".join(parts) or "<p>No Stripe account is configured: nothing was compared.</p>"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"</head><body><h1>{title}</h1>{body}</body></html>\n"
    )


def plot_drift(runs: Sequence[ReconciliationRun]) -> str:
    """Total absolute drift over the runs, oldest left, as SVG; a run Stripe did not fully answer is a red dot."""
    greatest = max((run.drift_total for run in runs), default=Decimal(0))
    points = [(_x(runs, run), _y(run.drift_total, greatest), run.unknown_count > 0) for run in runs]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{"#c00" if is_unknown else "#06c"}"/>'
        for x, y, is_unknown in points
    )
    span = f"{runs[0].ended_at:%Y-%m-%d %H:%M} to {runs[-1].ended_at:%Y-%m-%d %H:%M} UTC" if runs else "no runs"
    bottom = _HEIGHT - _MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" role="img" '
        f'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="#fff"/>'
        f'<path d="M{_MARGIN},{_MARGIN}V{bottom}H{_WIDTH - _MARGIN}" stroke="#888" fill="none"/>'
        f'<polyline points="{line}" stroke="#06c" fill="none"/>{dots}'
        f'<text x="{_MARGIN}" y="{_MARGIN - 10}">absolute drift, at most {greatest:f}; red: unanswered days</text>'
        f'<text x="{_MARGIN}" y="{_HEIGHT - 15}">{span}</text></svg>'
    )


def delete_old_reports(home: Path, *, now: datetime) -> int:
    """Delete pages older than KEPT_FOR, and of the others all but the newest MOST_KEPT; returns how many."""
    newest_first = sorted(_folder(home).glob("reconciliation-*.html"), reverse=True)
    oldest = f"reconciliation-{now - KEPT_FOR:%Y%m%dT%H%M%S%fZ}.html"
    old = [path for place, path in enumerate(newest_first) if place >= MOST_KEPT or path.name < oldest]
    for path in old:
        path.unlink(missing_ok=True)
    return len(old)


def _folder(home: Path) -> Path:
    return home / "reports"


def _section(mode: str, report: ReconciliationReport, runs: Sequence[ReconciliationRun]) -> str:
    counts = ("days", "ok", "within_epsilon", "drift", "unknown", "unexplained", "held", "confirmed")
    facts = "".join(f"<tr><th>{name}</th><td>{getattr(report, name)}</td></tr>" for name in counts)
    return (
        f"<h2>{escape(mode)}: {escape(report.stripe_account_id)}</h2><table>{facts}</table>"
        f"<h3>Drift over time</h3>{plot_drift(runs)}<h3>Days that are not ok</h3>{_table(report.rows)}"
    )


def _table(rows: Sequence[ReconciledRow]) -> str:
    if not rows:
        return "<p>None.</p>"
    names = [field.name for field in fields(ReconciledRow)]
    head = "".join(f"<th>{name}</th>" for name in names)
    lines = "".join(f"<tr>{''.join(f'<td>{_cell(getattr(row, name))}</td>' for name in names)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{lines}</table>"


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case Decimal():
            return f"{value:f}"
        case _:
            return escape(str(value))


def _x(runs: Sequence[ReconciliationRun], run: ReconciliationRun) -> float:  # allow-float: pixels
    first, last = runs[0].ended_at, runs[-1].ended_at
    share = 1.0 if last <= first else (run.ended_at - first) / (last - first)  # allow-float: pixels
    return _MARGIN + share * (_WIDTH - 2 * _MARGIN)


def _y(drift: Decimal, greatest: Decimal) -> float:  # allow-float: pixels
    share = 0.0 if greatest == 0 else float(drift / greatest)  # allow-float: pixels
    return _HEIGHT - _MARGIN - share * (_HEIGHT - 2 * _MARGIN)
