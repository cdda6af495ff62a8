"""Which windows of a customer an export should have rows of.

Belongs here: windows the export itself uses, and billing segments, without one instant in two of them. Does not: whose
usage there is (`store.parity`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from datetime import timedelta
from itertools import pairwise

from stripemeter.metering.parity_rows import Window
from stripemeter.metering.segments import BillingPhase, segment_at, segment_starts

_TICK = timedelta(microseconds=1)


def are_disjoint(windows: Collection[Window]) -> bool:
    """Whether no instant lies in two of them."""
    return all(before[1] <= after[0] for before, after in pairwise(sorted(windows)))


def expected_windows(own: Iterable[Window], *candidates: Iterable[Window]) -> list[Window]:
    """The windows to look for usage in, ascending.

    Those of the customer's own rows, and of the others, in the order given and each list by its starts, those that
    overlap none of the chosen ones.
    """
    chosen = sorted(set(own))
    for others in candidates:
        for window in sorted(set(others)):
            place = bisect_left(chosen, window)
            is_free = place == 0 or all(before[1] <= window[0] for before in chosen[:place])
            if is_free and (place == len(chosen) or window[1] <= chosen[place][0]):
                chosen.insert(place, window)
    return chosen


def gaps_between(windows: Sequence[Window], period: Window) -> list[Window]:
    """What of a period lies in none of the windows, ascending.

    Args:
        windows: ascending.
        period: what they should cover.
    """
    found = []
    reached = period[0]
    for start, end in windows:
        if reached < start and reached < period[1]:
            found.append((reached, min(start, period[1])))
        reached = max(reached, end)
    if reached < period[1]:
        found.append((reached, period[1]))
    return found


def segments_within(
    phases: Sequence[BillingPhase], *, starts: Window | None = None, ends: Window | None = None
) -> list[Window]:
    """The billing segments that start in `starts`, or else those that end within `ends`, both ends included."""
    if starts is not None:
        first, last = starts[0], starts[1] - _TICK
    else:
        assert ends is not None  # one of the two is given
        first, last = ends[0] - _TICK, ends[1] - _TICK
    segments = [segment_at(phases, at) for at in segment_starts(phases, first, last)]
    found = [(each.start, each.end) for each in segments]
    if starts is not None:
        return [window for window in found if starts[0] <= window[0] < starts[1]]
    return [window for window in found if ends is not None and ends[0] <= window[1] <= ends[1]]
