"""What can be said of customers over HTTP, and how it is refused."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from stripemeter_api.customer_documents import ChangedCustomerAnswer, CustomerAnswer, CustomerPage
from tests.api.serving import Api, all_pages

ANCHORED = {"cadence": "month", "anchorAt": "2026-01-31T09:30:00Z"}


def put(api: Api, tenant: str, ref: str = "ada", **said: object) -> dict[str, Any]:
    """Say something of a customer; the answer, which is as documented."""
    answer = api.put(f"/v1/customers/{quote(ref, safe='')}", params={"tenantId": tenant}, json=said)
    assert answer.status_code == 200, answer.text
    ChangedCustomerAnswer.model_validate(answer.json())
    body: dict[str, Any] = answer.json()
    return body


def get(api: Api, tenant: str, ref: str = "ada", **parameters: str) -> dict[str, Any]:
    """The customer, as documented."""
    answer = api.get(f"/v1/customers/{quote(ref, safe='')}", params={"tenantId": tenant, **parameters})
    assert answer.status_code == 200, answer.text
    CustomerAnswer.model_validate(answer.json())
    body: dict[str, Any] = answer.json()
    return body


def test_a_customer_nobody_spoke_of_has_the_defaults(api: Api, tenant: str) -> None:
    """It exists from its first event: UTC and the calendar month, recorded nowhere."""
    found = get(api, tenant, at="2026-02-28T23:59:59.999999Z")
    assert found == {
        "customerRef": "ada",
        "timeZone": "UTC",
        "aliases": [],
        "phases": [],
        "stripe": [],
        "createdAt": None,
        "updatedAt": None,
        "segment": {"start": "2026-02-01T00:00:00Z", "end": "2026-03-01T00:00:00Z"},
    }


def test_what_is_not_said_stays(api: Api, tenant: str) -> None:
    """Each statement changes the members it has."""
    account = f"acct_{tenant}"
    link = {
        "accountId": account,
        "customerId": f"cus_{tenant}",
        "subscriptionId": "sub_1",
        "items": [{"meter": "calls", "itemId": "si_1"}],
    }
    put(api, tenant, timeZone="Europe/Berlin", aliases=["ada2", "ada/3"], billing=ANCHORED, stripe=link)
    put(api, tenant, timeZone="Asia/Kathmandu")
    put(api, tenant, stripe={"customerId": f"cus_{tenant}"})
    put(api, tenant, aliases=["ada/3"])
    found = get(api, tenant)
    assert (found["timeZone"], found["aliases"]) == ("Asia/Kathmandu", ["ada/3"])
    assert found["phases"] == [
        {"meter": None, "startsAt": None, "count": 1, "reason": "billing", **ANCHORED},
    ]
    assert found["stripe"] == [
        {
            "accountId": account,
            "customerId": f"cus_{tenant}",
            "items": [{"meter": "calls", "subscriptionId": "sub_1", "itemId": "si_1"}],
        }
    ]
    assert get(api, tenant, "ada/3") == {**found, "segment": get(api, tenant)["segment"]}


@pytest.mark.parametrize(
    ("at", "start", "end"),
    [
        ("2026-02-28T09:29:59Z", "2026-01-31T09:30:00Z", "2026-02-28T09:30:00Z"),
        ("2026-02-28T09:30:00Z", "2026-02-28T09:30:00Z", "2026-03-31T09:30:00Z"),
        ("2028-02-29T12:00:00+01:00", "2028-02-29T09:30:00Z", "2028-03-31T09:30:00Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "0001-01-31T09:30:00Z"),
        ("9999-12-31T23:59:59Z", "9999-12-31T09:30:00Z", "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_the_segment_at_any_instant(api: Api, tenant: str, at: str, start: str, end: str) -> None:
    """Month ends clamp from the anchor's own day, to the second, in every year there is."""
    put(api, tenant, billing=ANCHORED)
    assert get(api, tenant, at=at)["segment"] == {"start": start, "end": end}


def test_a_split_is_a_boundary(api: Api, tenant: str) -> None:
    """A price change cuts the segment there, of one meter or of all; the rhythm goes on; twice is once."""
    put(api, tenant, billing=ANCHORED)
    body = {"tenantId": tenant, "at": "2026-03-10T12:00:01Z", "meter": "seats", "reason": "new price"}
    answers = [api.post("/v1/customers/ada/splits", json=body) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json()["phases"] == answers[1].json()["phases"]
    ChangedCustomerAnswer.model_validate(answers[0].json())
    assert answers[0].json()["segment"] == {"start": "2026-03-10T12:00:01Z", "end": "2026-03-31T09:30:00Z"}
    before = get(api, tenant, at="2026-03-10T12:00:00Z", meter="seats")["segment"]
    assert before == {"start": "2026-02-28T09:30:00Z", "end": "2026-03-10T12:00:01Z"}
    assert get(api, tenant, at="2026-03-10T12:00:00Z")["segment"]["end"] == "2026-03-31T09:30:00Z"


def test_phases_of_meters_and_of_all(api: Api, tenant: str) -> None:
    """Every phase at once; what is sent again in another order is the same."""
    phases = [
        {"cadence": "week", "startsAt": "2026-06-01T00:00:00Z", "meter": "seats", "reason": "weekly seats"},
        {"cadence": "quarter", "count": 2},
    ]
    found = put(api, tenant, phases=phases)["phases"]
    assert [(each["meter"], each["cadence"], each["count"]) for each in found] == [
        (None, "quarter", 2),
        ("seats", "week", 1),
    ]
    assert put(api, tenant, phases=phases[::-1])["phases"] == found
    assert put(api, tenant, phases=[])["phases"] == []


def test_aliases_come_and_go(api: Api, tenant: str) -> None:
    """An alias answers with its customer, refuses to be spoken of, and is a customer of its own once removed."""
    put(api, tenant, aliases=["ada2", "a/b"])
    assert get(api, tenant, "ada2")["customerRef"] == "ada"
    for ref, said in (("ada2", {}), ("bob", {"aliases": ["ada2"]}), ("bob", {"aliases": ["ada"]})):
        refused = api.put(f"/v1/customers/{ref}", params={"tenantId": tenant}, json=said)
        assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    removed = api.delete("/v1/customers/ada/aliases/a%2Fb", params={"tenantId": tenant})
    assert (removed.status_code, removed.json()["aliases"]) == (200, ["ada2"])
    assert api.delete("/v1/customers/ada/aliases/a%2Fb", params={"tenantId": tenant}).status_code == 404
    assert get(api, tenant, "a/b")["customerRef"] == "a/b"


def test_any_reference_has_a_path(api: Api, tenant: str) -> None:
    """A slash, a percent sign, a word that is a path of ours, another alphabet: each is a customer of its own."""
    refs = ["a/b", "a%2Fb", "ada/splits", "ada/aliases/x", "é", "?", "#", "+", " ", "..a"]
    for ref in refs:
        assert put(api, tenant, ref, timeZone="Asia/Tokyo")["customerRef"] == ref
    body = {"tenantId": tenant, "at": "2026-03-10T12:00:00Z", "reason": "price"}
    assert api.post("/v1/customers/a%2Fb/splits", json=body).json()["customerRef"] == "a/b"
    assert get(api, tenant, "ada")["createdAt"] is None
    assert api.put("/v1/customers/ada/splits", params={"tenantId": tenant}, json={}).status_code == 405
    found = all_pages(api, "/v1/customers", "customers", tenantId=tenant, limit=100)
    assert [customer["customerRef"] for customer in found] == sorted(refs)


def test_a_refused_method_names_the_others(api: Api, tenant: str) -> None:
    """405 lists every method of the path, though each is a route of its own."""
    refused = api.patch("/v1/customers/ada", params={"tenantId": tenant})
    assert (refused.status_code, refused.headers["allow"]) == (405, "DELETE, GET, PUT")


def test_a_stripe_customer_has_one_owner(api: Api, tenant: str) -> None:
    """Several references of one Stripe customer are aliases; two customers would add up at Stripe."""
    link = {"accountId": f"acct_{tenant}", "customerId": f"cus_{tenant}"}
    put(api, tenant, stripe=link, aliases=["ada2"])
    refused = api.put("/v1/customers/bob", params={"tenantId": tenant}, json={"timeZone": "UTC", "stripe": link})
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert get(api, tenant, "bob")["createdAt"] is None
    assert (
        put(api, tenant, "bob", stripe={"customerId": f"cus_bob_{tenant}"})["stripe"][0]["accountId"]
        == (link["accountId"])
    )


def test_settings_are_forgotten_and_nothing_else(api: Api, tenant: str) -> None:
    """After it the defaults hold again; there is nothing to forget twice."""
    put(api, tenant, timeZone="Europe/Berlin", billing=ANCHORED, aliases=["ada2"])
    forgotten = api.delete("/v1/customers/ada", params={"tenantId": tenant})
    assert forgotten.status_code == 200
    ChangedCustomerAnswer.model_validate(forgotten.json())
    again = api.delete("/v1/customers/ada", params={"tenantId": tenant})
    assert (again.status_code, again.json()["code"]) == (404, "not_found")
    found = get(api, tenant)
    assert (found["timeZone"], found["phases"], found["aliases"]) == ("UTC", [], [])


def test_the_list_is_by_reference_and_of_one_tenant(api: Api, tenant: str) -> None:
    """Pages end where they say; another tenant's customers are on none, and its cursor leads nowhere here."""
    refs = ["Zoe", "ada", "bob", "é", "a/b"]
    for ref in refs:
        put(api, tenant, ref)
    put(api, f"{tenant}-other", "eve")
    found = all_pages(api, "/v1/customers", "customers", tenantId=tenant, limit=2)
    assert [customer["customerRef"] for customer in found] == sorted(refs)
    page = api.get("/v1/customers", params={"tenantId": tenant, "limit": 2}).json()
    CustomerPage.model_validate(page)
    refused = api.get("/v1/customers", params={"tenantId": f"{tenant}-other", "cursor": page["nextCursor"]})
    assert (refused.status_code, refused.json()["errors"][0]["path"]) == (400, "cursor")


@pytest.mark.parametrize(
    ("said", "path"),
    [
        ({"timeZone": "Europe/Atlantis"}, "timeZone"),
        ({"timezone": "UTC"}, "timezone"),
        ({"aliases": ["ada"]}, "aliases[0]"),
        ({"aliases": ["x", "x"]}, "aliases[1]"),
        ({"aliases": [""]}, "aliases[0]"),
        ({"aliases": ["a\x00"]}, "aliases[0]"),
        ({"billing": {"cadence": "fortnight"}}, "billing.cadence"),
        ({"billing": {"cadence": "month", "count": 0}}, "billing.count"),
        ({"billing": {"cadence": "month", "count": "2"}}, "billing.count"),
        ({"billing": {"cadence": "month", "anchorAt": "2026-01-31"}}, "billing.anchorAt"),
        ({"billing": {"cadence": "month", "anchorAt": "2026-01-31T00:00:00.5Z"}}, "billing.anchorAt"),
        ({"billing": ANCHORED, "phases": []}, "billing"),
        ({"phases": [{"cadence": "day"}, {"cadence": "day", "startsAt": "2026-01-01T00:00:00"}]}, "phases[1].startsAt"),
        ({"phases": [{"cadence": "day"}, {"cadence": "week"}]}, "phases[1].startsAt"),
        ({"stripe": {}}, "stripe.customerId"),
        ({"stripe": {"customerId": "cus_1"}}, "stripe.accountId"),
        ({"stripe": {"customerId": "c", "items": [{"meter": "m", "itemId": "s"}]}}, "stripe.subscriptionId"),
        (
            {
                "stripe": {
                    "customerId": "c",
                    "subscriptionId": "s",
                    "items": [{"meter": "m", "itemId": "s"}, {"meter": "m", "itemId": "t"}],
                }
            },
            "stripe.items[1].meter",
        ),
    ],
)
def test_what_is_wrong_is_named_and_changes_nothing(api: Api, tenant: str, said: dict[str, Any], path: str) -> None:
    """400, the member's path, and not even the right members of the statement are recorded."""
    said = {"timeZone": "Europe/Berlin", **said}
    refused = api.put("/v1/customers/ada", params={"tenantId": tenant}, json=said)
    assert refused.status_code == 400, refused.text
    assert refused.headers["content-type"] == "application/problem+json"
    assert [error["path"] for error in refused.json()["errors"]] == [path]
    assert get(api, tenant)["createdAt"] is None


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"at": "2026-01-01T00:00:00.000001Z"}, "at"),
        ({"at": None}, "at"),
        ({"reason": ""}, "reason"),
        ({"tenantId": ""}, "tenantId"),
        ({"meter": ""}, "meter"),
    ],
)
def test_a_split_says_where_and_why(api: Api, tenant: str, change: dict[str, Any], path: str) -> None:
    """A whole second, a reason, a tenant: each is named when it is not so."""
    body = {"tenantId": tenant, "at": "2026-01-01T00:00:00Z", "reason": "price", **change}
    refused = api.post("/v1/customers/ada/splits", json=body)
    assert refused.status_code == 400, refused.text
    assert [error["path"] for error in refused.json()["errors"]] == [path]
