"""What usage costs, over HTTP: the original's question and answer, and the invoices behind it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from psycopg_pool import ConnectionPool

from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.prices import say_price
from stripemeter.pricing import InvoiceSimulator, recompute_invoice
from stripemeter_api.projection_documents import InvoicePreviewAnswer, ProjectionAnswer
from tests.api.serving import Api, Ingest

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
TIERS = [{"upTo": 10, "unitPrice": "0.5", "flatPrice": 9}, {"upTo": None, "unitPrice": "0.015"}]
GRADUATED = {"model": "graduated", "currency": "USD", "tiers": TIERS}
YEN = {"model": "flat", "currency": "JPY", "unitPrice": "2.5"}
PROJECTION, PREVIEW = "/v1/usage/projection", "/v1/invoices/preview"


def price(pool: ConnectionPool, tenant: str, metric: str, config: dict[str, Any]) -> None:
    """A price of the tenant's own, since long ago."""
    now = datetime.now(UTC)
    assert say_price(pool, config, tenant_id=tenant, meter=metric, effective_from=LONG_AGO, now=now)


def ask(api: Api, path: str, tenant: str, **parameters: str) -> dict[str, Any]:
    """The answer, as documented, its numbers exact."""
    answer = api.get(path, params={"tenantId": tenant, "customerRef": "c1", **parameters})
    assert answer.status_code == 200, answer.text
    documented = ProjectionAnswer if path == PROJECTION else InvoicePreviewAnswer
    documented.model_validate_json(answer.content)
    body: dict[str, Any] = msgspec.json.Decoder(float_hook=Decimal).decode(answer.content)
    return body


def test_cost_to_date_in_the_originals_form(api: Api, pool: ConnectionPool, tenant: str, ingest: Ingest) -> None:
    """Read your writes; the sum is the simulator's; GET and POST say the same; folding moves no number."""
    price(pool, tenant, "api_calls", GRADUATED)
    ingest({"quantity": 13, "ts": datetime.now(UTC).isoformat()})
    found = ask(api, PROJECTION, tenant)
    assert (found["customerRef"], found["currency"], found["total"]) == ("c1", "USD", Decimal("14.05"))
    assert (found["subtotal"], found["credits"], found["unpriced"]) == (Decimal("14.05"), 0, [])
    (item,) = found["lineItems"]
    assert (item["metric"], item["quantity"], item["unitPrice"], item["total"]) == (
        "api_calls",
        13,
        None,
        Decimal("14.05"),
    )
    assert [
        (line["kind"], line["tier"], line["units"], line["unrounded"], line["amount"]) for line in item["lines"]
    ] == [
        ("units", 1, "10", "5.00", "5.00"),
        ("flat", 1, "0", "9.00", "9.00"),
        ("units", 2, "3", "0.045", "0.05"),
    ]
    assert (item["forecast"], found["forecast"]) == (None, None), "there is no complete day to go by"
    assert found["freshness"]["pendingEvents"] == 1
    simulated = InvoiceSimulator().simulate(
        {
            "customerId": "c1",
            "periodStart": found["periodStart"],
            "periodEnd": found["periodEnd"],
            "usageItems": [{"metric": "api_calls", "quantity": 13, "priceConfig": GRADUATED}],
        }
    )
    assert found["total"] == simulated.total
    fold(pool)
    folded = ask(api, PROJECTION, tenant, periodStart=found["periodStart"], periodEnd=found["periodEnd"])
    freshness = folded["freshness"]
    assert freshness["pendingEvents"] == 0
    assert freshness["lastUpdate"] == freshness["foldedThrough"]
    assert 0 <= freshness["staleness"] < 300
    body = {"tenantId": tenant, "customerRef": "c1"}
    posted = msgspec.json.Decoder(float_hook=Decimal).decode(api.post(PROJECTION, json=body).content)
    for answer in (folded, posted):
        assert {**answer, "freshness": None} == {**found, "freshness": None}


def test_the_preview_is_the_same_invoice_and_computes_again(
    api: Api, pool: ConnectionPool, tenant: str, ingest: Ingest
) -> None:
    """One invoice a currency; its record is all it depends on; the rounding is the asker's."""
    price(pool, tenant, "api_calls", GRADUATED)
    price(pool, tenant, "disk", YEN)
    now = datetime.now(UTC).isoformat()
    ingest({"quantity": 13, "ts": now}, {"metric": "disk", "quantity": 3, "ts": now}, {"metric": "free", "ts": now})
    found = ask(api, PREVIEW, tenant)
    totals = {each["invoice"]["currency"]: each["invoice"]["total"] for each in found["invoices"]}
    assert totals == {"JPY": "8", "USD": "14.05"}
    for each in found["invoices"]:
        record = {name: each[name] for name in ("inputs", "rounding", "invoice")}
        assert recompute_invoice(record).currency in totals
        assert each["stripeAccount"] is None
    assert [(each["metric"], each["quantity"]) for each in found["unpriced"]] == [("free", 1)]
    assert "no mapping names a price" in found["unpriced"][0]["reason"]
    even = ask(api, PREVIEW, tenant, rounding="half_even")
    assert [each["invoice"]["total"] for each in even["invoices"]] == ["8", "14.04"]
    assert ask(api, PROJECTION, tenant, rounding="half_even")["currencies"][1]["total"] == Decimal("14.04")
    assert ask(api, PREVIEW, tenant, at="2025-01-01T00:00:00Z")["invoices"] == []


def test_currencies_are_never_added(api: Api, pool: ConnectionPool, tenant: str, ingest: Ingest) -> None:
    """With two there is no one sum; each has its own. An unpriced metric is in none, and no price is no 0."""
    ingest({"ts": datetime.now(UTC).isoformat()})
    nothing = ask(api, PROJECTION, tenant)
    assert (nothing["total"], nothing["currency"], nothing["lineItems"], nothing["currencies"]) == (None, None, [], [])
    price(pool, tenant, "disk", YEN)
    ingest({"metric": "disk", "quantity": 3, "ts": datetime.now(UTC).isoformat()})
    assert (ask(api, PROJECTION, tenant)["total"], ask(api, PROJECTION, tenant)["currency"]) == (8, "JPY")
    price(pool, tenant, "api_calls", GRADUATED)
    found = ask(api, PROJECTION, tenant)
    assert (found["total"], found["currency"], found["forecast"]) == (None, None, None)
    assert [(each["currency"], each["total"]) for each in found["currencies"]] == [("JPY", 8), ("USD", Decimal("9.5"))]
    assert ask(api, PROJECTION, f"{tenant}-other")["lineItems"] == []


def test_a_forecast_over_http(api: Api, pool: ConnectionPool, tenant: str, ingest: Ingest) -> None:
    """With a day to go by there is a forecast, its method said; the past has nothing to come."""
    price(pool, tenant, "api_calls", {"model": "flat", "currency": "USD", "unitPrice": "0.01"})
    now = datetime.now(UTC)
    ingest({"quantity": 1000, "ts": (now - timedelta(days=1)).isoformat()})
    found = ask(api, PROJECTION, tenant)
    items = found["lineItems"]
    if items:  # on the first of a month yesterday was another period
        assert items[0]["forecast"]["method"] == "daily_rate"
        assert found["forecast"]["total"] >= found["total"] == 10
    yesterday = (now - timedelta(days=1)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    end = (yesterday + timedelta(days=32)).replace(day=1)
    whole = ask(api, PROJECTION, tenant, periodStart=yesterday.isoformat(), periodEnd=end.isoformat())
    assert whole["total"] == 10


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"periodStart": "2026-11-01T00:00:00Z"}, "periodEnd"),
        ({"periodEnd": "2026-11-01T00:00:00Z"}, "periodStart"),
        ({"periodStart": "2026-11-01T00:00:00Z", "periodEnd": "2026-11-01T00:00:00Z"}, "periodEnd"),
        ({"periodStart": "2026-11-01T00:00:00Z", "periodEnd": "2026-11-30T00:00:00Z"}, "periodEnd"),
        ({"periodStart": "2026-11-02T00:00:00Z", "periodEnd": "2026-12-01T00:00:00Z"}, "periodStart"),
        ({"periodStart": "2026-11-01", "periodEnd": "2026-12-01"}, "periodStart"),
        ({"rounding": "down"}, "rounding"),
        ({"customerRef": ""}, "customerRef"),
    ],
)
def test_a_member_that_is_not_as_it_must_be_is_named(
    api: Api, tenant: str, parameters: dict[str, str], named: str
) -> None:
    """In the URL and in a body alike; a period must be one of the customer's billing periods."""
    question = {"tenantId": tenant, "customerRef": "c1", **parameters}
    for answer in (api.get(PROJECTION, params=question), api.post(PROJECTION, json=question)):
        assert answer.status_code == 400, answer.text
        assert answer.json()["errors"][0]["path"].endswith(named)


def test_a_body_says_nothing_else(api: Api, tenant: str) -> None:
    """A member nobody knows is refused: a misspelt period would otherwise be the current one."""
    answer = api.post(PROJECTION, json={"tenantId": tenant, "customerRef": "c1", "periodstart": "x"})
    assert (answer.status_code, answer.json()["errors"][0]["path"].endswith("periodstart")) == (400, True)
