"""Rows of an export that is compared with ours: how columns become a customer, a metric, a window and numbers.

Belongs here: column names, one row to one line of the export, and why a row cannot be used. Does not: reading files
(`store.files`), who a customer is (`pipeline.parity_names`), comparing (`parity`).

Numbers are read as they are written: text and JSON numbers digit by digit, Parquet's integers and decimals. A number
that is a float is refused, for it may not be what somebody wrote.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal, get_args

import msgspec

from stripemeter.errors import InvalidInput
from stripemeter.metering.parity_values import decoded, number_in, parse_instant, parse_period, text_in

Kind = Literal["usage", "invoice"]
Unit = Literal["major", "minor"]
Field = Literal[
    "tenant", "id", "customer", "metric", "price", "period", "start", "end", "quantity", "amount", "currency"
]
SPELLINGS: Mapping[Field, tuple[str, ...]] = {
    "tenant": ("tenant", "tenant_id"),
    "id": ("id", "line_item_id", "invoice_line_item_id"),
    "customer": ("customer", "customer_ref", "customer_id", "stripe_customer_id"),
    "metric": ("metric", "metric_name", "meter", "event_name", "meter_event_name"),
    "price": ("price", "price_id", "stripe_price_id"),
    "period": ("period", "month", "day", "date"),
    "start": ("start", "start_time", "period_start"),
    "end": ("end", "end_time", "period_end"),
    "quantity": ("quantity", "quantity_decimal", "usage", "aggregated_value", "total_usage"),
    "amount": ("amount", "line_amount", "amount_major", "amount_minor", "amount_cents"),
    "currency": ("currency",),
}
"""Names a column may have, whatever its case, spaces, dashes and underscores: `Customer ID` is `customer_id`.
Source: Stripe API, Invoice line item and Meter event summary; Stripe Sigma's tables; the original's usage export."""
_UNITS: Mapping[str, Unit] = {"amountmajor": "major", "amountminor": "minor", "amountcents": "minor"}

Window = tuple[datetime, datetime]
ToMinor = Callable[[Decimal, str, Unit], tuple[str, Decimal]]
"""The currency of a code, and an amount in its minor units; raises InvalidInput with the field `currency`."""


class ExportRow(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A row that can be compared.

    Args:
        line: of the file, counted from 1, the heading included; of Parquet the row.
        id: the export's own name of it; '' when it has none.
        customer: as it is written.
        metric: the metric's name or, where only that is told, the price's id.
        price: the price's id; '' when it is not told.
        start: first instant of its window.
        end: first instant no longer in it.
        quantity: exact.
        amount_minor: in minor units of the currency, exact; None in a usage export.
        currency: upper case; '' in a usage export.
    """

    line: int
    id: str
    customer: str
    metric: str
    price: str
    start: datetime
    end: datetime
    quantity: Decimal
    amount_minor: Decimal | None
    currency: str


class UnusableRow(msgspec.Struct, frozen=True, gc=False):
    """A row that cannot be compared, and why; `field` is '' when the row as a whole is meant."""

    line: int
    field: str
    code: str
    message: str


class LeftOutRow(msgspec.Struct, frozen=True, gc=False):
    """A good row of another metric or period than was asked for."""

    line: int


ParsedExportRow = ExportRow | UnusableRow | LeftOutRow


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRules:
    """What a comparison makes of rows.

    Args:
        tenant_id: a row that names another cannot be used.
        kind: an invoice has amounts.
        columns: field by column, said by whoever asks; the rest goes by SPELLINGS.
        period: the month of rows that name none; rows that begin in another are left out. None: any.
        amounts: the unit of a column that does not say it.
        to_minor: currencies.
    """

    tenant_id: str
    kind: Kind
    columns: Mapping[str, str]
    period: Window | None
    amounts: Unit | None
    to_minor: ToMinor


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """Which column holds which field, and the unit of amounts."""

    fields: Mapping[str, Field]
    amounts: Unit | None


def parse_heading(columns: Iterable[str], rules: ExportRules) -> Heading:
    """What the columns hold; those nobody knows are ignored.

    Raises:
        InvalidInput: a column twice, two columns for one field, a mapped or a required one is not there, or the unit of
            amounts is not told.
    """
    listed = list(columns)
    fields: dict[str, Field] = {}
    mapped = _mapped(rules.columns)
    known = {_plain(name): field for field, names in SPELLINGS.items() for name in names}
    for column in listed:
        if listed.count(column) > 1:
            raise InvalidInput(f"the column {column!r} stands twice in the heading", field="columns")
        field = mapped.get(column) or (
            None if known.get(_plain(column)) in mapped.values() else known.get(_plain(column))
        )
        if field is not None:
            fields[column] = field
    absent = [column for column in mapped if column not in listed]
    if absent:
        raise InvalidInput(f"no column {absent[0]!r} to map: there are {', '.join(listed)}", field="columns")
    _prefer_decimal_quantity(fields, mapped)
    _require(fields, listed, rules)
    return Heading(fields=fields, amounts=_unit(fields, rules) if rules.kind == "invoice" else None)


def parse_export_row(
    values: Mapping[str, object], line: int, *, heading: Heading, rules: ExportRules
) -> ParsedExportRow:
    """One row, by column name; None means absent."""
    try:
        told: dict[str, object] = {
            field: decoded(values[column]) for column, field in heading.fields.items() if column in values
        }
        return _parse(told, line, heading, rules)
    except InvalidInput as error:
        return UnusableRow(line, error.field, error.code, str(error))


def parse_columns(pairs: Iterable[str], *, field: str = "columns") -> dict[str, str]:
    """Field by column of texts `COLUMN=FIELD`.

    Raises:
        InvalidInput: one is not such a text, or a column stands twice.
    """
    columns: dict[str, str] = {}
    for pair in pairs:
        column, separator, name = pair.rpartition("=")
        if not separator or not column or not name or column in columns:
            raise InvalidInput(f"{field} {pair!r}: write COLUMN=FIELD, each column once", field=field)
        columns[column] = name
    return columns


def _parse(told: Mapping[str, object], line: int, heading: Heading, rules: ExportRules) -> ParsedExportRow:
    tenant = text_in(told, "tenant")
    if tenant not in ("", rules.tenant_id):
        raise InvalidInput(f"tenant: the row is of {tenant!r}, the comparison of {rules.tenant_id!r}", field="tenant")
    customer, price = text_in(told, "customer"), text_in(told, "price")
    metric = text_in(told, "metric") or price
    if not customer:
        raise InvalidInput("customer: is required", field="customer")
    if not metric:
        raise InvalidInput("metric: neither a metric nor a price is named", field="metric")
    start, end = _window(told, rules)
    quantity = number_in(told, "quantity")
    if quantity is None:
        raise InvalidInput("quantity: is required", field="quantity")
    currency, amount = "", None
    if rules.kind == "invoice":
        currency, amount = _amount(told, heading, rules)
    if rules.period is not None and not rules.period[0] <= start < rules.period[1]:
        return LeftOutRow(line)
    return ExportRow(
        line=line,
        id=text_in(told, "id"),
        customer=customer,
        metric=metric,
        price=price,
        start=start,
        end=end,
        quantity=quantity,
        amount_minor=amount,
        currency=currency,
    )


def _mapped(columns: Mapping[str, str]) -> dict[str, Field]:
    mapped: dict[str, Field] = {}
    for column, name in columns.items():
        if name not in get_args(Field):
            raise InvalidInput(f"no export has a field {name!r}: map to {', '.join(get_args(Field))}", field="columns")
        if name in mapped.values():
            raise InvalidInput(f"two columns are mapped to {name}", field="columns")
        mapped[column] = name  # type: ignore[assignment] # checked above: a member of get_args is one
    return mapped


def _prefer_decimal_quantity(fields: dict[str, Field], mapped: Mapping[str, Field]) -> None:
    """Of Stripe's `quantity` and `quantity_decimal` only the second says fractions."""
    plain = {_plain(column): column for column, field in fields.items() if field == "quantity"}
    if "quantity" not in mapped.values() and set(plain) == {"quantity", "quantitydecimal"}:
        del fields[plain["quantity"]]


def _require(fields: Mapping[str, Field], listed: list[str], rules: ExportRules) -> None:
    columns: dict[Field, str] = {}
    for column, field in fields.items():
        if field in columns:
            raise InvalidInput(
                f"the columns {columns[field]!r} and {column!r} both hold {field}: map one of them to {field}",
                field="columns",
            )
        columns[field] = column
    required: list[tuple[Field, ...]] = [("customer",), ("metric", "price"), ("quantity",)]
    required += [("amount",), ("currency",)] if rules.kind == "invoice" else []
    required += [] if rules.period is not None else [("period", "start")]
    for names in required:
        if not columns.keys() & set(names):
            raise InvalidInput(
                f"no column holds {' or '.join(names)}: there are {', '.join(listed)}; map one to it", field="columns"
            )


def _unit(fields: Mapping[str, Field], rules: ExportRules) -> Unit:
    (column,) = [column for column, field in fields.items() if field == "amount"]
    said = _UNITS.get(_plain(column))
    if said is not None and rules.amounts not in (None, said):
        raise InvalidInput(f"the column {column!r} is in {said} units, not in {rules.amounts} ones", field="amounts")
    unit = said or rules.amounts
    if unit is None:
        raise InvalidInput(
            f"the column {column!r} does not say its unit: is 1050 ten dollars fifty (minor, as in Stripe's API and "
            "Sigma) or a thousand and fifty (major, as in Stripe's dashboard)? Say amounts: minor or major",
            field="amounts",
        )
    return unit


def _amount(told: Mapping[str, object], heading: Heading, rules: ExportRules) -> tuple[str, Decimal]:
    amount = number_in(told, "amount")
    if amount is None:
        raise InvalidInput("amount: is required", field="amount")
    assert heading.amounts is not None  # of an invoice it is told
    return rules.to_minor(amount, text_in(told, "currency"), heading.amounts)


def _window(told: Mapping[str, object], rules: ExportRules) -> Window:
    if told.get("start") is not None or told.get("end") is not None:
        start, end = parse_instant(told.get("start"), "start"), parse_instant(told.get("end"), "end")
        if end <= start:
            raise InvalidInput("end: must be after start", field="end")
        return start, end
    period = told.get("period")
    if period is not None:
        return parse_period(period)
    if rules.period is None:
        raise InvalidInput("period: the row names none", field="period")
    return rules.period


def _plain(column: str) -> str:
    return re.sub(r"[\s_-]", "", column).lower()
