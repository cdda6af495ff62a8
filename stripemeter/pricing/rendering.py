"""Rendering: a quote or an invoice for people, as text, JSON and HTML.

Belongs here: rows and their order on the page. Does not: what is in them (`derivations`).
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from typing import NamedTuple

from stripemeter.pricing.deductions import Deduction
from stripemeter.pricing.derivations import invoice_record, quote_record
from stripemeter.pricing.invoice_writing import amount_text, describe
from stripemeter.pricing.invoices import Invoice
from stripemeter.pricing.quotes import Line, Quote
from stripemeter.pricing.reading import instant_text, plain

_HEAD = ("what", "price", "unrounded", "amount")


class _Row(NamedTuple):
    what: str
    version: str
    unrounded: str
    amount: str
    is_sum: bool


def render_text(priced: Quote | Invoice) -> str:
    """A table in plain text, one line per line, sums below."""
    cells = [_HEAD, *((row.what, row.version, row.unrounded, row.amount) for row in _rows(priced))]
    widths = [max(len(row[column]) for row in cells) for column in range(len(_HEAD))]
    lines = [
        f"{what:<{widths[0]}}  {version:<{widths[1]}}  {unrounded:>{widths[2]}}  {amount:>{widths[3]}}"
        for what, version, unrounded, amount in cells
    ]
    return "\n".join([_title(priced), "", *lines]) + "\n"


def render_json(priced: Quote | Invoice) -> str:
    """Its record (`derivations`), indented."""
    record = quote_record(priced) if isinstance(priced, Quote) else invoice_record(priced)
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


def render_html(priced: Quote | Invoice) -> str:
    """A page of its own that loads nothing; what customers named is escaped."""
    title = html.escape(_title(priced))
    head = "".join(f"<th>{name}</th>" for name in _HEAD)
    body = "\n".join(_html_row(row) for row in _rows(priced))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>'
        "body{font-family:sans-serif}table{border-collapse:collapse}"
        "td,th{padding:.2em .8em;border-bottom:1px solid #ccc}"
        "td:nth-child(n+3),th:nth-child(n+3){text-align:right}"
        "tr.sum{font-weight:bold}</style></head><body>"
        f"<h1>{title}</h1>\n<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></body></html>\n"
    )


def _html_row(row: _Row) -> str:
    cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in (row.what, row.version, row.unrounded, row.amount))
    return f'<tr class="sum">{cells}</tr>' if row.is_sum else f"<tr>{cells}</tr>"


def _title(priced: Quote | Invoice) -> str:
    if isinstance(priced, Quote):
        return f"Quote of {plain(priced.quantity)} in {priced.price.currency}, rounding {priced.rounding}"
    inputs = priced.inputs
    period = f"{instant_text(inputs.period_start)} to {instant_text(inputs.period_end)}"
    return f"Invoice of {inputs.customer_id}, {period}, in {priced.currency}, rounding {priced.rounding}"


def _rows(priced: Quote | Invoice) -> Iterator[_Row]:
    if isinstance(priced, Quote):
        currency = priced.price.currency
        yield from (_line_row("", line, currency) for line in priced.lines)
        yield _Row("total", "", "", amount_text(priced.total_minor, currency), is_sum=True)
        return
    currency = priced.currency
    yield from (_line_row(metric, line, currency) for metric, line in priced.lines)
    yield _Row("subtotal", "", "", amount_text(priced.subtotal_minor, currency), is_sum=True)
    yield from (_deduction_row(taken, currency) for taken in priced.deductions)
    if priced.inputs.tax_pct:
        yield _Row(
            f"tax {plain(priced.inputs.tax_pct)} %", "", "", amount_text(priced.tax_minor, currency), is_sum=False
        )
    yield _Row("total", "", "", amount_text(priced.total_minor, currency), is_sum=True)


def _line_row(metric: str, line: Line, currency: str) -> _Row:
    what = f"{metric}: {describe(line, currency)}" if metric else describe(line, currency)
    unrounded = amount_text(line.unrounded_minor, currency)
    return _Row(what, line.price_version, unrounded, amount_text(line.amount_minor, currency), is_sum=False)


def _deduction_row(taken: Deduction, currency: str) -> _Row:
    left = "" if taken.remaining_minor is None else f", {amount_text(taken.remaining_minor, taken.currency)} left"
    unit = "" if taken.currency == currency else f" {taken.currency}"
    what = f"{taken.kind} {taken.name}".rstrip() + left + unit
    return _Row(what, "", "", amount_text(-taken.applied_minor, currency), is_sum=False)
