"""Parts of aggregated frames: what counting made, as the states answers are made of.

Belongs here: frames to parts. Does not: making the frames (`aggregation`), merging parts (`answers`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from stripemeter.metering.aggregation import Counted
from stripemeter.metering.answers import Part
from stripemeter.metering.averages import add

_Key = tuple[str, str, date, datetime, str, bool]
_COMPUTED = ("quantity_sum", "unit_microseconds", "items")
_PLAIN = tuple(name for name in Part.__dataclass_fields__ if name not in _COMPUTED)


def parts_of_frame(counted: Counted) -> list[Part]:
    """Aggregated states as parts."""
    items: defaultdict[_Key, dict[str, int]] = defaultdict(dict)
    for row in counted.items.iter_rows(named=True):
        found = items[_key(row)]
        found[row["item"]] = found.get(row["item"], 0) + row["item_count"]
    parts = []
    for row in counted.counters.iter_rows(named=True):
        unit = row["unit_microseconds"]
        parts.append(
            Part(
                **{name: row[name] for name in _PLAIN},
                quantity_sum=add(row["sum_whole"], row["sum_fraction"]),
                unit_microseconds=None if unit is None else Decimal(unit),
                items=items.get(_key(row), {}),
            )
        )
    return parts


def _key(row: Mapping[str, Any]) -> _Key:
    return row["customer_ref"], row["meter"], row["day"], row["segment_start"], row["dimensions"], row["is_late"]
