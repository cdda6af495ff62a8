"""What of a scenario cannot be played on test clocks is refused before anything is asked, with path and reason."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from stripemeter.cli.yaml_files import read_yaml
from stripemeter.errors import ScenarioError
from stripemeter.pricing import PerUnit
from stripemeter.simulation.scenarios import read_scenario
from stripemeter.simulation.stripe_scripts import Script, scripts_of

LABS = Path(__file__).parents[2] / "labs"
FLAT = {"model": "flat", "currency": "USD", "unitPrice": 1}
EXPECT = {"at": "2026-04-01T01:00:00Z", "expect": {"events": {"rejected": 0}}}


def scripts(*timeline: dict[str, Any], **more: Any) -> list[Script]:  # noqa: ANN401 - any member
    """Of a story with a plan for usage and one with a fee."""
    document = {
        "metadata": {"name": "story"},
        "start": "2026-01-01",
        "plans": [
            {"name": "usage", "currency": "USD", "usage": [{"metric": "calls", "priceConfig": FLAT}]},
            {"name": "fee", "currency": "USD", "fees": [{"name": "base", "amount": 29}]},
            {"name": "other", "currency": "USD", "usage": [{"metric": "seats", "priceConfig": FLAT}]},
        ],
        "timeline": [*timeline, EXPECT],
        **more,
    }
    return scripts_of(read_scenario(document), 1)


SUBSCRIBE: dict[str, Any] = {"subscribe": {"plan": "usage"}}
LATER = "2026-01-10T00:00:00Z"
REPRICE: dict[str, Any] = {
    "at": LATER,
    "price": {"plan": "usage", "metric": "calls", "priceConfig": {**FLAT, "unitPrice": 2}},
}


@pytest.mark.parametrize(
    ("timeline", "more", "field", "reason"),
    [
        ([SUBSCRIBE, {"at": LATER, "subscribe": {"plan": "fee"}}], {}, "timeline[1].subscribe", "a second plan"),
        (
            [SUBSCRIBE, {"at": LATER, "cancel": {"plan": "usage"}}],
            {},
            "timeline[1].cancel",
            "the end of a subscription",
        ),
        (
            [SUBSCRIBE, {"at": LATER, "commitment": {"name": "c", "amount": 5}}],
            {},
            "timeline[1].commitment",
            "have no commitments",
        ),
        (
            [SUBSCRIBE, {"at": LATER, "change": {"from": "usage", "to": "fee"}}],
            {},
            "timeline[1].change",
            "a fee that changes",
        ),
        (
            [SUBSCRIBE, {"at": LATER, "change": {"from": "usage", "to": "other"}}],
            {},
            "timeline[1].change",
            "a plan of other metrics",
        ),
        (
            [SUBSCRIBE, REPRICE, {"credit": {"reason": "A", "amount": 5, "metrics": ["calls"]}}],
            {},
            "timeline[2].credit",
            "a grant for metrics whose prices changed",
        ),
        (
            [SUBSCRIBE, REPRICE, {"at": "P12D", "events": [{"metric": "calls", "quantity": 1, "ts": "2026-01-09"}]}],
            {},
            "timeline[2].events[0]",
            "comes after a price change before which it was",
        ),
        ([SUBSCRIBE], {"taxRate": 5}, "taxRate", "taxes"),
        ([SUBSCRIBE], {"finalizeAfter": "PT2H"}, "finalizeAfter", "a setting of the account"),
        (
            [SUBSCRIBE],
            {"meters": [{"name": "calls", "aggregation": "max"}]},
            "timeline[0].subscribe",
            "a meter of its own",
        ),
        (
            [{"at": LATER, "subscribe": {"plan": "fee", "anchorAt": "2026-01-01"}}],
            {},
            "timeline[0].subscribe",
            "not owed in whole periods",
        ),
        (
            [SUBSCRIBE, {"at": "2026-03-01", "events": [{"metric": "calls", "quantity": 1, "ts": "2026-01-20"}]}],
            {},
            "timeline[1].events[0]",
            "the last 35 days; this is of 2026-01-20",
        ),
        (
            [SUBSCRIBE, {"at": LATER, "events": [{"metric": "calls", "quantity": "1234567890.1234567"}]}],
            {},
            "timeline[1].events[0]",
            "at most 15 significant digits",
        ),
        (
            [SUBSCRIBE, {"generate": {"metric": "calls", "count": 10_001, "until": "2026-02-01"}}],
            {},
            "timeline",
            "at most 10000 are sent",
        ),
        ([{"events": [{"metric": "calls", "quantity": 1}]}], {}, "timeline", "nobody subscribes"),
    ],
)
def test_what_stripe_has_no_notion_of_is_refused(
    timeline: list[dict[str, Any]], more: dict[str, Any], field: str, reason: str
) -> None:
    """Where it stands, and why."""
    with pytest.raises(ScenarioError, match=reason) as refused:
        scripts(*timeline, **more)
    assert refused.value.field == field
    assert str(refused.value).startswith(f"{field}: cannot be played on Stripe's test clocks: ")


def test_an_invoice_without_a_clock_is_refused() -> None:
    """The original's form has no clock to play it on."""
    document = read_yaml(LABS / "golden" / "flat.sim.yaml")
    with pytest.raises(ScenarioError, match="needs a timeline"):
        scripts_of(read_scenario(document), 1)


def test_usage_is_sent_before_the_invoice_it_belongs_to_is_final() -> None:
    """Stops fall a second before and at each end plus an hour; what comes in that second is sent before it."""
    (script,) = scripts(
        SUBSCRIBE,
        {"at": "2026-02-01T01:00:00Z", "events": [{"metric": "calls", "quantity": 1, "ts": "2026-01-31T23:59:59.5Z"}]},
        {"events": [{"metric": "calls", "quantity": 2, "ts": "2026-02-01T00:00:00.5Z"}]},
    )
    final_at = script.segments[0].end + timedelta(hours=1)
    assert {final_at - timedelta(seconds=1), final_at} <= set(script.stops)
    first, second = script.events
    assert (first.stop, second.stop) == (final_at - timedelta(seconds=1),) * 2
    # Never the second in which a period begins: whose it is at Stripe is not documented.
    assert [first.at, second.at] == [script.segments[0].end + timedelta(seconds=each) for each in (-1, 1)]


def test_the_clock_moves_in_steps_stripe_allows() -> None:
    """At most ten days: no subscription of ours is so short that two of its intervals are less, but days' are."""
    (script,) = scripts(SUBSCRIBE)
    assert all(
        later - earlier <= timedelta(days=10) for earlier, later in zip(script.stops, script.stops[1:], strict=False)
    )


def test_a_price_changes_where_the_clock_stops() -> None:
    """What holds when the subscription begins is no change; usage of the very instant is at the new price."""
    (script,) = scripts(
        {**REPRICE, "at": "2026-01-01"},
        {"at": "2026-01-01", **SUBSCRIBE},
        {"at": LATER, "events": [{"metric": "calls", "quantity": 1}]},
        {"at": LATER, "price": {"plan": "usage", "metric": "calls", "priceConfig": {**FLAT, "unitPrice": 3}}},
    )
    assert script.prices["calls"].model == PerUnit(unit_minor=Decimal(200))
    assert [(change.metric, change.price.model) for change in script.changes] == [
        ("calls", PerUnit(unit_minor=Decimal(300)))
    ]
    (change,), (event,) = script.changes, script.events
    assert change.at in script.stops
    assert event.at == change.at + timedelta(seconds=1)


def test_a_fee_is_a_unit_of_each_period() -> None:
    """A fee is owed in arrears: at Stripe a metered price of one unit a period."""
    (script,) = scripts({"subscribe": {"plan": "fee"}})
    assert [(event.metric, event.quantity) for event in script.events] == [("base", 1)] * 3
    assert [event.at for event in script.events] == [each.start + timedelta(seconds=1) for each in script.segments]
