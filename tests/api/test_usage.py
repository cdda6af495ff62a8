from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from psycopg_pool import ConnectionPool

from stripemeter.pipeline.fold import fold
from stripemeter_api.documents import HistoryAnswer, UsageAnswer
from tests.adjusting import adjust, alias, void
from tests.api.serving import Api, Ingest, post_events

NOW = datetime.now(UTC)
MONTH = NOW.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
NEXT_MONTH = (MONTH + timedelta(days=32)).replace(day=1)
THIS_MONTH = {"periodStart": f"{MONTH:%Y-%m-%dT%H:%M:%SZ}", "periodEnd": f"{NEXT_MONTH:%Y-%m-%dT%H:%M:%SZ}"}


def current(api: Api, tenant: str, **parameters: str) -> dict[str, Any]:
    """The answer of /current, its numbers exact."""
    answer = api.get("/v1/usage/current", params={"tenantId": tenant, "customerRef": "c1", **parameters})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = msgspec.json.Decoder(float_hook=Decimal).decode(answer.content)
    return body


def history(api: Api, tenant: str, **parameters: str) -> dict[str, Any]:
    """The answer of /history of this month, its numbers exact."""
    query = {"tenantId": tenant, "customerRef": "c1", "metric": "api_calls", **THIS_MONTH, **parameters}
    answer = api.get("/v1/usage/history", params=query)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = msgspec.json.Decoder(float_hook=Decimal).decode(answer.content)
    return body


def map_meter(pool: ConnectionPool, tenant: str, aggregation: str) -> None:
    """Map api_calls, without sending, so that it counts like this."""
    with pool.connection() as connection:
        connection.execute(
            "insert into price_mappings (id, tenant_id, meter, aggregation, stripe_account_id, stripe_event_name, "
            "stripe_meter_id, mode, created_at) values (gen_random_uuid(), %s, 'api_calls', %s, 'acct_1', 'calls', "
            "'mtr_1', 'off', now())",
            (tenant, aggregation),
        )


def at(offset: timedelta) -> str:
    """An instant so long after the month began."""
    return (MONTH + offset).isoformat()


def test_an_answered_event_is_in_the_next_read(api: Api, tenant: str, ingest: Ingest) -> None:
    """Read your writes: no fold has run, and the event counts the moment its POST is answered."""
    ingest({"quantity": 5, "ts": at(timedelta(0))})
    found = current(api, tenant)
    assert [(metric["name"], metric["current"]) for metric in found["metrics"]] == [("api_calls", 5)]
    assert found["freshness"]["pendingEvents"] == 1
    assert found["period"] == {"start": THIS_MONTH["periodStart"], "end": THIS_MONTH["periodEnd"]}
    assert found["alerts"] == []


def test_a_fold_changes_only_how_fresh_the_counters_are(
    api: Api, tenant: str, ingest: Ingest, pool: ConnectionPool
) -> None:
    """Counters plus tail is one number: before, after and between folds."""
    ingest({"quantity": 2, "ts": at(timedelta(seconds=1))}, {"quantity": 7, "ts": at(timedelta(seconds=2))})
    before = current(api, tenant)
    fold(pool)
    after = current(api, tenant)
    assert after["metrics"] == before["metrics"]
    assert (before["freshness"]["pendingEvents"], after["freshness"]["pendingEvents"]) == (2, 0)
    ingest({"quantity": 1, "ts": at(timedelta(milliseconds=500))})
    (metric,) = current(api, tenant)["metrics"]
    # `last` is by event time: the event that arrived last is the earliest.
    assert {name: metric[name] for name in ("current", "count", "sum", "min", "max", "last")} == {
        "current": 10,
        "count": 3,
        "sum": 10,
        "min": 1,
        "max": 7,
        "last": 7,
    }


def test_reads_beside_a_running_fold_neither_lose_nor_repeat(api: Api, tenant: str, pool: ConnectionPool) -> None:
    """Every read is one snapshot: while another thread folds, usage equals what has been answered so far."""
    done = threading.Event()
    failures: list[BaseException] = []

    def keep_folding() -> None:
        try:
            while not done.is_set():
                fold(pool)
        except BaseException as error:  # noqa: BLE001 - reported by the test itself
            failures.append(error)

    folding = threading.Thread(target=keep_folding)
    folding.start()
    try:
        for number in range(1, 61):
            post_events(
                api,
                [
                    {
                        "tenantId": tenant,
                        "quantity": "0.1",
                        "ts": at(timedelta(seconds=number)),
                        "idempotencyKey": f"k{number}",
                    }
                ],
            )
            (metric,) = current(api, tenant)["metrics"]
            assert (metric["count"], metric["current"]) == (number, number * Decimal("0.1"))
    finally:
        done.set()
        folding.join()
    assert failures == []


@pytest.mark.parametrize(
    ("quantity", "text"),
    [("99999999999999999999999999.999999999999", "99999999999999999999999999.999999999999"),
     ("0.000000000001", "0.000000000001"), ("100", "100"), ("1.50", "1.5"), ("0", "0")],
)  # fmt: skip
def test_quantities_keep_every_digit(api: Api, tenant: str, ingest: Ingest, quantity: str, text: str) -> None:
    """JSON numbers without exponent, trailing zeros or a float in between."""
    ingest({"quantity": quantity, "ts": at(timedelta(0))})
    assert f'"current":{text},' in api.get("/v1/usage/current", params={"tenantId": tenant, "customerRef": "c1"}).text


def test_a_price_mapping_says_how_a_metric_counts(api: Api, tenant: str, ingest: Ingest, pool: ConnectionPool) -> None:
    """`current` and history follow the mapping's aggregation; where there is no maximum, history has null."""
    map_meter(pool, tenant, "max")
    ingest({"quantity": 7, "ts": at(timedelta(0))}, {"quantity": 2, "ts": at(timedelta(seconds=1))})
    (metric,) = current(api, tenant)["metrics"]
    assert (metric["aggregation"], metric["current"], metric["sum"]) == ("max", 7, 9)
    found = history(api, tenant, step="day")
    assert found["aggregation"] == "max"
    assert [point["value"] for point in found["usage"][:2]] == [7, None]


@pytest.mark.parametrize("is_folded", [False, True])
def test_history_adds_up_to_current(
    api: Api, tenant: str, ingest: Ingest, pool: ConnectionPool, is_folded: bool
) -> None:
    """The sum of a month's days and of the month is `current`; days without events are answered as 0."""
    instants = [MONTH, MONTH + timedelta(seconds=1), NOW]
    ingest(*({"quantity": "1.25", "ts": instant.isoformat()} for instant in instants))
    if is_folded:
        fold(pool)
    (metric,) = current(api, tenant)["metrics"]
    days = history(api, tenant, step="day")["usage"]
    assert sum(point["value"] for point in days) == metric["current"] == Decimal("3.75")
    assert [point["ts"] for point in days] == [
        f"{MONTH + timedelta(days=offset):%Y-%m-%dT00:00:00Z}" for offset in range((NEXT_MONTH - MONTH).days)
    ]
    used = {f"{instant:%Y-%m-%dT00:00:00Z}" for instant in instants}
    assert all((point["value"] != 0) == (point["ts"] in used) for point in days)
    assert history(api, tenant, step="month")["usage"] == [
        {"ts": THIS_MONTH["periodStart"], "value": metric["current"], "aggregation": "sum", "adjusted": 0}
    ]


def test_a_period_within_days_is_widened_to_them_and_says_so(api: Api, tenant: str, ingest: Ingest) -> None:
    """Counters know no finer time than a day: the answer names the period it covers."""
    ingest({"quantity": 3, "ts": "2024-02-29T23:59:59.999999Z"}, {"quantity": 4, "ts": "2024-03-01T00:00:00Z"})
    found = history(api, tenant, periodStart="2024-02-29T12:00:00Z", periodEnd="2024-02-29T23:59:59.999Z", step="day")
    assert found["period"] == {"start": "2024-02-29T00:00:00Z", "end": "2024-03-01T00:00:00Z"}
    point = {"ts": "2024-02-29T00:00:00Z", "value": 3, "aggregation": "sum", "adjusted": 0}
    assert found["usage"] == [point]
    months = history(api, tenant, periodStart="2024-02-29T12:00:00Z", periodEnd="2024-03-02T00:00:00Z")["usage"]
    assert [(month["ts"], month["value"]) for month in months] == [
        ("2024-02-01T00:00:00Z", 3),
        ("2024-03-01T00:00:00Z", 4),
    ]


def test_usage_is_the_asked_customers_and_metrics_alone(api: Api, tenant: str, ingest: Ingest) -> None:
    """Another tenant, customer or metric of the same names never shows."""
    ts = at(timedelta(0))
    ingest(
        {"ts": ts},
        {"ts": ts, "metric": "seats"},
        {"ts": ts, "customerRef": "c2"},
        {"ts": ts, "tenantId": f"{tenant}-other"},
    )
    assert [metric["name"] for metric in current(api, tenant)["metrics"]] == ["api_calls", "seats"]
    assert [metric["name"] for metric in current(api, tenant, metric="seats")["metrics"]] == ["seats"]
    assert current(api, tenant, customerRef="nobody")["metrics"] == []
    assert [metric["count"] for metric in current(api, f"{tenant}-other")["metrics"]] == [1]


def test_answers_are_as_documented(api: Api, tenant: str, ingest: Ingest) -> None:
    """The documentation models accept every answer and know every member of it."""
    ingest({"ts": at(timedelta(0))})
    body = current(api, tenant)
    assert set(body) == set(UsageAnswer.model_validate(body).model_dump(by_alias=True))
    assert set(body["metrics"][0]) == set(UsageAnswer.model_validate(body).metrics[0].model_dump(by_alias=True))
    body = history(api, tenant)
    assert set(body) == set(HistoryAnswer.model_validate(body).model_dump(by_alias=True))


@pytest.mark.parametrize("is_folded", [False, True])
def test_a_voided_event_counts_nowhere(
    api: Api, tenant: str, ingest: Ingest, pool: ConnectionPool, is_folded: bool
) -> None:
    """Voided before its fold, it is in no answer, neither before nor after that fold."""
    ingest({"quantity": 5, "ts": at(timedelta(0)), "idempotencyKey": "wrong"}, {"quantity": 2, "ts": at(timedelta(0))})
    void(pool, tenant, "wrong")
    if is_folded:
        fold(pool)
    (metric,) = current(api, tenant)["metrics"]
    assert (metric["current"], metric["count"]) == (2, 1)
    assert history(api, tenant)["usage"][0]["value"] == 2


@pytest.mark.parametrize("aggregation", ["sum", "max"])
def test_adjustments_change_the_number_beside_the_events(
    api: Api, tenant: str, ingest: Ingest, pool: ConnectionPool, aggregation: str
) -> None:
    """Approved ones alone, of this customer and metric, on their day; what the events make stands beside it."""
    map_meter(pool, tenant, aggregation)
    ingest({"quantity": 7, "ts": at(timedelta(0))}, {"quantity": 5, "ts": at(timedelta(0))})
    adjust(pool, tenant, "-3.5", MONTH)
    for ignored in ({"status": "pending"}, {"status": "reverted"}, {"metric": "seats"}, {"customer_ref": "c2"}):
        adjust(pool, tenant, "100", MONTH, **ignored)
    (metric,) = current(api, tenant, metric="api_calls")["metrics"]
    number = {"sum": 12, "max": 7}[aggregation] - Decimal("3.5")
    assert (metric["current"], metric["adjusted"], metric["sum"], metric["count"]) == (number, Decimal("-3.5"), 12, 2)
    days = history(api, tenant, step="day")["usage"]
    assert (days[0]["value"], days[0]["adjusted"]) == (number, Decimal("-3.5"))
    assert days[1]["adjusted"] == 0


def test_a_customer_with_adjustments_alone_is_answered(api: Api, tenant: str, pool: ConnectionPool) -> None:
    """A credit before the first event is usage: of no events there is no min, max or last."""
    adjust(pool, tenant, "-12", MONTH)
    (metric,) = current(api, tenant)["metrics"]
    assert (metric["current"], metric["adjusted"], metric["count"], metric["sum"]) == (-12, -12, 0, 0)
    assert [metric[name] for name in ("min", "max", "last")] == [None, None, None]
    assert history(api, tenant)["usage"] == [
        {"ts": THIS_MONTH["periodStart"], "value": -12, "aggregation": "sum", "adjusted": -12}
    ]


@pytest.mark.parametrize("is_folded", [False, True])
def test_an_alias_reads_its_customer(
    api: Api, tenant: str, ingest: Ingest, pool: ConnectionPool, is_folded: bool
) -> None:
    """Events and adjustments under each name are one customer's, and each name answers with all of them."""
    alias(pool, tenant, "c1-old", "c1")
    ingest({"quantity": 1, "ts": at(timedelta(0))}, {"quantity": 2, "ts": at(timedelta(0)), "customerRef": "c1-old"})
    adjust(pool, tenant, "10", MONTH)
    if is_folded:
        fold(pool)
    for asked in ("c1", "c1-old"):
        found = current(api, tenant, customerRef=asked)
        assert (found["customerRef"], found["metrics"][0]["current"]) == ("c1", 13)
        assert history(api, tenant, customerRef=asked)["usage"][0]["value"] == 13


def test_lanes_and_dimensions_are_one_number_and_the_unmatched_none(
    api: Api, tenant: str, ingest: Ingest, pool: ConnectionPool
) -> None:
    """All rows of a counter add up; what no meter counts is kept under the meter '' and shown nowhere."""
    ingest({"quantity": 5, "ts": at(timedelta(0))})
    fold(pool)
    copy = (
        "insert into counters (tenant_id, customer_ref, meter, day, segment_start, dimensions, is_late, event_count, "
        "primary_count, quantity_sum, quantity_min, quantity_max, quantity_last, last_ts, last_seq) select tenant_id, "
        "customer_ref, %s, day, segment_start, %s, %s, event_count, primary_count, quantity_sum, quantity_min, "
        "quantity_max, quantity_last, last_ts, last_seq from counters where tenant_id = %s and not is_late and "
        "dimensions = '' and meter = 'api_calls'"
    )
    with pool.connection() as connection:
        for meter, dimensions, is_late in (("api_calls", "", True), ("api_calls", "{}", False), ("", "", False)):
            connection.execute(copy, (meter, dimensions, is_late, tenant))
    assert [(metric["name"], metric["current"]) for metric in current(api, tenant)["metrics"]] == [("api_calls", 15)]
    assert history(api, tenant)["usage"][0]["value"] == 15


def test_a_read_says_that_counters_wait_for_their_recount(api: Api, tenant: str, pool: ConnectionPool) -> None:
    """Days of this tenant in ranges not counted again yet, both ends included."""
    with pool.connection() as connection:
        connection.execute(
            "insert into slice_recounts (tenant_id, next_day, last_day, reason, created_at) values "
            "(%s, '2026-01-01', '2026-01-03', 'meter', now()), (%s, '2026-02-01', '2026-02-01', 'alias', now())",
            (tenant, tenant),
        )
    assert current(api, tenant)["freshness"]["recountPendingDays"] == 4
    assert history(api, tenant)["freshness"]["recountPendingDays"] == 4


@pytest.mark.parametrize(
    ("changed", "path"),
    [
        ({"periodEnd": "2026-01-01T00:00:00Z", "periodStart": "2026-01-01T00:00:00Z"}, "periodEnd"),
        ({"periodEnd": "9999-12-31T23:59:59.999999Z"}, "periodEnd"),
        ({"periodStart": "0001-01-01T00:00:00+14:00"}, "periodStart"),
        ({"periodStart": "0001-01-01T00:00:00Z", "step": "day"}, "periodEnd"),
        ({"periodStart": "2026-02-30T00:00:00Z"}, "periodStart"),
        ({"periodStart": "2026-01-01T00:00:00"}, "periodStart"),
        ({"periodStart": "1767225600"}, "periodStart"),
        ({"step": "hour"}, "step"),
        ({"metric": ""}, "metric"),
        ({"customerRef": "x" * 256}, "customerRef"),
        ({"tenantId": "a\x00b"}, "tenantId"),
    ],
)
def test_a_bad_parameter_is_named(api: Api, changed: dict[str, str], path: str) -> None:
    """400, a problem document, and the parameter's own name."""
    query = {"tenantId": "acme", "customerRef": "c1", "metric": "api_calls", **THIS_MONTH, **changed}
    answer = api.get("/v1/usage/history", params=query)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert [error["path"] for error in answer.json()["errors"]] == [path]
