"""An average is rounded once, half away from zero, whatever its size."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stripemeter.metering.averages import average


@pytest.mark.parametrize(
    ("total", "count", "text"),
    [
        ("1", 3, "0.333333333333"),
        ("2", 3, "0.666666666667"),
        ("0.000000000001", 2, "0.000000000001"),
        ("-0.000000000001", 2, "-0.000000000001"),
        ("0.000000000003", 2, "0.000000000002"),
        ("0", 7, "0.000000000000"),
        ("299999999999999999999999999.999999999997", 3, "99999999999999999999999999.999999999999"),
    ],
)
def test_examples(total: str, count: int, text: str) -> None:
    """Ties go away from zero; 38 digits stay 38 digits."""
    assert format(average(Decimal(total), count), "f") == text


@given(scaled=st.integers(-(10**50), 10**50), count=st.integers(1, 10**9))
def test_it_is_never_further_off_than_half_of_the_last_decimal(scaled: int, count: int) -> None:
    """Compared with the exact fraction."""
    total = Fraction(scaled, 10**12)
    found = Fraction(average(Decimal(f"{scaled}e-12"), count))
    assert abs(found - total / count) <= Fraction(1, 2 * 10**12)
