"""An export, read: its rows, and what became of those that cannot be compared.

Belongs here: from a file or rows that came along to rows. Does not: formats (`store.files`), what a row must look like
(`metering.parity_rows`), comparing (`pipeline.parity`).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from stripemeter.errors import InvalidInput
from stripemeter.metering.parity_rows import (
    ExportRow,
    ExportRules,
    Heading,
    Kind,
    LeftOutRow,
    ParsedExportRow,
    Unit,
    UnusableRow,
    Window,
    parse_export_row,
    parse_heading,
)
from stripemeter.metering.rows import FailedRow
from stripemeter.pricing import Rounding
from stripemeter.pricing.currencies import parse_currency, to_minor
from stripemeter.store.files import FileFormat, SourceFile, open_rows

MOST_ROWS = 200_000
"""Rows of one comparison: some minutes of work, some hundred megabytes."""
MOST_ITEMS = 1_000_000
"""Customers times metrics times windows of one comparison, those that the export lacks included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """What is to be compared, and how it is read.

    Args:
        source: the file.
        source_format: of its rows.
        kind: usage has quantities, an invoice amounts as well.
        period: the UTC month of rows that name none; rows that begin in another are left out. None: any.
        metrics: only these of ours; empty: all.
        columns: field by column, where the heading says neither.
        amounts: the unit of amounts, where no column says it.
        as_of: compare with what was known then; None: with what is known now.
        rounding: of our invoice lines.
        most_rows: more are refused.
        most_items: likewise, of customers, metrics and windows of ours.
    """

    source: SourceFile
    source_format: FileFormat
    kind: Kind
    period: Window | None = None
    metrics: tuple[str, ...] = ()
    columns: Mapping[str, str]
    amounts: Unit | None = None
    as_of: datetime | None = None
    rounding: Rounding = "half_up"
    most_rows: int = MOST_ROWS
    most_items: int = MOST_ITEMS


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What was read: every row of the file is in one of the three."""

    rows: list[ExportRow]
    unusable: list[UnusableRow]
    left_out: int


def read_export(asked: ExportRequest, *, tenant_id: str) -> Export:
    """Every row of an export.

    Raises:
        InvalidInput: the heading cannot give rows, the file is not of its format, or has too many rows.
        NotFound: there is no such file.
        Unavailable: S3 does not answer.
    """
    rules = ExportRules(
        tenant_id=tenant_id,
        kind=asked.kind,
        columns=asked.columns,
        period=asked.period,
        amounts=asked.amounts,
        to_minor=_to_minor,
    )
    export = Export(rows=[], unusable=[], left_out=0)
    left_out = 0
    with closing(open_rows(asked.source, asked.source_format)) as rows:
        if asked.source_format == "parquet" and rows.size > asked.most_rows:
            raise _too_many(asked.most_rows)
        heading = None if rows.columns is None else parse_heading(rows.columns, rules)
        for number, values in enumerate(rows, 1):
            if number > asked.most_rows:
                raise _too_many(asked.most_rows)
            row = _row(values, rows.line, heading, rules)
            match row:
                case ExportRow():
                    export.rows.append(row)
                case UnusableRow():
                    export.unusable.append(row)
                case LeftOutRow():
                    left_out += 1
    return Export(rows=export.rows, unusable=export.unusable, left_out=left_out)


def _too_many(most: int) -> InvalidInput:
    return InvalidInput(f"the export has more than {most} rows: compare it in parts", field="rows")


def _row(
    values: Mapping[str, object] | FailedRow, line: int, heading: Heading | None, rules: ExportRules
) -> ParsedExportRow:
    if isinstance(values, FailedRow):
        return UnusableRow(line, values.field, values.code, values.message)
    try:
        # A row of JSON has its own names; a mapped one that is absent is null there.
        own = heading or parse_heading([*values, *(name for name in rules.columns if name not in values)], rules)
    except InvalidInput as error:
        if error.field == "amounts":
            raise
        return UnusableRow(line, error.field, error.code, str(error))
    return parse_export_row(values, line, heading=own, rules=rules)


def _to_minor(amount: Decimal, code: str, unit: Unit) -> tuple[str, Decimal]:
    currency = parse_currency(code, "currency")
    return currency, to_minor(amount, currency) if unit == "major" else amount
