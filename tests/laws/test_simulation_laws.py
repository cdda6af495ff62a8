"""Laws of the simulator: same seed, same result; deliveries in any order; one price function."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stripemeter.cli.yaml_files import read_yaml
from stripemeter.errors import ScenarioError
from stripemeter.pricing import InvoiceSimulator, to_price_config
from stripemeter.simulation.running import ScenarioRun, run_scenario
from stripemeter.simulation.scenarios import read_scenario
from tests.laws.prices import ROUNDINGS, draw_price

LABS = Path(__file__).resolve().parents[2] / "labs"
_LABS = (
    "dunning.sim.yaml",
    "past-due.sim.yaml",
    "commitments.sim.yaml",
    "end-of-cycle.sim.yaml",
    "golden/storage.sim.yaml",
)
_JUNK: tuple[Any, ...] = (
    *(None, [], {}, [None], ["x"], {"a": 1}, {1: 2}, "", "x", "\x00", "\ud800", b"x", True, -1, 0, 10**40),
    *(Decimal("NaN"), Decimal("Infinity"), Decimal("1e-16"), "1e300", float("nan"), float("inf")),
    *("P1D", "PT0S", "P99999D", "9999-12-31T23:59:59Z", "0001-01-01", "2026-01-31", "customer"),
)
_START = datetime(2026, 1, 1, tzinfo=UTC)
_FINAL = "2026-02-01T01:00:00Z"
_PRICE = {
    "model": "graduated",
    "currency": "USD",
    "tiers": [{"upTo": 50, "unitPrice": "0.333", "flatPrice": 2}, {"upTo": None, "unitPrice": "0.107"}],
}


def _story(timeline: list[dict[str, Any]], price: object = _PRICE, **members: object) -> dict[str, Any]:
    plan = {"name": "usage", "currency": "USD", "usage": [{"metric": "calls", "priceConfig": price}]}
    final = {"at": _FINAL, "expect": {"events": {"rejected": 0}}}
    entries = [{"at": "2026-01-01", "subscribe": {"plan": "usage"}}, *timeline, final]
    return {"metadata": {"name": "law"}, "start": "2026-01-01", "plans": [plan], "timeline": entries, **members}


def _play(document: dict[str, Any], seed: int | None = None) -> ScenarioRun:
    return run_scenario(read_scenario(document), seed)


def _text(run: ScenarioRun) -> str:
    return json.dumps(run.to_dict())


@pytest.mark.parametrize("pattern", ["steady", "burst", "random", "peak"])
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**63), count=st.integers(1, 40), data=st.data())
def test_the_same_seed_gives_the_same_to_the_byte(pattern: str, seed: int, count: int, data: st.DataObject) -> None:
    """Whatever else is generated: a generator more moves no event of another."""
    generate = {
        "metric": "calls",
        "count": count,
        "quantity": {"least": "0.5", "most": 900},
        "until": "2026-01-31",
        "pattern": pattern,
        "late": {"every": data.draw(st.integers(1, 5)), "by": "PT20H"},
        "duplicate": {"every": data.draw(st.integers(1, 5)), "after": "PT3H"},
    }
    document = _story([{"generate": generate}])
    run = _play(document, seed)
    assert _text(run) == _text(_play(json.loads(json.dumps(document)), seed))
    with_another = [{"generate": generate}, {"generate": {**generate, "metric": "jobs", "pattern": "random"}}]
    assert _play(_story(with_another), seed).invoices == run.invoices
    if count > 10:
        assert _play(document, seed + 1).observations != run.observations


@pytest.mark.parametrize("aggregation", ["sum", "count", "min", "max", "last", "avg", "unique", "time_weighted"])
@settings(max_examples=8, deadline=None)
@given(
    at=st.lists(st.integers(0, 31 * 24 * 3600 - 1), min_size=1, max_size=12, unique=True),
    randomly=st.randoms(use_true_random=False),
)
def test_order_repetition_and_delay_of_deliveries_change_no_invoice(
    aggregation: str, at: list[int], randomly: Random
) -> None:
    """Each event arrives when it happens; or all of them in any order, some often, the last half an hour too late."""
    events: list[dict[str, Any]] = [
        {
            "metric": "calls",
            "quantity": str(Decimal(randomly.randrange(1, 90_000)) / 1000),
            "ts": (_START + timedelta(seconds=second)).isoformat(),
            "idempotencyKey": f"event-{number}",
        }
        for number, second in enumerate(sorted(at))
    ]
    meters: dict[str, Any] = {"meters": [{"name": "calls", "aggregation": aggregation}]}
    if aggregation == "unique":
        meters = {"meters": [{"name": "calls", "aggregation": "unique", "value": "meta.user"}]}
        events = [{**event, "meta": {"user": f"user-{number % 3}"}} for number, event in enumerate(events)]
    punctual = _play(_story([{"at": event["ts"], "events": [event]} for event in events], **meters))
    shuffled = [{**event, "times": randomly.randrange(1, 4)} for event in events]
    shuffled += [event for event in events if randomly.random() < 0.3]
    randomly.shuffle(shuffled)
    cut = randomly.randrange(len(shuffled) + 1)
    pieces = [("2026-01-31T23:59:59Z", shuffled[:cut]), ("2026-02-01T00:30:00Z", shuffled[cut:])]
    jumbled = _play(_story([{"at": when, "events": piece} for when, piece in pieces if piece], **meters))
    assert jumbled.invoices == punctual.invoices
    assert Decimal(punctual.invoices[0]["total"]) >= 2
    counts = jumbled.observations[0].seen["events"]
    assert (counts["accepted"], counts["conflicts"]) == (str(len(events)), "0")


@settings(max_examples=40, deadline=None)
@given(randomly=st.randoms(use_true_random=False), quantities=st.lists(st.integers(0, 10**9), min_size=1, max_size=6))
def test_a_storys_invoice_is_the_invoice_simulators_for_the_same_usage(randomly: Random, quantities: list[int]) -> None:
    """One price function: any price, any rounding, tax, a discount, a commitment and credit."""
    price = to_price_config(draw_price(randomly, currency="USD"))
    exact = [Decimal(quantity).scaleb(-randomly.randrange(4)) for quantity in quantities]
    rounding = randomly.choice(ROUNDINGS)
    discount = {"name": "d", "percentOff": randomly.randrange(1, 101)}
    commitment = {"name": "c", "amount": randomly.randrange(1000)}
    credit = {"reason": "r", "amount": randomly.randrange(1000), "createdAt": "2026-01-01", "effectiveAt": "2026-01-01"}
    timeline: list[dict[str, Any]] = [
        {"discount": discount, "commitment": commitment, "credit": credit},
        *(
            {"at": f"P{number}D", "events": [{"metric": "calls", "quantity": str(quantity)}]}
            for number, quantity in enumerate(exact)
        ),
    ]
    run = _play(_story(timeline, price, taxRate="7.7", rounding=rounding))
    expected = InvoiceSimulator(rounding).simulate(
        {
            "customerId": "customer",
            "periodStart": "2026-01-01",
            "periodEnd": "2026-02-01",
            "usageItems": [{"metric": "calls", "quantity": str(sum(exact)), "priceConfig": price}],
            "discounts": [discount],
            "commitments": [commitment],
            "credits": [credit],
            "taxRate": "7.7",
        }
    )
    of_story = {"id": "customer-1", "status": "paid", "finalizedAt": _FINAL, "unbilled": {"calls": "0"}}
    assert run.invoices[0] == of_story | expected.to_dict()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(name=st.sampled_from(_LABS), randomly=st.randoms(use_true_random=False))
def test_no_document_is_more_than_refused(name: str, randomly: Random) -> None:
    """A lab with something else somewhere: it passes, differs, or is refused with its path; nothing else happens."""
    document = copy.deepcopy(_lab(name))
    place = randomly.choice(list(_places(document)))
    place[0][place[1]] = copy.deepcopy(randomly.choice(_JUNK))
    refusal = None
    try:
        _text(_play(document))
    except ScenarioError as error:
        refusal = error
    assert refusal is None or str(refusal).startswith(refusal.field or "the document")


@cache
def _lab(name: str) -> dict[str, Any]:
    return read_yaml(LABS / name)  # type: ignore[no-any-return] # an object, as labs are


def _places(document: Any) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401 - JSON
    members = document.items() if isinstance(document, dict) else enumerate(document)
    for name, value in list(members):
        yield document, name
        if isinstance(value, dict | list):
            yield from _places(value)
