from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.pipeline.fold import fold
from stripemeter_api.documents import ConflictPage, EventPage
from tests.api.serving import Api, Ingest, all_pages, post_events

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)


def wide_events(tenant: str, count: int = 240) -> list[dict[str, Any]]:
    """Events over three years, several days empty, many of one instant, two metrics, three customers, two sources."""
    choose = random.Random(20261123)
    events = []
    for number in range(count):
        ts = NOON - timedelta(
            days=choose.choice([0, 0, 0, 1, 2, 40, 41, 900]), seconds=choose.choice([0, 0, 1, 3600, 40000])
        )
        events.append(
            {
                "tenantId": tenant,
                "metric": choose.choice(["api_calls", "seats"]),
                "customerRef": choose.choice(["c1", "c2", "é c3"]),
                "source": choose.choice(["sdk", "etl"]),
                "quantity": number,
                "ts": ts.isoformat(),
                "idempotencyKey": f"k{number}",
            }
        )
    return events


def sent_order(rows: list[dict[str, Any]]) -> list[int]:
    """The rows by their quantities, which are unique: the order in which they were sent."""
    return [row["quantity"] for row in rows]


@pytest.fixture
def listed(api: Api, tenant: str, pool: ConnectionPool) -> list[dict[str, Any]]:
    """A tenant's events, half of them folded and half still in the tail."""
    events = wide_events(tenant)
    post_events(api, events[:120])
    fold(pool)
    post_events(api, events[120:])
    with pool.connection() as connection:
        order: dict[str, int] = dict(
            connection.execute("select idempotency_key, seq from events where tenant_id = %s", (tenant,))
        )
    return [{**event, "seq": order[event["idempotencyKey"]]} for event in events]


@pytest.mark.parametrize(("direction", "is_reversed"), [("asc", False), ("desc", True)])
@pytest.mark.parametrize(
    ("sort", "key"),
    [
        ("ts", lambda event: event["ts"]),
        ("metric", lambda event: event["metric"]),
        ("customerRef", lambda event: event["customerRef"].encode()),
        ("source", lambda event: event["source"]),
    ],
)
def test_pages_in_any_order_add_up_to_a_stable_sort(
    api: Api,
    tenant: str,
    listed: list[dict[str, Any]],
    sort: str,
    key: Callable[[dict[str, Any]], Any],
    direction: str,
    is_reversed: bool,
) -> None:
    """Every event once, equals in ledger order, by cursor as by offset."""
    expected = sent_order(sorted(listed, key=lambda event: (key(event), event["seq"]), reverse=is_reversed))
    query = {"tenantId": tenant, "sort": sort, "sortDir": direction}
    assert sent_order(all_pages(api, "/v1/events", "events", **query, limit=37)) == expected
    page = api.get("/v1/events", params={**query, "limit": 10, "offset": 100}).json()
    assert sent_order(page["events"]) == expected[100:110]
    assert page["total"] == len(listed)


@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"metric": "seats"},
        {"customerRef": "é c3"},
        {"metric": "api_calls", "customerRef": "c1"},
        {"source": "etl"},
        {"source": "sdk", "metric": "seats"},
        {"metric": "nothing"},
    ],
)
@pytest.mark.parametrize(
    "times",
    [
        {},
        {"startTime": "2026-03-03T12:00:00Z"},
        {"endTime": "2026-03-03T12:00:00Z"},
        {"startTime": "2026-03-04T11:59:59Z", "endTime": "2026-03-04T12:00:00Z"},
        {"startTime": "2026-03-05T00:00:00Z"},
        {"startTime": "0001-01-01T00:00:00Z", "endTime": "9999-12-31T23:59:59.999999Z"},
    ],
)
def test_filters_select_exactly_and_total_counts_them(
    api: Api, tenant: str, listed: list[dict[str, Any]], filters: dict[str, str], times: dict[str, str]
) -> None:
    """Both ends of the time range are included; `total` is of all pages, whichever way it is counted."""
    start = datetime.fromisoformat(times.get("startTime", "0001-01-01T00:00:00Z"))
    end = datetime.fromisoformat(times.get("endTime", "9999-12-31T00:00:00Z"))
    expected = [
        event["quantity"]
        for event in sorted(listed, key=lambda event: (event["ts"], event["seq"]), reverse=True)
        if all(event[name] == value for name, value in filters.items())
        and start <= datetime.fromisoformat(event["ts"]) <= end
    ]
    query = {"tenantId": tenant, **filters, **times}
    assert sent_order(all_pages(api, "/v1/events", "events", **query, limit=50)) == expected
    assert api.get("/v1/events", params=query).json()["total"] == len(expected)


def test_paging_while_inserting_repeats_and_skips_nothing(api: Api, tenant: str, ingest: Ingest) -> None:
    """What stood when the first page was read comes exactly once, whatever arrives meanwhile and wherever."""
    post_events(api, wide_events(tenant, 60))
    seen: list[int] = []
    cursor: str | None = None
    for number in range(100):
        query: dict[str, str | int] = {"tenantId": tenant, "limit": 7, **({"cursor": cursor} if cursor else {})}
        page = api.get("/v1/events", params=query).json()
        seen += sent_order(page["events"])
        cursor = page["nextCursor"]
        if cursor is None:
            break
        # The same instants as the events being listed, and one newer than all of them.
        ingest({"quantity": 1000 + number, "ts": NOON.isoformat(), "resourceId": "same"})
        ingest({"quantity": 2000 + number, "ts": (NOON + timedelta(days=1)).isoformat(), "resourceId": "newer"})
    assert sorted(quantity for quantity in seen if quantity < 1000) == list(range(60))
    assert len(seen) == len(set(seen))


def test_an_event_reads_back_as_it_was_sent(api: Api, tenant: str, ingest: Ingest) -> None:
    """The original's members, digits and meta included, plus when it arrived."""
    body = (
        '{"events":[{"tenantId":"TENANT","metric":"m","customerRef":"c","resourceId":"r","quantity":0.10,'
        '"ts":"2026-01-01T01:00:00.123456+01:00","meta":{"n":12345678901234567890.10,"ü":[null]},'
        '"idempotencyKey":"k","source":"etl"}]}'
    ).replace("TENANT", tenant)
    answer = api.post("/v1/events/ingest", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 200, answer.text
    text = api.get("/v1/events", params={"tenantId": tenant}).text.replace(tenant, "TENANT")
    assert text.startswith(
        '{"total":1,"events":[{"id":"k","tenantId":"TENANT","metric":"m","customerRef":"c","resourceId":"r",'
        '"quantity":0.1,"timestamp":"2026-01-01T00:00:00.123456Z","receivedAt":"'
    )
    assert '"n": 12345678901234567890.1' in text
    assert text.endswith('"source":"etl"}],"hasMore":false,"nextCursor":null}')
    page = api.get("/v1/events", params={"tenantId": tenant}).json()
    assert set(page) == set(EventPage.model_validate(page).model_dump(by_alias=True))


def test_a_tenant_sees_its_own_events_alone(api: Api, tenant: str, ingest: Ingest) -> None:
    """Neither rows nor totals of anybody else."""
    ingest({"ts": NOON.isoformat()})
    assert api.get("/v1/events", params={"tenantId": f"{tenant}x"}).json() == {
        "total": 0,
        "events": [],
        "hasMore": False,
        "nextCursor": None,
    }


def test_a_cursor_serves_its_own_listing_alone(api: Api, tenant: str, ingest: Ingest) -> None:
    """Other filters, another order, an offset beside it or a forged text: 400 naming it, never a wrong page."""
    ingest({"ts": NOON.isoformat()}, {"ts": NOON.isoformat(), "quantity": 2})
    query = {"tenantId": tenant, "limit": "1"}
    cursor = api.get("/v1/events", params=query).json()["nextCursor"]
    assert api.get("/v1/events", params={**query, "cursor": cursor}).status_code == 200
    for changed in (
        {"tenantId": f"{tenant}x"},
        {"metric": "seats"},
        {"sortDir": "asc"},
        {"sort": "metric"},
        {"cursor": "!"},
        {"cursor": "AAAA"},
        {"cursor": cursor[:-3]},
        {"offset": "1"},
    ):
        answer = api.get("/v1/events", params={**query, "cursor": cursor, **changed})
        assert answer.status_code == 400, changed
        assert answer.json()["errors"][0]["path"] in ("cursor", "offset")


def test_conflicts_show_what_stands_and_what_was_refused(api: Api, tenant: str, ingest: Ingest) -> None:
    """The first payload of a key stands; each different one is listed with how often it came, newest first."""
    ts = NOON.isoformat()
    for quantity in (1, 2, 2, 3, 1):
        ingest({"idempotencyKey": "k", "quantity": quantity, "ts": ts})
    for number in range(5):
        for quantity in (1, 9):
            ingest({"idempotencyKey": f"k{number}", "quantity": quantity, "ts": ts})
    conflicts = all_pages(api, "/v1/events/conflicts", "conflicts", tenantId=tenant, limit=3)
    assert [conflict["idempotencyKey"] for conflict in conflicts] == ["k4", "k3", "k2", "k1", "k0", "k", "k"]
    assert [
        (conflict["standing"]["quantity"], conflict["refused"]["quantity"], conflict["timesRefused"])
        for conflict in conflicts[-2:]
    ] == [(1, 3, 1), (1, 2, 2)]
    assert conflicts[-1]["standing"]["timestamp"] == "2026-03-04T12:00:00Z"
    body = api.get("/v1/events/conflicts", params={"tenantId": tenant}).json()
    assert set(body) == set(ConflictPage.model_validate(body).model_dump(by_alias=True))
    assert api.get("/v1/events/conflicts", params={"tenantId": f"{tenant}x"}).json()["conflicts"] == []


@pytest.mark.parametrize(
    ("changed", "path"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"limit": "ten"}, "limit"),
        ({"offset": "-1"}, "offset"),
        ({"offset": "10001"}, "offset"),
        ({"sort": "quantity"}, "sort"),
        ({"sortDir": "up"}, "sortDir"),
        ({"source": "carrier pigeon"}, "source"),
        ({"startTime": "yesterday"}, "startTime"),
        ({"endTime": "2026-01-01T00:00:00"}, "endTime"),
        ({"endTime": "9999-12-31T23:59:59-01:00"}, "endTime"),
        ({"metric": "\x00"}, "metric"),
        ({"customerRef": ""}, "customerRef"),
        ({"tenantId": "x" * 256}, "tenantId"),
        ({"cursor": "x" * 2049}, "cursor"),
    ],
)
def test_a_bad_parameter_is_named(api: Api, changed: dict[str, str], path: str) -> None:
    """400, a problem document, and the parameter's own name."""
    answer = api.get("/v1/events", params={"tenantId": "acme", **changed})
    assert answer.status_code == 400
    assert [error["path"] for error in answer.json()["errors"]] == [path]
