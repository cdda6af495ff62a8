"""Voiding an event over HTTP, and asking where events and counters come from."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.pipeline.fold import fold
from stripemeter_api.explain_documents import ExplainEventAnswer, ExplainUsageAnswer
from stripemeter_api.void_documents import VoidAnswer
from tests.api.serving import Api, Ingest, all_pages

TS = "2026-03-04T12:00:00Z"
DAY = "2026-03-04"


def void(api: Api, tenant: str, key: str, *, status: int = 200, **said: object) -> dict[str, Any]:
    """Void an event of the tenant; the answer, which is as documented."""
    body = {"tenantId": tenant, "idempotencyKey": key, "reason": "test", **said}
    answer = api.post("/v1/events/void", json=body)
    assert answer.status_code == status, answer.text
    if status == 200:
        VoidAnswer.model_validate(answer.json())
    document: dict[str, Any] = answer.json()
    return document


def test_a_voided_event_counts_nowhere_and_says_so(api: Api, tenant: str, ingest: Ingest, pool: ConnectionPool) -> None:
    """Usage, the listing and its total follow at once; a second request answers the first one's void."""
    ingest(*({"idempotencyKey": key, "ts": TS, "quantity": 5} for key in ("a", "b")))
    fold(pool)
    first = void(api, tenant, "a", actor="ann", reason="sent twice")
    assert first["voided"] is True
    assert (first["event"]["id"], first["event"]["reason"], first["event"]["actor"]) == ("a", "sent twice", "ann")
    assert void(api, tenant, "a") == {**first, "voided": "already"}
    rows = {row["id"]: row for row in all_pages(api, "/v1/events", "events", tenantId=tenant)}
    assert rows["a"]["voidedAt"] == first["event"]["voidedAt"]
    assert "voidedAt" not in rows["b"]
    assert api.get("/v1/events", params={"tenantId": tenant}).json()["total"] == 2
    void(api, tenant, "b")
    listed = api.get("/v1/events", params={"tenantId": tenant}).json()
    assert (listed["total"], len(listed["events"])) == (2, 2), "a day of voided events alone is listed too"


def test_a_replacement_counts_in_its_place(api: Api, tenant: str, ingest: Ingest, pool: ConnectionPool) -> None:
    """Its key is the old one numbered unless it says another; a retry is the same; a third one is refused."""
    ingest({"idempotencyKey": "a", "ts": TS, "quantity": 5})
    fold(pool)
    said = {"metric": "api_calls", "customerRef": "c1", "quantity": 3, "ts": TS}
    assert void(api, tenant, "a", replacement=said)["replacement"] == {"idempotencyKey": "a#2", "status": "accepted"}
    again = void(api, tenant, "a", replacement=said)
    assert (again["voided"], again["replacement"]["status"]) == ("already", "duplicate")
    void(api, tenant, "a", replacement={**said, "quantity": 4}, status=409)
    void(api, tenant, "a", replacement={**said, "idempotencyKey": "b"}, status=409)
    assert void(api, tenant, "a#2", replacement=said)["replacement"]["idempotencyKey"] == "a#3"
    rows = {row["id"]: row for row in all_pages(api, "/v1/events", "events", tenantId=tenant)}
    assert {key: row.get("replacedBy") for key, row in rows.items()} == {"a": "a#2", "a#2": "a#3", "a#3": None}


def test_an_unknown_key_is_not_found(api: Api, tenant: str) -> None:
    """404, nothing stored."""
    void(api, tenant, "a", status=404)


@pytest.mark.parametrize(
    ("changed", "path"),
    [
        ({"reason": ""}, "reason"),
        ({"reason": "x" * 501}, "reason"),
        ({"actor": "\x00"}, "actor"),
        ({"idempotencyKey": 5}, "idempotencyKey"),
        ({"surprise": 1}, "surprise"),
        ({"replacement": 5}, "replacement"),
        ({"replacement": {}}, "replacement.tenantId|replacement.metric"),
        ({"replacement": {"quantity": -1}}, "replacement.quantity"),
        ({"replacement": {"quantity": 1.0000000000001}}, "replacement.quantity"),
        ({"replacement": {"ts": "2999-01-01T00:00:00Z"}}, "replacement.ts"),
        ({"replacement": {"tenantId": "other"}}, "replacement.tenantId"),
        ({"replacement": {"idempotencyKey": "a"}}, "replacement.idempotencyKey"),
        ({"replacement": {"meta": {"x": "y" * 5000}}}, "replacement.meta"),
    ],
)
def test_a_bad_member_is_named_and_nothing_happens(
    api: Api, tenant: str, ingest: Ingest, changed: dict[str, Any], path: str
) -> None:
    """400 naming the member; the event still counts."""
    ingest({"idempotencyKey": "a", "ts": TS})
    valid = {"metric": "api_calls", "customerRef": "c1", "quantity": 3, "ts": TS}
    said = {**changed}
    if isinstance(said.get("replacement"), dict) and said["replacement"]:
        said["replacement"] = {**valid, **said["replacement"]}
    errors = void(api, tenant, "a", status=400, **said)["errors"]
    assert errors[0]["path"] in path.split("|")
    assert "voidedAt" not in api.get("/v1/events", params={"tenantId": tenant}).json()["events"][0]


def explained(api: Api, tenant: str, key: str) -> dict[str, Any]:
    """What became of an event, as documented."""
    answer = api.get("/v1/explain/event", params={"tenantId": tenant, "idempotencyKey": key})
    assert answer.status_code == 200, answer.text
    ExplainEventAnswer.model_validate(answer.json())
    body: dict[str, Any] = answer.json()
    return body


def usage(api: Api, tenant: str, **said: str | int) -> dict[str, Any]:
    """What usage is made of, as documented."""
    query = {"tenantId": tenant, "customerRef": "c1", "metric": "api_calls", "day": DAY, **said}
    answer = api.get("/v1/explain/usage", params=query)
    assert answer.status_code == 200, answer.text
    ExplainUsageAnswer.model_validate(answer.json())
    body: dict[str, Any] = answer.json()
    return body


def test_an_event_is_explained_through_its_life(api: Api, tenant: str, ingest: Ingest, pool: ConnectionPool) -> None:
    """Waiting for the fold, counted, voided; refused payloads stand beside it."""
    ingest({"idempotencyKey": "a", "ts": TS, "quantity": 5})
    ingest({"idempotencyKey": "a", "ts": TS, "quantity": 6})
    waiting = explained(api, tenant, "a")
    assert (waiting["state"], waiting["isCounting"]) == ("pending_fold", False)
    assert [(refused["quantity"], refused["timesRefused"]) for refused in waiting["conflicts"]] == [(6, 1)]
    fold(pool)
    counted = explained(api, tenant, "a")
    assert (counted["state"], counted["isCounting"]) == ("counted", True)
    assert counted["readings"] == [
        {
            "meter": "api_calls",
            "version": None,
            "customerRef": "c1",
            "day": DAY,
            "segment": {"start": "2026-03-01T00:00:00Z", "end": "2026-04-01T00:00:00Z"},
            "dimensions": None,
            "quantity": 5,
            "lane": "main",
        }
    ]
    void(api, tenant, "a", actor="ann")
    voided = explained(api, tenant, "a")
    assert (voided["state"], voided["isCounting"], voided["void"]["actor"]) == ("voided", False, "ann")
    answer = api.get("/v1/explain/event", params={"tenantId": tenant, "idempotencyKey": "b"})
    assert answer.status_code == 404


def test_a_late_event_says_whether_it_counts(api: Api, tenant: str, ingest: Ingest, pool: ConnectionPool) -> None:
    """Beyond its window and its segment closed: it waits for approval, and is in no counter."""
    ingest({"idempotencyKey": "now", "ts": "2026-06-04T12:00:00Z"})
    fold(pool)
    ingest({"idempotencyKey": "late", "ts": TS})
    fold(pool)
    late = explained(api, tenant, "late")
    assert (late["state"], late["isCounting"], late["adjustment"]["status"]) == ("late", False, "pending")
    found = usage(api, tenant)
    assert found["counters"] == []
    assert [(row["reason"], row["eventId"], row["status"]) for row in found["adjustments"]] == [
        ("late_event", "late", "pending")
    ]


def test_meters_say_why_they_do_not_count_an_event(api: Api, tenant: str, ingest: Ingest, pool: ConnectionPool) -> None:
    """Each meter of the day by its version: a metric of others, a filter, a value that is not there or no number."""
    said: dict[str, dict[str, Any]] = {
        "api_calls": {"filter": {"field": "meta.plan", "op": "eq", "value": "pro"}},
        "others": {"metrics": ["seats"]},
        "missing": {"metrics": ["api_calls"], "value": "meta.seats"},
        "text": {"metrics": ["api_calls"], "value": "meta.plan"},
        "per_plan": {"metrics": ["api_calls"], "dimensions": ["meta.plan"], "filter": None},
    }
    for name in ("api_calls", "others", "missing", "text"):
        assert api.put(f"/v1/meters/{name}", json={"tenantId": tenant, **said[name]}).status_code == 201
    ingest({"idempotencyKey": "a", "ts": TS, "meta": {"plan": "free"}})
    fold(pool)
    unmatched = explained(api, tenant, "a")
    assert (unmatched["state"], unmatched["isCounting"], unmatched["readings"]) == ("unmatched", False, [])
    assert {row["meter"]: (row["version"], row["reason"]) for row in unmatched["refusals"]} == {
        "api_calls": (1, "filter"),
        "others": (1, "metric"),
        "missing": (1, "value_missing"),
        "text": (1, "value_not_a_number"),
    }
    assert api.put("/v1/meters/per_plan", json={"tenantId": tenant, **said["per_plan"]}).status_code == 201
    counted = explained(api, tenant, "a")
    assert counted["state"] == "counted"
    assert [(row["meter"], row["dimensions"]) for row in counted["readings"]] == [("per_plan", {"meta.plan": "free"})]
    (row,) = usage(api, tenant)["events"]
    assert (row["reading"], row["reason"], row["isCounting"]) == (None, "filter", False)
    found = usage(api, tenant, metric="per_plan")
    assert [(counter["dimensions"], counter["quantity"]) for counter in found["counters"]] == [
        ({"meta.plan": "free"}, 1)
    ]
    assert [(span["version"], span["firstDay"], span["lastDay"]) for span in found["versions"]] == [(1, DAY, DAY)]


def test_usage_is_its_events(api: Api, tenant: str, ingest: Ingest, pool: ConnectionPool) -> None:
    """The events that count add up to the counters; events of one request share their batch; pages follow."""
    ingest(*({"idempotencyKey": str(n), "ts": TS, "quantity": n} for n in range(1, 6)))
    ingest({"idempotencyKey": "other day", "ts": "2026-03-05T00:00:00Z"})
    ingest({"idempotencyKey": "other customer", "ts": TS, "customerRef": "c2"})
    fold(pool)
    void(api, tenant, "5")
    ingest({"idempotencyKey": "6", "ts": TS, "quantity": 6})
    found = usage(api, tenant)
    assert [(counter["count"], counter["quantity"], counter["lane"]) for counter in found["counters"]] == [
        (4, 10, "main")
    ]
    query = {"tenantId": tenant, "customerRef": "c1", "metric": "api_calls", "day": DAY}
    rows = all_pages(api, "/v1/explain/usage", "events", **query, limit=2)
    assert [(row["id"], row["state"]) for row in rows] == [
        *((str(n), "counted") for n in range(1, 5)),
        ("5", "voided"),
        ("6", "pending_fold"),
    ]
    assert sum(row["reading"]["quantity"] for row in rows if row["isCounting"]) == 10
    assert len({row["batch"] for row in rows[:5]}) == 1
    assert rows[5]["batch"] != rows[0]["batch"]
    month = all_pages(
        api,
        "/v1/explain/usage",
        "events",
        tenantId=tenant,
        customerRef="c1",
        metric="api_calls",
        **{"from": "2026-03-01", "to": "2026-03-31"},
    )
    assert [row["id"] for row in month][-1] == "other day"


def test_adjustments_that_are_left_out_are_said(api: Api, tenant: str, pool: ConnectionPool) -> None:
    """A thousand are whole; of one more the oldest thousand, and that there are more."""
    with pool.connection() as connection:
        for first, last, has_more in ((1, 1000, False), (1001, 1001, True)):
            connection.execute(
                "insert into adjustments (id, tenant_id, metric, customer_ref, period, day, effective_at, delta,"
                " reason, status, note, actor, created_at, updated_at) select gen_random_uuid(), %s, 'api_calls', 'c1',"
                " 'day', %s, %s, 1, 'manual', 'pending', n, 'test', to_timestamp(n), now()"
                " from generate_series(%s::integer, %s) as n",
                (tenant, DAY, TS, first, last),
            )
            connection.commit()
            found = usage(api, tenant)
            assert [row["note"] for row in found["adjustments"]] == [str(n) for n in range(1, 1001)]
            assert found["hasMoreAdjustments"] is has_more


def test_an_alias_is_explained_as_its_customer(api: Api, tenant: str, ingest: Ingest, pool: ConnectionPool) -> None:
    """Whichever reference is asked for."""
    ingest({"idempotencyKey": "a", "ts": TS, "customerRef": "old"}, {"idempotencyKey": "b", "ts": TS})
    fold(pool)
    answer = api.put("/v1/customers/c1", params={"tenantId": tenant}, json={"aliases": ["old"]})
    assert answer.status_code < 300, answer.text
    for ref in ("c1", "old"):
        found = usage(api, tenant, customerRef=ref)
        assert (found["customerRef"], found["references"]) == ("c1", ["c1", "old"])
        assert [counter["quantity"] for counter in found["counters"]] == [2]
        assert [row["reading"]["customerRef"] for row in found["events"]] == ["c1", "c1"]


@pytest.mark.parametrize(
    ("changed", "path"),
    [
        ({"day": None}, "day"),
        ({"day": "2026-02-30"}, "day"),
        ({"from": DAY}, "day"),
        ({"day": None, "from": DAY}, "to"),
        ({"day": None, "to": DAY}, "from"),
        ({"day": None, "from": DAY, "to": "2026-03-03"}, "to"),
        ({"day": None, "from": DAY, "to": "2026-04-04"}, "to"),
        ({"day": "0001-01-01"}, "day"),
        ({"day": "9999-12-31"}, "day"),
        ({"limit": "0"}, "limit"),
        ({"cursor": "AAAA"}, "cursor"),
        ({"metric": ""}, "metric"),
    ],
)
def test_a_bad_parameter_is_named(api: Api, tenant: str, changed: dict[str, str | None], path: str) -> None:
    """400 and the parameter's name."""
    query = {"tenantId": tenant, "customerRef": "c1", "metric": "api_calls", "day": DAY, **changed}
    answer = api.get("/v1/explain/usage", params={name: said for name, said in query.items() if said is not None})
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["path"] == path
