"""The dunning lab end to end: a card that fails at the emulator, its webhooks, and what `/v1/access` answers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest

from tests.api.conftest import _Workers
from tests.api.serving import Api
from tests.contract.test_emulator_payments import BAD, DAY, DUE, GOOD, PaidShop
from tests.emulator import RunningEmulator


class Lab(PaidShop):
    """A customer of ours whose usage Stripe bills, and who is asked about."""

    def __init__(self, emulator: RunningEmulator, database_url: str, workers: _Workers) -> None:
        super().__init__(emulator)
        wanted: Any = ["invoice.payment_failed", "invoice.paid", "invoice.voided", "customer.subscription.updated"]
        endpoint = self.client.v1.webhook_endpoints.create(
            {"url": "http://127.0.0.1:9/nowhere", "enabled_events": wanted}
        )
        self.api: Api = workers.start(
            DATABASE_URL=database_url,
            STRIPE_TEST_SECRET_KEY=emulator.key,
            STRIPEMETER_STRIPE_API_BASE=emulator.url,
            STRIPEMETER_STRIPE_WEBHOOK_SECRETS=str(endpoint.secret),
            STRIPEMETER_DUNNING_DAYS_UNTIL_BLOCKED="10",
        )
        self.client.v1.webhook_endpoints.update(endpoint.id, {"url": f"{self.api.base_url}/v1/stripe/webhooks"})
        account = self.client.v1.accounts.retrieve_current().id
        with psycopg.connect(database_url) as connection:
            connection.execute(
                "insert into customer_bindings"
                " (tenant_id, customer_ref, stripe_account_id, stripe_customer_id, created_at)"
                " values ('acme', 'ada', %s, %s, now())",
                (account, self.customer),
            )

    def live_until(self, at: int) -> httpx2.Response:
        """Advance the clock, deliver what Stripe told, ask."""
        self.advance(at)
        self.emulator.control("POST", "/deliver")
        return self.ask(at)

    def ask(self, at: int) -> httpx2.Response:
        """Whether the customer may go on at an instant of the clock."""
        instant = datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
        return self.api.get("/v1/access", params={"tenantId": "acme", "customerRef": "ada", "at": instant})


@pytest.fixture
def lab(emulator: RunningEmulator, database_url: str, tmp_path: Path) -> Iterator[Lab]:
    """The emulator with deliveries on demand, the real API, one customer."""
    emulator.control("POST", "/deliveries", {"mode": "on_demand", "order": "reversed", "copies": 2})
    with _Workers(tmp_path) as workers:
        yield Lab(emulator, database_url, workers)


def test_a_failed_payment_blocks_and_a_paid_one_lets_in(lab: Lab) -> None:
    """Retries are announced, then 402, then paid and 200: each event delivered twice and in reversed order."""
    lab.emulator.control("POST", "/billing", {"retry_days": "3,5"})
    lab.owe(BAD)
    assert lab.ask(DUE).json()["reason"] == "no payment known"
    seen = []
    for day in (0, 3, 8, 9, 10, 11):
        answer = lab.live_until(DUE + day * DAY)
        seen.append((day, answer.status_code, answer.json()["state"]))
    assert seen == [
        (0, 200, "retry_scheduled"),
        (3, 200, "retry_scheduled"),
        (8, 200, "past_due"),
        (9, 200, "past_due"),
        (10, 402, "blocked"),
        (11, 402, "blocked"),
    ]
    good = lab.client.v1.payment_methods.attach(GOOD, {"customer": lab.customer}).id
    (owed,) = lab.invoices()
    lab.client.v1.invoices.pay(owed.id or "", {"payment_method": good})
    answer = lab.live_until(DUE + 12 * DAY)
    assert (answer.status_code, answer.json()["state"]) == (200, "recovered")
    assert [notice["reason"] for notice in answer.json()["notices"]] == ["payment_failed"] * 3 + [
        "blocked",
        "recovered",
    ]
    assert lab.live_until(DUE + 18 * DAY).json()["state"] == "ok"
