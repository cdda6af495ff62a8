"""Scenarios: what is accepted, what is refused and where, and that a wrong expectation fails."""

from __future__ import annotations

import copy
import json
from decimal import Decimal
from typing import Any

import pytest

from stripemeter.errors import InvalidInput, ScenarioError
from stripemeter.simulation.running import run_scenario
from stripemeter.simulation.scenarios import read_scenario

ORIGINAL: dict[str, Any] = {
    "metadata": {"name": "tiers", "description": "the original's form", "version": "1"},
    "model": "tiered",
    "inputs": {
        "customerId": "cust_1",
        "periodStart": "2025-01-01T00:00:00Z",
        "periodEnd": "2025-02-01T00:00:00Z",
        "usageItems": [
            {
                "metric": "api_calls",
                "quantity": 25000,
                "priceConfig": {
                    "model": "tiered",
                    "currency": "USD",
                    "tiers": [
                        {"upTo": 10000, "unitPrice": 0.01},
                        {"upTo": 50000, "unitPrice": 0.008},
                        {"upTo": None, "unitPrice": 0.005},
                    ],
                },
            }
        ],
        "taxRate": 0,
    },
    "expected": {
        "total": 220,
        "subtotal": 220.0,
        "tax": 0,
        "currency": "USD",
        "lineItems": [{"metric": "api_calls", "quantity": 25000, "subtotal": 220}],
    },
    "tolerances": {"absolute": 0.01, "relative": 0.0005},
}
STORY: dict[str, Any] = {
    "metadata": {"name": "story"},
    "start": "2026-01-01",
    "plans": [
        {
            "name": "pro",
            "currency": "USD",
            "fees": [{"name": "base", "amount": 29}],
            "usage": [{"metric": "calls", "priceConfig": {"model": "flat", "currency": "USD", "unitPrice": "0.10"}}],
        },
        {"name": "more", "currency": "USD", "fees": [{"name": "base", "amount": 59}]},
        {"name": "euro", "currency": "EUR", "fees": [{"name": "seat", "amount": 5}]},
    ],
    "timeline": [
        {"subscribe": {"plan": "pro"}},
        {"at": "P1D", "events": [{"metric": "calls", "quantity": 7}]},
        {"at": "2026-02-01T01:00:00Z", "expect": {"invoice": {"total": "29.70"}}},
    ],
}


def _with(document: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """The document with another member; `..., +` adds an element before the last."""
    changed = copy.deepcopy(document)
    at: Any = changed
    *steps, last = path.split(".")
    for step in steps:
        at = at[int(step)] if step.isdigit() else at[step]
    if last == "+":
        at.insert(len(at) - 1, value)
    else:
        at[int(last) if last.isdigit() else last] = value
    return changed


def test_the_originals_form_is_accepted_and_passes() -> None:
    """Every member it has; all that is expected is an assertion."""
    run = run_scenario(read_scenario(ORIGINAL))
    assert run.passed
    assert [each.path for each in run.assertions] == [
        "expected.total",
        "expected.subtotal",
        "expected.tax",
        "expected.currency",
        "expected.lineItems.length",
        "expected.lineItems[0].metric",
        "expected.lineItems[0].quantity",
        "expected.lineItems[0].subtotal",
    ]
    assert json.loads(json.dumps(run.to_dict()))["invoices"][0]["total"] == "220.00"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("expected.total", 260),  # the example the original shipped; it passed there
        ("expected.total", Decimal("220.02")),
        ("expected.tax", "0.005"),
        ("expected.currency", "EUR"),
        ("expected.lineItems.0.quantity", "25000.001"),
        ("expected.lineItems.0.unitPrice", "0.0088"),
        ("expected.lineItems", []),
    ],
)
def test_a_wrong_expectation_fails(path: str, value: object) -> None:
    """What is expected is never taken from what came."""
    run = run_scenario(read_scenario(_with(ORIGINAL, path, value)))
    wrong = [each.path for each in run.assertions if not each.passed]
    assert not run.passed
    assert len(wrong) == 1
    assert wrong[0].startswith(path.replace(".0", "[0]"))


@pytest.mark.parametrize(
    ("expected", "tolerances", "passes"),
    [
        ("10005", {"absolute": "0.001", "relative": "0.0005"}, False),  # the original said yes
        ("10000.5", {"absolute": 1, "relative": "0.0001"}, True),
        ("10000.5", {"absolute": "0.49", "relative": "0.01"}, False),
        ("10000.5", {"absolute": 1, "relative": "0.00004"}, False),
        ("10000.01", {"relative": "0.01"}, False),
        ("10000.01", {}, False),
        ("10000", {}, True),
    ],
)
def test_an_amount_passes_within_both_tolerances_only(
    expected: str, tolerances: dict[str, object], passes: bool
) -> None:
    """Absolute and relative, not or; without an absolute one nothing is tolerated."""
    document = _with(ORIGINAL, "inputs.usageItems.0.quantity", 1_000_000)
    document = _with(
        document, "inputs.usageItems.0.priceConfig", {"model": "flat", "currency": "USD", "unitPrice": 0.01}
    )
    run = run_scenario(read_scenario({**document, "expected": {"total": expected}, "tolerances": tolerances}))
    assert run.passed is passes


def test_an_expected_zero_is_exact() -> None:
    """A cent where nothing is expected is a cent too much."""
    document = _with(ORIGINAL, "inputs.usageItems.0.quantity", 1)
    document = {**document, "expected": {"total": 0}, "tolerances": {"absolute": 1, "relative": "0.01"}}
    assert not run_scenario(read_scenario(document)).passed


@pytest.mark.parametrize(
    ("document", "path", "value", "field"),
    [
        (ORIGINAL, "tolerances.absolute", "1.01", "tolerances.absolute"),
        (ORIGINAL, "tolerances.relative", "0.011", "tolerances.relative"),
        (ORIGINAL, "tolerances.absolute", -1, "tolerances.absolute"),
        (ORIGINAL, "expected", {"subtotal": 220}, "expected.total"),
        (ORIGINAL, "expected", {}, "expected"),
        (ORIGINAL, "expected.totl", 220, "expected.totl"),
        (ORIGINAL, "expected.total", "much", "expected.total"),
        (ORIGINAL, "expected.lineItems.0.amount", 1, "expected.lineItems[0].amount"),
        (ORIGINAL, "inputs.usageItems.0.quantity", -1, "inputs.usageItems[0].quantity"),
        (ORIGINAL, "inputs.periodEnd", "2025-01-01", "inputs.periodEnd"),
        (ORIGINAL, "metadata", {}, "metadata.name"),
        (ORIGINAL, "metadata.name", " ", "metadata.name"),
        (ORIGINAL, "record", True, "record"),
        (ORIGINAL, "timeline", [{}], "the document"),
        (ORIGINAL, "taxRate", 3, "taxRate"),
        (STORY, "timeline", STORY["timeline"][:2], "timeline"),
        (STORY, "timeline.2.expect", {"access": {}}, "timeline[2].expect.access"),
        (STORY, "timeline.2.expect", {"usage": {"calls": "x"}}, "timeline[2].expect.usage.calls"),
        (STORY, "timeline.2.at", "2026-01-01", "timeline[2].at"),
        (STORY, "timeline.2.after", "P1D", "timeline[2]"),
        (STORY, "timeline.0.subscribe.plan", "free", "timeline[0].subscribe.plan"),
        (STORY, "timeline.0.subscribe.cadence", "fortnight", "timeline[0].subscribe.cadence"),
        (STORY, "timeline.1.events.0.quantity", -7, "timeline[1].events[0].quantity"),
        (STORY, "timeline.1.events.0.customerRef", "nobody", "timeline[1].events[0].customerRef"),
        (STORY, "timeline.1.events.0.times", 0, "timeline[1].events[0].times"),
        (STORY, "timeline.+", {"subscribe": {"plan": "more"}}, "timeline[2].subscribe.plan"),
        (STORY, "timeline.+", {"subscribe": {"plan": "euro"}}, "timeline[2].subscribe.plan"),
        (STORY, "timeline.+", {"cancel": {"plan": "more"}}, "timeline[2].cancel.plan"),
        (STORY, "timeline.+", {"credit": {"amount": 1}}, "timeline[2].credit.reason"),
        (STORY, "timeline.+", {"credit": {"reason": "a", "amount": "0.001"}}, "timeline[2].credit.amount"),
        (
            STORY,
            "timeline.+",
            {"creditExpiry": {"reason": "a", "expiresAt": "2027-01-01"}},
            "timeline[2].creditExpiry.reason",
        ),
        (STORY, "timeline.+", {"generate": {"metric": "calls", "until": "2026-01-03"}}, "timeline[2].generate"),
        (
            STORY,
            "timeline.+",
            {"generate": {"metric": "calls", "count": 3, "until": "P1D"}},
            "timeline[2].generate.until",
        ),
        (STORY, "timeline.+", {"payments": "maybe"}, "timeline[2].payments.outcome"),
        (STORY, "timeline.+", {"sleep": 1}, "timeline[2].sleep"),
        (STORY, "plans.0.usage.0.priceConfig.currency", "EUR", "plans[0].usage[0].priceConfig.currency"),
        (STORY, "plans.0.fees.0.amount", "0.001", "plans[0].fees[0].amount"),
        (STORY, "plans.1.name", "pro", "plans[1].name"),
        (STORY, "dunning", {"daysUntilBlocked": -1}, "dunning.daysUntilBlocked"),
        (STORY, "dunning", {"retryDays": [0]}, "dunning.retryDays[0]"),
        (STORY, "lateness", {"approval": "perhaps"}, "lateness.approval"),
        (STORY, "lateness", {"windows": {"calls": "48h"}}, "lateness.windows.calls"),
        (STORY, "customers", ["a", "a"], "customers"),
        (STORY, "taxRate", -1, "taxRate"),
        (STORY, "rounding", "down", "rounding"),
    ],
)
def test_what_cannot_be_right_is_refused_by_its_path(
    document: dict[str, Any], path: str, value: object, field: str
) -> None:
    """The complaint begins with the path of the member."""
    with pytest.raises(ScenarioError) as refusal:
        read_scenario(_with(document, path, value))
    assert str(refusal.value).startswith(field)
    assert refusal.value.field == ("" if field == "the document" else field)
    assert isinstance(refusal.value, InvalidInput)


def test_events_that_do_not_arrive_before_the_end_are_refused() -> None:
    """They would prove nothing; the complaint says how far the clock must move."""
    late = {"generate": {"metric": "calls", "count": 1, "until": "2026-02-01", "late": {"every": 1, "by": "P31D"}}}
    with pytest.raises(
        ScenarioError, match=r"^timeline\[2\].generate: 1 deliveries .* the last at 2026-02-02"
    ) as refusal:
        run_scenario(read_scenario(_with(STORY, "timeline.+", late)))
    assert refusal.value.field == "timeline[2].generate"


def test_paying_when_nothing_is_owed_is_refused() -> None:
    """The scenario means something that is not so."""
    with pytest.raises(ScenarioError, match="owes nothing"):
        run_scenario(read_scenario(_with(STORY, "timeline.+", {"pay": True})))


@pytest.mark.parametrize(
    ("path", "value", "refused", "passes"),
    [
        ("inputs.taxRate", -1, "inputs.taxRate", True),
        ("inputs.taxRate", -1, "inputs.periodEnd", False),
        ("inputs.taxRate", 1, "inputs.taxRate", False),
    ],
)
def test_a_refusal_can_be_expected(path: str, value: object, refused: str, passes: bool) -> None:
    """At its path and nowhere else; what is accepted although it must not be is a difference."""
    document = _with(ORIGINAL, path, value)
    assert run_scenario(read_scenario({**document, "expected": {"refused": refused}})).passed is passes


def test_a_story_passes_and_its_observations_are_its_own() -> None:
    """29.00 and 7 calls at 0.10; the progress is that of the entries."""
    steps: list[tuple[int, int]] = []
    run = run_scenario(read_scenario(STORY), progress=lambda done, of: steps.append((done, of)))
    assert run.passed
    assert [(each.path, each.actual) for each in run.assertions] == [("timeline[2].expect.invoice.total", "29.7")]
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert run.observations[0].seen["usage"] == {"calls": "0"}


def test_a_clock_moved_too_far_is_refused() -> None:
    """A thousand years of daily invoices help nobody."""
    document = _with(STORY, "timeline.0.subscribe.cadence", "day")
    with pytest.raises(ScenarioError, match="1000 invoices"):
        run_scenario(read_scenario(_with(document, "timeline.2.at", "2126-01-01")))
