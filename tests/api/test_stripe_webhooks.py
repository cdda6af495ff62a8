"""`POST /v1/stripe/webhooks`: what Stripe signed is kept once, before it is answered; nothing else is."""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
from psycopg.rows import dict_row

from tests.api.conftest import _Workers
from tests.api.serving import Api, StartApi

PATH = "/v1/stripe/webhooks"
OLD, NEW = "whsec_old", "whsec_new"
LIMIT = 4096


@pytest.fixture(scope="module")
def webhooks(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A worker with two secrets, one of them about to be retired."""
    with _Workers(tmp_path_factory.mktemp("webhooks")) as workers:
        yield workers.start(
            DATABASE_URL=database_url,
            STRIPEMETER_STRIPE_WEBHOOK_SECRETS=f" {OLD}, {NEW} ",
            STRIPEMETER_STRIPE_WEBHOOK_BODY_LIMIT_BYTES=str(LIMIT),
        )


def snapshot(event_id: str, kind: str = "invoice.created", created: int = 1_795_000_000, **more: str) -> dict[str, Any]:
    """A snapshot event (v1)."""
    told = {"id": "in_1", "object": "invoice", "amount_due": 1999, "note": "ü"}
    return {
        "id": event_id,
        "object": "event",
        "type": kind,
        "created": created,
        "livemode": False,
        "data": {"object": told},
        **more,
    }


def thin(event_id: str, kind: str = "v1.billing.meter.error_report_triggered") -> dict[str, Any]:
    """The notification of a thin event (v2)."""
    return {
        "id": event_id,
        "object": "v2.core.event",
        "type": kind,
        "created": "2026-11-23T12:00:30.123Z",
        "livemode": True,
        "context": "acct_other",
        "related_object": {"id": "mtr_1", "type": "billing.meter", "url": "/v1/billing/meters/mtr_1"},
    }


def signed(body: bytes, secret: str = NEW, *, age: int = 0) -> str:
    """The header as Stripe documents it, written here from its documentation and not by its library."""
    at = int(time.time()) - age
    return f"t={at},v1={hmac.new(secret.encode(), f'{at}.'.encode() + body, 'sha256').hexdigest()}"


def deliver(api: Api, event: object, secret: str = NEW) -> httpx2.Response:
    """One delivery."""
    body = json.dumps(event).encode()
    return api.post(PATH, content=body, headers={"Stripe-Signature": signed(body, secret)})


def inbox(database_url: str, *ids: str) -> list[dict[str, Any]]:
    """The rows of these events, in Stripe's order."""
    with psycopg.connect(database_url, row_factory=dict_row) as connection:
        return connection.execute(
            "select * from stripe_events where id = any(%s) order by created_at, id", (list(ids),)
        ).fetchall()


def test_a_signed_snapshot_is_kept_whole(webhooks: Api, database_url: str) -> None:
    """An invoice's event waits for whoever processes its type."""
    event = snapshot("evt_whole")
    answer = deliver(webhooks, event)
    assert (answer.status_code, answer.json()) == (200, {"status": "waiting"})
    (row,) = inbox(database_url, "evt_whole")
    assert row["payload"] == event
    assert (row["type"], row["is_live"], row["is_thin"], row["stripe_account_id"]) == (
        "invoice.created",
        False,
        False,
        None,
    )
    assert row["created_at"].timestamp() == 1_795_000_000
    assert (row["processed_at"], row["outcome"]) == (None, None)


def test_a_signed_thin_event_is_kept_with_its_account(webhooks: Api, database_url: str) -> None:
    """A thin event says when by a text, and whose by its context."""
    assert deliver(webhooks, thin("evt_thin")).json() == {"status": "waiting"}
    (row,) = inbox(database_url, "evt_thin")
    assert (row["is_thin"], row["is_live"], row["stripe_account_id"]) == (True, True, "acct_other")
    assert row["created_at"].isoformat() == "2026-11-23T12:00:30.123000+00:00"


def test_a_type_nobody_processes_is_kept_as_ignored(webhooks: Api, database_url: str) -> None:
    """Stripe sends what an endpoint asked for; answering with an error would only bring it again."""
    assert deliver(webhooks, snapshot("evt_unknown", "customer.mood.changed")).json() == {"status": "ignored"}
    (row,) = inbox(database_url, "evt_unknown")
    assert (row["outcome"], row["processed_at"]) == ("ignored", row["received_at"])


def test_deliveries_again_and_in_any_order_change_nothing(webhooks: Api, database_url: str) -> None:
    """The later event first, each several times at once: two rows, in Stripe's order."""
    later, earlier = snapshot("evt_a", created=1_795_000_020), snapshot("evt_b", created=1_795_000_010)
    with ThreadPoolExecutor(6) as deliveries:
        answers = list(deliveries.map(lambda event: deliver(webhooks, event), [later, later, later, earlier, earlier]))
    assert {answer.status_code for answer in answers} == {200}
    assert sorted(answer.json()["status"] for answer in answers) == ["duplicate"] * 3 + ["waiting"] * 2
    assert deliver(webhooks, later).json() == {"status": "duplicate"}
    assert [row["id"] for row in inbox(database_url, "evt_a", "evt_b")] == ["evt_b", "evt_a"]


def test_a_processed_event_delivered_again_stays_processed(webhooks: Api, database_url: str) -> None:
    """Stripe retries for days: what is done is not done again."""
    deliver(webhooks, snapshot("evt_done"))
    with psycopg.connect(database_url) as connection:
        connection.execute("update stripe_events set processed_at = now(), outcome = 'done' where id = 'evt_done'")
    assert deliver(webhooks, snapshot("evt_done")).json() == {"status": "duplicate"}
    assert inbox(database_url, "evt_done")[0]["outcome"] == "done"


@pytest.mark.parametrize("secret", [OLD, NEW])
def test_either_secret_signs_while_one_is_rotated(webhooks: Api, secret: str) -> None:
    """Both endpoints' deliveries are taken until the old secret is removed."""
    assert deliver(webhooks, snapshot(f"evt_{secret}"), secret).status_code == 200


BODY = json.dumps(snapshot("evt_forged")).encode()


@pytest.mark.parametrize(
    ("body", "header"),
    [
        pytest.param(BODY, None, id="absent"),
        pytest.param(BODY, "", id="empty"),
        pytest.param(BODY, signed(BODY, "whsec_other"), id="another-secret"),
        pytest.param(BODY.replace(b"1999", b"9999"), signed(BODY), id="another-body"),
        pytest.param(BODY, signed(BODY, age=301), id="older-than-five-minutes"),
        pytest.param(BODY, "t=now,v1=00", id="no-instant"),
        pytest.param(BODY, signed(BODY).replace("v1=", "v0="), id="another-scheme"),
        pytest.param(BODY, "t=1,v1=é", id="no-ascii"),
        pytest.param(b"\xff" + BODY, signed(b"\xff" + BODY), id="no-text"),
    ],
)
def test_a_signature_that_does_not_fit_is_refused(
    webhooks: Api, database_url: str, body: bytes, header: str | None
) -> None:
    """400 that names the header, and nothing is kept."""
    headers = {} if header is None else {b"Stripe-Signature": header.encode()}
    answer = webhooks.post(PATH, content=body, headers=headers)
    assert answer.status_code == 400, answer.text
    assert answer.json()["errors"][0]["path"] == "Stripe-Signature"
    assert answer.json()["detail"].startswith("Stripe-Signature ")
    assert "whsec" not in answer.text
    assert inbox(database_url, "evt_forged") == []


@pytest.mark.parametrize(
    ("event", "field"),
    [
        ([], ""),
        ({**snapshot("evt_bad"), "object": "invoice"}, "object"),
        ({**snapshot("evt_bad"), "id": ""}, "id"),
        ({**snapshot("evt_bad"), "type": None}, "type"),
        ({**snapshot("evt_bad"), "livemode": "no"}, "livemode"),
        ({**snapshot("evt_bad"), "created": True}, "created"),
        ({**snapshot("evt_bad"), "created": "yesterday"}, "created"),
        ({**snapshot("evt_bad"), "created": 10**20}, "created"),
        ({**snapshot("evt_bad"), "data": "\0"}, ""),
    ],
)
def test_a_signed_body_that_is_no_event_is_refused(webhooks: Api, database_url: str, event: object, field: str) -> None:
    """400 that names the member, and nothing is kept."""
    answer = deliver(webhooks, event)
    assert answer.status_code == 400, answer.text
    assert [error["path"] for error in answer.json().get("errors") or []] == ([field] if field else [])
    assert inbox(database_url, "evt_bad") == []


def test_a_body_beyond_the_limit_is_refused(webhooks: Api, database_url: str) -> None:
    """413, whatever its signature."""
    answer = deliver(webhooks, snapshot("evt_long", padding="x" * LIMIT))
    assert (answer.status_code, answer.json()["status"]) == (413, 413)
    assert inbox(database_url, "evt_long") == []


def test_without_a_secret_nothing_is_taken(api: Api, database_url: str) -> None:
    """404 that names the setting; not even an empty secret would do."""
    for secret in (NEW, ""):
        answer = deliver(api, snapshot("evt_off"), secret)
        assert answer.status_code == 404
        assert "STRIPEMETER_STRIPE_WEBHOOK_SECRETS" in answer.json()["detail"]
    assert inbox(database_url, "evt_off") == []


def test_without_its_database_it_takes_nothing(start_api: StartApi, tmp_path: Path) -> None:
    """503 with Retry-After: Stripe comes again, and nothing was said to be kept that is not."""
    api = start_api(DATABASE_URL="postgresql://u@127.0.0.1:9/none", STRIPE_WEBHOOK_SECRET=NEW)
    answer = deliver(api, snapshot("evt_down"))
    assert answer.status_code == 503
    assert "retry-after" in answer.headers


def test_waiting_events_are_counted_in_the_metrics(start_api: StartApi, own_database_url: str) -> None:
    """How many wait and how long the first has; what is ignored does not wait."""
    api = start_api(DATABASE_URL=own_database_url, STRIPE_WEBHOOK_SECRET=NEW)
    assert "stripemeter_stripe_events_waiting 0.0" in api.get("/metrics").text
    deliver(api, snapshot("evt_1"))
    deliver(api, thin("evt_2"))
    deliver(api, snapshot("evt_3", "customer.created"))
    with psycopg.connect(own_database_url) as connection:
        connection.execute("update stripe_events set received_at = now() - interval '1 hour' where id = 'evt_1'")
    text = api.get("/metrics").text
    assert "stripemeter_stripe_events_waiting 2.0" in text
    (line,) = [line for line in text.splitlines() if line.startswith("stripemeter_stripe_events_wait_seconds ")]
    assert 3600 <= float(line.split()[1]) < 3700
