"""What can be said of meters over HTTP, and how it is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest

from stripemeter_api.meter_documents import ChangedMeterAnswer, MeterAnswer, MeterList
from tests.api.serving import Api, Ingest

PRO = {"field": "meta.plan", "op": "eq", "value": "pro"}


def put(api: Api, tenant: str, name: str = "pro_calls", *, status: int = 200, **said: object) -> dict[str, Any]:
    """Say what a meter counts; the answer, which is as documented."""
    answer = api.put(f"/v1/meters/{quote(name, safe='')}", json={"tenantId": tenant, **said})
    assert answer.status_code == status, answer.text
    ChangedMeterAnswer.model_validate(answer.json())
    body: dict[str, Any] = answer.json()
    return body


def get(api: Api, tenant: str, name: str = "pro_calls") -> dict[str, Any]:
    """The meter, as documented."""
    answer = api.get(f"/v1/meters/{quote(name, safe='')}", params={"tenantId": tenant})
    assert answer.status_code == 200, answer.text
    MeterAnswer.model_validate(answer.json())
    body: dict[str, Any] = answer.json()
    return body


def names(api: Api, tenant: str, **parameters: str) -> list[tuple[str, int]]:
    """Name and version of the meters listed."""
    answer = api.get("/v1/meters", params={"tenantId": tenant, **parameters})
    assert answer.status_code == 200, answer.text
    MeterList.model_validate(answer.json())
    return [(meter["name"], meter["version"]) for meter in answer.json()["meters"]]


def test_a_meter_is_made_with_its_defaults_and_shown(api: Api, tenant: str) -> None:
    """201 for the first version, 200 from then on; numbers stay exact."""
    made = put(api, tenant, status=201, filter=PRO, metrics=["calls"])
    assert made.pop("recount") == {"pendingDays": 0}
    assert datetime.fromisoformat(made.pop("createdAt")).tzinfo is UTC
    assert made == {
        "name": "pro_calls",
        "metrics": ["calls"],
        "filter": PRO,
        "value": "quantity",
        "aggregation": "sum",
        "percentile": None,
        "dimensions": [],
        "maxGroups": 100,
        "version": 1,
        "effectiveFrom": "0001-01-01",
        "isActive": True,
        "actor": "api",
    }
    body = f'{{"tenantId": "{tenant}", "value": 0.10000000000000000001}}'
    refused = api.put("/v1/meters/pro_calls", content=body, headers={"content-type": "application/json"})
    assert refused.json()["errors"][0]["path"] == "value", "a float would have become 0.1"
    changed = put(api, tenant, value=0.1, aggregation="percentile", percentile=99.9)
    assert (changed["value"], changed["percentile"], changed["version"]) == ("0.1", "99.9", 2)
    found = get(api, tenant)
    assert [version["version"] for version in found["versions"]] == [1, 2]
    assert found == {**found["versions"][-1], "versions": found["versions"]}


def test_saying_the_same_again_changes_nothing(api: Api, tenant: str) -> None:
    """What an answer says can be said: a definition is answered as it may be sent."""
    made = put(api, tenant, status=201, filter={"and": [PRO, {"or": [PRO, PRO]}]}, dimensions=["source"], value=2)
    definition = {name: made[name] for name in ("name", "metrics", "filter", "value", "aggregation", "dimensions")}
    again = put(api, tenant, **definition, percentile=None, maxGroups=100)
    assert again["version"] == 1


def test_a_meter_counts_what_happened_before_it_was_made(api: Api, tenant: str, ingest: Ingest) -> None:
    """Its version is made at once; days not yet counted again are told."""
    ingest({"ts": "2026-11-20T12:00:00Z", "metric": "calls", "meta": {"plan": "pro"}})
    assert put(api, tenant, status=201, filter=PRO, metrics=["calls"])["recount"] == {"pendingDays": 0}


def test_creating_refuses_what_is_there(api: Api, tenant: str) -> None:
    """The same request again is the same meter, another is refused until it is deleted; then its versions go on."""
    body = {"tenantId": tenant, "name": "pro_calls", "filter": PRO}
    made = api.post("/v1/meters", json=body)
    assert (made.status_code, made.json()["version"]) == (201, 1)
    again = api.post("/v1/meters", json=body)
    assert (again.status_code, again.json()) == (200, made.json())
    other = api.post("/v1/meters", json={**body, "aggregation": "max"})
    assert (other.status_code, other.json()["code"]) == (409, "conflict")
    deleted = api.delete("/v1/meters/pro_calls", params={"tenantId": tenant, "effectiveFrom": "2026-11-01"})
    assert deleted.status_code == 200, deleted.text
    assert (deleted.json()["version"], deleted.json()["isActive"]) == (2, False)
    assert deleted.json()["effectiveFrom"] == "2026-11-01"
    assert get(api, tenant)["isActive"] is False
    assert names(api, tenant) == []
    assert names(api, tenant, day="2026-10-31") == [("pro_calls", 1)]
    twice = api.delete("/v1/meters/pro_calls", params={"tenantId": tenant, "effectiveFrom": "2026-11-01"})
    assert twice.status_code == 404
    assert api.post("/v1/meters", json=body).json()["version"] == 3


def test_a_list_shows_what_counts_a_day(api: Api, tenant: str) -> None:
    """By name, each in the version of the day; other tenants' are not there."""
    put(api, tenant, "b", status=201)
    put(api, tenant, "a/ü", status=201, effectiveFrom="2026-11-05")
    put(api, tenant, "b", value=1, effectiveFrom="2026-11-10")
    put(api, f"{tenant}-other", "c", status=201)
    assert names(api, tenant, day="2026-11-04") == [("b", 1)]
    assert names(api, tenant, day="2026-11-05") == [("a/ü", 1), ("b", 1)]
    assert names(api, tenant, day="2026-11-10") == [("a/ü", 1), ("b", 2)]
    assert get(api, tenant, "a/ü")["name"] == "a/ü"


def test_a_change_decided_on_an_older_version_is_refused(api: Api, tenant: str) -> None:
    """409, and nothing changed."""
    put(api, tenant, status=201, expectedVersion=0)
    put(api, tenant, value=1, expectedVersion=1)
    stale = api.put("/v1/meters/pro_calls", json={"tenantId": tenant, "value": 2, "expectedVersion": 1})
    assert (stale.status_code, stale.json()["code"]) == (409, "conflict")
    assert api.delete("/v1/meters/pro_calls", params={"tenantId": tenant, "expectedVersion": "1"}).status_code == 409
    assert get(api, tenant)["version"] == 2


@pytest.mark.parametrize(
    ("said", "path"),
    [
        ({"tenantId": ""}, "tenantId"),
        ({"tenantId": "a\0"}, "tenantId"),
        ({"tenantId": None}, "tenantId"),
        ({"colour": "blue"}, "colour"),
        ({"name": "other"}, "name"),
        ({"metrics": ["a\0"]}, "metrics[0]"),
        ({"filter": {"or": [PRO, {**PRO, "op": "ne"}]}}, "filter.or[1].op"),
        ({"filter": {"and": [{**PRO, "not": 1}]}}, "filter.and[0].not"),
        ({"value": "meta."}, "value"),
        ({"aggregation": "percentile"}, "percentile"),
        ({"dimensions": ["customerRef"]}, "dimensions[0]"),
        ({"maxGroups": 0}, "maxGroups"),
        ({"effectiveFrom": "2026-11-31"}, "effectiveFrom"),
        ({"effectiveFrom": 20261101}, "effectiveFrom"),
        ({"expectedVersion": -1}, "expectedVersion"),
        ({"expectedVersion": "1"}, "expectedVersion"),
    ],
)
def test_what_says_no_meter_is_refused(api: Api, tenant: str, said: dict[str, object], path: str) -> None:
    """400 naming the member, and nothing is recorded."""
    answer = api.put("/v1/meters/pro_calls", json={"tenantId": tenant, **said})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_input"), answer.text
    assert [error["path"] for error in answer.json()["errors"]] == [path]
    assert names(api, tenant) == []


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'"x"', b"[" * 100_000, b'{"value": 1e99999999999999999999}', b'{"a": "\xff"}'],
)
def test_a_body_that_is_no_document_is_refused(api: Api, content: bytes) -> None:
    """As 400, whatever it is."""
    for method, path in (("PUT", "/v1/meters/calls"), ("POST", "/v1/meters")):
        answer = api.request(method, path, content=content, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_input"), answer.text


def test_a_meter_that_never_was_is_not_found(api: Api, tenant: str) -> None:
    """Reading and deleting alike; a day that is none is refused."""
    for method in ("GET", "DELETE"):
        answer = api.request(method, "/v1/meters/none", params={"tenantId": tenant})
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    answer = api.get("/v1/meters", params={"tenantId": tenant, "day": "today"})
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (400, "day")
