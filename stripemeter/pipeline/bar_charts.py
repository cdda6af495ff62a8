"""Bars as SVG: groups of bars beside each other, with an axis and a legend, and nothing to load.

Belongs here: one kind of chart. Does not: what is shown (`backtest_page`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#6b7280", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Told apart by those who do not see all colours (Okabe and Ito); the first is for what stands."""
_WIDTH, _HEIGHT = 960, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 90, 12, 46, 58
_TICKS = 4
_SHORT = 12
"""Characters that fit on one line beneath their bars."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """One bar of each category.

    Args:
        name: for the legend.
        colour: its place in COLOURS, from where they begin anew.
        values: whole numbers, one a category, not negative.
        labels: what each is, in words.
    """

    name: str
    colour: int
    values: Sequence[int]
    labels: Sequence[str]


def bar_chart(title: str, categories: Sequence[str], groups: Sequence[Bars], ticks: Sequence[tuple[int, str]]) -> str:
    """The chart as an `svg` element; the same arguments make the same text.

    Args:
        title: said to whoever cannot see it.
        categories: from left to right.
        groups: beside each other in every category.
        ticks: heights with their words, the last of them at least as great as every value.
    """
    greatest = max([1, *(height for height, _ in ticks)])
    inner = _WIDTH - _LEFT - _RIGHT
    slot = inner * 100 // max(len(categories), 1)  # hundredths of a pixel: whole numbers print the same everywhere
    width = slot * 4 // 5 // max(len(groups), 1)
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"'
        f' aria-label="{escape(title)}" font-family="sans-serif" font-size="11">'
    )
    parts = [
        opening,
        '<rect width="100%" height="100%" fill="#fff"/>',
        *(_tick(height, label, greatest) for height, label in ticks),
    ]
    for place, category in enumerate(categories):
        left = _LEFT * 100 + place * slot + slot // 10
        for number, group in enumerate(groups):
            parts.append(_bar(group, place, left + number * width, width, greatest, category))
        middle = _LEFT * 100 + place * slot + slot // 2
        place_of_words = f'x="{_pixels(middle)}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle"'
        parts.append(f"<text {place_of_words}>{_wrapped(category, middle)}</text>")
    parts += [_legend(number, group) for number, group in enumerate(groups)]
    return "".join(parts) + "</svg>"


def round_ticks(greatest: int) -> list[int]:
    """Heights from 0 in even steps that are easy to read, the last at least as great."""
    step = 1
    while step * _TICKS < greatest:
        leading = str(step)[0]
        step = step * 5 // 2 if leading == "2" else step * 2
    return [step * number for number in range(_TICKS + 1)]


def _tick(height: int, label: str, greatest: int) -> str:
    y = _y(height, greatest)
    return (
        f'<path d="M{_LEFT},{y}H{_WIDTH - _RIGHT}" stroke="#ddd"/>'
        f'<text x="{_LEFT - 6}" y="{y}" text-anchor="end" dominant-baseline="middle">{escape(label)}</text>'
    )


def _bar(group: Bars, place: int, left: int, width: int, greatest: int, category: str) -> str:
    top = _y_hundredths(group.values[place], greatest)
    height = (_HEIGHT - _BOTTOM) * 100 - top
    words = escape(f"{category}, {group.name}: {group.labels[place]}")
    return (
        f'<rect x="{_pixels(left)}" y="{_pixels(top)}" width="{_pixels(width)}" height="{_pixels(height)}"'
        f' fill="{COLOURS[group.colour % len(COLOURS)]}"><title>{words}</title></rect>'
    )


def _legend(number: int, group: Bars) -> str:
    x = _LEFT + number * 200
    colour = COLOURS[group.colour % len(COLOURS)]
    box = f'<rect x="{x}" y="12" width="12" height="12" fill="{colour}"/>'
    return f'{box}<text x="{x + 18}" y="22">{escape(group.name)}</text>'


def _wrapped(category: str, middle: int) -> str:
    """The words on up to three lines."""
    if len(category) <= _SHORT:
        return escape(category)
    words = category.split()
    third = -(-len(words) // 3)
    lines = [" ".join(words[start : start + third]) for start in range(0, len(words), third)]
    return "".join(
        f'<tspan x="{_pixels(middle)}" dy="{0 if number == 0 else 13}">{escape(line)}</tspan>'
        for number, line in enumerate(lines)
    )


def _y(value: int, greatest: int) -> str:
    return _pixels(_y_hundredths(value, greatest))


def _y_hundredths(value: int, greatest: int) -> int:
    inner = (_HEIGHT - _TOP - _BOTTOM) * 100
    return (_HEIGHT - _BOTTOM) * 100 - inner * value // greatest


def _pixels(hundredths: int) -> str:
    return f"{hundredths // 100}.{hundredths % 100:02d}"
