from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from urllib.parse import urlsplit

import psycopg
import pytest

from stripemeter.runtime.embedded_postgres import EmbeddedPostgres
from stripemeter_api.documents import Problem
from tests.api.serving import Api, StartApi, post_events

READS = [
    "/v1/events?tenantId=t",
    "/v1/events?tenantId=t&sort=metric",
    "/v1/events/conflicts?tenantId=t",
    "/v1/usage/current?tenantId=t&customerRef=c",
    "/v1/usage/history?tenantId=t&customerRef=c&metric=m&periodStart=2026-01-01T00:00:00Z&periodEnd=2026-02-01T00:00:00Z",
]


@pytest.fixture
def closed_database(postgres: EmbeddedPostgres, own_database_url: str) -> Iterator[tuple[str, psycopg.Connection]]:
    """A database that can be closed to everybody, and the connection to do it with."""
    with psycopg.connect(postgres.database_url("postgres"), autocommit=True) as connection:
        yield own_database_url, connection
        _allow(connection, own_database_url, is_allowed=True)


def _allow(connection: psycopg.Connection, url: str, *, is_allowed: bool) -> None:
    name = urlsplit(url).path.lstrip("/")
    connection.execute(f"alter database {name} allow_connections {is_allowed}")
    if not is_allowed:
        connection.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (name,))


def test_an_unknown_route_is_answered_in_both_shapes(api: Api) -> None:
    """RFC 9457 members and the original's `{message, error, statusCode}` in one document."""
    answer = api.post("/nowhere?tenantId=secret")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (body["message"], body["error"], body["statusCode"]) == ("Route POST:/nowhere not found", "Not Found", 404)
    assert (body["code"], body["status"], body["title"]) == ("route_not_found", 404, "Not Found")
    assert body["request_id"] == answer.headers["x-request-id"]
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/events/ingest"), ("DELETE", "/v1/events"), ("PUT", "/health")]
)
def test_a_wrong_method_names_the_right_ones(api: Api, method: str, path: str) -> None:
    """405 with `Allow`."""
    answer = api.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] in ("GET", "POST")
    Problem.model_validate(answer.json())


@pytest.mark.parametrize(
    ("sent", "is_adopted"),
    [("abc-123", True), ("x" * 128, True), ("x" * 129, False), ("é".encode(), False), ("a\tb", False), (None, False)],
)
def test_a_request_id_is_adopted_when_it_is_short_and_printable(
    api: Api, sent: str | bytes | None, is_adopted: bool
) -> None:
    """Echoed in the header; otherwise a new one of ours, which differs each time."""
    headers = [] if sent is None else [(b"x-request-id", sent if isinstance(sent, bytes) else sent.encode())]
    echoed = [api.get("/health", headers=headers).headers["x-request-id"] for _ in range(2)]
    if is_adopted:
        assert echoed == [sent, sent]
    else:
        assert sent not in echoed
        assert uuid.UUID(echoed[0]) != uuid.UUID(echoed[1])


def test_cors_is_off_unless_an_origin_is_set(api: Api, start_api: StartApi, database_url: str) -> None:
    """With API_CORS_ORIGIN the listed origins may read, on the hot route as well; others still may not."""
    assert "access-control-allow-origin" not in api.get("/health", headers={"origin": "https://a.example"}).headers
    open_api = start_api(DATABASE_URL=database_url, API_CORS_ORIGIN="https://a.example, https://b.example")
    for path, method in (("/health", "GET"), ("/v1/events/ingest", "POST")):
        allowed = open_api.request(method, path, headers={"origin": "https://b.example"}).headers
        assert allowed["access-control-allow-origin"] == "https://b.example"
        refused = open_api.request(method, path, headers={"origin": "https://c.example"}).headers
        assert "access-control-allow-origin" not in refused


def test_an_unforeseen_error_says_nothing_about_itself(start_api: StartApi, own_database_url: str) -> None:
    """500 with a request id to search the log for, and none of the exception's words."""
    api = start_api(DATABASE_URL=own_database_url)
    with psycopg.connect(own_database_url) as connection:
        connection.execute("drop table events cascade")
    for path in READS[:1] + READS[3:]:
        answer = api.get(path)
        assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
        assert answer.json()["message"] == "An internal server error occurred."
        assert "events" not in answer.text.replace("/v1/events", "")
        assert answer.headers["x-request-id"] == answer.json()["request_id"]


def test_reads_without_a_database_fail_quickly_and_recover(
    start_api: StartApi, closed_database: tuple[str, psycopg.Connection]
) -> None:
    """503 with Retry-After within 3 s, never zero or empty; right again soon after the database is."""
    url, connection = closed_database
    api = start_api(DATABASE_URL=url)
    post_events(api, [{"ts": "2026-01-01T00:00:00Z", "tenantId": "t", "customerRef": "c", "metric": "m"}])
    before = [api.get(path) for path in READS]
    assert [answer.status_code for answer in before] == [200] * len(READS)
    _allow(connection, url, is_allowed=False)
    for path in READS:
        started = time.monotonic()
        answer = api.get(path)
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert time.monotonic() - started < 3
        assert int(answer.headers["retry-after"]) >= 1
        assert "postgres" not in answer.text.lower()
    _allow(connection, url, is_allowed=True)
    deadline = time.monotonic() + 15
    while (answer := api.get(READS[0])).status_code == 503:
        assert time.monotonic() < deadline, "reads did not recover"
    assert answer.json() == before[0].json()
