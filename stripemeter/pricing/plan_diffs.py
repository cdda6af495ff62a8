"""Differences of two plans: what changed, per metric and tier, in the words of the plan's document.

Belongs here: finding the changes, one line of text for each. Does not: what a change costs (`pipeline.backtests`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from stripemeter.pricing.plans import Plan, plan_document

ChangeKind = Literal["added", "removed", "changed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanChange:
    """One member that is not the same in both plans.

    Args:
        path: where it stands, e.g. `metrics.api_calls.tiers[1].unitPrice`; fees and minimums by name.
        kind: only in the second, only in the first, or in both.
        before: in the first; None where it is not there, and of a last tier's `upTo`.
        after: in the second.
    """

    path: str
    kind: ChangeKind
    before: Any
    after: Any


def diff_plans(first: Plan, second: Plan) -> tuple[PlanChange, ...]:
    """Every change from the first plan to the second, by path: none when they charge the same.

    The order of members does not matter, nor how a number is written. The names of plans and versions are no change.
    """
    return tuple(_changes("", _comparable(first), _comparable(second)))


def render_changes(changes: tuple[PlanChange, ...]) -> str:
    """One line a change."""
    return "\n".join(_line(change) for change in changes) if changes else "no changes"


def _comparable(plan: Plan) -> dict[str, Any]:
    document = plan_document(plan)
    for price in document["metrics"].values():
        price.pop("version", None)
    return {
        "currency": document["currency"],
        "metrics": document["metrics"],
        "fees": {fee["name"]: fee["amount"] for fee in document.get("fees", ())},
        "minimums": _named(document.get("minimums", ())),
        "free": dict.fromkeys(document.get("free", ()), True),
    }


def _named(minimums: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Minimums by name; of those that share one, or have none, all but the first by their number as well."""
    seen: Counter[str] = Counter()
    found: dict[str, Any] = {}
    for minimum in minimums:
        name = minimum.get("name", "minimum")
        seen[name] += 1
        key = name if seen[name] == 1 else f"{name}[{seen[name] - 1}]"
        found[key] = {member: value for member, value in minimum.items() if member != "name"}
    return found


def _changes(path: str, before: Any, after: Any) -> Iterator[PlanChange]:  # noqa: ANN401 - of a document
    if before == after:
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in [*before, *(name for name in after if name not in before)]:
            place = f"{path}.{name}" if path else name
            yield from _member(place, before, after, name)
    elif isinstance(before, list) and isinstance(after, list) and _are_tiers(before, after):
        for number in range(max(len(before), len(after))):
            yield from _element(f"{path}[{number}]", before, after, number)
    else:
        yield PlanChange(path=path, kind="changed", before=before, after=after)


def _member(place: str, before: Mapping[str, Any], after: Mapping[str, Any], name: str) -> Iterator[PlanChange]:
    if name not in after:
        yield PlanChange(path=place, kind="removed", before=before[name], after=None)
    elif name not in before:
        yield PlanChange(path=place, kind="added", before=None, after=after[name])
    else:
        yield from _changes(place, before[name], after[name])


def _element(place: str, before: list[Any], after: list[Any], number: int) -> Iterator[PlanChange]:
    if number >= len(after):
        yield PlanChange(path=place, kind="removed", before=before[number], after=None)
    elif number >= len(before):
        yield PlanChange(path=place, kind="added", before=None, after=after[number])
    else:
        yield from _changes(place, before[number], after[number])


def _are_tiers(before: list[Any], after: list[Any]) -> bool:
    return all(isinstance(element, Mapping) for element in (*before, *after))


def _line(change: PlanChange) -> str:
    match change.kind:
        case "added":
            return f"+ {change.path}: {_shown(change.after)}"
        case "removed":
            return f"- {change.path}: {_shown(change.before)}"
        case "changed":
            return f"~ {change.path}: {_shown(change.before)} -> {_shown(change.after)}"


def _shown(value: Any) -> str:  # noqa: ANN401 - of a document
    match value:
        case None:
            return "no end"
        case True:
            return "yes"
        case Mapping():
            return "{" + ", ".join(f"{name}: {_shown(member)}" for name, member in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(_shown, value)) + "]"
        case _:
            return str(value)
