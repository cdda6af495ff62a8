"""Voiding an event over HTTP, and asking where events and counters come from."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.pipeline.fold import fold
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
