"""Comparing: what a scenario expects against what came out, and how far an amount may be off.

Belongs here: tolerances, shapes of what may be expected, one assertion for each value. Does not: which shapes there are
(`expectations`).

An amount passes when it is off by at most `absolute` *and* by at most `relative` of what is expected. A relative
tolerance alone would let an invoice of a million be wrong by thousands, an absolute one alone would let 0.50 pass for
0; both are bounded as well. Quantities, unit prices, counts and texts are exact, and so is an amount of 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Context, Decimal
from typing import Any, Literal

from stripemeter.errors import InvalidInput
from stripemeter.pricing.reading import (
    elements_of,
    instant_text,
    members_of,
    parse_instant,
    parse_number,
    parse_text,
    plain,
    refused,
    within,
)

MOST_ABSOLUTE = Decimal(1)
"""Major units: more than roundings make, less than anybody would miss."""
MOST_RELATIVE = Decimal("0.01")

Leaf = Literal["amount", "number", "text", "instant"]


@dataclass(frozen=True, slots=True)
class Each:
    """Shape of a list, or of an object whose members are named by the scenario (`is_named`)."""

    shape: Any
    is_named: bool = False


Shape = Leaf | Each | Mapping[str, Any]
"""What may be expected somewhere: a value, a list or an object of known members."""

_EXACT = Context(prec=200)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerances:
    """How far an amount may be off: at most `absolute`, and at most `relative` of what is expected."""

    absolute: Decimal = Decimal(0)
    relative: Decimal = MOST_RELATIVE

    def allowed(self, expected: Decimal) -> Decimal:
        """The greatest difference that passes; 0 where 0 is expected."""
        return min(self.absolute, _EXACT.multiply(self.relative, abs(expected)))


EXACTLY = Tolerances()


def _parse_finite(document: object, field: str) -> Decimal:
    number = parse_number(document, field)
    if not number.is_finite():
        raise refused(f"must be finite, not {number}", field)
    return number


_LEAVES = {"amount": _parse_finite, "number": _parse_finite, "text": parse_text, "instant": parse_instant}


@dataclass(frozen=True, slots=True, kw_only=True)
class Assertion:
    """One expected value and what came.

    Args:
        path: where in the scenario it is expected.
        instant: when, on the scenario's clock; None: of an invoice without a clock.
        expected: as text; None: nothing.
        actual: as text; None: nothing came.
        difference: actual less expected, of two numbers.
        passed: equal, or an amount within the tolerances.
    """

    path: str
    instant: datetime | None
    expected: str | None
    actual: str | None
    difference: Decimal | None
    passed: bool

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; numbers as strings."""
        return {
            "path": self.path,
            "instant": None if self.instant is None else instant_text(self.instant),
            "expected": self.expected,
            "actual": self.actual,
            "difference": None if self.difference is None else plain(self.difference),
            "passed": self.passed,
        }


def parse_tolerances(document: object, field: str) -> Tolerances:
    """The tolerances of a document; the original's form, with bounds. Without `absolute` nothing is tolerated.

    Raises:
        InvalidInput: they could hide a real difference, or are none.
    """
    members = members_of(document, ("absolute", "relative"), field)
    absolute = _parse_finite(members.get("absolute", 0), within(field, "absolute"))
    relative = _parse_finite(members.get("relative", MOST_RELATIVE), within(field, "relative"))
    for name, number, most in (("absolute", absolute, MOST_ABSOLUTE), ("relative", relative, MOST_RELATIVE)):
        if not 0 <= number <= most:
            raise refused(f"must be 0 to {most}, not {number}: more could hide a real difference", within(field, name))
    return Tolerances(absolute=absolute, relative=relative)


def check_expected(document: object, shape: Shape, path: str) -> None:
    """Refuse an expectation that nothing could ever meet.

    Raises:
        InvalidInput: a member nobody knows, no number where one belongs, or nothing expected at all.
    """
    match shape:
        case Mapping():
            members = _stated(document, shape, path)
            for name, value in members.items():
                check_expected(value, shape[name], within(path, name))
        case Each(shape=inner, is_named=True):
            if not isinstance(document, Mapping) or not document:
                raise refused("must be an object of at least one name", path)
            for name, value in document.items():
                check_expected(value, inner, within(path, parse_text(name, path)))
        case Each(shape=inner):
            for number, value in enumerate(elements_of(document, path)):
                check_expected(value, inner, within(path, number))
        case _ if document is not None:
            _LEAVES[shape](document, path)


def compare(
    actual: object, expected: object, shape: Shape, tolerances: Tolerances, path: str, instant: datetime | None = None
) -> Iterator[Assertion]:
    """One assertion for each expected value.

    Args:
        actual: what came: JSON-able, amounts and quantities as decimal strings.
        expected: of an object those members that are expected; of a list all elements.
        shape: of both.
        tolerances: of amounts.
        path: where `expected` stands.
        instant: when it is expected.
    """
    match shape:
        case Mapping() | Each(is_named=True) if isinstance(expected, Mapping):
            found = actual if isinstance(actual, Mapping) else {}
            for name, wanted in expected.items():
                inner = shape.shape if isinstance(shape, Each) else shape[name]
                yield from compare(found.get(name), wanted, inner, tolerances, within(path, name), instant)
        case Each(shape=inner) if isinstance(expected, list | tuple):
            listed = actual if isinstance(actual, list) else []
            yield _assertion(len(listed), len(expected), "number", tolerances, f"{path}.length", instant)
            for number, wanted in enumerate(expected):
                each = listed[number] if number < len(listed) else None
                yield from compare(each, wanted, inner, tolerances, within(path, number), instant)
        case _:
            yield _assertion(actual, expected, shape, tolerances, path, instant)


def _assertion(
    actual: object, expected: object, shape: Shape, tolerances: Tolerances, path: str, instant: datetime | None
) -> Assertion:
    one, other = _value(actual, shape), _value(expected, shape)
    difference = None
    passed = one == other
    if isinstance(one, Decimal) and isinstance(other, Decimal):
        difference = _EXACT.subtract(one, other)
        passed = abs(difference) <= (tolerances.allowed(other) if shape == "amount" else 0)
    return Assertion(
        path=path, instant=instant, expected=_shown(other), actual=_shown(one), difference=difference, passed=passed
    )


def _value(document: object, shape: Shape) -> object:
    """What is compared: numbers as numbers and instants as instants, however they are written."""
    if document is None:
        return None
    try:
        match shape:
            case "amount" | "number":
                return _parse_finite(document, "")
            case "instant":
                return parse_instant(document, "")
    except InvalidInput:
        return str(document)
    return str(document)


def _shown(value: object) -> str | None:
    match value:
        case None:
            return None
        case Decimal():
            return plain(value)
        case datetime():
            return instant_text(value)
    return str(value)


def _stated(document: object, shape: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    members_of(document, tuple(shape), path)
    if not isinstance(document, Mapping) or not document:
        raise refused(f"must expect something: one of {', '.join(shape)}", path)
    return document
