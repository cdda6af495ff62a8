"""pricing: one quote with its lines, and a frame of quantities priced at once, in processor time of one core.

Belongs here: this bench. Does not: that both agree (`tests/laws/test_price_frames_laws.py`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from decimal import Decimal

import polars as pl

from bench.context import Context
from bench.measure import Row, interleave, series, value_at_most
from stripemeter.pricing import Graduated, Price, Tier, quote
from stripemeter.pricing.quote_frames import quote_amounts, quote_lines

_BOUNDS = (1_000, 10_000, 100_000)
_CENTS = ("0.5", "0.4", "0.3", "0.2")
_FLAT = Decimal(100)
_NOTE = "4 graduated tiers, quantities up to 10 million with 3 decimals; processor time, all threads"


def pricing(context: Context) -> list[Row]:
    """Quote one quantity that reaches every tier, and many, against the same formula on floats."""
    scale = context.scale
    frame, prices = _frame(scale.priced_rows), {"p": _price(flat=None)}
    line_count = quote_lines(frame, prices).height
    quantity = Decimal("123456.789")
    plain, with_flats = _price(flat=None), _price(flat=_FLAT)
    calls = scale.quotes
    singly, singly_flat, amounts, lines, floats = interleave(
        scale.rounds,
        lambda: _microseconds(lambda: [quote(plain, quantity) for _ in range(calls)], calls),
        lambda: _microseconds(lambda: [quote(with_flats, quantity) for _ in range(calls)], calls),
        lambda: _microseconds(lambda: quote_amounts(frame, prices), line_count),
        lambda: _microseconds(lambda: quote_lines(frame, prices), line_count),
        lambda: _microseconds(lambda: _in_floats(frame), line_count),
    )
    what = f"{scale.priced_rows:,} customers, {line_count:,} lines"
    return [
        _row("a quote of 4 tiers with its 4 lines", "us", singly, bound=25),
        _row("a quote of 4 tiers with flat amounts, 8 lines", "us", singly_flat, bound=25),
        Row(
            bench="pricing",
            what=f"amounts at once: {what} (2 million lines/s is 0.5 us)",
            unit="us per line",
            system=series(amounts),
            limit=series(floats),
            limit_name="the sums in floats, rounded once",
            budget=value_at_most(0.5),
            note=_NOTE,
        ),
        _row(f"lines at once: {what}", "us per line", lines, bound=0.5),
    ]


def _row(what: str, unit: str, samples: list[float], *, bound: float) -> Row:
    return Row(bench="pricing", what=what, unit=unit, system=series(samples), budget=value_at_most(bound), note=_NOTE)


def _microseconds(work: Callable[[], object], count: int) -> float:
    started = time.process_time()
    work()
    return (time.process_time() - started) / count * 1e6


def _price(flat: Decimal | None) -> Price:
    ends = [*map(Decimal, _BOUNDS), None]
    tiers = tuple(
        Tier(up_to=end, unit_minor=Decimal(unit), flat_minor=flat) for end, unit in zip(ends, _CENTS, strict=True)
    )
    return Price(currency="USD", model=Graduated(tiers=tiers))


def _frame(rows: int) -> pl.DataFrame:
    draw = random.Random(1)
    # As many digits for small customers as for great ones, as usage has.
    quantities = [Decimal(draw.randrange(10 ** draw.randrange(3, 11))).scaleb(-3) for _ in range(rows)]
    return pl.DataFrame(
        {
            "customer_ref": [f"c{number}" for number in range(rows)],
            "price": ["p"] * rows,
            "quantity": pl.Series(quantities, dtype=pl.Decimal(38, 12)),
        }
    )


def _in_floats(frame: pl.DataFrame) -> pl.DataFrame:
    """What pricing would cost without exactness and without lines."""
    quantity = pl.col("quantity").cast(pl.Float64)
    total = pl.lit(0.0)
    for start, end, unit in zip((0, *_BOUNDS), (*_BOUNDS, 10**12), _CENTS, strict=True):
        total = total + (pl.min_horizontal(quantity, pl.lit(float(end))) - start).clip(0) * float(unit)
    return frame.with_columns(total.round().alias("amount"))
