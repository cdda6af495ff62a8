"""`GET /v1/access`: allowed or blocked by what Stripe's webhooks told, whatever their order; never made up."""

from __future__ import annotations

import hmac
import itertools
import json
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import psycopg
import pytest

from tests.api.conftest import _Workers
from tests.api.serving import Api

SECRET = "whsec_access"
FAILED = datetime(2026, 3, 1, tzinfo=UTC)
ACCOUNT = "acct_access"


@pytest.fixture(scope="module")
def worker(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A worker without a Stripe key, which blocks after 10 days."""
    with _Workers(tmp_path_factory.mktemp("access")) as workers:
        yield workers.start(
            DATABASE_URL=database_url,
            STRIPEMETER_STRIPE_WEBHOOK_SECRETS=SECRET,
            STRIPEMETER_DUNNING_DAYS_UNTIL_BLOCKED="10",
        )


class Payer:
    """A customer bound to a Stripe customer, and what Stripe tells of them."""

    def __init__(self, worker: Api, database_url: str) -> None:
        self.worker = worker
        self.tenant = f"tenant-{uuid.uuid4().hex[:12]}"
        self.stripe = f"cus_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(database_url) as connection:
            connection.execute(
                "insert into customer_bindings"
                " (tenant_id, customer_ref, stripe_account_id, stripe_customer_id, created_at)"
                " values (%s, %s, %s, %s, now())",
                (self.tenant, "ada", ACCOUNT, self.stripe),
            )

    def invoice(self, kind: str, day: int, *, number: int = 1, again_on: int | None = None) -> dict[str, Any]:
        """An event about the invoice `in_<customer>`."""
        at = _seconds(day)
        return self._event(
            f"invoice.{kind}",
            at,
            {
                "id": f"in_{self.stripe}",
                "object": "invoice",
                "customer": self.stripe,
                "attempt_count": number,
                "next_payment_attempt": None if again_on is None else _seconds(again_on),
                "status_transitions": {
                    "finalized_at": _seconds(0),
                    "paid_at": at if kind == "paid" else None,
                    "voided_at": at if kind == "voided" else None,
                },
                "test_clock": None,
            },
        )

    def subscription(self, status: str, day: int) -> dict[str, Any]:
        """An event about the subscription's status."""
        subject = {"id": f"sub_{self.stripe}", "customer": {"id": self.stripe}, "status": status, "test_clock": None}
        return self._event("customer.subscription.updated", _seconds(day), subject)

    def tell(self, *events: dict[str, Any]) -> None:
        """Deliver events, signed."""
        for event in events:
            body, at = json.dumps(event).encode(), int(time.time())
            signature = hmac.new(SECRET.encode(), f"{at}.".encode() + body, "sha256").hexdigest()
            answer = self.worker.post(
                "/v1/stripe/webhooks", content=body, headers={"Stripe-Signature": f"t={at},v1={signature}"}
            )
            assert answer.status_code == 200, answer.text

    def ask(self, day: int | None = None, **more: str) -> httpx2.Response:
        """The answer about `ada` on a day."""
        at = {} if day is None else {"at": (FAILED + timedelta(days=day)).isoformat().replace("+00:00", "Z")}
        return self.worker.get("/v1/access", params={"tenantId": self.tenant, "customerRef": "ada", **at, **more})

    def _event(self, kind: str, at: int, subject: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": f"evt_{uuid.uuid4().hex}",
            "object": "event",
            "type": kind,
            "created": at,
            "livemode": False,
            "account": ACCOUNT,
            "data": {"object": subject},
        }


@pytest.fixture
def payer(worker: Api, database_url: str) -> Payer:
    """A customer of whom nothing is known."""
    return Payer(worker, database_url)


def test_a_customer_of_whom_nothing_is_known_is_allowed(payer: Payer) -> None:
    """And the answer says that nothing is known, what it looked at, and which metric was asked about."""
    answer = payer.ask(metric="api_calls")
    body = answer.json()
    assert (answer.status_code, answer.headers["X-Dunning-State"]) == (200, "ok")
    assert "X-Dunning-Warning" not in answer.headers
    assert (body["allowed"], body["state"], body["reason"]) == (True, "ok", "no payment known")
    assert (body["judged"], body["metric"], body["blockedAt"], body["notices"]) == (["payments"], "api_calls", None, [])


def test_a_failed_payment_warns_blocks_and_is_recovered_from(payer: Payer) -> None:
    """200 with a warning until the tenth day, 402 from then on, 200 when it is paid."""
    payer.tell(payer.invoice("payment_failed", 0, again_on=3))
    warned = payer.ask(2)
    assert (warned.status_code, warned.json()["state"]) == (200, "retry_scheduled")
    assert warned.headers["X-Dunning-Warning"] == "payment failed; access ends at 2026-03-11T00:00:00Z"
    assert payer.ask(3).json()["state"] == "past_due"
    blocked = payer.ask(10)
    body = blocked.json()
    assert (blocked.status_code, blocked.headers["X-Dunning-State"]) == (402, "blocked")
    assert blocked.headers["content-type"] == "application/problem+json"
    assert (body["code"], body["title"], body["allowed"]) == ("payment_required", "Payment Required", False)
    assert (body["blockedAt"], body["unpaidInvoices"]) == ("2026-03-11T00:00:00Z", [f"in_{payer.stripe}"])
    assert [notice["reason"] for notice in body["notices"]] == ["payment_failed", "blocked"]
    payer.tell(payer.invoice("paid", 11, number=2))
    recovered = payer.ask(12)
    assert (recovered.status_code, recovered.json()["state"]) == (200, "recovered")
    assert (payer.ask(18).json()["state"], payer.ask(18).json()["reason"]) == ("ok", "nothing is owed")


def test_order_and_repetition_of_deliveries_change_nothing(worker: Api, database_url: str) -> None:
    """Every order of four events, one of them twice, and the answers of every day are the same."""
    answers = set()
    for order in itertools.islice(itertools.permutations(range(4)), 0, None, 5):
        payer = Payer(worker, database_url)
        told = [
            payer.invoice("payment_failed", 0, number=1, again_on=3),
            payer.invoice("payment_failed", 3, number=2, again_on=8),
            payer.subscription("past_due", 3),
            payer.invoice("paid", 12, number=3),
        ]
        payer.tell(*(told[index] for index in order), told[order[0]])
        answers.add(tuple(payer.ask(day).json()["state"] for day in (1, 3, 9, 11, 12, 30)))
    assert answers == {("retry_scheduled", "retry_scheduled", "past_due", "blocked", "recovered", "ok")}


def test_a_subscription_stripe_gave_up_blocks_until_it_is_active(payer: Payer) -> None:
    """`unpaid` blocks before the policy's days; the later status by Stripe's clock holds, heard of first or last."""
    payer.tell(payer.subscription("active", 6), payer.subscription("unpaid", 4), payer.subscription("past_due", 1))
    assert [payer.ask(day).status_code for day in (1, 4, 5, 6)] == [200, 402, 402, 200]
    payer.tell(payer.subscription("unpaid", 6))
    assert payer.ask(6).status_code == 200  # of the same second: nobody is blocked by a tie


def test_another_customer_or_tenant_is_not_meant(payer: Payer, worker: Api, database_url: str) -> None:
    """Standing is of the bound customer alone."""
    payer.tell(payer.invoice("payment_failed", 0))
    assert payer.ask(20).status_code == 402
    assert payer.ask(20, customerRef="bob").json()["reason"] == "no payment known"
    assert payer.ask(20, tenantId="someone-else").json()["reason"] == "no payment known"


def test_live_events_do_not_count_in_test_mode(payer: Payer) -> None:
    """What live accounts tell counts when usage goes to live accounts."""
    payer.tell({**payer.invoice("payment_failed", 0), "livemode": True})
    assert payer.ask(20).json()["reason"] == "no payment known"


def test_an_event_that_cannot_be_read_yet_is_no_answer(payer: Payer) -> None:
    """Which account is the key's own cannot be asked here: 503, for that customer alone, and no guess."""
    told = payer.invoice("payment_failed", 0)
    del told["account"]
    payer.tell(told)
    answer = payer.ask(20)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert "X-Dunning-State" not in answer.headers
    assert payer.ask(20, customerRef="bob").status_code == 200


def test_what_is_no_invoice_is_refused_and_named(payer: Payer, database_url: str) -> None:
    """It never can be read: it fails, and stands in nobody's way."""
    told = payer.invoice("payment_failed", 0)
    told["data"]["object"]["attempt_count"] = "one"
    payer.tell(told)
    assert payer.ask(20).json()["reason"] == "no payment known"
    with psycopg.connect(database_url) as connection:
        row = connection.execute("select outcome, error_message from stripe_events where id = %s", [told["id"]])
        assert row.fetchone() == ("failed", "data.object.attempt_count must be a number of attempts")


def test_a_database_that_is_down_is_no_answer(tmp_path_factory: pytest.TempPathFactory) -> None:
    """5xx, never allowed and never blocked."""
    with _Workers(tmp_path_factory.mktemp("down")) as workers:
        alone = workers.start(DATABASE_URL="postgresql://nobody@127.0.0.1:1/nothing?connect_timeout=1")
        answer = alone.get("/v1/access", params={"tenantId": "t", "customerRef": "ada"})
    assert answer.status_code == 503
    assert "allowed" not in answer.json()


def test_an_alias_stands_as_its_customer(payer: Payer, database_url: str) -> None:
    """Whatever reference is used."""
    payer.tell(payer.invoice("payment_failed", 0))
    added = payer.worker.put("/v1/customers/ada", params={"tenantId": payer.tenant}, json={"aliases": ["ada-2"]})
    assert added.status_code == 200, added.text
    answer = payer.ask(20, customerRef="ada-2")
    assert (answer.status_code, answer.json()["customerRef"]) == (402, "ada")


def _seconds(day: int) -> int:
    return int((FAILED + timedelta(days=day)).timestamp())
