"""Price mappings over HTTP: what the account must agree to before one is stored."""

from __future__ import annotations

import uuid
from typing import Any

import psycopg
import pytest

from stripemeter_api.mapping_documents import MappingRow
from tests.api.serving import Api, StartApi
from tests.emulator import RunningEmulator, emulator, emulator_server
from tests.stripe_account import StripeAccount, open_account

__all__ = ["emulator", "emulator_server"]


@pytest.fixture
def account(emulator: RunningEmulator) -> StripeAccount:
    """An account with one meter `calls` and its price."""
    return open_account(emulator)


@pytest.fixture
def keyed(start_api: StartApi, database_url: str, account: StripeAccount) -> Api:
    """A worker with the account as its test account, and no key of a live one."""
    return start_api(
        DATABASE_URL=database_url,
        STRIPE_TEST_SECRET_KEY=account.emulator.key,
        STRIPEMETER_STRIPE_API_BASE=account.emulator.url,
    )


def said(account_id: str, tenant: str, **more: object) -> dict[str, Any]:
    """A shadow mapping of `calls`."""
    return {
        "tenantId": tenant,
        "metric": "calls",
        "aggregation": "sum",
        "stripeAccount": account_id,
        "priceId": "price_calls",
        "shadow": True,
        **more,
    }


def of(account: StripeAccount, tenant: str, **more: object) -> dict[str, Any]:
    """A shadow mapping of `calls` to the account's price."""
    return said(account.account_id, tenant, **{"priceId": account.price, **more})


def create(api: Api, body: dict[str, Any], status: int = 201) -> dict[str, Any]:
    """POST it; a row is as documented."""
    answer = api.post("/v1/mappings", json=body)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    if status == 201:
        MappingRow.model_validate(found)
    return found


def offender(problem: dict[str, Any]) -> str:
    """The member a refusal names."""
    path: str = problem["errors"][0]["path"]
    return path


def rows(api: Api, tenant: str) -> list[dict[str, Any]]:
    """Every mapping of the tenant."""
    answer = api.get("/v1/mappings", params={"tenantId": tenant})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()
    return found


def test_a_mapping_is_made_read_changed_and_deleted(keyed: Api, account: StripeAccount, tenant: str) -> None:
    """The row shows the meter behind the price; what was not sent stays; a deleted mapping is gone."""
    made = create(keyed, of(account, tenant, currency="USD"))
    assert (made["mode"], made["active"], made["shadow"]) == ("shadow", True, True)
    assert (made["stripeEventName"], made["currency"], made["latePolicy"]) == ("calls", "usd", "hold")
    path = f"/v1/mappings/{made['id']}"
    assert keyed.get(path).json() == made == rows(keyed, tenant)[0]
    changed = keyed.put(path, json={"active": False, "currency": None}).json()
    assert (changed["mode"], changed["shadow"], changed["currency"]) == ("off", True, None)
    assert (changed["stripeMeterId"], changed["metric"]) == (made["stripeMeterId"], "calls")
    assert keyed.put(path, json={"active": True}).json()["mode"] == "shadow"
    assert keyed.put(path, json={"latePolicy": "carry_forward"}).json()["latePolicy"] == "carry_forward"
    assert keyed.put(path, json={"latePolicy": None}).json()["latePolicy"] == "hold"
    assert keyed.delete(path).status_code == 204
    assert (keyed.get(path).status_code, keyed.delete(path).status_code, rows(keyed, tenant)) == (404, 404, [])


@pytest.mark.parametrize(
    ("members", "named"),
    [
        ({"stripeAccount": "calls"}, "stripeAccount"),
        ({"priceId": "calls"}, "priceId"),
        ({"priceId": "price_" + "x" * 250}, "priceId"),
        ({"subscriptionItemId": "sub_1"}, "subscriptionItemId"),
        ({"currency": "us"}, "currency"),
        ({"aggregation": "median"}, "aggregation"),
        ({"metric": "m" * 101}, "metric"),
        ({"active": "yes"}, "active"),
        ({"shadowStripeAccount": "x"}, "shadowStripeAccount"),
        ({"shadowPriceId": "x"}, "shadowPriceId"),
        ({"shadowSubscriptionItemId": "x"}, "shadowSubscriptionItemId"),
        ({"aggregation": "unique"}, "aggregation"),
        ({"aggregation": "time_weighted"}, "aggregation"),
        ({"pricedId": "price_1"}, "pricedId"),
        ({"latePolicy": "drop"}, "latePolicy"),
    ],
)
def test_a_member_that_is_not_as_it_must_be_is_named(
    api: Api, tenant: str, members: dict[str, object], named: str
) -> None:
    """Prefixes, lengths, kinds, unknown members, numbers not billed or not counted; Stripe is not asked."""
    assert offender(create(api, said("acct_1", tenant, **members), 400)) == named


def test_the_account_must_agree(keyed: Api, account: StripeAccount, tenant: str) -> None:
    """Price, its meter and formula, currency, item, and the account itself; nothing of it is stored."""
    customer, lost_meter = account.add_customer(), account.add_meter("lost")
    seat, lost = account.add_price(None), account.add_price(lost_meter)
    count = account.add_price(account.add_meter("counted", formula="count"))
    other = account.subscribe(customer, count)
    account.lose_meter(lost_meter)
    for members, named in (
        ({"priceId": "price_none"}, "priceId"),
        ({"priceId": seat}, "priceId"),
        ({"priceId": lost}, "priceId"),
        ({"priceId": count}, "aggregation"),
        ({"currency": "eur"}, "currency"),
        ({"subscriptionItemId": "si_none"}, "subscriptionItemId"),
        ({"subscriptionItemId": other}, "subscriptionItemId"),
        ({"stripeAccount": "acct_other"}, "stripeAccount"),
        ({"shadowStripeAccount": "acct_other"}, "shadowStripeAccount"),
        ({"shadowPriceId": "price_none"}, "shadowPriceId"),
    ):
        assert offender(create(keyed, of(account, tenant, **members), 400)) == named
    assert rows(keyed, tenant) == []
    right = account.subscribe(customer, account.price)
    create(keyed, of(account, tenant, subscriptionItemId=right))


def test_a_stripe_that_cannot_be_asked_is_503_and_nothing_is_stored(
    keyed: Api, account: StripeAccount, tenant: str
) -> None:
    """Neither a new mapping nor a change; an off mapping needs no answer."""
    account.go_down()
    refused = keyed.post("/v1/mappings", json=of(account, tenant))
    assert (refused.status_code, rows(keyed, tenant)) == (503, [])
    assert refused.headers["retry-after"]
    off = create(keyed, of(account, tenant, active=False))
    assert keyed.put(f"/v1/mappings/{off['id']}", json={"active": True}).status_code == 503
    assert rows(keyed, tenant) == [off]
    account.come_back()
    assert keyed.put(f"/v1/mappings/{off['id']}", json={"active": True}).json()["stripeEventName"] == "calls"


def test_without_a_key_a_mapping_can_only_be_off(api: Api, tenant: str) -> None:
    """Shadow and live are refused, off is stored with Stripe unasked, and cannot be switched on."""
    create(api, said("acct_1", tenant), 403)
    create(api, said("acct_1", tenant, shadow=False), 403)
    off = create(api, said("acct_1", tenant, active=False))
    assert (off["mode"], off["stripeMeterId"]) == ("off", None)
    assert api.put(f"/v1/mappings/{off['id']}", json={"active": True}).status_code == 403
    assert rows(api, tenant) == [off]


def test_live_needs_the_switch_and_a_live_key(
    start_api: StartApi, database_url: str, account: StripeAccount, tenant: str
) -> None:
    """A live key alone is not enough, nor the switch with a test key; in neither case does anybody call Stripe."""
    live, before = said("acct_1", tenant, shadow=False), account.requests
    base = {"DATABASE_URL": database_url, "STRIPEMETER_STRIPE_API_BASE": account.emulator.url}
    create(start_api(**base, STRIPE_SECRET_KEY="sk_live_1"), live, 403)
    named = offender(create(start_api(**base, STRIPE_SECRET_KEY="sk_test_1", STRIPEMETER_ALLOW_LIVE="1"), live, 400))
    assert (named, account.requests) == ("STRIPE_SECRET_KEY", before)


def test_a_customer_billed_twice_is_refused(keyed: Api, account: StripeAccount, tenant: str, database_url: str) -> None:
    """Two active items of one bound customer on the price's meter would each bill all of its usage."""
    customer = account.add_customer()
    link = {"customerId": customer, "accountId": account.account_id}
    assert keyed.put("/v1/customers/ada", params={"tenantId": tenant}, json={"stripe": link}).status_code == 200
    first = account.subscribe(customer, account.price)
    second = account.subscribe(customer, account.add_price(account.meter))
    refused = create(keyed, of(account, tenant), 409)
    assert all(item in refused["detail"] for item in (first, second))
    assert rows(keyed, tenant) == []
    account.unsubscribe(second)
    create(keyed, of(account, tenant))


def test_a_second_inactive_mapping_is_allowed_a_second_active_one_not(
    keyed: Api, account: StripeAccount, tenant: str
) -> None:
    """C28: only what is on must be alone."""
    body = of(account, tenant)
    create(keyed, body)
    create(keyed, body, 409)
    second = create(keyed, {**body, "active": False})
    create(keyed, {**body, "active": False})
    assert keyed.put(f"/v1/mappings/{second['id']}", json={"active": True}).status_code == 409
    assert [row["active"] for row in rows(keyed, tenant)] == [True, False, False]


def test_a_mapping_stays_its_tenants(api: Api, tenant: str) -> None:
    """B3, B14: another tenant's id is 404 for every verb, and PUT cannot give a mapping away."""
    off = create(api, said("acct_1", tenant, active=False))
    path, other = f"/v1/mappings/{off['id']}", {"tenantId": "somebody-else"}
    assert api.get(path, params=other).status_code == 404
    assert api.put(path, params=other, json={"metric": "stolen"}).status_code == 404
    assert api.put(path, json={**other, "metric": "stolen"}).status_code == 404
    assert api.put(path, params={"tenantId": tenant}, json=other).status_code == 400
    assert api.delete(path, params=other).status_code == 404
    assert api.get(f"/v1/mappings/{uuid.uuid4()}").status_code == 404
    assert api.get("/v1/mappings/1").status_code == 404
    assert rows(api, tenant) == [off]
    assert rows(api, "somebody-else") == []


def test_mappings_are_listed_page_by_page(api: Api, tenant: str) -> None:
    """Oldest first; the filters hold on every page, and a cursor belongs to its listing."""
    ids = [create(api, said("acct_1", tenant, active=False, metric=f"m{n}"))["id"] for n in range(3)]
    first = api.get("/v1/mappings", params={"tenantId": tenant, "limit": 2})
    cursor = first.headers["x-next-cursor"]
    rest = api.get("/v1/mappings", params={"tenantId": tenant, "limit": 2, "cursor": cursor})
    assert [row["id"] for row in first.json() + rest.json()] == ids
    assert "x-next-cursor" not in rest.headers
    assert [row["id"] for row in api.get("/v1/mappings", params={"tenantId": tenant, "metric": "m1"}).json()] == [
        ids[1]
    ]
    assert api.get("/v1/mappings", params={"tenantId": tenant, "active": "true"}).json() == []
    assert api.get("/v1/mappings", params={"tenantId": "x", "cursor": cursor}).status_code == 400


def test_a_mapping_that_was_sent_for_is_kept(
    keyed: Api, account: StripeAccount, tenant: str, database_url: str
) -> None:
    """What was sent stays explained: deleting is 409; while a delta is in flight so is every change."""
    made = create(keyed, of(account, tenant))
    entry = uuid.uuid4()
    with psycopg.connect(database_url) as connection:
        connection.execute(
            """
            insert into push_entries (id, mapping_id, tenant_id, meter, customer_ref, stripe_account_id,
                stripe_event_name, stripe_customer_id, segment_start, day, seq, delta, total_before, total_after,
                stamped_at, identifier, planned_at, state)
            values (%s, %s, %s, 'calls', 'ada', %s, 'calls', 'cus_1', '2026-11-01Z', '2026-11-02', 1, 1, 0, 1,
                '2026-11-02T00:00Z', %s, now(), 'planned')
            """,
            (entry, made["id"], tenant, account.account_id, str(entry)),
        )
    path = f"/v1/mappings/{made['id']}"
    assert keyed.put(path, json={"active": False}).status_code == 409
    assert keyed.delete(path).status_code == 409
    with psycopg.connect(database_url) as connection:
        connection.execute("update push_entries set state = 'cancelled', settled_at = now() where id = %s", (entry,))
    assert keyed.delete(path).status_code == 409
    assert keyed.put(path, json={"active": False}).status_code == 200
