"""Quotes of many quantities at once: the same steps and the same rounding as `quotes`, on columns.

Belongs here: turning steps into expressions, and keeping them within 128 bits. Does not: the rule of a step or of
rounding (`prices`, `rounding`), invoices.

Quantities are read as the whole numbers that Decimal columns hold anyway, so arithmetic is exact. Polars wraps around
without a word where a product leaves 128 bits (measured), so rows that could are priced one at a time by `quote`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import NamedTuple

import polars as pl

from stripemeter.errors import InvalidInput
from stripemeter.pricing.currencies import EXACT
from stripemeter.pricing.prices import DECIMALS, UNIT, Price, Step, Volume
from stripemeter.pricing.quotes import LineKind, quote
from stripemeter.pricing.rounding import DEFAULT_ROUNDING, Rounding, round_line

PRICE = "price"
QUANTITY = "quantity"
LINE = "line"
AMOUNT = "amount_minor"
AMOUNT_TYPE = pl.Decimal(38, 0)
LINE_COLUMNS = {
    LINE: pl.Int64(),
    "kind": pl.String(),
    "tier": pl.Int64(),
    "units": pl.Decimal(38, DECIMALS),
    "unit_minor": pl.Decimal(38, DECIMALS),
    AMOUNT: AMOUNT_TYPE,
}
"""What `quote_lines` adds: `line` orders the lines of a row, with gaps; the others are those of `quotes.Line`, whose
unrounded amount of a line of units is `units * unit_minor`."""

_QUANTITY_TYPE = pl.Decimal(38, DECIMALS)
_SLICE_ROWS = 100_000
"""Rows priced at once: more are no faster (measured), and their columns leave the cache."""
_HALF_RANGE = 2**126
"""Twice this is where 128 bits end; rounding doubles what it rounds."""
_ROW = "__row"
_WHOLE = "__whole"


class _Line(NamedTuple):
    """A line a price may have: where it is reached, its units (Decimal) and amount (128 bits), null or 0 elsewhere."""

    kind: LineKind
    tier: int
    unit_minor: Decimal
    is_reached: pl.Expr
    units: pl.Expr
    amount: pl.Expr


class _Scale(NamedTuple):
    """What whole numbers stand for: quantities are in units of `quantity / UNIT`, unit prices of `unit / UNIT`."""

    quantity: int
    unit: int


def quote_amounts(
    frame: pl.DataFrame, prices: Mapping[str, Price], rounding: Rounding = DEFAULT_ROUNDING
) -> pl.DataFrame:
    """The frame with `amount_minor`, the price of each row in minor units of the price's currency.

    Args:
        frame: one row per customer and price; columns `price` (a key of `prices`), `quantity` (a Decimal or an integer)
            and any others; any order, which is kept.
        prices: by key.
        rounding: of each line.

    Raises:
        InvalidInput: a column is missing, of another type or has nulls; a key has no price; an amount has more than 38
            digits.
    """
    priced = [
        _priced_singly(part, price, rounding)
        if scale is None
        else part.with_columns(_sum(_lines(price, scale, rounding)).cast(AMOUNT_TYPE).alias(AMOUNT))
        for part, price, scale in _parts(frame, prices)
    ]
    if not priced:
        return frame.with_columns(pl.lit(None, AMOUNT_TYPE).alias(AMOUNT))
    return pl.concat(priced).sort(_ROW).select(*frame.columns, AMOUNT)


def quote_lines(
    frame: pl.DataFrame, prices: Mapping[str, Price], rounding: Rounding = DEFAULT_ROUNDING
) -> pl.DataFrame:
    """One row per line of each quote: the frame's columns and LINE_COLUMNS, in any order.

    Args and errors are those of `quote_amounts`. The amounts of a row's lines sum to what that gives. Whoever needs an
    order sorts: it costs twice what pricing does (measured).
    """
    lined = [
        lines
        for part, price, scale in _parts(frame, prices)
        for lines in (
            [_lined_singly(part, price, rounding)] if scale is None else _lined(part, _lines(price, scale, rounding))
        )
    ]
    if not lined:
        return frame.with_columns(pl.lit(None, type_).alias(name) for name, type_ in LINE_COLUMNS.items())
    return pl.concat(lined).select(*frame.columns, *LINE_COLUMNS)


def _parts(frame: pl.DataFrame, prices: Mapping[str, Price]) -> Iterator[tuple[pl.DataFrame, Price, _Scale | None]]:
    """Slices of the frame with one price each; without a scale those that may not fit 128 bits."""
    for keys, rows in _checked(frame, prices).partition_by(PRICE, as_dict=True, maintain_order=True).items():
        price = prices[str(keys[0])]
        for part in rows.iter_slices(_SLICE_ROWS):
            scale = _scale(part, price)
            fits = pl.col(_WHOLE) <= _literal(_greatest(price, scale))
            small = part.filter(fits)
            yield small.with_columns(pl.col(_WHOLE) // scale.quantity), price, scale
            if small.height < part.height:
                yield part.filter(~fits), price, None


def _checked(frame: pl.DataFrame, prices: Mapping[str, Price]) -> pl.DataFrame:
    """The frame with numbered rows and the quantity as a whole number of which UNIT make one, at least 0."""
    for name in (PRICE, QUANTITY):
        if name not in frame.columns:
            raise _refused(name, "is missing")
        if frame[name].null_count():
            raise _refused(name, "has nulls")
    if frame.schema[PRICE] != pl.String:
        raise _refused(PRICE, f"must be text, not {frame.schema[PRICE]}")
    unknown = [key for key in frame[PRICE].unique(maintain_order=True) if key not in prices]
    if unknown:
        raise _refused(PRICE, f"no price is named {unknown[0]!r:.40}")
    type_ = frame.schema[QUANTITY]
    if not type_.is_integer() and not (isinstance(type_, pl.Decimal) and type_.scale <= DECIMALS):
        raise _refused(QUANTITY, f"must be an integer or a Decimal of at most {DECIMALS} decimals, not {type_}")
    whole = pl.col(QUANTITY).cast(_QUANTITY_TYPE, strict=False).to_physical().clip(0).alias(_WHOLE)
    numbered = frame.with_row_index(_ROW).with_columns(whole)
    if numbered[_WHOLE].null_count():
        raise _refused(QUANTITY, "has more than 26 digits before the point")
    return numbered


def _scale(part: pl.DataFrame, price: Price) -> _Scale:
    """The coarsest scale in which every quantity, bound and unit price is a whole number: products stay small."""
    bounds = [step.end for step in price.steps if step.end is not None]
    for quantity in (UNIT, 10 ** (DECIMALS // 2)):
        if (
            all(bound % quantity == 0 for bound in bounds)
            and not part.select((pl.col(_WHOLE) % quantity != 0).any()).item()
        ):
            break
    else:
        quantity = 1
    unit = UNIT
    while any(step.unit % unit for step in price.steps):
        unit //= 10
    return _Scale(quantity, unit)


def _greatest(price: Price, scale: _Scale) -> int:
    """The greatest quantity (UNIT make one) whose lines surely stay within 128 bits."""
    unit = max(max(step.unit for step in price.steps) // scale.unit, 1)
    divisor = _divisor(price, scale)
    fixed = sum(step.flat or 0 for step in price.steps) + (price.minimum or 0) + (price.maximum or 0)
    room = max(_HALF_RANGE - 2 * divisor - fixed, -1)
    return min(room // unit * scale.quantity, _HALF_RANGE)


def _divisor(price: Price, scale: _Scale) -> int:
    """What a product of units and unit price is divided by; packages are whole, whatever quantities are."""
    quantity = UNIT if price.transform is not None else scale.quantity
    return (UNIT // quantity) * (UNIT // scale.unit)


def _lines(price: Price, scale: _Scale, rounding: Rounding) -> list[_Line]:
    """Every line the price may have, in order."""
    whole = pl.col(_WHOLE)
    units = pl.max_horizontal(pl.col(QUANTITY).cast(_QUANTITY_TYPE), pl.lit(Decimal(0), _QUANTITY_TYPE))
    if price.transform is not None:
        size = price.transform.divide_by * (UNIT // scale.quantity)
        whole = (whole + (size - 1)) // size if price.transform.round == "up" else whole // size
        units = whole.cast(_QUANTITY_TYPE)
    lines: list[_Line] = []
    for step in price.steps:
        lines += _step_lines(price, step, whole, units, scale, rounding)
    total = _sum(lines)
    if price.minimum is not None and price.minimum_minor is not None:
        least = _literal(round_line(price.minimum, UNIT, rounding))
        lines.append(_bound("minimum", price.minimum_minor, total < least, least - total))
    if price.maximum is not None and price.maximum_minor is not None:
        most = _literal(round_line(price.maximum, UNIT, rounding))
        lines.append(_bound("maximum", price.maximum_minor, total > most, most - total))
    return lines


def _step_lines(
    price: Price, step: Step, whole: pl.Expr, units: pl.Expr, scale: _Scale, rounding: Rounding
) -> Iterator[_Line]:
    start, end = step.start // scale.quantity, None if step.end is None else step.end // scale.quantity
    is_first = step is price.steps[0]
    is_reached = pl.lit(value=True) if is_first else whole > start
    if isinstance(price.model, Volume):
        is_reached = is_reached if end is None else is_reached & (whole <= end)
    else:
        if end is not None and step.end is not None:
            whole = pl.min_horizontal(whole, _literal(end))
            units = pl.min_horizontal(units, _quantity(step.end))
        if not is_first:
            whole, units = whole - start, units - _quantity(step.start)
    amount = round_line(whole * _literal(step.unit // scale.unit), _divisor(price, scale), rounding)
    yield _Line("units", step.tier, step.unit_minor, is_reached, units, amount)
    if step.flat is not None and step.flat_minor is not None:
        flat = _literal(round_line(step.flat, UNIT, rounding))
        yield _Line("flat", step.tier, step.flat_minor, is_reached, _quantity(0), flat)


def _bound(kind: LineKind, bound_minor: Decimal, is_reached: pl.Expr, amount: pl.Expr) -> _Line:
    return _Line(kind, 0, bound_minor, is_reached, _quantity(0), amount)


def _sum(lines: list[_Line]) -> pl.Expr:
    total = _literal(0)
    for line in lines:
        total = total + pl.when(line.is_reached).then(line.amount).otherwise(_literal(0))
    return total


def _lined(part: pl.DataFrame, lines: list[_Line]) -> Iterator[pl.DataFrame]:
    for number, line in enumerate(lines):
        yield part.filter(line.is_reached).with_columns(
            pl.lit(number, pl.Int64).alias(LINE),
            pl.lit(line.kind).alias("kind"),
            pl.lit(line.tier, pl.Int64).alias("tier"),
            line.units.cast(LINE_COLUMNS["units"]).alias("units"),
            pl.lit(line.unit_minor, LINE_COLUMNS["unit_minor"]).alias("unit_minor"),
            line.amount.cast(AMOUNT_TYPE).alias(AMOUNT),
        )


def _priced_singly(part: pl.DataFrame, price: Price, rounding: Rounding) -> pl.DataFrame:
    amounts = [Decimal(quote(price, Decimal(quantity), rounding).total_minor) for quantity in part[QUANTITY]]
    return part.with_columns(_amounts(amounts).alias(AMOUNT))


def _lined_singly(part: pl.DataFrame, price: Price, rounding: Rounding) -> pl.DataFrame:
    quotes = [quote(price, Decimal(quantity), rounding) for quantity in part[QUANTITY]]
    lines = [line for quoted in quotes for line in quoted.lines]
    return (
        part.with_columns(pl.Series(LINE, [list(range(len(quoted.lines))) for quoted in quotes]))
        .explode(LINE)
        .with_columns(
            pl.Series("kind", [line.kind for line in lines]),
            pl.Series("tier", [line.tier for line in lines], pl.Int64),
            pl.Series("units", [line.units for line in lines], LINE_COLUMNS["units"]),
            pl.Series("unit_minor", [line.unit_minor for line in lines], LINE_COLUMNS["unit_minor"]),
            _amounts([Decimal(line.amount_minor) for line in lines]).alias(AMOUNT),
        )
    )


def _amounts(amounts: list[Decimal]) -> pl.Series:
    if any(amount.adjusted() >= 38 for amount in amounts):
        raise _refused(QUANTITY, "an amount has more than 38 digits")
    return pl.Series(AMOUNT, amounts, AMOUNT_TYPE)


def _literal(number: int) -> pl.Expr:
    return pl.lit(number, pl.Int128)


def _quantity(whole: int) -> pl.Expr:
    return pl.lit(Decimal(whole).scaleb(-DECIMALS, EXACT), _QUANTITY_TYPE)


def _refused(name: str, message: str) -> InvalidInput:
    return InvalidInput(f"{name}: {message}", field=name)
