"""Usage where meters and billing phases have a say: folded or not, the numbers are those of a pencil."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from psycopg_pool import ConnectionPool

from stripemeter.pipeline.fold import fold
from tests.adjusting import adjust
from tests.api.serving import Api, Ingest

FIRST = datetime(2026, 10, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def get(api: Api, route: str, tenant: str, **parameters: str) -> dict[str, Any]:
    """An answer, its numbers exact."""
    answer = api.get(f"/v1/usage/{route}", params={"tenantId": tenant, "customerRef": "c1", **parameters})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = msgspec.json.Decoder(float_hook=Decimal).decode(answer.content)
    return body


def define(pool: ConnectionPool, tenant: str, name: str, **definition: object) -> None:
    """A meter of all of history, before any of its events was folded."""
    document = {"name": name, "metrics": ["raw"], **definition}
    with pool.connection() as connection:
        connection.execute(
            "insert into meters values (%s, %s, 1, '0001-01-01', true, %s, 'test', now())",
            (tenant, name, json.dumps(document)),
        )


def phase(pool: ConnectionPool, tenant: str, anchor: datetime, *, meter: str = "") -> None:
    """Monthly segments of c1 from an anchor."""
    with pool.connection() as connection:
        connection.execute(
            "insert into billing_phases (tenant_id, customer_ref, meter, starts_at, cadence, anchor_at, reason, "
            "created_at) values (%s, 'c1', %s, '0001-01-01T00:00:00Z', 'month', %s, 'test', now())",
            (tenant, meter, anchor),
        )


def raw(hours: float, quantity: str, **members: object) -> dict[str, Any]:
    """An event of the metric raw so many hours after 1 October."""
    return {"metric": "raw", "quantity": quantity, "ts": (FIRST + hours * HOUR).isoformat(), **members}


@pytest.mark.parametrize("folds", ["none", "between", "all"])
@pytest.mark.parametrize(
    ("aggregation", "month", "days"),
    [
        ("sum", "19", ["14", "5", "0"]),
        ("count", "4", ["3", "1", "0"]),
        ("min", "2", ["2", "5", None]),
        ("max", "8", ["8", "5", None]),
        ("last", "5", ["8", "5", None]),
        ("avg", "4.75", ["4.666666666667", "5", None]),
        ("unique", "3", ["2", "1", "0"]),
        ("percentile", "4", ["4", "5", None]),
        ("time_weighted", None, None),
    ],
)
def test_every_aggregation_of_a_meter_is_read(
    api: Api,
    tenant: str,
    ingest: Ingest,
    pool: ConnectionPool,
    folds: str,
    aggregation: str,
    month: str | None,
    days: list[str | None] | None,
) -> None:
    """Counters, tail or both: /current and /history say the same, an unfolded reading between folded ones included."""
    more = {"value": "meta.who"} if aggregation == "unique" else {}
    define(
        pool,
        tenant,
        "m",
        aggregation=aggregation,
        **more,
        **({"percentile": "50"} if aggregation == "percentile" else {}),
    )
    ingest(
        raw(0, "2", meta={"who": "a"}), raw(12, "8", meta={"who": "b"}), raw(24, "5", meta={"who": "c"}),
    )  # fmt: skip
    if folds != "none":
        fold(pool)
    ingest(raw(6, "4", meta={"who": "a"}, source="etl"))
    if folds == "all":
        fold(pool)
    if aggregation == "time_weighted":
        seconds = [2 * 6 + 4 * 6 + 8 * 12, 5 * 24, 5 * 24]
        days = [str(each * 3600) for each in seconds]
        month = str((seconds[0] + 5 * 24 * 30) * 3600)
    current = get(api, "current", tenant, at="2026-10-15T00:00:00Z", metric="m")
    (metric,) = current["metrics"]
    assert (metric["aggregation"], metric["current"]) == (aggregation, Decimal(str(month)))
    assert metric["unit"] == ("unit-second" if aggregation == "time_weighted" else "unit")
    assert (metric["count"], metric["sum"], metric["min"], metric["max"], metric["last"]) == (4, 19, 2, 8, 5)
    found = get(
        api,
        "history",
        tenant,
        metric="m",
        step="day",
        periodStart="2026-10-01T00:00:00Z",
        periodEnd="2026-10-04T00:00:00Z",
    )
    assert days is not None
    assert [point["value"] for point in found["usage"]] == [None if day is None else Decimal(day) for day in days]
    assert found["aggregation"] == aggregation
    assert found["freshness"]["pendingEvents"] == {"none": 4, "between": 1, "all": 0}[folds]


@pytest.mark.parametrize("is_folded", [False, True])
def test_what_no_meter_counts_is_shown_nowhere(
    api: Api, tenant: str, ingest: Ingest, pool: ConnectionPool, is_folded: bool
) -> None:
    """A meter of the metric's own name replaces it; what its filter refuses is in no answer, folded or not."""
    define(pool, tenant, "raw", filter={"field": "meta.plan", "op": "eq", "value": "pro"}, dimensions=["meta.region"])
    ingest(raw(0, "1", meta={"plan": "pro", "region": "eu"}), raw(1, "2", meta={"plan": "pro", "region": "us"}))
    ingest(raw(2, "100"), {**raw(3, "7"), "metric": "other"})
    if is_folded:
        fold(pool)
    adjust(pool, tenant, "0.5", FIRST, metric="raw")
    metrics = get(api, "current", tenant, at="2026-10-01T00:00:00Z")["metrics"]
    assert [(metric["name"], metric["current"], metric["adjusted"]) for metric in metrics] == [
        ("other", 7, 0),
        ("raw", 3 + Decimal("0.5"), Decimal("0.5")),
    ]


@pytest.mark.parametrize("is_folded", [False, True])
def test_a_customers_own_period_is_read(
    api: Api, tenant: str, ingest: Ingest, pool: ConnectionPool, is_folded: bool
) -> None:
    """Segments of any second, adjustments by the instant they take effect; a metric's own phases are its own period."""
    phase(pool, tenant, datetime(2026, 1, 31, 9, 30, tzinfo=UTC))
    phase(pool, tenant, datetime(2026, 1, 10, tzinfo=UTC), meter="seats")
    edge = datetime(2026, 9, 30, 9, 30, tzinfo=UTC)
    facts = [("1", edge - timedelta(microseconds=1)), ("2", edge), ("4", FIRST + 20 * 24 * HOUR)]
    for name in ("raw", "seats"):
        ingest(*({"metric": name, "quantity": quantity, "ts": at.isoformat()} for quantity, at in facts))
    if is_folded:
        fold(pool)
    adjust(pool, tenant, "-1", edge, metric="raw")
    found = get(api, "current", tenant, at="2026-10-05T00:00:00Z")
    assert found["period"] == {"start": "2026-09-30T09:30:00Z", "end": "2026-10-31T09:30:00Z"}
    assert [(metric["name"], metric["current"], metric["period"]) for metric in found["metrics"]] == [
        ("raw", 5, None),
        ("seats", 3, {"start": "2026-09-10T00:00:00Z", "end": "2026-10-10T00:00:00Z"}),
    ]
    before = get(api, "current", tenant, at="2026-09-30T09:29:59Z", metric="raw")["metrics"]
    assert [metric["current"] for metric in before] == [1]


def test_another_months_usage_is_read_by_an_instant_of_it(api: Api, tenant: str, ingest: Ingest) -> None:
    """`at` says which period, its own month where nobody said anything about the customer."""
    ingest(raw(-1, "1"), raw(0, "2"))
    found = get(api, "current", tenant, at="2026-09-30T23:59:59.999999Z")
    assert found["period"] == {"start": "2026-09-01T00:00:00Z", "end": "2026-10-01T00:00:00Z"}
    assert [metric["current"] for metric in found["metrics"]] == [1]
    for extreme in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"):
        assert get(api, "current", tenant, at=extreme)["metrics"] == []


@pytest.mark.parametrize("folds", [False, True])
@pytest.mark.parametrize("is_meter", [False, True])
def test_a_last_value_is_in_force_in_segments_without_events(
    api: Api, tenant: str, ingest: Ingest, pool: ConnectionPool, *, is_meter: bool, folds: bool
) -> None:
    """Seats reported once are there in every later window, until another number comes; never before the first one."""
    if is_meter:
        define(pool, tenant, "seats", aggregation="last", metrics=["seats"])
    else:
        with pool.connection() as connection:
            connection.execute(
                "insert into price_mappings (id, tenant_id, meter, aggregation, stripe_account_id, mode, created_at) "
                "values (gen_random_uuid(), %s, 'seats', 'last', 'acct_1', 'off', now())",
                (tenant,),
            )
    seats = {"metric": "seats"}
    in_august = -24 * 50
    ingest(raw(in_august, "5") | seats, raw(in_august + 1, "12") | seats, raw(20, "7") | seats)
    ingest(raw(in_august, "9") | {"metric": "other"})
    if folds:
        fold(pool)

    def current(month: str) -> dict[str, tuple[int, int]]:
        metrics = get(api, "current", tenant, at=f"{month}-15T00:00:00Z")["metrics"]
        return {each["name"]: (each["current"], each["count"]) for each in metrics}

    assert current("2026-07") == {}
    assert current("2026-08") == {"seats": (12, 2), "other": (9, 1)}
    assert current("2026-09") == {"seats": (12, 0)}
    assert current("2026-10") == {"seats": (7, 1)}
    assert current("2026-11") == {"seats": (7, 0)}
    assert current("2126-01") == {}


def test_the_value_in_force_begins_with_the_segment_that_cuts_a_day(
    api: Api, tenant: str, ingest: Ingest, pool: ConnectionPool
) -> None:
    """What was reported that morning is in force in the segment that begins at noon."""
    define(pool, tenant, "seats", aggregation="last", metrics=["raw"])
    phase(pool, tenant, FIRST + 12 * HOUR)
    ingest(raw(1, "5"))
    fold(pool)
    (metric,) = get(api, "current", tenant, metric="seats", at="2026-10-02T00:00:00Z")["metrics"]
    assert (metric["current"], metric["count"], metric["last"]) == (5, 0, None)
