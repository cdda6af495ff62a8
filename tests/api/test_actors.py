"""Who asks: the body's actor, else the header `x-actor`, else `api`; and which request an audit row came from."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.api.serving import Api, Ingest

TS = "2026-03-04T12:00:00Z"
ANN = {"x-actor": "ann@example.com"}


def adjustment(api: Api, tenant: str, headers: dict[str, str], **members: str) -> dict[str, Any]:
    """A new adjustment, asked for with these headers."""
    body = {"tenantId": tenant, "metric": "m", "customerRef": "c1", "periodStart": "2026-03-04", "delta": 1}
    answer = api.post("/v1/adjustments", headers=headers, json={**body, "reason": "manual", **members})
    assert answer.status_code == 201, answer.text
    row: dict[str, Any] = answer.json()
    return row


@pytest.mark.parametrize(
    ("headers", "members", "actor"),
    [({}, {}, "api"), (ANN, {}, "ann@example.com"), (ANN, {"actor": "bob"}, "bob"), ({}, {"actor": "bob"}, "bob")],
)
def test_the_body_comes_before_the_header(
    api: Api, tenant: str, headers: dict[str, str], members: dict[str, str], actor: str
) -> None:
    """For creating and for deciding; both stand in the audit."""
    row = adjustment(api, tenant, headers, **members)
    assert row["actor"] == actor
    decision = api.post(f"/v1/adjustments/{row['id']}/approve", headers=headers, json={"tenantId": tenant, **members})
    assert decision.status_code == 200, decision.text
    audit = api.get(f"/v1/adjustments/{row['id']}", params={"tenantId": tenant}).json()["transitions"]
    assert [step["actor"] for step in audit] == [actor, actor]


def test_four_eyes_by_header(api: Api, tenant: str) -> None:
    """The same header may not approve what it asked for; another may."""
    api.put("/v1/policies", json={"tenantId": tenant, "fourEyes": True})
    row = adjustment(api, tenant, ANN)
    path = f"/v1/adjustments/{row['id']}/approve"
    assert api.post(path, headers=ANN, json={"tenantId": tenant}).status_code == 403
    assert api.post(path, headers={"x-actor": "bob"}, json={"tenantId": tenant}).status_code == 200


def test_meters_backfills_and_voids_say_who(api: Api, tenant: str, ingest: Ingest) -> None:
    """Wherever an actor is recorded, the header names it."""
    made = api.post("/v1/meters", headers=ANN, json={"tenantId": tenant, "name": "m"}).json()
    put = api.put("/v1/meters/m", headers=ANN, json={"tenantId": tenant, "aggregation": "max"}).json()
    ended = api.delete("/v1/meters/m", headers=ANN, params={"tenantId": tenant}).json()
    assert [answer["actor"] for answer in (made, put, ended)] == ["ann@example.com"] * 3
    body = {"tenantId": tenant, "metric": "m", "periodStart": "2026-03-04", "reason": "test"}
    body["csvData"] = "customerRef,quantity,ts\n"
    operation = api.post("/v1/events/backfill", headers=ANN, json=body).json()["operationId"]
    assert api.get(f"/v1/events/backfill/{operation}").json()["actor"] == "ann@example.com"
    assert api.post(f"/v1/events/backfill/{operation}/cancel", json={}).status_code == 200
    said = {"tenantId": tenant, "reason": "wrong"}
    reverted = api.post(f"/v1/events/backfill/{operation}/revert", headers=ANN, json=said).json()
    assert reverted["revertedBy"] == "ann@example.com"


def test_a_void_says_who_and_by_which_request(api: Api, tenant: str, ingest: Ingest) -> None:
    """The first request stands in the record; a repeat changes nothing."""
    ingest({"idempotencyKey": "a", "ts": TS})
    request_id = uuid.uuid4().hex
    body = {"tenantId": tenant, "idempotencyKey": "a", "reason": "test"}
    for headers in ({**ANN, "x-request-id": request_id}, {"x-request-id": "another"}):
        assert api.post("/v1/events/void", headers=headers, json=body).status_code == 200
    found = api.get("/v1/explain/event", params={"tenantId": tenant, "idempotencyKey": "a"}).json()
    assert (found["void"]["actor"], found["void"]["requestId"]) == ("ann@example.com", request_id)


@pytest.mark.parametrize("said", ["", "x" * 256, "é"])
def test_an_actor_that_cannot_be_written_down_is_refused(api: Api, tenant: str, said: str) -> None:
    """400 names the header, and nothing is stored."""
    body = {"tenantId": tenant, "metric": "m", "customerRef": "c1", "periodStart": "2026-03-04", "delta": 1}
    answer = api.post(
        "/v1/adjustments", headers={b"x-actor": said.encode("latin-1")}, json={**body, "reason": "manual"}
    )  # fmt: skip
    assert answer.status_code == 400, answer.text
    assert answer.json()["errors"][0]["path"] == "x-actor"
    assert api.get("/v1/adjustments", params={"tenantId": tenant}).json()["adjustments"] == []
