"""Adjustments over HTTP: the original's contract, in effect at once, audited, idempotent, and nobody else's."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.api.serving import Api, Ingest, all_pages

TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
"""A day of the month that usage/current answers for."""


def create(api: Api, tenant: str, **members: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """A new adjustment."""
    body = {
        "tenantId": tenant,
        "metric": "api_calls",
        "customerRef": "c1",
        "periodStart": TODAY.date().isoformat(),
        "delta": "5.5",
        "reason": "correction",
        **members,
    }
    answer = api.post("/v1/adjustments", json=body)
    assert answer.status_code == 201, answer.text
    row: dict[str, Any] = answer.json()
    return row


def decide(api: Api, tenant: str, adjustment: dict[str, Any], decision: str, **members: str) -> tuple[int, Any]:
    """Status and body of a decision."""
    path = f"/v1/adjustments/{adjustment['id']}/{decision}"
    answer = api.post(path, json={"tenantId": tenant, **members})
    return answer.status_code, answer.json()


def current(api: Api, tenant: str) -> Any:  # noqa: ANN401 - a JSON number
    """What the customer used of api_calls."""
    answer = api.get("/v1/usage/current", params={"tenantId": tenant, "customerRef": "c1"}).json()
    return {metric["name"]: metric["current"] for metric in answer["metrics"]}.get("api_calls")


def test_approval_counts_at_once_and_revert_is_as_if_nothing_happened(api: Api, tenant: str, ingest: Ingest) -> None:
    """Acceptance seed 7: no further event is needed, and revert after approve is identity."""
    ingest({"ts": TODAY.isoformat(), "quantity": 10})
    adjustment = create(api, tenant)
    assert adjustment["status"] == "pending"
    assert current(api, tenant) == 10
    assert decide(api, tenant, adjustment, "approve") == (200, {"ok": True})
    assert current(api, tenant) == 15.5
    assert decide(api, tenant, adjustment, "approve") == (200, {"ok": True, "already": True})
    assert current(api, tenant) == 15.5
    assert decide(api, tenant, adjustment, "revert") == (200, {"ok": True})
    assert current(api, tenant) == 10
    assert decide(api, tenant, adjustment, "approve")[0] == 400
    audit = api.get(f"/v1/adjustments/{adjustment['id']}", params={"tenantId": tenant}).json()["transitions"]
    assert [row["action"] for row in audit] == ["created", "approved", "reverted"]
    assert [row["statusBefore"] for row in audit] == [None, "pending", "approved"]


def test_the_same_request_id_is_the_same_row(api: Api, tenant: str) -> None:
    """Acceptance seed 8; used for something else it is a conflict."""
    first = create(api, tenant, requestId="r1")
    body = {"tenantId": tenant, "metric": "api_calls", "customerRef": "c1", "delta": 5.5, "reason": "correction"}
    body |= {"periodStart": TODAY.date().isoformat(), "requestId": "r1"}
    again = api.post("/v1/adjustments", json=body)
    assert (again.status_code, again.json()["id"]) == (200, first["id"])
    other = api.post("/v1/adjustments", json={**body, "delta": 6})
    assert (other.status_code, other.json()["code"]) == (409, "conflict")
    listed = api.get("/v1/adjustments", params={"tenantId": tenant}).json()["adjustments"]
    assert [row["id"] for row in listed] == [first["id"]]


def test_four_eyes(api: Api, tenant: str) -> None:
    """Acceptance seed 33: the creator may not approve; somebody else may."""
    assert api.put("/v1/policies", json={"tenantId": tenant, "fourEyes": True}).json()["fourEyes"] is True
    adjustment = create(api, tenant, actor="ann")
    status, body = decide(api, tenant, adjustment, "approve", actor="ann")
    assert (status, body["code"]) == (403, "not_allowed")
    assert decide(api, tenant, adjustment, "approve", actor="bob") == (200, {"ok": True})


def test_rejected_is_the_end(api: Api, tenant: str) -> None:
    """It can neither be approved nor reverted."""
    adjustment = create(api, tenant)
    assert decide(api, tenant, adjustment, "reject") == (200, {"ok": True})
    assert decide(api, tenant, adjustment, "approve")[0] == 400
    assert decide(api, tenant, adjustment, "revert")[0] == 400


def test_another_tenants_adjustment_is_not_found(api: Api, tenant: str) -> None:
    """Neither read nor decided."""
    adjustment = create(api, tenant)
    stranger = f"{tenant}-x"
    assert decide(api, stranger, adjustment, "approve")[0] == 404
    answer = api.get(f"/v1/adjustments/{adjustment['id']}", params={"tenantId": stranger})
    assert answer.status_code == 404
    assert decide(api, tenant, {"id": str(uuid.uuid4())}, "approve")[0] == 404


@pytest.mark.parametrize(
    ("members", "path"),
    [
        ({"delta": 0}, "delta"),
        ({"delta": "1e3"}, "delta"),
        ({"delta": "0.0000000000001"}, "delta"),
        ({"delta": 1_000_001}, "delta"),
        ({"delta": None}, "delta"),
        ({"reason": "late_event"}, "reason"),
        ({"periodStart": "2026-02-30"}, "periodStart"),
        ({"period": "month", "periodStart": "2026-11-02"}, "periodStart"),
        ({"customerRef": ""}, "customerRef"),
        ({"metric": "a\x00b"}, "metric"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_what_cannot_be_is_refused_by_name(api: Api, tenant: str, members: dict[str, Any], path: str) -> None:
    """400 names the member, and nothing is stored."""
    body = {"tenantId": tenant, "metric": "m", "customerRef": "c", "delta": 1, "reason": "manual"}
    body["periodStart"] = "2026-11-01"
    answer = api.post("/v1/adjustments", json={**body, **members})
    assert answer.status_code == 400
    assert [error["path"] for error in answer.json()["errors"]] == [path]
    assert api.get("/v1/adjustments", params={"tenantId": tenant}).json()["adjustments"] == []


def test_pages_and_filters(api: Api, tenant: str) -> None:
    """Newest first, by cursor, each once; filters narrow."""
    made = [create(api, tenant, delta=number + 1, customerRef=f"c{number % 2}")["id"] for number in range(5)]
    rows = all_pages(api, "/v1/adjustments", "adjustments", tenantId=tenant, limit=2)
    assert [row["id"] for row in rows] == made[::-1]
    only = all_pages(api, "/v1/adjustments", "adjustments", tenantId=tenant, customerRef="c1", limit=1)
    assert [row["delta"] for row in only] == [4, 2]
    approved = api.get("/v1/adjustments", params={"tenantId": tenant, "status": "approved"}).json()
    assert approved["adjustments"] == []


def test_a_policy_keeps_what_is_not_said(api: Api, tenant: str) -> None:
    """The defaults, then each statement on its own; a window of null is the default again."""
    default = api.get("/v1/policies", params={"tenantId": tenant}).json()
    assert default == {
        "tenantId": tenant,
        "lateApproval": "while_open",
        "closeAfterSeconds": 172800,
        "fourEyes": False,
        "latenessWindows": {},
    }
    api.put("/v1/policies", json={"tenantId": tenant, "lateApproval": "never", "latenessWindows": {"m": 60, "n": 5}})
    changed = api.put("/v1/policies", json={"tenantId": tenant, "latenessWindows": {"n": None}}).json()
    assert (changed["lateApproval"], changed["latenessWindows"]) == ("never", {"m": 60})


def test_a_month_adjustment_counts_in_its_month(api: Api, tenant: str) -> None:
    """On its first day, so that days add up to the month."""
    first = TODAY.replace(day=1)
    adjustment = create(api, tenant, period="month", periodStart=first.date().isoformat(), delta=-3)
    decide(api, tenant, adjustment, "approve")
    answer = api.get(
        "/v1/usage/history",
        params={
            "tenantId": tenant,
            "customerRef": "c1",
            "metric": "api_calls",
            "periodStart": first.isoformat().replace("+00:00", "Z"),
            "periodEnd": (first + timedelta(days=1)).isoformat().replace("+00:00", "Z"),
            "step": "day",
        },
    ).json()
    assert [bucket["value"] for bucket in answer["usage"]] == [-3]
