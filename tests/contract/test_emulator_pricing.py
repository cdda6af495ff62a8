"""The emulator's prices against outside sources: 22 vectors, invoiced over HTTP through the official SDK."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from stripe_emulator.pricing import Rounding, price_lines
from tests.emulator import RunningEmulator

NOW = 1_795_435_200  # 2026-11-23 12:00:00 UTC
VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "stripe_price_vectors.json").read_text(encoding="utf-8")
)["vectors"]


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["id"] for vector in VECTORS])
@pytest.mark.parametrize("rounding", ["half_up", "half_even", "ceiling"])
def test_vectors(vector: dict[str, Any], rounding: Rounding) -> None:
    """L1-L7: every sourced total, line by line, whatever the rounding of small fractions is."""
    amounts = [line.amount for line in price_lines(vector["price"], Fraction(vector["quantity"]), rounding)]
    assert (sum(amounts), amounts) == (vector["expected_total"], vector["derived_line_amounts"])


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["id"] for vector in VECTORS])
def test_vectors_on_a_preview(emulator: RunningEmulator, vector: dict[str, Any]) -> None:
    """The same vectors as a price, a subscription, one meter event and a preview."""
    emulator.freeze(datetime.fromtimestamp(NOW, UTC))
    client = emulator.client()
    customer = client.v1.customers.create({"name": "Ada"}).id
    meter = client.v1.billing.meters.create(
        {"display_name": "Calls", "event_name": "calls", "default_aggregation": {"formula": "sum"}}
    ).id
    tiers = [
        {name: value for name, value in tier.items() if value is not None} for tier in vector["price"].get("tiers", ())
    ]
    parameters: Any = {
        **vector["price"],
        "product": client.v1.products.create({"name": "API"}).id,
        "recurring": {"interval": "month", "usage_type": "metered", "meter": meter},
    }
    if tiers:
        parameters["tiers"] = tiers
    price = client.v1.prices.create(parameters).id
    subscription = client.v1.subscriptions.create({"customer": customer, "items": [{"price": price}]}).id
    client.v1.billing.meter_events.create(
        {"event_name": "calls", "payload": {"stripe_customer_id": customer, "value": vector["quantity"]}}
    )
    preview = client.v1.invoices.create_preview({"subscription": subscription})
    amounts = [line.amount for line in preview.lines.data]
    assert (preview.total, amounts) == (vector["expected_total"], vector["derived_line_amounts"])


@pytest.mark.parametrize(
    ("rounding", "amounts"), [("half_up", [1, 2, 3]), ("half_even", [0, 2, 2]), ("ceiling", [1, 2, 3])]
)
def test_ties_go_where_the_knob_says(rounding: Rounding, amounts: list[int]) -> None:
    """L6: 0.5, 1.5 and 2.5 under each rounding; below one half only a ceiling bills."""
    price = {"billing_scheme": "per_unit", "unit_amount_decimal": "0.5"}
    assert [price_lines(price, Fraction(count), rounding)[0].amount for count in (1, 3, 5)] == amounts
    cheap = {"billing_scheme": "per_unit", "unit_amount_decimal": "1.2"}
    assert price_lines(cheap, Fraction(1), rounding)[0].amount == (2 if rounding == "ceiling" else 1)


def test_a_negative_total_bills_nothing() -> None:
    """M8: below zero is zero, and the first tier's flat fee is billed as for zero."""
    price = {
        "billing_scheme": "tiered",
        "tiers_mode": "graduated",
        "tiers": [{"up_to": None, "unit_amount_decimal": "7", "flat_amount_decimal": "100"}],
    }
    assert [line.amount for line in price_lines(price, Fraction(-5), "half_up")] == [0, 100]
