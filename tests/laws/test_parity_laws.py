"""Laws of a comparison: our own numbers compare equal, the smallest change is found, and order means nothing."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from stripemeter.metering.averages import add
from stripemeter.metering.parity import (
    ItemKey,
    OurItem,
    ParityItem,
    compare_items,
    tally_items,
    tally_rows,
    verdict_of,
)
from stripemeter.metering.parity_rows import ExportRow
from stripemeter.metering.parity_scope import are_disjoint, expected_windows, gaps_between

START = datetime(2026, 10, 1, tzinfo=UTC)
DAY = timedelta(days=1)
TICK = Decimal("0.000000000001")
QUANTITIES = st.decimals(min_value=-(10**20), max_value=10**20, places=12)
KEYS = st.builds(
    lambda customer, metric, day: ItemKey(customer, metric, START + day * DAY, START + (day + 1) * DAY, "USD"),
    st.sampled_from(["ada", "bob", "cy"]),
    st.sampled_from(["calls", "disk"]),
    st.integers(0, 3),
)
OURS = st.builds(
    lambda quantity, amount: OurItem(
        is_present=True,
        quantity=quantity,
        currency="USD",
        amount_minor=amount,
        exact_minor=Decimal(amount),
        line_count=1,
    ),
    QUANTITIES,
    st.integers(0, 10**12),
)
Rows = dict[ItemKey, list[ExportRow]]


def row(key: ItemKey, quantity: Decimal, amount: Decimal | int, line: int) -> ExportRow:
    """A row of an invoice export."""
    return ExportRow(
        line=line,
        id="",
        customer=key.customer_ref,
        metric=key.metric,
        price="",
        start=key.start,
        end=key.end,
        quantity=quantity,
        amount_minor=Decimal(amount),
        currency=key.currency,
    )


def exported(ours: Mapping[ItemKey, OurItem], parts: int) -> Rows:
    """The export that says what we say, each item in some rows."""
    rows: Rows = {}
    line = 1
    for key, mine in ours.items():
        rows[key] = []
        left, amount = mine.quantity, mine.amount_minor or 0
        for part in range(parts - 1):
            rows[key].append(row(key, Decimal(part), part, line))
            left, amount = add(left, -Decimal(part)), amount - part
            line += 1
        rows[key].append(row(key, left, amount, line))
        line += 1
    return rows


def counted(items: Sequence[ParityItem], rows: Rows) -> None:
    """Every row and item is in exactly one place."""
    of_rows, of_items = tally_rows(items), tally_items(items)
    assert of_rows.total == sum(map(len, rows.values()))
    assert of_rows.only_here == 0
    assert of_items.total == len(items)
    assert sorted(line for item in items for line in item.lines) == sorted(
        each.line for of_key in rows.values() for each in of_key
    )


@given(ours=st.dictionaries(KEYS, OURS, max_size=8), parts=st.integers(1, 3))
def test_our_own_numbers_are_equal(ours: dict[ItemKey, OurItem], parts: int) -> None:
    """However many rows an item has."""
    rows = exported(ours, parts)
    items = compare_items(rows, ours, {})
    counted(items, rows)
    assert verdict_of(items, unusable_count=0) == "equal"
    assert [item.causes for item in items] == [()] * len(ours)


@given(
    ours=st.dictionaries(KEYS, OURS, min_size=1, max_size=8),
    which=st.integers(0, 100),
    sign=st.sampled_from([-1, 1]),
    is_amount=st.booleans(),
)
def test_the_smallest_change_of_one_row_is_found_and_named(
    ours: dict[ItemKey, OurItem], which: int, sign: int, *, is_amount: bool
) -> None:
    """By item and line, whatever the size of the number; with a cause."""
    rows = exported(ours, 1)
    key = sorted(rows)[which % len(rows)]
    (was,) = rows[key]
    quantity = was.quantity if is_amount else add(was.quantity, sign * TICK)
    amount = add(was.amount_minor or Decimal(0), sign * TICK) if is_amount else was.amount_minor
    rows[key] = [row(key, quantity, amount or Decimal(0), was.line)]
    items = compare_items(rows, ours, {})
    counted(items, rows)
    (found,) = [item for item in items if item.status != "ok"]
    assert (found.key, found.lines, found.side) == (key, (was.line,), "both")
    assert found.causes
    assert verdict_of(items, unusable_count=0) != "equal"


@given(
    ours=st.dictionaries(KEYS, OURS, max_size=6),
    theirs=st.dictionaries(KEYS, OURS, max_size=6),
    parts=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_order_means_nothing(
    ours: dict[ItemKey, OurItem], theirs: dict[ItemKey, OurItem], parts: int, seed: int
) -> None:
    """Of rows and of items; whatever the two sides have in common."""
    rows = exported(theirs, parts)
    known = {key: ours.get(key, OurItem(is_present=False, quantity=Decimal(0))) for key in rows} | ours
    items = compare_items(rows, known, {})
    counted(items, rows)
    shuffled = list(rows.items())
    random.Random(seed).shuffle(shuffled)
    other: Rows = {}
    for key, of_key in shuffled:
        other[key] = list(of_key)
        random.Random(seed + 1).shuffle(other[key])
    assert compare_items(other, dict(reversed(known.items())), {}) == items
    lacking = {item.key for item in items if item.side == "only_here"}
    assert lacking == set(ours) - set(rows)


WINDOWS = st.lists(
    st.tuples(st.integers(0, 20), st.integers(1, 8)).map(
        lambda each: (START + each[0] * DAY, START + (each[0] + each[1]) * DAY)
    ),
    max_size=8,
)


@given(first=WINDOWS, second=WINDOWS)
def test_no_instant_is_looked_for_twice(
    first: list[tuple[datetime, datetime]], second: list[tuple[datetime, datetime]]
) -> None:
    """Chosen windows never overlap, none that is free is left out, and with the gaps they cover the period."""
    chosen = expected_windows((), first, second)
    assert are_disjoint(chosen)
    assert chosen == sorted(chosen)
    for start, end in [*first, *second]:
        assert any(start < other_end and other_start < end for other_start, other_end in chosen)
    period = (START, START + 30 * DAY)
    covered = sorted([*chosen, *gaps_between(chosen, period)])
    assert are_disjoint(covered)
    assert sum((end - start for start, end in covered), timedelta()) == period[1] - period[0]
