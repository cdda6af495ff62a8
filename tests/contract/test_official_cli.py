"""The emulator through Stripe's own command line: what one official client understands, the other does too."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.contract.official_cli import OfficialCli, find_program
from tests.emulator import RunningEmulator

pytestmark = pytest.mark.xdist_group("stripe-cli")  # fetched once
NOW = 1_795_435_200  # 2026-11-23 12:00:00 UTC
JSON_HEADERS = {"Content-Type": "application/json", "Stripe-Version": "2024-09-30.acacia"}
SESSION: dict[str, Any] = {
    "name": "session",
    "path": "/v2/billing/meter_event_session",
    "method": "post",
    "headers": JSON_HEADERS,
    "params": {},
}


@pytest.fixture(scope="session")
def program(request: pytest.FixtureRequest) -> Path:
    """Fetched once, kept in pytest's cache."""
    cache = request.config.cache
    assert cache is not None
    return find_program(cache.mkdir("stripe-cli"))


@pytest.fixture
def cli(program: Path, emulator: RunningEmulator, tmp_path: Path) -> OfficialCli:
    """The command line with the emulator as Stripe, at a frozen instant."""
    emulator.freeze(datetime.fromtimestamp(NOW, UTC))
    return OfficialCli(program=program, url=emulator.url, key=emulator.key, home=tmp_path)


def add_meter(cli: OfficialCli) -> str:
    """A sum meter of calls."""
    words = ("--display-name", "Calls", "--event-name", "calls", "-d", "default_aggregation[formula]=sum")
    meter: dict[str, str] = cli.run("billing", "meters", "create", *words)
    return meter["id"]


def send(cli: OfficialCli, customer: str, value: str, identifier: str, ts: int = NOW) -> dict[str, Any]:
    """One event; the answer, or Stripe's error."""
    payload = ("-d", f"payload[stripe_customer_id]={customer}", "-d", f"payload[value]={value}")
    words = ("--event-name", "calls", "--identifier", identifier, "--timestamp", str(ts), *payload)
    answer: dict[str, Any] = cli.run("billing", "meter_events", "create", *words)
    return answer


def summaries(cli: OfficialCli, meter: str, customer: str, *words: str) -> list[tuple[int, float]]:
    """Start and value of the summaries of the hour from NOW."""
    given = ("--customer", customer, "--start-time", str(NOW), "--end-time", str(NOW + 3_600), *words)
    page = cli.run("billing", "meter_event_summaries", "list", meter, *given)
    return [(row["start_time"], row["aggregated_value"]) for row in page["data"]]


def test_usage_from_a_meter_to_its_summary(cli: OfficialCli, emulator: RunningEmulator) -> None:
    """Meter, customer, events, a duplicate, a cancel, summaries: by commands of Stripe's own, and nobody else's."""
    meter, customer = add_meter(cli), cli.run("customers", "create", "--name", "Ada")["id"]
    assert send(cli, customer, "2.5", "first")["identifier"] == "first"
    send(cli, customer, "4", "second", NOW - 60)
    send(cli, customer, "8", "third")
    refused = send(cli, customer, "9", "first")["error"]
    assert (refused["message"], refused["type"], "code" in refused) == (
        "An event already exists with identifier first.",
        "invalid_request_error",
        False,
    )
    assert summaries(cli, meter, customer) == [(NOW, 10.5)]
    words = ("--type", "cancel", "--event-name", "calls", "-d", "cancel[identifier]=third")
    assert cli.run("billing", "meter_event_adjustments", "create", *words)["status"] == "complete"
    assert summaries(cli, meter, customer, "--value-grouping-window", "hour") == [(NOW, 2.5)]
    assert {"stripe-cli" in entry["headers"]["user-agent"] for entry in emulator.journal()} == {True}


def test_meters_are_listed_and_ended(cli: OfficialCli) -> None:
    """Retrieve, update, list by status, deactivate, reactivate."""
    meter = add_meter(cli)
    assert cli.run("billing", "meters", "retrieve", meter)["event_name"] == "calls"
    assert cli.run("billing", "meters", "update", meter, "--display-name", "Requests")["display_name"] == "Requests"
    assert cli.run("billing", "meters", "deactivate", meter)["status"] == "inactive"
    assert cli.run("billing", "meters", "list", "-d", "status=active")["data"] == []
    assert cli.run("billing", "meters", "reactivate", meter)["status"] == "active"


def test_what_is_refused_is_an_error(cli: OfficialCli) -> None:
    """Unknown paths, objects and parameters: Stripe's envelope."""
    for words, code in (
        (("get", "/v1/no_such_path"), None),
        (("customers", "retrieve", "cus_nobody"), "resource_missing"),
        (("post", "/v1/customers", "-d", "shoe_size=42"), "parameter_unknown"),
        (("post", "/v1/billing/meters"), "parameter_missing"),
    ):
        assert cli.run(*words)["error"].get("code") == code


def test_a_subscription_is_billed_on_a_test_clock(cli: OfficialCli) -> None:
    """Clock, customer, tiered price, subscription, usage, credits, a month, the invoice."""
    clock = cli.run("test_helpers", "test_clocks", "create", "--frozen-time", str(NOW))["id"]
    customer = cli.run("customers", "create", "-d", f"test_clock={clock}")["id"]
    meter, product = add_meter(cli), cli.run("products", "create", "--name", "API")["id"]
    price = cli.run(
        "post",
        "/v1/prices",
        *("-d", "currency=usd", "-d", f"product={product}", "-d", "billing_scheme=tiered"),
        *("-d", "tiers_mode=graduated", "-d", "tiers[0][up_to]=10", "-d", "tiers[0][unit_amount]=3"),
        *("-d", "tiers[1][up_to]=inf", "-d", "tiers[1][unit_amount]=2"),
        *("-d", "recurring[interval]=month", "-d", "recurring[usage_type]=metered", "-d", f"recurring[meter]={meter}"),
    )["id"]
    subscription = cli.run("post", "/v1/subscriptions", "-d", f"customer={customer}", "-d", f"items[0][price]={price}")
    end = subscription["items"]["data"][0]["current_period_end"]
    cli.run(
        "post",
        "/v1/billing/credit_grants",
        *("-d", f"customer={customer}", "-d", "amount[type]=monetary", "-d", "amount[monetary][currency]=usd"),
        *("-d", "amount[monetary][value]=7", "-d", "applicability_config[scope][price_type]=metered"),
    )
    send(cli, customer, "15", "usage")
    assert cli.run("test_helpers", "test_clocks", "advance", clock, "--frozen-time", str(end + 3_600))["id"] == clock
    assert cli.run("test_helpers", "test_clocks", "retrieve", clock)["status"] == "ready"
    (invoice,) = cli.run("invoices", "list", "--customer", customer)["data"]
    assert (invoice["status"], invoice["subtotal"], invoice["total"]) == ("paid", 40, 33)
    assert [line["quantity"] for line in invoice["lines"]["data"]] == [10, 5]


@pytest.mark.parametrize(
    ("event", "kind", "code"),
    [
        (
            {"event_name": "${after:data.0.event_name}", "identifier": "${generate-uuid}"},
            "v1.billing.meter.error_report_triggered",
            "meter_event_no_customer_defined",
        ),
        ({"event_name": "${generate-uuid}"}, "v1.billing.meter.no_meter_found", "no_meter"),
    ],
)
def test_stripes_own_scenarios_end_in_error_reports(
    cli: OfficialCli, emulator: RunningEmulator, event: dict[str, str], kind: str, code: str
) -> None:
    """The steps of `stripe trigger` for both: a meter that may be there, a session, a stream without a customer."""
    emulator.control("POST", "/clock", {"real": True})  # the client stamps with its own
    listing = {"path": "/v1/billing/meters", "method": "get", "params": {"status": "active"}}
    meter = {"display_name": "CLI", "event_name": "cli", "default_aggregation": {"formula": "sum"}}
    creation = {"path": "/v1/billing/meters", "method": "post", "params": meter}
    stream: dict[str, Any] = {
        "name": "stream",
        "path": "/v2/billing/meter_event_stream",
        "method": "post",
        "api_base": cli.url,
        "headers": {**JSON_HEADERS, "Authorization": "Bearer ${session:authentication_token}"},
        "params": {"events": [{**event, "timestamp": "${time-now-RFC3339}", "payload": {"value": "1"}}]},
    }
    steps = [
        {"name": "before", **listing},
        {"name": "meter", **creation, "expected_error_type": "invalid_request_error"},
        {"name": "again", **creation, "expected_error_type": "invalid_request_error"},
        {"name": "after", **listing},
        SESSION,
        stream,
    ]
    cli.play(steps)
    emulator.control("POST", "/clock", {"advance": 20})
    (report,) = emulator.client().v2.core.events.list().data
    reason = report.to_dict()["data"]["reason"]
    assert (report.type, [entry["code"] for entry in reason["error_types"]]) == (kind, [code])
    assert [(row["source"], row["reason"]) for row in emulator.ledger()] == [("stream", code)]
