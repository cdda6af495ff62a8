"""Rows of an export: spellings, exact numbers, windows, and why a row cannot be used."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from stripemeter.errors import InvalidInput
from stripemeter.metering.parity_rows import (
    SPELLINGS,
    ExportRow,
    ExportRules,
    LeftOutRow,
    UnusableRow,
    parse_columns,
    parse_export_row,
    parse_heading,
)
from stripemeter.pipeline.parity_export import _to_minor as to_minor

OCTOBER = (datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC))


def rules(**more: Any) -> ExportRules:  # noqa: ANN401 - any member
    """Of a usage export, unless told otherwise."""
    members: dict[str, Any] = {
        "tenant_id": "acme",
        "kind": "usage",
        "columns": {},
        "period": None,
        "amounts": None,
        "to_minor": to_minor,
    }
    return ExportRules(**(members | more))


def parsed(values: dict[str, Any], **more: Any) -> Any:  # noqa: ANN401 - any row
    """One row with its own heading, in line 7."""
    of = rules(**more)
    return parse_export_row(values, 7, heading=parse_heading(values, of), rules=of)


def good(**more: Any) -> dict[str, Any]:  # noqa: ANN401 - any cell
    """A good row of a usage export."""
    return {"customer": "ada", "metric": "calls", "period": "2026-10", "quantity": "12.50"} | more


def test_every_spelling_is_read() -> None:
    """Case, spaces, dashes and underscores do not matter; unknown columns are ignored."""
    for field, names in SPELLINGS.items():
        for name in names:
            if field in ("amount", "currency", "tenant"):
                continue
            values = {"customer": "ada", "metric": "calls", "start": "2026-10-01", "end": "2026-11-01", "quantity": "1"}
            if field == "period":
                del values["start"], values["end"]
            if field == "price":
                del values["metric"]
            values.pop(field, None)
            told = {"period": "2026-10", "start": "2026-10-01", "end": "2026-11-01"}.get(field, "1")
            for spelt in (name, name.upper(), name.replace("_", " ").title(), name.replace("_", "-")):
                row = parsed({**values, spelt: told, "note": "x"})
                assert isinstance(row, ExportRow), (spelt, row)
                assert (row.start, row.end) == OCTOBER


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2026-10-01", "2026-11-01"),
        ("2026-10-01T00:00:00Z", "2026-11-01T01:00:00+01:00"),
        ("2026-10-01 00:00:00", "2026-11-01 00:00:00.000"),
        ("2026-10-01 00:00 UTC", "2026-11-01 00:00:00 UTC"),
        ("1790812800", "1793491200"),
        (1790812800, 1793491200),
        (date(2026, 10, 1), datetime(2026, 11, 1, tzinfo=UTC)),
    ],
)
def test_windows_are_half_open_instants(start: object, end: object) -> None:
    """Days, RFC 3339, Sigma's form, seconds since 1970."""
    values = {"customer": "ada", "metric": "calls", "period_start": start, "period_end": end, "quantity": 1}
    row = parsed(values)
    assert isinstance(row, ExportRow), row
    assert (row.start, row.end) == OCTOBER


def test_numbers_keep_every_digit() -> None:
    """Text, JSON numbers, decimals and integers, up to 26 digits and 12 decimals."""
    for cell, quantity in (
        ("0.1", "0.1"),
        (msgspec.Raw(b"0.1"), "0.1"),
        (msgspec.Raw(b"1e3"), "1000"),
        (Decimal("99999999999999999999999999.999999999999"), "99999999999999999999999999.999999999999"),
        (3, "3"),
        (" -7 ", "-7"),
    ):
        row = parsed(good(quantity=cell))
        assert isinstance(row, ExportRow), row
        assert row.quantity == Decimal(quantity)


@pytest.mark.parametrize(
    ("cells", "field"),
    [
        ({"quantity": "1,000"}, "quantity"),
        ({"quantity": "1e3"}, "quantity"),
        ({"quantity": "NaN"}, "quantity"),
        ({"quantity": 0.1}, "quantity"),
        ({"quantity": True}, "quantity"),
        ({"quantity": None}, "quantity"),
        ({"quantity": "0.0000000000001"}, "quantity"),
        ({"quantity": "1" + "0" * 26}, "quantity"),
        ({"quantity": msgspec.Raw(b'{"a":1}')}, "quantity"),
        ({"customer": ""}, "customer"),
        ({"customer": "a\x00b"}, "customer"),
        ({"metric": None}, "metric"),
        ({"period": "2026-13"}, "period"),
        ({"period": "2026-02-30"}, "period"),
        ({"period": "October"}, "period"),
        ({"period": None}, "period"),
        ({"start": "2026-10-01", "end": None}, "end"),
        ({"start": "2026-10-01", "end": "2026-10-01"}, "end"),
        ({"start": "2026-10-01T00:00:00", "end": "2026-11-01"}, "start"),
        ({"start": datetime(2026, 10, 1), "end": "2026-11-01"}, "start"),  # noqa: DTZ001 - no zone is what is refused
        ({"start": 0.5, "end": "2026-11-01"}, "start"),
        ({"tenant": "zeta"}, "tenant"),
    ],
)
def test_what_cannot_be_used_is_named(cells: dict[str, Any], field: str) -> None:
    """By line and field, with a reason; never read as something else."""
    row = parsed(good(**cells))
    assert isinstance(row, UnusableRow), row
    assert (row.line, row.field) == (7, field)
    assert row.message


def test_amounts_never_guess_their_unit() -> None:
    """A column says it, or whoever asks does; a currency has its own decimals."""
    line = good(amount="10.50", currency="usd")
    invoice = {"kind": "invoice"}
    with pytest.raises(InvalidInput, match="does not say its unit"):
        parsed(line, **invoice)
    assert parsed(line, amounts="major", **invoice).amount_minor == 1050
    assert parsed(line, amounts="minor", **invoice).amount_minor == Decimal("10.5")
    yen = good(amount_major="8", Currency="JPY")
    assert (parsed(yen, **invoice).amount_minor, parsed(yen, **invoice).currency) == (8, "JPY")
    assert parsed(good(amount_cents=1050, currency="EUR"), **invoice).amount_minor == 1050
    with pytest.raises(InvalidInput, match="is in minor units, not in major ones"):
        parsed(good(amount_minor=1050, currency="EUR"), amounts="major", **invoice)
    for cells, field in (
        ({"currency": "XXX"}, "currency"),
        ({"amount": None}, "amount"),
        ({"currency": None}, "currency"),
    ):
        row = parsed(line | cells, amounts="major", **invoice)
        assert isinstance(row, UnusableRow)
        assert row.field == field


def test_a_heading_that_cannot_give_rows_is_refused() -> None:
    """Missing, twice, ambiguous, or mapped wrongly; Stripe's two quantities are one."""
    for columns, message in (
        (["customer", "metric", "quantity"], "no column holds period or start"),
        (["customer", "period", "quantity"], "no column holds metric or price"),
        (["customer", "customer", "metric", "period", "quantity"], "stands twice"),
        (["customer", "customer_id", "metric", "period", "quantity"], "both hold customer"),
    ):
        with pytest.raises(InvalidInput, match=message):
            parse_heading(columns, rules())
    for mapping, message in (
        ({"x": "quantity"}, "no column 'x' to map"),
        ({"metric": "nonsense"}, "no export has a field 'nonsense'"),
        ({"metric": "customer", "period": "customer"}, "two columns are mapped to customer"),
    ):
        with pytest.raises(InvalidInput, match=message):
            parse_heading(["customer", "metric", "period", "quantity"], rules(columns=mapping))
    assert parsed(good(kunde="bob"), columns={"kunde": "customer"}).customer == "bob"
    both = good(quantity="1", quantity_decimal="1.5")
    assert parsed(both).quantity == Decimal("1.5")
    assert parse_columns(["A=B=customer"]) == {"A=B": "customer"}
    for pair in ("customer", "=customer", "kunde="):
        with pytest.raises(InvalidInput, match="write COLUMN=FIELD"):
            parse_columns([pair])


def test_a_period_stands_in_and_leaves_the_rest_out() -> None:
    """Rows without one are of the month asked for; rows that begin in another are left out, not lost."""
    row = parsed({"customer": "ada", "metric": "calls", "quantity": "1"}, period=OCTOBER)
    assert (row.start, row.end) == OCTOBER
    assert parsed(good(period="2026-09"), period=OCTOBER) == LeftOutRow(7)
    assert isinstance(parsed(good(period="2026-10-31"), period=OCTOBER), ExportRow)
