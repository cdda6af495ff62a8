"""/v1/events/backfill: recorded before it is answered, refused with a reason, listed, cancelled, reverted."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from stripemeter.metering.events import IngestLimits
from stripemeter.pipeline.backfill import run_backfill
from stripemeter.pipeline.error_report import report_path
from stripemeter.store.backfills import Backfill
from stripemeter.store.postgres import connect
from tests.api.conftest import _Workers
from tests.api.serving import Api, Ingest, all_pages

PATH = "/v1/events/backfill"
ROW = {"customerRef": "c1", "quantity": 2, "ts": "2026-01-10T12:00:00Z", "idempotencyKey": "k1"}
Ask = Callable[..., str]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state directory of the worker and of whoever runs operations."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def api(database_url: str, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A worker with that state directory."""
    with _Workers(tmp_path_factory.mktemp("api")) as workers:
        yield workers.start(
            DATABASE_URL=database_url, STRIPEMETER_HOME=str(home), STRIPEMETER_BACKFILL_SOURCES="s3://bucket,s3://b2/in"
        )


@pytest.fixture
def body(tenant: str) -> dict[str, Any]:
    """A request that means January 2026."""
    return {
        "tenantId": tenant,
        "metric": "api_calls",
        "periodStart": "2026-01-01",
        "periodEnd": "2026-01-31",
        "reason": "test",
    }


@pytest.fixture
def ask(api: Api, body: dict[str, Any]) -> Ask:
    """`ask(csvData=...)`: the id of a new operation."""

    def post(**members: object) -> str:
        answer = api.post(PATH, json={**body, **members})
        assert answer.status_code == 200, answer.text
        assert answer.json()["status"] == "pending"
        assert answer.json()["message"] == "Backfill operation queued successfully"
        return str(answer.json()["operationId"])

    return post


@pytest.fixture
def run(database_url: str, home: Path) -> Callable[[str], Backfill]:
    """Run an operation as Dagster does."""

    def run_one(operation_id: str) -> Backfill:
        found = uuid.UUID(operation_id)
        return run_backfill(
            database_url,
            found,
            limits=IngestLimits(),
            clock=lambda: datetime.now(UTC),
            report_path=report_path(home, found),
        )

    return run_one


def counts(operation: dict[str, Any]) -> list[int]:
    """accepted, duplicate, conflict, failed, skipped; checked to add up."""
    names = ("acceptedEvents", "duplicateEvents", "conflictEvents", "failedEvents", "skippedEvents")
    found: list[int] = [operation[name] for name in names]
    assert sum(found) == operation["processedEvents"]
    return found


def usage(api: Api, tenant: str) -> Any:  # noqa: ANN401 - a number of JSON
    """Usage of January 2026 by c1."""
    query = {"tenantId": tenant, "metric": "api_calls", "customerRef": "c1", "step": "month"}
    period = {"periodStart": "2026-01-01T00:00:00Z", "periodEnd": "2026-02-01T00:00:00Z"}
    (point,) = api.get("/v1/usage/history", params={**query, **period}).json()["usage"]
    return point["value"]


def test_events_come_to_five_outcomes(api: Api, ask: Ask, run: Callable[[str], Backfill], tenant: str) -> None:
    """Tenant and metric are the operation's, digits stay, a bad row costs itself, and its reason can be read."""
    operation_id = ask(
        events=[
            {**ROW, "quantity": 0.1},
            {**ROW, "quantity": 0.1},  # the same again
            {**ROW, "quantity": 0.2},  # the same key for something else
            {**ROW, "idempotencyKey": "k2", "tenantId": "somebody-else"},
            {**ROW, "idempotencyKey": "k3", "quantity": -1},
            {**ROW, "idempotencyKey": "k4", "metric": "other"},
            {**ROW, "idempotencyKey": "k5", "ts": "2026-02-01T00:00:00Z"},
            {**ROW, "idempotencyKey": "k6", "quantity": "0.2", "meta": {"price": 1.1}},
        ]
    )
    waiting = api.get(f"{PATH}/{operation_id}").json()
    assert (waiting["status"], waiting["totalEvents"], waiting["completedAt"]) == ("pending", 8, None)
    run(operation_id)
    operation = api.get(f"{PATH}/{operation_id}").json()
    assert operation["status"] == "completed"
    assert operation["sourceType"] == "events"
    assert operation["totalEvents"] == 8
    assert counts(operation) == [2, 1, 1, 2, 2]
    assert [(error["row"], error["field"], error["code"]) for error in operation["errors"]] == [
        (3, "idempotencyKey", "idempotency_conflict"),
        (4, "tenantId", "tenant_mismatch"),
        (5, "quantity", "invalid_input"),
    ]
    assert operation["errorReport"] == f"backfills/{operation_id}.errors.jsonl"
    assert usage(api, tenant) == 0.3
    events = {event["id"]: event for event in api.get("/v1/events", params={"tenantId": tenant}).json()["events"]}
    assert (events["k6"]["source"], events["k6"]["meta"]) == ("import", {"price": 1.1})


def test_csv_has_the_originals_columns(api: Api, ask: Ask, run: Callable[[str], Backfill], tenant: str) -> None:
    """Snake case and created_at are read; events win over csvData, csvData over sourceUrl."""
    text = 'customer_ref,quantity,created_at,idempotency_key,meta\nc1,1.50,2026-01-02T00:00:00Z,k1,"{""a"":1}"\n'
    operation_id = ask(csvData=text, sourceUrl="s3://bucket/f.csv")
    run(operation_id)
    operation = api.get(f"{PATH}/{operation_id}").json()
    assert (operation["sourceType"], counts(operation)) == ("csv", [1, 0, 0, 0, 0])
    assert usage(api, tenant) == 1.5
    both = api.get(f"{PATH}/{ask(events=[ROW], csvData=text)}").json()
    assert both["sourceType"] == "events"


def test_the_period_is_one_day_unless_it_ends_later(api: Api, ask: Ask, run: Callable[[str], Backfill]) -> None:
    """periodEnd defaults to periodStart; both days are included to their last microsecond."""
    instants = [
        "2026-01-09T23:59:59.999999Z",
        "2026-01-10T00:00:00Z",
        "2026-01-10T23:59:59.999999Z",
        "2026-01-11T00:00:00Z",
    ]
    rows = [{**ROW, "ts": ts, "idempotencyKey": ts} for ts in instants]
    operation_id = ask(events=rows, periodStart="2026-01-10", periodEnd=None)
    run(operation_id)
    operation = api.get(f"{PATH}/{operation_id}").json()
    assert (operation["periodStart"], operation["periodEnd"]) == ("2026-01-10", "2026-01-10")
    assert counts(operation) == [2, 0, 0, 0, 2]


def test_an_object_in_s3_is_looked_at_by_the_run(api: Api, ask: Ask) -> None:
    """A request never waits for S3: it is recorded."""
    for url in ("s3://bucket/2026/usage.parquet", "s3://b2/in/f.csv"):
        operation = api.get(f"{PATH}/{ask(sourceUrl=url)}").json()
        assert (operation["status"], operation["sourceType"], operation["totalEvents"]) == ("pending", "url", None)


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({}, "events"),
        ({"events": []}, "events"),
        ({"events": [ROW] * 5001}, "events"),
        ({"events": [7]}, "events[0]"),
        ({"events": "x"}, "events"),
        ({"csvData": ""}, "csvData"),
        ({"csvData": "customerRef,quantity\nc1,1\n"}, "csvData"),
        ({"csvData": "customerRef,quantity,ts,timestamp\n"}, "csvData"),
        ({"csvData": "a\x00"}, "csvData"),
        ({"sourceUrl": "file:///etc/passwd"}, "sourceUrl"),
        ({"sourceUrl": "/etc/passwd.csv"}, "sourceUrl"),
        ({"sourceUrl": "s3:///f.csv"}, "sourceUrl"),
        ({"sourceUrl": "s3://bucket/"}, "sourceUrl"),
        ({"sourceUrl": "s3://[x/f.csv"}, "sourceUrl"),
        ({"sourceUrl": "s3://bucket/f.csv.gz"}, "sourceUrl"),
        ({"sourceUrl": "https://bucket.example/f.csv"}, "sourceUrl"),
        ({"sourceUrl": "s3://other/f.csv"}, "sourceUrl"),
        ({"sourceUrl": "s3://bucket2/f.csv"}, "sourceUrl"),
        ({"sourceUrl": "s3://b2/f.csv"}, "sourceUrl"),
        ({"sourceUrl": "s3://b2/inside/f.csv"}, "sourceUrl"),
        ({"sourceUrl": "s3://b2/in/../f.csv"}, "sourceUrl"),
        ({"sourceUrl": "s3://b2/in/./f.csv"}, "sourceUrl"),
        ({"sourceUrl": "s3://b2/in//f.csv"}, "sourceUrl"),
        ({"events": [ROW], "metric": None}, "metric"),
        ({"events": [ROW], "metric": "m" * 101}, "metric"),
        ({"events": [ROW], "tenantId": ""}, "tenantId"),
        ({"events": [ROW], "reason": ""}, "reason"),
        ({"events": [ROW], "reason": "r" * 501}, "reason"),
        ({"events": [ROW], "periodStart": "2026-13-01"}, "periodStart"),
        ({"events": [ROW], "periodStart": "2026-01-01T00:00:00Z"}, "periodStart"),
        ({"events": [ROW], "periodEnd": "2025-12-31"}, "periodEnd"),
        ({"events": [ROW], "customerref": "c1"}, "customerref"),
    ],
)
def test_what_cannot_be_run_is_refused(
    api: Api, body: dict[str, Any], tenant: str, members: dict[str, object], field: str
) -> None:
    """400 names the member; nothing is recorded."""
    answer = api.post(PATH, json={**body, **members})
    assert answer.status_code == 400, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert field in [error["path"] for error in answer.json()["errors"]]
    assert api.get(PATH, params={"tenantId": tenant}).json()["total"] == 0


def test_a_body_that_is_too_large_is_413(api: Api, body: dict[str, Any], tenant: str) -> None:
    """Whether its length is declared or not."""
    content = json.dumps({**body, "events": [ROW]}).encode() + b" " * 1_048_576

    def chunks() -> Iterator[bytes]:
        yield content

    for sent in (content, chunks()):
        answer = api.post(PATH, content=sent, headers={"content-type": "application/json"})
        assert answer.status_code == 413, answer.text
        assert answer.json()["error"] == "Payload Too Large"
    assert api.get(PATH, params={"tenantId": tenant}).json()["total"] == 0


def test_the_bounds_are_settings(start_api: Callable[..., Api], database_url: str, body: dict[str, Any]) -> None:
    """Number of events, size of what a request brings along, size of its body."""
    api = start_api(
        DATABASE_URL=database_url,
        MAX_BACKFILL_EVENTS="2",
        MAX_DIRECT_BACKFILL_SIZE="2000",
        BACKFILL_BODY_LIMIT_BYTES="3000",
    )
    csv = "customerRef,quantity,ts\n"
    assert api.post(PATH, json={**body, "events": [ROW] * 2}).status_code == 200
    assert api.post(PATH, json={**body, "events": [ROW] * 3}).status_code == 400
    assert api.post(PATH, json={**body, "csvData": csv + "x" * (2000 - len(csv))}).status_code == 200
    assert api.post(PATH, json={**body, "csvData": csv + "x" * (2001 - len(csv))}).status_code == 413
    assert api.post(PATH, json={**body, "csvData": "x" * 3000}).status_code == 413


def test_no_object_is_read_where_the_operator_closed_s3(
    start_api: Callable[..., Api], database_url: str, body: dict[str, Any]
) -> None:
    """The run reads with the server's own credentials: with `none` nobody may tell it what."""
    api = start_api(DATABASE_URL=database_url, STRIPEMETER_BACKFILL_SOURCES="none")
    answer = api.post(PATH, json={**body, "sourceUrl": "s3://bucket/f.csv"})
    assert answer.status_code == 400, answer.text
    assert "STRIPEMETER_BACKFILL_SOURCES" in answer.json()["detail"]
    assert [error["path"] for error in answer.json()["errors"]] == ["sourceUrl"]


def test_the_number_of_rows_is_known_before_they_are_read(api: Api, ask: Ask) -> None:
    """Rows of CSV, quoted line ends and empty lines seen through."""
    text = 'customerRef,quantity,ts,resourceId\n\nc1,1,2026-01-10T12:00:00Z,"a\nb"\nc1,bad,x,y\n\n'
    operation = api.get(f"{PATH}/{ask(csvData=text)}").json()
    assert (operation["totalEvents"], operation["processedEvents"]) == (2, 0)


def test_listing_by_offset_and_cursor(api: Api, ask: Ask, run: Callable[[str], Backfill], tenant: str) -> None:
    """Newest first, by status; both ways of paging show each operation once."""
    ids = [ask(events=[{**ROW, "idempotencyKey": f"k{number}"}]) for number in range(5)]
    run(ids[0])
    newest_first = ids[::-1]
    page = api.get(PATH, params={"tenantId": tenant, "limit": 2, "offset": 1}).json()
    assert (page["total"], page["hasMore"]) == (5, True)
    assert [operation["id"] for operation in page["operations"]] == newest_first[1:3]
    rows = all_pages(api, PATH, "operations", tenantId=tenant, limit=2)
    assert [operation["id"] for operation in rows] == newest_first
    completed = api.get(PATH, params={"tenantId": tenant, "status": "completed"}).json()
    assert [operation["id"] for operation in completed["operations"]] == ids[:1]
    assert api.get(PATH, params={"tenantId": tenant, "status": "done"}).status_code == 400
    cursor = api.get(PATH, params={"tenantId": tenant, "limit": 2}).json()["nextCursor"]
    assert api.get(PATH, params={"tenantId": "other", "cursor": cursor}).status_code == 400
    assert api.get(PATH, params={"tenantId": tenant, "cursor": cursor, "offset": 1}).status_code == 400


def test_another_tenants_operation_is_not_found(api: Api, ask: Ask, tenant: str) -> None:
    """With a tenantId an id of another tenant is unknown; nothing happens to it."""
    path = f"{PATH}/{ask(events=[ROW])}"
    assert api.get(path, params={"tenantId": tenant}).status_code == 200
    assert api.get(path, params={"tenantId": "other"}).status_code == 404
    assert api.post(f"{path}/cancel", json={"tenantId": "other"}).status_code == 404
    assert api.post(f"{path}/revert", json={"tenantId": "other", "reason": "x"}).status_code == 404
    assert api.get(path).json()["status"] == "pending"
    assert api.get(f"{PATH}/{uuid.uuid4()}").status_code == 404
    assert api.get(f"{PATH}/7").status_code == 400


def test_cancelling(api: Api, ask: Ask, run: Callable[[str], Backfill]) -> None:
    """A waiting operation stores nothing any more; again is harmless; one that ended otherwise is 409."""
    waiting, done = ask(events=[ROW]), ask(events=[ROW])
    for _ in range(2):
        answer = api.post(f"{PATH}/{waiting}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    run(done)
    assert api.post(f"{PATH}/{done}/cancel").status_code == 409
    assert api.get(f"{PATH}/{waiting}").json()["acceptedEvents"] == 0


def test_a_revert_takes_back_what_the_operation_stored(
    api: Api, ask: Ask, run: Callable[[str], Backfill], ingest: Ingest, tenant: str, database_url: str
) -> None:
    """Only its own events, at once and audited; its duplicates stay; again is harmless; before its end it is 409."""
    ingest({**ROW, "idempotencyKey": "before", "source": "import"})
    operation_id = ask(events=[ROW, {**ROW, "idempotencyKey": "before"}, {**ROW, "idempotencyKey": "k2"}])
    path = f"{PATH}/{operation_id}"
    said = {"tenantId": tenant, "reason": "wrong file", "actor": "ada"}
    assert api.post(f"{path}/revert", json=said).status_code == 409
    run(operation_id)
    assert usage(api, tenant) == 6
    answer = api.post(f"{path}/revert", json=said).json()
    assert (answer["voidedEvents"], answer["revertedBy"], answer["revertReason"]) == (2, "ada", "wrong file")
    assert answer["revertedAt"] is not None
    assert usage(api, tenant) == 2
    assert api.post(f"{path}/revert", json={**said, "reason": "again"}).json() == answer
    with connect(database_url) as tx:
        voids = tx.execute(
            "select idempotency_key, reason, actor, backfill_id::text from event_voids where tenant_id = %s"
            " order by idempotency_key",
            [tenant],
        ).fetchall()
    assert voids == [(key, "wrong file", "ada", operation_id) for key in ("k1", "k2")]
