"""The bench's ledgers: what a shape says is what is filled, in the order in which it would have come."""

from __future__ import annotations

import pytest

from bench.context import QUICK, Scale
from bench.ledger import HEAVY_DAY, parts


@pytest.mark.parametrize("scale", [Scale(), QUICK])
def test_a_ledger_is_filled_in_order_of_time(scale: Scale) -> None:
    """Every row and every day once, oldest first: out of order, the fold would find events late."""
    for shape in (scale.ledger, scale.small_ledger, scale.heavy_ledger):
        filled = parts(shape)
        assert sum(rows for rows, _ in filled) == shape.rows
        assert tuple(day for _, days in filled for day in days) == shape.days


def test_the_heavy_day_has_what_it_should() -> None:
    """All heavy rows lie on it and the rest is spread evenly around it."""
    scale = Scale()
    (earlier, before), heavy, (later, after) = parts(scale.heavy_ledger)
    assert heavy == (scale.heavy_day_rows, (HEAVY_DAY,))
    assert earlier / len(before) == pytest.approx(later / len(after), rel=0.001)


def test_the_small_ledger_is_as_dense_as_the_big_one() -> None:
    """As many events on a day, so that folds into both merge into equally many counters."""
    scale = Scale()
    small, big = scale.small_ledger, scale.ledger
    assert small.rows / len(small.days) == pytest.approx(big.rows / len(big.days), rel=0.1)
    assert small.days == big.days[-len(small.days) :]


def test_ledgers_of_other_shapes_have_other_names() -> None:
    """A kept scratch must never give one for another."""
    shapes = [shape for scale in (Scale(), QUICK) for shape in (scale.ledger, scale.small_ledger, scale.heavy_ledger)]
    assert len({shape.name for shape in shapes}) == len(shapes)
