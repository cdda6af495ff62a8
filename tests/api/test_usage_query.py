from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from psycopg_pool import ConnectionPool
from starlette.requests import Request

from stripemeter.errors import TookTooLong, Unavailable
from stripemeter.pipeline.fold import fold
from stripemeter_api.documents import QueryAnswer
from stripemeter_api.errors import answer_our_error
from stripemeter_api.usage_query import CSV_HEADER, KNOWN
from tests.api.serving import Api, Ingest

# Berlin's 24 and 25 October 2026; the second has 25 hours.
BERLIN = {"from": "2026-10-23T22:00:00Z", "to": "2026-10-25T23:00:00Z", "timeZone": "Europe/Berlin"}
WEEK = {"from": "2026-10-19T00:00:00Z", "to": "2026-10-26T00:00:00Z"}


def ask(api: Api, tenant: str, **parameters: str | list[str]) -> dict[str, Any]:
    """The JSON answer, its numbers exact."""
    answer = api.get("/v1/usage/query", params={"tenantId": tenant, "metric": "api_calls", **WEEK, **parameters})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = msgspec.json.Decoder(float_hook=Decimal).decode(answer.content)
    return body


def values(answer: dict[str, Any]) -> list[tuple[str, str | None, Any]]:
    """(local start, group, value) of every row."""
    return [(row["localStart"], row["group"], row["value"]) for row in answer["usage"]]


def refusal(api: Api, **parameters: str | list[str]) -> list[str]:
    """The parameters a 400 names."""
    answer = api.get("/v1/usage/query", params={"tenantId": "acme", "metric": "api_calls", **WEEK, **parameters})
    assert answer.status_code == 400, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return [error["path"] for error in answer.json()["errors"]]


def test_days_of_berlin_are_berlins(api: Api, tenant: str, ingest: Ingest) -> None:
    """The last second of the 25th is the 25th's, 25 hours after it began; windows meet without gap."""
    ingest(
        {"ts": "2026-10-23T21:59:59Z", "quantity": 100},
        {"ts": "2026-10-23T22:00:00Z", "quantity": 1},
        {"ts": "2026-10-24T22:00:00Z", "quantity": 2},
        {"ts": "2026-10-25T22:59:59.999999Z", "quantity": 3},
        {"ts": "2026-10-25T23:00:00Z", "quantity": 1000},
    )
    found = ask(api, tenant, **BERLIN)
    assert values(found) == [("2026-10-24T00:00:00+02:00", None, 1), ("2026-10-25T00:00:00+02:00", None, 5)]
    assert [(row["start"], row["end"]) for row in found["usage"]] == [
        ("2026-10-23T22:00:00Z", "2026-10-24T22:00:00Z"),
        ("2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"),
    ]
    assert found["readFrom"] == "ledger"
    assert found["period"] == {"start": BERLIN["from"], "end": BERLIN["to"]}


def test_the_repeated_hour_is_two_windows(api: Api, tenant: str, ingest: Ingest) -> None:
    """Two o'clock in summer time and two o'clock in winter time are counted apart."""
    ingest({"ts": "2026-10-25T00:30:00Z", "quantity": 1}, {"ts": "2026-10-25T01:30:00Z", "quantity": 2})
    night = {"from": "2026-10-25T00:00:00Z", "to": "2026-10-25T02:00:00Z", "timeZone": "Europe/Berlin"}
    assert values(ask(api, tenant, window="hour", **night)) == [
        ("2026-10-25T02:00:00+02:00", None, 1),
        ("2026-10-25T02:00:00+01:00", None, 2),
    ]


@pytest.mark.parametrize(
    ("zone", "start", "end", "window", "starts"),
    [
        ("Asia/Kathmandu", "2024-02-28T18:15:00Z", "2024-02-29T18:15:00Z", "day", ["2024-02-29T00:00:00+05:45"]),
        ("America/New_York", "2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z", "day", ["2026-11-01T00:00:00-04:00"]),
        ("Australia/Lord_Howe", "2026-04-04T13:00:00Z", "2026-04-05T13:30:00Z", "day", ["2026-04-05T00:00:00+11:00"]),
        ("Europe/Berlin", "2026-01-31T23:00:00Z", "2026-03-31T22:00:00Z", "month",
         ["2026-02-01T00:00:00+01:00", "2026-03-01T00:00:00+01:00"]),
        ("UTC", "2026-01-31T12:00:00Z", "2026-02-01T12:00:00Z", "month",
         ["2026-01-31T12:00:00+00:00", "2026-02-01T00:00:00+00:00"]),
    ],
)  # fmt: skip
def test_windows_are_those_of_the_zone(
    api: Api, tenant: str, zone: str, start: str, end: str, window: str, starts: list[str]
) -> None:
    """Quarter-hour offsets, half-hour daylight saving, leap day and month ends."""
    found = ask(api, tenant, timeZone=zone, window=window, **{"from": start, "to": end})
    assert [row["localStart"] for row in found["usage"]] == starts


def test_counters_and_ledger_give_one_number(api: Api, tenant: str, ingest: Ingest, pool: ConnectionPool) -> None:
    """The same days asked so that counters answer and so that the ledger must; before and after a fold."""
    ingest(*({"ts": f"2026-10-{day}T23:59:59Z", "quantity": f"{day}.1"} for day in (19, 20, 21, 25)))
    for pending in (4, 0):
        by_counters = ask(api, tenant)
        by_ledger = ask(api, tenant, source="http")
        assert (by_counters["readFrom"], by_ledger["readFrom"]) == ("counters", "ledger")
        assert by_counters["usage"] == by_ledger["usage"]
        assert [row["value"] for row in by_counters["usage"]][:2] == [Decimal("19.1"), Decimal("20.1")]
        assert by_counters["freshness"]["pendingEvents"] == pending
        fold(pool)


def test_every_aggregation(api: Api, tenant: str, ingest: Ingest) -> None:
    """One number each; without events 0 where that is a fact and null where it would be an invention."""
    ingest(
        {"ts": "2026-10-19T01:00:00Z", "quantity": 2, "customerRef": "a", "resourceId": "r"},
        {"ts": "2026-10-19T03:00:00Z", "quantity": 1, "customerRef": "b"},
        {"ts": "2026-10-19T02:00:00Z", "quantity": 5, "customerRef": "a", "resourceId": "r"},
    )
    expected = {"sum": 8, "count": 3, "min": 1, "max": 5, "last": 1, "avg": Decimal("2.666666666667")}
    for aggregation, number in expected.items():
        rows = ask(api, tenant, aggregation=aggregation)["usage"]
        empty = 0 if aggregation in ("sum", "count") else None
        assert [(row["value"], row["count"], row["sum"]) for row in rows[:2]] == [(number, 3, 8), (empty, 0, 0)]
    for unique_of, number in (("customerRef", 2), ("resourceId", 1)):
        rows = ask(api, tenant, aggregation="unique", uniqueOf=unique_of)["usage"]
        assert [row["value"] for row in rows[:2]] == [number, 0]


def test_groups_and_filters(api: Api, tenant: str, ingest: Ingest) -> None:
    """By customer, source, resource or a path of meta; events without a value are a group of their own (null)."""
    ts = "2026-10-19T01:00:00Z"
    ingest(
        {"ts": ts, "quantity": 1, "customerRef": "a", "meta": {"region": "eu", "plan": {"name": "pro"}}},
        {"ts": ts, "quantity": 2, "customerRef": "b", "meta": {"region": "us"}, "source": "sdk"},
        {"ts": ts, "quantity": 4, "customerRef": "c", "resourceId": "r 1"},
    )
    day = {"from": "2026-10-19T00:00:00Z", "to": "2026-10-20T00:00:00Z"}

    def asked(**parameters: str | list[str]) -> list[tuple[str | None, Any]]:
        return [(row["group"], row["value"]) for row in ask(api, tenant, **day, **parameters)["usage"]]

    assert asked(groupBy="customerRef") == [("a", 1), ("b", 2), ("c", 4)]
    assert asked(groupBy="customerRef", customerRef=["a", "c"]) == [("a", 1), ("c", 4)]
    assert asked(groupBy="source") == [("http", 5), ("sdk", 2)]
    assert asked(groupBy="resourceId") == [(None, 3), ("r 1", 4)]
    assert asked(groupBy="meta.region") == [(None, 4), ("eu", 1), ("us", 2)]
    assert asked(groupBy="meta.plan.name") == [(None, 6), ("pro", 1)]
    assert asked(**{"meta.region": "eu"}) == asked(**{"meta.plan.name": "pro", "meta.region": "eu"}) == [(None, 1)]
    assert asked(**{"meta.region": "nowhere"}) == [(None, 0)]
    assert asked(source="sdk") == [(None, 2)]
    assert asked(resourceId="r 1") == [(None, 4)]
    assert asked(groupBy="customerRef", metric="nothing") == []


def test_another_tenants_usage_never_shows(api: Api, tenant: str, ingest: Ingest, pool: ConnectionPool) -> None:
    """Whichever reader answers, folded or not."""
    ingest({"ts": "2026-10-19T01:00:00Z", "tenantId": f"{tenant}-other", "quantity": 9})
    for _ in range(2):
        questions: list[dict[str, str | list[str]]] = [
            {},
            {"source": "http"},
            {"groupBy": "customerRef"},
            {"window": "hour"},
        ]
        for finer in questions:
            assert sum(row["value"] for row in ask(api, tenant, **finer)["usage"]) == 0
        fold(pool)


def test_as_of_answers_what_was_known_then(api: Api, tenant: str, ingest: Ingest) -> None:
    """An event that arrived later is not in it; the future is refused."""
    ingest({"ts": "2026-10-19T01:00:00Z", "quantity": 1})
    (event,) = api.get("/v1/events", params={"tenantId": tenant}).json()["events"]
    ingest({"ts": "2026-10-19T01:00:00Z", "quantity": 2})
    found = ask(api, tenant, asOf=event["receivedAt"])
    assert (found["usage"][0]["value"], found["readFrom"], found["asOf"]) == (1, "ledger", event["receivedAt"])
    assert ask(api, tenant)["usage"][0]["value"] == 3
    assert refusal(api, asOf=(datetime.now(UTC) + timedelta(hours=1)).isoformat()) == ["asOf"]


def test_csv_says_the_same_as_json(api: Api, tenant: str, ingest: Ingest) -> None:
    """RFC 4180: parsed back it is the JSON answer, whatever stands in a group; the header is always the same."""
    awkward = ['say "hi", twice', "two\r\nlines", "=1+1", "ä"]
    ingest(*({"ts": "2026-10-19T01:00:00Z", "quantity": "0.1", "resourceId": name} for name in awkward))
    ingest({"ts": "2026-10-20T01:00:00Z", "quantity": "99999999999999999999999999.999999999999"})
    query = {"tenantId": tenant, "metric": "api_calls", **WEEK, "groupBy": "resourceId", "aggregation": "max"}
    rows = ask(api, tenant, groupBy="resourceId", aggregation="max")["usage"]
    assert len(rows) == 7 * 5
    for answer in (
        api.get("/v1/usage/query", params={**query, "format": "csv"}),
        api.get("/v1/usage/query", params=query, headers={"accept": "text/csv"}),
    ):
        assert answer.headers["content-type"] == "text/csv; charset=utf-8; header=present"
        assert answer.headers["x-pending-events"] == "5"
        assert answer.text.count("\r\n") == 1 + len(rows) + 7  # one group holds a line break, in each of seven days
        header, *lines = csv.reader(io.StringIO(answer.content.decode(), newline=""), strict=True)
        assert tuple(header) == CSV_HEADER
        assert [dict(zip(header, line, strict=True)) for line in lines] == [
            {name: "" if row[name] is None else str(row[name]) for name in CSV_HEADER} for row in rows
        ]
    none = api.get("/v1/usage/query", params={**query, "metric": "nothing", "format": "csv"})
    assert none.text == "start,end,localStart,group,value,count,sum,adjusted,aggregation\r\n"
    both = api.get("/v1/usage/query", params={**query, "format": "json"}, headers={"accept": "text/csv"})
    assert both.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({"from": "2026-10-19"}, "from"),
        ({"from": "2026-10-19T00:00:00"}, "from"),
        ({"to": WEEK["from"]}, "to"),
        ({"from": "0001-01-01T00:00:00Z"}, "from"),
        ({"to": "9999-12-31T00:00:00Z"}, "to"),
        ({"window": "minute"}, "to"),
        ({"window": "year"}, "window"),
        ({"timeZone": "Berlin"}, "timeZone"),
        ({"timeZone": "../../etc/passwd"}, "timeZone"),
        ({"groupBy": "idempotencyKey"}, "groupBy"),
        ({"groupBy": "meta."}, "groupBy"),
        ({"groupBy": "meta.a..b"}, "groupBy"),
        ({"aggregation": "median"}, "aggregation"),
        ({"aggregation": "unique"}, "uniqueOf"),
        ({"uniqueOf": "customerRef"}, "uniqueOf"),
        ({"source": "ftp"}, "source"),
        ({"resourceId": ""}, "resourceId"),
        ({"customerRef": ["a", ""]}, "customerRef[1]"),
        ({"customerRef": ["a"] * 101}, "customerRef"),
        ({"metric": ""}, "metric"),
        ({"metric": ["a", "b"]}, "metric"),
        ({"meta.region": ["eu", "us"]}, "meta.region"),
        ({"meta.region": "a\x00"}, "meta.region"),
        ({"met.region": "eu"}, "met.region"),
        ({"meta": "eu"}, "meta"),
        ({"customerref": "a"}, "customerref"),
        ({"format": "xml"}, "format"),
        ({"asOf": "yesterday"}, "asOf"),
    ],
)
def test_a_bad_parameter_is_named(api: Api, parameters: dict[str, str | list[str]], path: str) -> None:
    """400, a problem document and the parameter's own name; a misspelt filter never answers for everything."""
    assert refusal(api, **parameters) == [path]


def test_too_many_groups_are_refused(api: Api, tenant: str, ingest: Ingest) -> None:
    """Beyond a thousand groups the guard is named; nothing is cut silently."""
    events = [{"ts": "2026-10-19T01:00:00Z", "customerRef": f"c{n}"} for n in range(1001)]
    ingest(*events[:1000])
    ingest(*events[1000:])
    query = {"tenantId": tenant, "metric": "api_calls", **WEEK, "groupBy": "customerRef"}
    answer = api.get("/v1/usage/query", params=query)
    assert answer.status_code == 400
    assert answer.json()["errors"] == [
        {
            "path": "groupBy",
            "message": "groupBy finds 1001 groups, at most 1000 are answered: filter, or shorten the range",
        }
    ]


def test_a_query_given_up_says_what_to_ask_for_instead() -> None:
    """503 with our own words and a code of its own; what names hosts and drivers stays in the log."""
    request = Request({"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""})
    answer = answer_our_error(request, TookTooLong("given up after 15 s: ask for less"))
    document = msgspec.json.decode(bytes(answer.body))
    assert (answer.status_code, document["code"], answer.headers["retry-after"]) == (503, "took_too_long", "1")
    assert document["detail"] == "given up after 15 s: ask for less"
    other = msgspec.json.decode(bytes(answer_our_error(request, Unavailable("host db-1 refused")).body))
    assert "db-1" not in other["detail"]


def test_answers_and_parameters_are_as_documented(api: Api, tenant: str, ingest: Ingest) -> None:
    """The model knows every member of an answer, and the document every parameter the route knows."""
    ingest({"ts": "2026-10-19T01:00:00Z"})
    body = ask(api, tenant)
    model = QueryAnswer.model_validate(body)
    assert set(body) == set(model.model_dump(by_alias=True))
    assert set(body["usage"][0]) == set(model.usage[0].model_dump(by_alias=True))
    operation = api.get("/docs/json").json()["paths"]["/v1/usage/query"]["get"]
    assert {parameter["name"] for parameter in operation["parameters"]} == KNOWN
    assert set(operation["responses"]["200"]["content"]) == {"application/json", "text/csv"}
