"""Comparing: what a scenario expects against what came out, and how far an amount may be off.

Belongs here: tolerances, differences. Does not: what there is to expect (`expectations`).

An amount passes when it is off by at most `absolute` *and* by at most `relative` of what is expected. A relative
tolerance alone would let an invoice of a million be wrong by thousands, an absolute one alone would let 0 pass for 0.50;
both are bounded as well. Quantities, counts and texts are exact, and so is an amount of 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any

from stripemeter.pricing.reading import members_of, parse_number, plain, refused, within

MOST_ABSOLUTE = Decimal(1)
"""Major units: more than roundings make, less than anybody would miss."""
MOST_RELATIVE = Decimal("0.01")
AMOUNTS = frozenset({"total", "subtotal", "tax", "credits", "adjustments", "unitPrice", "applied", "remaining"})
"""Members that are money; `amount` stands for an expectation that is one amount."""

_EXACT = Context(prec=200)
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerances:
    """How far an amount may be off: at most `absolute`, and at most `relative` of what is expected."""

    absolute: Decimal = Decimal(0)
    relative: Decimal = MOST_RELATIVE

    def allowed(self, expected: Decimal) -> Decimal:
        """The greatest difference that passes; 0 where 0 is expected."""
        return min(self.absolute, _EXACT.multiply(self.relative, abs(expected)))


EXACTLY = Tolerances()


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Something that is not what was expected.

    Args:
        path: where in the scenario it is expected.
        actual: what came out, as text; None: nothing.
        expected: what should have; None: nothing.
        diff: actual less expected, of two numbers.
        is_tolerated: the scenario's tolerances let it pass.
    """

    path: str
    actual: str | None
    expected: str | None
    diff: Decimal | None = None
    is_tolerated: bool = False


def parse_tolerances(document: object, field: str) -> Tolerances:
    """The tolerances of a document; the original's form, with bounds.

    Raises:
        InvalidInput: they could hide a real difference, or are none.
    """
    members = members_of(document, ("absolute", "relative"), field)
    if "relative" in members and "absolute" not in members:
        raise refused("needs absolute beside it: the most that a percentage of a great amount may be", f"{field}.relative")
    absolute = parse_number(members.get("absolute", 0), within(field, "absolute"))
    relative = parse_number(members.get("relative", MOST_RELATIVE), within(field, "relative"))
    for name, number, most in (("absolute", absolute, MOST_ABSOLUTE), ("relative", relative, MOST_RELATIVE)):
        if not 0 <= number <= most:
            raise refused(f"must be 0 to {most}, not {number}: more could hide a real difference", within(field, name))
    return Tolerances(absolute=absolute, relative=relative)


def compare(
    actual: object, expected: object, tolerances: Tolerances, path: str, *, name: str = ""
) -> Iterator[Difference]:
    """Every difference between two documents, tolerated ones marked.

    Args:
        actual: JSON-able, amounts and quantities as decimal strings.
        expected: of an object those members that are expected; of a list all elements.
        tolerances: of amounts.
        path: where `expected` stands.
        name: what is compared: amounts are tolerated by their name.
    """
    match expected:
        case Mapping():
            found = actual if isinstance(actual, Mapping) else {}
            for member, wanted in expected.items():
                yield from compare(found.get(member), wanted, tolerances, within(path, member), name=member)
        case list():
            yield from _compare_lists(actual, expected, tolerances, path)
        case _:
            yield from _compare_values(actual, expected, tolerances, path, name)


def _compare_lists(actual: object, expected: list[Any], tolerances: Tolerances, path: str) -> Iterator[Difference]:
    found = actual if isinstance(actual, list) else []
    if len(found) != len(expected):
        missing = Decimal(len(found) - len(expected))
        yield Difference(path=f"{path}.length", actual=str(len(found)), expected=str(len(expected)), diff=missing)
    for number, (each, wanted) in enumerate(zip(found, expected, strict=False)):
        yield from compare(each, wanted, tolerances, within(path, number))


def _compare_values(
    actual: object, expected: object, tolerances: Tolerances, path: str, name: str
) -> Iterator[Difference]:
    one, other = _number(actual), _number(expected)
    if one is None or other is None:
        if actual != expected:
            yield Difference(path=path, actual=_shown(actual), expected=_shown(expected))
        return
    diff = _EXACT.subtract(one, other)
    if diff:
        is_tolerated = (name in AMOUNTS or name == "amount") and abs(diff) <= tolerances.allowed(other)
        yield Difference(path=path, actual=plain(one), expected=plain(other), diff=diff, is_tolerated=is_tolerated)


def _number(value: object) -> Decimal | None:
    match value:
        case bool():
            return None
        case int() | Decimal():
            return Decimal(value)
        case str() if _NUMBER.fullmatch(value):
            return Decimal(value)
        case _:
            return None


def _shown(value: object) -> str | None:
    return None if value is None else str(value)
