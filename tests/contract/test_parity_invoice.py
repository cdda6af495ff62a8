"""An export of Stripe's invoice lines compares equal with ours: ids, seconds, decimals and cents as Stripe has them."""

from __future__ import annotations

import csv
import io
from typing import Any

from psycopg_pool import ConnectionPool

from stripemeter.pipeline.parity import ParityReport, compare_export
from stripemeter.pipeline.parity_export import ExportRequest
from stripemeter.pricing import Rounding
from stripemeter.store.files import payload_source
from tests.contract.test_invoice_preview import PRICES, Market
from tests.emulator import RunningEmulator
from tests.laws.prices import ROUNDINGS
from tests.stripe_bench import NOW

COLUMNS = (
    "id",
    "customer",
    "price_id",
    "period_start",
    "period_end",
    "quantity",
    "quantity_decimal",
    "amount",
    "currency",
)


def exported(market: Market) -> list[dict[str, Any]]:
    """The lines of the coming invoice, as they are."""
    invoice: Any = market.client.v1.invoices.create_preview({"subscription": market.subscription})
    return [
        {
            "id": line.id,
            "customer": market.customer,
            "price_id": line.pricing.price_details.price,
            "period_start": line.period.start,
            "period_end": line.period.end,
            "quantity": line.quantity,
            "quantity_decimal": line.quantity_decimal,
            "amount": line.amount,
            "currency": line.currency,
        }
        for line in invoice.lines.auto_paging_iter()
    ]


def compare(market: Market, lines: list[dict[str, Any]], rounding: Rounding) -> ParityReport:
    """As CSV, in cents."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(lines)
    asked = ExportRequest(
        source=payload_source(text.getvalue().encode()),
        source_format="csv",
        kind="invoice",
        columns={},
        amounts="minor",
        rounding=rounding,
    )
    return compare_export(market.pool, asked, tenant_id="acme", now=NOW)


def test_stripes_own_lines_are_equal(pool: ConnectionPool, database_url: str, emulator: RunningEmulator) -> None:
    """Every kind of price, a line a tier and flat amounts, under each rounding; a cent more on one line is found."""
    market = Market(pool, database_url, emulator, special={"flat": {"unit_amount_decimal": "0.25"}})
    market.use({metric: quantity for metric, (_, quantity) in PRICES.items() if quantity != "0"})
    market.record_items({"flat": market.item_of("flat")[0]})
    market.sync()
    for rounding in ROUNDINGS:
        market.emulator.control("POST", "/billing", {"line_rounding": rounding})
        lines = exported(market)
        assert len(lines) > len(PRICES)
        equal = compare(market, lines, rounding)
        assert [(item.key.metric, item.causes, item.detail) for item in equal.items if item.status != "ok"] == []
        assert (equal.verdict, equal.rows.matched) == ("equal", len(lines))
        assert {item.key.metric for item in equal.items} >= set(PRICES) - {"unused"}
    lines[0]["amount"] += 1
    (found,) = [item for item in compare(market, lines, rounding).items if item.status != "ok"]
    assert 2 in found.lines
    lacking = compare(market, lines[1:], rounding)
    assert lacking.verdict != "equal"
