from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg
import pytest

import stripemeter
from stripemeter.pipeline.fold import fold
from stripemeter.store.postgres import open_pool
from stripemeter_api.documents import ReadyAnswer
from tests.api.serving import Api, StartApi, post_events

HEARTBEATS = """
create schema dagster;
create table dagster.daemon_heartbeats (
    id bigserial primary key, daemon_type varchar(255) unique not null, daemon_id varchar(255),
    "timestamp" timestamp not null, body text
);
"""


@pytest.fixture
def stripe_base() -> Iterator[str]:
    """The address of an HTTP server that answers anything with 401, as Stripe does without a key."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the name http.server calls
            self.send_response(401)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()


def beat(url: str, at: datetime) -> None:
    """A daemon reports, as Dagster writes it: UTC without a zone."""
    with psycopg.connect(url) as connection:
        connection.execute(
            "insert into dagster.daemon_heartbeats (daemon_type, \"timestamp\") values ('SENSOR', %(at)s) "
            'on conflict (daemon_type) do update set "timestamp" = excluded."timestamp"',
            {"at": at.astimezone(UTC).replace(tzinfo=None)},
        )


def test_a_process_that_answers_is_ok_and_alive(api: Api) -> None:
    """The original's two probes that ask nothing of anybody."""
    body = api.get("/health").json()
    assert body["status"] == "ok"
    assert abs(datetime.fromisoformat(body["timestamp"]) - datetime.now(UTC)) < timedelta(minutes=1)
    assert api.get("/health/live").json() == {"status": "alive"}


def test_ready_is_healthy_only_when_everything_works(
    start_api: StartApi, own_database_url: str, stripe_base: str
) -> None:
    """Healthy, then degraded (still 200) for each thing that stops working, one sentence each."""
    api = start_api(
        DATABASE_URL=own_database_url, STRIPE_SECRET_KEY="sk_test_x", STRIPEMETER_STRIPE_API_BASE=stripe_base
    )

    def ready() -> tuple[int, str, list[str]]:
        answer = api.get("/health/ready")
        body = ReadyAnswer.model_validate(answer.json())
        assert body.version == stripemeter.__version__
        failing = [name for name, passed in body.checks.model_dump().items() if not passed]
        assert len(failing) == len(body.reasons)
        return answer.status_code, body.status, failing

    assert ready() == (200, "degraded", ["workers"])
    with psycopg.connect(own_database_url) as connection:
        connection.execute(HEARTBEATS)
    assert ready() == (200, "degraded", ["workers"])
    beat(own_database_url, datetime.now(UTC))
    assert ready() == (200, "healthy", [])
    post_events(api, [{"ts": "2026-01-01T00:00:00Z"}])
    with psycopg.connect(own_database_url) as connection:  # an event nobody has counted for two minutes
        connection.execute("update events set received_at = received_at - interval '2 minutes'")
    assert ready() == (200, "degraded", ["fold"])
    with open_pool(own_database_url) as pool:
        fold(pool)
    beat(own_database_url, datetime.now(UTC) - timedelta(minutes=10))
    assert ready() == (200, "degraded", ["workers"])


def test_ready_measures_the_ingest_rate_between_looks(start_api: StartApi, own_database_url: str) -> None:
    """Nothing to compare with at first: null, not zero; then what was accepted since."""
    api = start_api(DATABASE_URL=own_database_url)
    assert api.get("/health/ready").json()["metrics"]["eventsPerSecond"] is None
    post_events(api, [{"ts": "2026-01-01T00:00:00Z", "quantity": number} for number in range(10)])
    metrics = api.get("/health/ready").json()["metrics"]
    assert 0 < metrics["eventsPerSecond"] < 10_000
    assert metrics["writerLag"] > 0
    assert metrics["reconciliationDiff"] is None


def test_ready_is_unhealthy_without_a_database(start_api: StartApi) -> None:
    """503 within 3 s, also when the server accepts the connection and then says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as mute, socket.create_server(("127.0.0.1", 0)) as gone:
        ports = [mute.getsockname()[1], gone.getsockname()[1]]
        gone.close()
        for port in ports:
            api = start_api(DATABASE_URL=f"postgresql://nobody:x@127.0.0.1:{port}/nothing")
            started = time.monotonic()
            answer = api.get("/health/ready")
            assert time.monotonic() - started < 3
            assert (answer.status_code, answer.json()["status"]) == (503, "unhealthy")
            assert answer.json()["checks"]["database"] is False
            assert answer.json()["metrics"] == {"eventsPerSecond": None, "writerLag": None, "reconciliationDiff": None}
            assert api.get("/v1/usage/current?tenantId=t&customerRef=c").status_code == 503


def test_an_unreachable_stripe_degrades_within_a_second(start_api: StartApi, database_url: str) -> None:
    """A base that takes connections and never answers costs one second, once in ten."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        base = f"http://127.0.0.1:{mute.getsockname()[1]}"
        api = start_api(DATABASE_URL=database_url, STRIPE_SECRET_KEY="sk_test_x", STRIPEMETER_STRIPE_API_BASE=base)
        answers = []
        for _ in range(2):
            started = time.monotonic()
            answers.append(api.get("/health/ready"))
            assert time.monotonic() - started < 2.5
        assert all(answer.status_code == 200 and answer.json()["checks"]["stripe"] is False for answer in answers)
