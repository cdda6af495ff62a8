"""The ingest route over real HTTP: answers, limits, exactness, ids, and what happens while the database is away."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from stripemeter.runtime.embedded_postgres import EmbeddedPostgres, find_bin_directory
from stripemeter.store.migrations import migrate
from tests.api.serving import Api, Ingest, StartApi

PATH = "/v1/events/ingest"
TS = "2026-03-04T12:00:00Z"


def event(tenant: str, **members: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """An acceptable event but for what is given."""
    return {"tenantId": tenant, "metric": "m", "customerRef": "c", "quantity": 1, "ts": TS, **members}


def post(api: Api, *events: dict[str, Any], headers: dict[str, str] | None = None) -> dict[str, Any]:
    """The answer to a well-formed request."""
    answer = api.post(PATH, json={"events": list(events)}, headers=headers)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def stored(database_url: str, tenant: str) -> dict[str, str]:
    """Quantity by key of the tenant's ledger rows."""
    with psycopg.connect(database_url) as connection:
        return dict(
            connection.execute(
                "select idempotency_key, trim_scale(quantity)::text from events where tenant_id = %(tenant)s",
                {"tenant": tenant},
            ).fetchall()
        )


def test_the_answer_has_the_contracts_members(api: Api, tenant: str) -> None:
    """Counts, request id, and one result per event in input order with its key."""
    body = post(
        api,
        event(tenant, idempotencyKey="a"),
        event(tenant, idempotencyKey="b", ts="2999-01-01T00:00:00Z"),
        event(tenant, idempotencyKey="a"),
        event(tenant, idempotencyKey="a", quantity=2),
        event(tenant),
    )
    assert {name: body[name] for name in ("accepted", "duplicates", "conflicts")} == {
        "accepted": 2,
        "duplicates": 1,
        "conflicts": 1,
    }
    assert [(row["index"], row["status"]) for row in body["results"]] == [
        (0, "accepted"),
        (1, "error"),
        (2, "duplicate"),
        (3, "conflict"),
        (4, "accepted"),
    ]
    assert [row["idempotencyKey"] for row in body["results"][:4]] == ["a", "b", "a", "a"]
    assert body["results"][4]["idempotencyKey"].startswith("evt_")
    assert body["results"][1]["code"] == body["errors"][0]["code"] == "ts_too_far_ahead"
    assert [error["index"] for error in body["errors"]] == [1]
    assert body["results"][3]["code"] == "idempotency_conflict"


def test_limits_are_inclusive(api: Api, tenant: str) -> None:
    """What is exactly at a bound is accepted: a thousand events, the longest names, the greatest and least quantity."""
    thousand = [event(tenant, idempotencyKey=f"n{n}") for n in range(1000)]
    assert post(api, *thousand)["accepted"] == 1000
    longest = event(
        tenant, customerRef="c" * 255, metric="m" * 100, resourceId="r" * 255, idempotencyKey="k" * 255, source="sdk"
    )
    assert post(api, longest)["accepted"] == 1
    assert post(api, event("t" * 255, idempotencyKey="k"))["results"][0]["status"] in {"accepted", "duplicate"}
    zero = post(api, event(tenant, quantity=0, idempotencyKey="zero"))
    assert zero["accepted"] == 1, "0 is a valid gauge; the original refused it (docs/compatibility.md)"


@pytest.mark.parametrize(("size", "status"), [(4096, "accepted"), (4097, "error")])
def test_meta_has_a_limit_in_bytes(api: Api, tenant: str, size: int, status: str) -> None:
    """4096 bytes as sent are accepted; one more is that event's error, its neighbour is stored."""
    empty = len(json.dumps({"a": ""}, separators=(",", ":")))
    raw = json.dumps({"a": "é" * 10 + "x" * (size - empty - 20)}, separators=(",", ":"), ensure_ascii=False)
    assert len(raw.encode()) == size
    text = json.dumps(event(tenant, idempotencyKey="big"))[:-1] + f',"meta":{raw}}}'
    content = f'{{"events":[{text},{json.dumps(event(tenant, idempotencyKey="next"))}]}}'
    answer = api.post(PATH, content=content.encode(), headers={"content-type": "application/json"})
    assert answer.status_code == 200
    assert [row["status"] for row in answer.json()["results"]] == [status, "accepted"]
    if status == "error":
        assert answer.json()["results"][0]["code"] == "meta_too_large"


@pytest.mark.parametrize(("minutes", "status"), [(59, "accepted"), (61, "error")])
def test_an_event_may_lie_an_hour_ahead(api: Api, tenant: str, minutes: int, status: str) -> None:
    """Beyond it the event is an error of its own, and the request is 200."""
    ts = (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat()
    body = post(api, event(tenant, ts=ts), event(tenant, idempotencyKey="k"))
    assert [row["status"] for row in body["results"]] == [status, "accepted"]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("0.1", "0.1"),
        ("9007199254740993", "9007199254740993"),
        ("99999999999999999999999999.999999999999", "99999999999999999999999999.999999999999"),
        ('"99999999999999999999999999.999999999999"', "99999999999999999999999999.999999999999"),
        ("0.000000000001", "0.000000000001"),
        ("1e-12", "0.000000000001"),
        ("1E+25", "10000000000000000000000000"),
        ("1.50", "1.5"),
        ('"007"', "7"),
        ("-0", "0"),
        ("-0.0", "0"),
        ("0e-5000", "0"),
        ("1.0000000000000000000", "1"),
    ],
)
def test_quantities_are_kept_exactly(api: Api, database_url: str, tenant: str, sent: str, kept: str) -> None:
    """A number or a decimal string, up to 26 digits and 12 decimals, comes back digit for digit."""
    text = json.dumps(event(tenant, quantity="@", idempotencyKey="k")).replace('"@"', sent)
    content = f'{{"events":[{text}]}}'
    answer = api.post(PATH, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 200, answer.text
    assert stored(database_url, tenant) == {"k": kept}
    listed = api.get("/v1/events", params={"tenantId": tenant})
    assert f'"quantity":{kept}' in listed.text or f'"quantity":"{kept}"' in listed.text


@pytest.mark.parametrize("ts", ["0001-01-01T00:00:00Z", "1999-12-31T23:59:59.999999Z", "2000-01-01T00:00:00+14:00"])
def test_the_past_has_no_lower_bound(api: Api, database_url: str, tenant: str, ts: str) -> None:
    """From the first instant a date-time can name, stored as it was sent."""
    assert post(api, event(tenant, ts=ts, idempotencyKey="k"))["accepted"] == 1
    with psycopg.connect(database_url) as connection:
        found = connection.execute("select ts from events where tenant_id = %(t)s", {"t": tenant}).fetchone()
    assert found == (datetime.fromisoformat(ts),)


def test_a_header_key_names_each_event(api: Api, database_url: str, tenant: str) -> None:
    """A16: `key:index` for several, `key` for one; an event's own key precedes it."""
    post(api, event(tenant), event(tenant, idempotencyKey="own"), event(tenant), headers={"Idempotency-Key": "h"})
    post(api, event(tenant), headers={"Idempotency-Key": "single"})
    assert set(stored(database_url, tenant)) == {"h:0", "own", "h:2", "single"}


def test_concurrent_retries_of_one_request_store_it_once(api: Api, database_url: str, tenant: str) -> None:
    """Twelve connections send the same batch at once: each event accepted by one, duplicate to the others."""
    batch = [event(tenant, idempotencyKey=str(n)) for n in range(20)]
    with ThreadPoolExecutor(12) as executor:
        answers = list(executor.map(lambda _: post(api, *batch), range(12)))
    assert sum(answer["accepted"] for answer in answers) == 20
    assert sum(answer["duplicates"] for answer in answers) == 11 * 20
    assert len(stored(database_url, tenant)) == 20


def test_request_ids_are_adopted_and_echoed(api: Api, tenant: str) -> None:
    """The caller's id in header and body, of a success and of a refusal; an unusable one is replaced."""
    for body, status in (({"events": [event(tenant)]}, 200), ({"events": []}, 400)):
        answer = api.post(PATH, json=body, headers={"x-request-id": "caller-7"})
        assert (answer.status_code, answer.headers["x-request-id"], answer.json()["requestId"]) == (
            status,
            "caller-7",
            "caller-7",
        )
    first, second = (api.post(PATH, json={"events": []}, headers={"x-request-id": "x" * 129}) for _ in range(2))
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert len(first.headers["x-request-id"]) == 36


def test_a_conflict_is_listed(api: Api, tenant: str, ingest: Ingest) -> None:
    """A17: the refused payload is shown beside the one that stands."""
    ingest({"ts": TS, "idempotencyKey": "k", "quantity": 1})
    ingest({"ts": TS, "idempotencyKey": "k", "quantity": 2})
    (conflict,) = api.get("/v1/events/conflicts", params={"tenantId": tenant}).json()["conflicts"]
    assert (conflict["idempotencyKey"], conflict["standing"]["quantity"], conflict["refused"]["quantity"]) == (
        "k",
        1,
        2,
    )


def test_nothing_is_lost_while_the_database_is_away(
    tmp_path_factory: pytest.TempPathFactory, start_api: StartApi
) -> None:
    """503 with Retry-After while it is down; the same requests are accepted, once, when it is back."""
    server = EmbeddedPostgres(
        directory=tmp_path_factory.mktemp("away"), bin_directory=find_bin_directory(), shared_buffers_mb=32, fsync=False
    )
    process = server.start()
    try:
        migrate(server.database_url())
        api = start_api(DATABASE_URL=server.database_url())
        assert post(api, event("acme", idempotencyKey="before"))["accepted"] == 1
        server.stop(process)
        for key in ("before", "during"):
            answer = api.post(PATH, json={"events": [event("acme", idempotencyKey=key)]})
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["accepted"] == 0
        process = server.start()
        statuses = [
            post(api, event("acme", idempotencyKey=key))["results"][0]["status"]
            for key in ("before", "during", "during")
        ]
        assert statuses == ["duplicate", "accepted", "duplicate"]
        assert set(stored(server.database_url(), "acme")) == {"before", "during"}
    finally:
        server.stop(process)
