"""Rounding: the one place where an exact amount becomes whole minor units.

Belongs here: the rule of an invoice line, with its direction as a setting, and the other rule of prorations. Does not:
deciding what a line is (`quotes`).

Both rules are integer arithmetic on a fraction, so the same text rounds one amount and a column of them: the scalar and
the vectorised price cannot differ here.

Source: stripe.md 2.6. Stripe rounds per invoice line; its pages say both "nearest" and "up", and its only fractional
examples fit half-up, half-even and ceiling alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeVar, assert_never, get_args

from stripemeter.errors import InvalidInput

if TYPE_CHECKING:
    import polars as pl

Rounding = Literal["half_up", "half_even", "ceiling"]
DEFAULT_ROUNDING: Rounding = "half_up"

Whole = TypeVar("Whole", int, "pl.Expr")
"""A whole number, or a column of them."""


def parse_rounding(name: object, field: str = "rounding") -> Rounding:
    """The rounding of a name.

    Raises:
        InvalidInput: there is none of that name.
    """
    for rounding in get_args(Rounding):
        if name == rounding:
            return rounding  # type: ignore[no-any-return] # get_args forgets that these are the literals
    raise InvalidInput(f"{field}: must be one of {', '.join(get_args(Rounding))}, not {name!r:.40}", field=field)


def round_line(numerator: Whole, divisor: int, rounding: Rounding) -> Whole:
    """Whole minor units of the amount `numerator / divisor` of an invoice line.

    Args:
        numerator: not negative; of a column, twice each plus the divisor fits its type.
        divisor: positive.
        rounding: where a fraction goes; `half_up` and `half_even` differ at exactly one half.
    """
    match rounding:
        case "half_up":
            return (2 * numerator + divisor) // (2 * divisor)
        case "half_even":
            whole = numerator // divisor
            twice_the_rest = 2 * (numerator - whole * divisor)
            # 1 when the rest is more than a half, or a half above an odd number.
            return whole + (twice_the_rest + whole % 2) // (divisor + 1)
        case "ceiling":
            return (numerator + (divisor - 1)) // divisor
        case _:
            assert_never(rounding)


def floor_proration(numerator: int, divisor: int) -> int:
    """Whole minor units of the prorated amount `numerator / divisor`, towards minus infinity: -2.5 is -3.

    Source: recorded answers of Stripe (stripe.md 2.6): prorations do not follow the rule of usage lines.
    """
    return numerator // divisor
