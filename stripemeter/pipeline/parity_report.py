"""The report of a comparison: a document, CSV, and one HTML file.

Belongs here: members, columns, rendering. Does not: comparing (`pipeline.parity`).

Quantities and amounts are decimal texts, amounts in major units. The document and the page list what is not `ok`; the
CSV lists every item and every row that cannot be used. The page loads nothing: no script, no font, no image.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from html import escape
from typing import Any

from stripemeter.metering.averages import add
from stripemeter.metering.events import canonical_quantity
from stripemeter.metering.parity import CAUSES, ParityItem, Tally, tally_items
from stripemeter.metering.parity_rows import UnusableRow
from stripemeter.metering.parity_sums import MetricParity, Sums, sum_by_metric, sum_over_all
from stripemeter.pipeline.parity import ParityReport
from stripemeter.pricing.currencies import to_major

CSV_HEADER = (
    "customer",
    "metric",
    "period_start",
    "period_end",
    "side",
    "status",
    "ours_quantity",
    "theirs_quantity",
    "quantity_difference",
    "currency",
    "ours_amount",
    "theirs_amount",
    "amount_difference",
    "causes",
    "lines",
    "detail",
)
MOST_LINES_SHOWN = 20
"""Lines of an item that are named; of one made of more, these and how many there are."""
_STYLE = (
    "body{font:14px system-ui,sans-serif;margin:2em}table{border-collapse:collapse;margin:.5em 0}"
    "td,th{border:1px solid #ccc;padding:2px 8px;text-align:left;vertical-align:top}"
    ".drift,.different{background:#fdd}.within_epsilon{background:#ffd}.unknown,.incomplete{background:#eee}"
    ".ok,.equal{background:#dfd}"
)


def report_document(report: ParityReport) -> dict[str, Any]:
    """The document, JSON-able: the summary, sums by metric, and whatever is not `ok`."""
    asked = report.asked
    return {
        "tenantId": report.tenant_id,
        "kind": asked.kind,
        "verdict": report.verdict,
        "comparedAt": _instant(report.made_at),
        "asOf": None if asked.as_of is None else _instant(asked.as_of),
        "period": None
        if asked.period is None
        else {"start": _instant(asked.period[0]), "end": _instant(asked.period[1])},
        "rows": {
            "total": report.row_count,
            "matched": report.rows.matched,
            "differing": report.rows.differing,
            "onlyThere": report.rows.only_there,
            "unusable": len(report.unusable),
            "leftOut": report.left_out,
        },
        "overall": _metric(sum_over_all(report.items)),
        "perMetric": [_metric(each) for each in sum_by_metric(report.items)],
        "differences": [_item(item) for item in report.items if item.status != "ok"],
        "unusable": [
            {"line": row.line, "field": row.field, "code": row.code, "message": row.message} for row in report.unusable
        ],
        "notBilled": list(report.not_billed),
    }


def report_csv(report: ParityReport) -> str:
    """RFC 4180 under CSV_HEADER: every item, then every row that cannot be used (side `unusable`)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(CSV_HEADER)
    writer.writerows(_cells(item) for item in report.items)
    writer.writerows(_unusable_cells(row) for row in report.unusable)
    return text.getvalue()


def report_html(report: ParityReport) -> str:
    """The page: the verdict, the counts, sums by metric, and every item that is not `ok`."""
    document = report_document(report)
    title = f"Parity of {report.tenant_id} at {report.made_at:%Y-%m-%d %H:%M:%S} UTC"
    facts = [("verdict", document["verdict"]), ("kind", document["kind"]), ("as of", document["asOf"] or "now")]
    facts += [(f"rows {name}", count) for name, count in document["rows"].items()]
    facts += [(f"items {name}", count) for name, count in document["overall"]["items"].items()]
    causes = [(name, count, CAUSES[name]) for name, count in sum_over_all(report.items).causes.items()]
    differing = [item for item in report.items if item.status != "ok"]
    body = (
        _table(("", ""), facts, [document["verdict"]])
        + "<h2>By metric</h2>"
        + _table(_METRIC_HEADER, _metric_rows(report.items))
        + "<h2>Causes</h2>"
        + _table(("cause", "items", "meaning"), causes)
        + "<h2>Differences</h2>"
        + _table(CSV_HEADER, [_cells(item) for item in differing], [item.status for item in differing])
        + "<h2>Rows that cannot be used</h2>"
        + _table(("line", "field", "code", "message"), [(r.line, r.field, r.code, r.message) for r in report.unusable])
        + f"<p>Not billed by anybody: {escape(', '.join(report.not_billed) or 'none')}.</p>"
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>{body}</body></html>\n"
    )


def report_table(report: ParityReport, *, most: int) -> str:
    """Lines for a terminal: the counts, each metric, and the first `most` differences and unusable rows."""
    items = tally_items(report.items)
    rows = report.rows
    lines = [
        (
            f"{report.verdict}: {report.row_count} rows ({rows.matched} matched, {rows.differing} differing, "
            f"{rows.only_there} only there, {len(report.unusable)} unusable, {report.left_out} left out), "
            f"{items.only_here} items only here"
        )
    ]
    lines += [_metric_line(each) for each in sum_by_metric(report.items)]
    differing = [item for item in report.items if item.status != "ok"]
    lines += [_item_line(item) for item in differing[:most]]
    lines += [f"  line {row.line}: {row.message}" for row in report.unusable[:most]]
    hidden = max(len(differing) - most, 0) + max(len(report.unusable) - most, 0)
    lines += [f"  and {hidden} more: --format json, csv or html lists all"] if hidden else []
    lines += [f"not billed by anybody: {', '.join(report.not_billed)}"] if report.not_billed else []
    return "\n".join(lines) + "\n"


def _metric_line(each: MetricParity) -> str:
    sums = [] if each.quantity is None else [("", _sums(each.quantity))]
    sums += [(f" {currency}", _sums(major)) for currency, major in _major_amounts(each).items()]
    items = each.items
    return (
        f"{each.metric}: {items.matched} matched, {items.differing} differing, {items.only_there} only there, "
        f"{items.only_here} only here"
    ) + "".join(
        f"; ours {told['ours']}{unit}, theirs {told['theirs']}{unit}, drift {told['drift']}" for unit, told in sums
    )


def _item_line(item: ParityItem) -> str:
    told = dict(zip(CSV_HEADER, _cells(item), strict=True))
    amount = f", {told['ours_amount'] or '-'} against {told['theirs_amount'] or '-'} {told['currency']}"
    return (
        f"  {told['status']} {told['customer']} {told['metric']} {told['period_start']}/{told['period_end']}: "
        f"{told['ours_quantity'] or '-'} against {told['theirs_quantity'] or '-'}"
        f"{amount if told['currency'] else ''} ({told['causes']})"
        f"{', lines ' + told['lines'] if told['lines'] else ''}{': ' + told['detail'] if told['detail'] else ''}"
    )


_METRIC_HEADER = (
    "metric", "matched", "differing", "only_there", "only_here", "ours", "theirs", "drift", "amounts", "causes",
)  # fmt: skip


def _metric_rows(items: Sequence[ParityItem]) -> list[tuple[str, ...]]:
    rows = []
    for each in sum_by_metric(items):
        tally, quantity = each.items, each.quantity
        amounts = "; ".join(
            f"{currency} ours {major.ours} theirs {major.theirs} drift {major.drift}"
            for currency, major in _major_amounts(each).items()
        )
        causes = ", ".join(f"{cause} {count}" for cause, count in each.causes.items())
        sums = ("", "", "") if quantity is None else tuple(_sums(quantity).values())
        counts = (tally.matched, tally.differing, tally.only_there, tally.only_here)
        rows.append((each.metric, *map(str, counts), *sums, amounts, causes))
    return rows


def _metric(each: MetricParity) -> dict[str, Any]:
    quantity = {} if each.quantity is None else {"quantity": _sums(each.quantity)}
    name = {"metric": each.metric} if each.metric else {}
    return {
        **name,
        "items": _tally(each.items),
        "causes": dict(each.causes),
        **quantity,
        "amounts": [{"currency": currency, **_sums(sums)} for currency, sums in _major_amounts(each).items()],
    }


def _tally(tally: Tally) -> dict[str, int]:
    return {
        "total": tally.total,
        "matched": tally.matched,
        "differing": tally.differing,
        "onlyThere": tally.only_there,
        "onlyHere": tally.only_here,
    }


def _sums(sums: Sums) -> dict[str, str]:
    sides = {"ours": sums.ours, "theirs": sums.theirs, "drift": sums.drift}
    return {name: canonical_quantity(number) for name, number in sides.items()}


def _major_amounts(each: MetricParity) -> Mapping[str, Sums]:
    return {
        currency: Sums(
            ours=to_major(sums.ours, currency),
            theirs=to_major(sums.theirs, currency),
            drift=to_major(sums.drift, currency),
        )
        for currency, sums in each.amounts.items()
    }


def _item(item: ParityItem) -> dict[str, Any]:
    ours, theirs, difference = _amounts(item)
    return {
        "customer": item.key.customer_ref,
        "metric": item.key.metric,
        "period": {"start": _instant(item.key.start), "end": _instant(item.key.end)},
        "side": item.side,
        "status": item.status,
        "quantity": {
            "ours": _text(item.quantity),
            "theirs": _text(item.their_quantity),
            "difference": _difference(item.quantity, item.their_quantity),
        },
        "currency": item.key.currency or None,
        "amount": {"ours": ours, "theirs": theirs, "difference": difference},
        "causes": list(item.causes),
        "lines": list(item.lines[:MOST_LINES_SHOWN]),
        "lineCount": len(item.lines),
        "detail": item.detail,
    }


def _cells(item: ParityItem) -> tuple[str, ...]:
    key = item.key
    shown = " ".join(map(str, item.lines[:MOST_LINES_SHOWN]))
    more = len(item.lines) - MOST_LINES_SHOWN
    cells = (
        key.customer_ref,
        key.metric,
        _instant(key.start),
        _instant(key.end),
        item.side,
        item.status,
        _text(item.quantity),
        _text(item.their_quantity),
        _difference(item.quantity, item.their_quantity),
        key.currency,
        *_amounts(item),
        " ".join(item.causes),
        f"{shown} and {more} more" if more > 0 else shown,
        item.detail,
    )
    return tuple(cell or "" for cell in cells)


def _unusable_cells(row: UnusableRow) -> tuple[str, ...]:
    known = {"side": "unusable", "causes": row.code, "lines": str(row.line), "detail": row.message}
    return tuple(known.get(name, "") for name in CSV_HEADER)


def _amounts(item: ParityItem) -> tuple[str | None, str | None, str | None]:
    """Ours, theirs and the difference in major units."""
    if not item.key.currency:
        return None, None, None
    ours = None if item.amount_minor is None else to_major(item.amount_minor, item.key.currency)
    theirs = None if item.their_amount_minor is None else to_major(item.their_amount_minor, item.key.currency)
    return (
        None if ours is None else f"{ours:f}",
        None if theirs is None else f"{theirs:f}",
        _difference(ours, theirs),
    )


def _difference(ours: Decimal | None, theirs: Decimal | None) -> str | None:
    """Ours minus theirs; a side that has nothing is 0."""
    return canonical_quantity(add(ours or Decimal(0), (theirs or Decimal(0)).copy_negate()))


def _text(quantity: Decimal | None) -> str | None:
    return None if quantity is None else canonical_quantity(quantity)


def _table(header: Sequence[str], rows: Iterable[Sequence[object]], classes: Iterable[str] = ()) -> str:
    lines = list(_html_rows(rows, classes))
    if not lines:
        return "<p>None.</p>"
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"


def _html_rows(rows: Iterable[Sequence[object]], classes: Iterable[str]) -> Iterator[str]:
    named = iter(classes)
    for row in rows:
        kind = next(named, "")
        yield f'<tr class="{kind}">{"".join(f"<td>{escape(str(cell))}</td>" for cell in row)}</tr>'


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"
