"""Manual adjustments in /query: what `adjusted` means for each aggregation, and when the answer leaves it out."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from psycopg_pool import ConnectionPool

from stripemeter.pipeline.fold import fold
from tests.adjusting import adjust
from tests.api.serving import Api, Ingest

DAY = datetime(2026, 10, 19, tzinfo=UTC)
DELTA = Decimal("-0.5")
NUMBERS = {
    "sum": 9,
    "count": 3,
    "min": 2,
    "max": 4,
    "last": 3,
    "avg": 3,
    "unique": 3,
    "percentile": 3,
    "time_weighted": (2 * 6 + 4 * 6 + 3 * 12) * 3600,
}
"""What each makes of 2, 4 and 3, at midnight, six and noon."""
MAPPED = ("sum", "count", "min", "max", "last")
"""What a price mapping may say."""


def ask(api: Api, tenant: str, **parameters: str | list[str]) -> dict[str, Any]:
    """The answer about api_calls on 19 and 20 October, its numbers exact."""
    span = {"from": "2026-10-19T00:00:00Z", "to": "2026-10-21T00:00:00Z"}
    answer = api.get("/v1/usage/query", params={"tenantId": tenant, "metric": "api_calls", **span, **parameters})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = msgspec.json.Decoder(float_hook=Decimal).decode(answer.content)
    return body


def count_by(pool: ConnectionPool, tenant: str, aggregation: str, *, is_meter: bool) -> None:
    """Let api_calls count like this, by a meter of its name or a mapping."""
    members = {"percentile": "50"} if aggregation == "percentile" else {}
    document = json.dumps({"name": "api_calls", "aggregation": aggregation, **members})
    with pool.connection() as connection:
        if is_meter:
            connection.execute(
                "insert into meters values (%s, 'api_calls', 1, '0001-01-01', true, %s, 'test', now())",
                (tenant, document),
            )
        else:
            connection.execute(
                "insert into price_mappings (id, tenant_id, meter, aggregation, stripe_account_id, stripe_event_name, "
                "stripe_meter_id, mode, created_at) values (gen_random_uuid(), %s, 'api_calls', %s, 'acct_1', 'calls',"
                " 'mtr_1', 'off', now())",
                (tenant, aggregation),
            )


@pytest.mark.parametrize(
    ("aggregation", "is_meter"), [*((name, True) for name in NUMBERS), *((name, False) for name in MAPPED)]
)
def test_an_adjustment_corrects_the_metrics_own_number(
    api: Api,
    tenant: str,
    ingest: Ingest,
    pool: ConnectionPool,
    *,
    aggregation: str,
    is_meter: bool,
) -> None:
    """In its unit, whatever makes it; to a window without events it is all there is. The events' own stay beside it."""
    count_by(pool, tenant, aggregation, is_meter=is_meter)
    ingest(*({"ts": f"2026-10-19T{hour}:00:00Z", "quantity": quantity} for hour, quantity in
             (("00", 2), ("06", 4), ("12", 3))))  # fmt: skip
    fold(pool)
    adjust(pool, tenant, str(DELTA), DAY)
    adjust(pool, tenant, "7", DAY.replace(day=20))
    adjust(pool, tenant, "100", DAY, status="pending")
    events = Decimal(NUMBERS[aggregation])
    level = Decimal(3 * 24 * 3600) if aggregation == "time_weighted" else Decimal(0)
    for members in ({}, {"groupBy": "customerRef"}, {"customerRef": "c1"}, {"window": "week"}, {"asOf": _now()}):
        found = ask(api, tenant, **members)
        values = [(row["value"], row["adjusted"]) for row in found["usage"]]
        days = [(events + DELTA, DELTA), (level + 7, 7)]
        whole = (found["usage"][0]["value"], DELTA + 7)
        assert values == ([whole] if "window" in members else days), members
        assert (found["aggregation"], found["adjustments"]) == (aggregation, "included")
        assert (found["usage"][0]["count"], found["usage"][0]["sum"]) == (3, 9)
    plain = {"source": "http"}
    left_out: list[tuple[dict[str, str], str]] = [
        ({"aggregation": "min" if aggregation == "max" else "max"}, "other_aggregation"),
        ({"groupBy": "source"}, "grouped"),
        ({"groupBy": "meta.region"}, "grouped"),
        (plain, "filtered"),
        ({"resourceId": "r"}, "filtered"),
        ({"meta.region": "eu"}, "filtered"),
    ]
    for members, why in left_out:
        found = ask(api, tenant, **members)
        assert found["adjustments"] == why
        assert [row["adjusted"] for row in found["usage"]] == [0] * len(found["usage"])
    assert ask(api, tenant, **plain)["usage"][0]["value"] == events


@pytest.mark.parametrize("is_meter", [False, True])
def test_who_has_adjustments_alone_is_no_group_where_they_are_left_out(
    api: Api, tenant: str, pool: ConnectionPool, is_meter: bool
) -> None:
    """Nor does the CSV say less than the JSON."""
    count_by(pool, tenant, "sum", is_meter=is_meter)
    adjust(pool, tenant, "1", DAY)
    by_customer = {"groupBy": "customerRef"}
    assert [(row["group"], row["value"]) for row in ask(api, tenant, **by_customer)["usage"]] == [("c1", 1), ("c1", 0)]
    for reader in ({}, {"asOf": _now()}):
        assert ask(api, tenant, aggregation="count", **by_customer, **reader)["usage"] == []
    span = {"from": "2026-10-19T00:00:00Z", "to": "2026-10-21T00:00:00Z"}
    query = {"tenantId": tenant, "metric": "api_calls", **span, "format": "csv"}
    assert api.get("/v1/usage/query", params=query).headers["x-adjustments"] == "included"
    other = api.get("/v1/usage/query", params={**query, "aggregation": "count"})
    assert other.headers["x-adjustments"] == "other_aggregation"


def _now() -> str:
    return datetime.now(UTC).isoformat()
