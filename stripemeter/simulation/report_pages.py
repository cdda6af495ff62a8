"""Pages of a report: a table for a terminal, Markdown for a pull request, one HTML file that loads nothing.

Belongs here: rows and their order. Does not: what is in them (`reports`).
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stripemeter.simulation.comparisons import Assertion
from stripemeter.simulation.reports import Judged, summary_of

_HEAD = ("", "expected", "actual", "difference", "at")
_INVOICE_HEAD = ("invoice", "period", "status", "subtotal", "credits", "tax", "total")
_NUMERIC = ' class="n"'
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#])")


def summary_text(judged: Sequence[Judged]) -> str:
    """The summary in a line."""
    numbers = summary_of(judged)
    text = f"Total: {numbers['total']} • OK: {numbers['ok']} • Diffs: {numbers['diffs']}"
    return text + (f" • Errors: {numbers['errors']}" if numbers["errors"] else "")


def render_table(judged: Sequence[Judged]) -> str:
    """Plain text: a line a scenario, and one for each difference."""
    lines = []
    for each in judged:
        lines.append(f"{_verdict(each):<6} {each.scenario} ({_counted(each)})")
        if each.error is not None:
            lines.append(f"       {each.error}")
        lines += [f"       {line}" for line in difference_lines(each.differences)]
    return "\n".join([*lines, summary_text(judged)]) + "\n"


def difference_lines(differences: Sequence[Assertion]) -> Iterator[str]:
    """Each difference in a line."""
    for each in differences:
        path, expected, actual, difference, at = _cells(each)
        off = f" ({difference})" if difference else ""
        yield f"{path}: expected {expected}, got {actual}{off}{f' at {at}' if at else ''}"


def render_markdown(judged: Sequence[Judged]) -> str:
    """A summary, a table of scenarios, and a table of differences for each that has any."""
    lines = ["# Simulations", "", summary_text(judged), "", "| scenario | result | assertions |", "|---|---|---|"]
    lines += [f"| {_escaped(each.scenario)} | {_verdict(each)} | {_counted(each)} |" for each in judged]
    for each in judged:
        if each.is_ok:
            continue
        lines += ["", f"## {_escaped(each.scenario)}", ""]
        if each.error is not None:
            lines.append(_escaped(each.error))
            continue
        lines += [f"| {' | '.join(_HEAD)} |", "|---" * len(_HEAD) + "|"]
        lines += [f"| {' | '.join(map(_escaped, _cells(assertion)))} |" for assertion in each.differences]
    return "\n".join(lines) + "\n"


def render_page(judged: Sequence[Judged]) -> str:
    """One HTML file; what scenarios named is escaped."""
    sections = "\n".join(_section(each) for each in judged)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Simulations</title><style>'
        "body{font-family:sans-serif;margin:2em auto;max-width:70em}table{border-collapse:collapse;margin:.5em 0}"
        "td,th{padding:.2em .8em;border-bottom:1px solid #ccc;text-align:left}"
        "td.n,th.n{text-align:right}summary{cursor:pointer;padding:.2em 0}"
        ".ok{color:#176b2c}.diff,.error{color:#a3122b;font-weight:bold}</style></head><body>"
        f"<h1>Simulations</h1>\n<p>{html.escape(summary_text(judged))}</p>\n{sections}\n</body></html>\n"
    )


def _section(judged: Judged) -> str:
    verdict = _verdict(judged)
    opened = "" if judged.is_ok else " open"
    title = f'<span class="{verdict}">{verdict}</span> {html.escape(judged.scenario)} ({_counted(judged)})'
    parts = [f"<details{opened}><summary>{title}</summary>"]
    if judged.error is not None:
        parts.append(f"<p>{html.escape(judged.error)}</p>")
    if judged.differences:
        parts.append(_html_table(_HEAD, [_cells(each) for each in judged.differences], numeric=(1, 2, 3)))
    if judged.invoices:
        rows = [_invoice_cells(number, invoice) for number, invoice in enumerate(judged.invoices, start=1)]
        parts.append(_html_table(_INVOICE_HEAD, rows, numeric=(3, 4, 5, 6)))
    return "\n".join([*parts, "</details>"])


def _html_table(head: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[int]) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        written = [
            f"<{tag}{_NUMERIC if column in numeric else ''}>{html.escape(cell)}</{tag}>"
            for column, cell in enumerate(cells)
        ]
        return f"<tr>{''.join(written)}</tr>"

    body = "\n".join(row(cells, "td") for cells in rows)
    return f"<table><thead>{row(head, 'th')}</thead><tbody>\n{body}\n</tbody></table>"


def _invoice_cells(number: int, invoice: Mapping[str, Any]) -> tuple[str, ...]:
    text = {name: str(invoice.get(name, "")) for name in ("periodStart", "periodEnd", "status", "currency")}
    amounts = [str(invoice.get(name, "")) for name in ("subtotal", "credits", "tax", "total")]
    name = str(invoice.get("id") or number)
    period = f"{text['periodStart']} to {text['periodEnd']}"
    return (
        f"{name} of {invoice.get('customerId', '')}",
        period,
        text["status"],
        *amounts[:3],
        f"{amounts[3]} {text['currency']}",
    )


def _cells(assertion: Assertion) -> tuple[str, ...]:
    document = assertion.to_dict()
    return (
        assertion.path,
        "nothing" if assertion.expected is None else assertion.expected,
        "nothing" if assertion.actual is None else assertion.actual,
        document["difference"] or "",
        document["instant"] or "",
    )


def _verdict(judged: Judged) -> str:
    if judged.error is not None:
        return "error"
    return "diff" if judged.differences else "ok"


def _counted(judged: Judged) -> str:
    count = len(judged.assertions)
    return f"{count - len(judged.differences)} of {count} as expected"


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text).replace("\n", " ")
