"""What the emulator tells by itself: error reports as thin events, invoices as snapshots, signed deliveries."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import stripe
from stripe.events import V1BillingMeterErrorReportTriggeredEvent, V1BillingMeterErrorReportTriggeredEventNotification

from tests.contract.test_emulator_async import NOW, Metered
from tests.emulator import RunningEmulator

REPORT = "v1.billing.meter.error_report_triggered"
NO_METER = "v1.billing.meter.no_meter_found"


@dataclass(slots=True)
class Receiver:
    """A webhook receiver: what came, and with which status it answers."""

    url: str
    status: int = 200
    came: list[tuple[str, bytes]] = field(default_factory=list)
    more: threading.Condition = field(default_factory=threading.Condition)

    def take(self, count: int) -> list[tuple[str, bytes]]:
        """The first `count` deliveries, waiting for them."""
        with self.more:
            assert self.more.wait_for(lambda: len(self.came) >= count, timeout=30)
            return self.came[:count]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver on a free port."""
    box: list[Receiver] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            with box[0].more:
                box[0].came.append((self.headers["stripe-signature"], body))
                box[0].more.notify_all()
            self.send_response(box[0].status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    box.append(Receiver(url=f"http://127.0.0.1:{server.server_port}/hooks?of=stripe"))
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    yield box[0]
    server.shutdown()
    serving.join()
    server.server_close()


@pytest.fixture
def metered(emulator: RunningEmulator) -> Metered:
    """A meter and a customer; deliveries only on demand."""
    emulator.control("POST", "/deliveries", {"mode": "on_demand"})
    return Metered(emulator)


def thin_destination(metered: Metered, url: str, *kinds: str) -> str:
    """Register a destination of thin events; its signing secret."""
    made = metered.client.v2.core.event_destinations.create(
        {
            "name": "errors",
            "type": "webhook_endpoint",
            "event_payload": "thin",
            "enabled_events": list(kinds) or ["*"],
            "webhook_endpoint": {"url": url},
            "include": ["webhook_endpoint.signing_secret"],
        }
    )
    assert made.webhook_endpoint is not None
    assert made.webhook_endpoint.signing_secret is not None
    assert made.webhook_endpoint.url is None
    return made.webhook_endpoint.signing_secret


def deliver(metered: Metered) -> dict[str, int]:
    """One round of deliveries."""
    counted: dict[str, int] = metered.emulator.control("POST", "/deliver")
    return counted


def subscribe(metered: Metered) -> None:
    """A subscription that drafts an invoice in a month."""
    product = metered.client.v1.products.create({"name": "Calls"})
    price = metered.client.v1.prices.create(
        {
            "product": product.id,
            "currency": "usd",
            "unit_amount": 5,
            "recurring": {"interval": "month", "usage_type": "metered", "meter": metered.meter},
        }
    )
    metered.client.v1.subscriptions.create({"customer": metered.customer, "items": [{"price": price.id}]})


def test_rejected_events_are_reported_in_windows_of_ten_seconds(metered: Metered) -> None:
    """E1-E3: one thin event per meter and window once it has ended, with counts by code and samples; none else."""
    for number in range(7):
        metered.client.v1.billing.meter_events.create(
            {
                "event_name": "calls",
                "identifier": f"e{number}",
                "payload": {"stripe_customer_id": "cus_nobody", "value": "1"},
            },
            {"idempotency_key": f"key-{number}"},
        )
    metered.client.v1.billing.meter_events.create(
        {"event_name": "calls", "payload": {"stripe_customer_id": metered.customer}}
    )
    metered.at(NOW + 9)
    assert metered.client.v2.core.events.list().data == []
    metered.at(NOW + 10)
    (event,) = metered.client.v2.core.events.list().data
    assert isinstance(event, V1BillingMeterErrorReportTriggeredEvent)
    assert event.data.validation_start == "2026-11-23T12:00:00.000Z"
    assert event.data.validation_end == "2026-11-23T12:00:10.000Z"
    assert event.fetch_related_object().id == metered.meter
    assert event.data.reason.error_count == 8
    missing, valueless = event.data.reason.error_types
    assert (missing.code, missing.error_count) == ("meter_event_customer_not_found", 7)
    assert [sample.request.identifier for sample in missing.sample_errors] == [f"key-{number}" for number in range(5)]
    assert (valueless.code, valueless.error_count) == ("meter_event_value_not_found", 1)
    reports = [told["report"] for told in metered.emulator.ledger()]
    assert reports == [event.id] * 8
    metered.at(NOW + 60)
    assert len(metered.client.v2.core.events.list().data) == 1


def test_events_without_a_meter_are_reported_apart(metered: Metered) -> None:
    """E4: an unknown event name has no related object; an archived meter still has its own."""
    metered.client.v1.billing.meter_events.create({"event_name": "typo", "payload": {"value": "1"}})
    metered.client.v1.billing.meters.deactivate(metered.meter)
    metered.send("1", "a")
    metered.at(NOW + 10)
    archived, unknown = sorted(metered.client.v2.core.events.list().data, key=lambda event: event.type)
    assert isinstance(archived, V1BillingMeterErrorReportTriggeredEvent)
    assert archived.data.reason.error_types[0].code == "archived_meter"
    assert (unknown.type, "related_object" in unknown) == (NO_METER, False)


def test_a_report_waits_for_the_lag_and_names_the_key_either_way(metered: Metered) -> None:
    """E3, E5: what is decided after the lag is reported then; the key's member and the samples are knobs."""
    metered.emulator.control("POST", "/metering", {"sample_member": "idempotency_key", "sample_errors": 1})
    metered.emulator.control("POST", "/ingest_lag", {"seconds": 600})
    metered.emulator.fault(
        {"match": {"identifier_re": "^b"}, "do": {"kind": "accept_then_async_reject", "code": "archived_meter"}},
        {"match": {"identifier_re": "^d"}, "do": {"kind": "drop_async"}},
    )
    for identifier in ("bad", "dropped", "good"):
        metered.send("1", identifier)
    metered.at(NOW + 609)
    assert metered.client.v2.core.events.list().data == []
    metered.at(NOW + 610)
    (event,) = metered.client.v2.core.events.list().data
    body = json.loads(json.dumps(event.to_dict()))
    (kind,) = body["data"]["reason"]["error_types"]
    assert (kind["code"], kind["error_count"]) == ("archived_meter", 1)
    keys = [entry["idempotency_key"] for entry in metered.emulator.journal() if entry["identifier"] == "bad"]
    assert [sample["request"] for sample in kind["sample_errors"]] == [{"idempotency_key": keys[0]}]


def test_a_thin_event_is_delivered_signed(metered: Metered, receiver: Receiver) -> None:
    """H1, H2: the official SDK verifies it, fetches the event and finds the meter; another secret is refused."""
    secret = thin_destination(metered, receiver.url, REPORT)
    metered.send("1", "a", customer="cus_nobody")
    assert deliver(metered) == {"delivered": 0, "failed": 0}
    metered.at(NOW + 10)
    assert deliver(metered) == {"delivered": 1, "failed": 0}
    ((signature, body),) = receiver.take(1)
    notification = metered.client.parse_event_notification(body, signature, secret)
    assert isinstance(notification, V1BillingMeterErrorReportTriggeredEventNotification)
    assert notification.fetch_related_object().id == metered.meter
    assert notification.fetch_event().data.reason.error_count == 1
    assert "data" not in json.loads(body)
    with pytest.raises(stripe.SignatureVerificationError):
        metered.client.parse_event_notification(body, signature, "whsec_other")
    with pytest.raises(stripe.SignatureVerificationError):
        metered.client.parse_event_notification(body.replace(b"evt", b"tve"), signature, secret)
    assert deliver(metered) == {"delivered": 0, "failed": 0}


def test_snapshots_go_to_webhook_endpoints(metered: Metered, receiver: Receiver) -> None:
    """H3: an invoice is told when it is drafted, finalized and paid, by itself; only types an endpoint wants."""
    endpoint = metered.client.v1.webhook_endpoints.create(
        {"url": receiver.url, "enabled_events": ["invoice.created", "invoice.paid"]}
    )
    assert endpoint.secret is not None
    assert "secret" not in metered.client.v1.webhook_endpoints.retrieve(endpoint.id)
    subscribe(metered)
    metered.at(NOW + 31 * 86_400)
    deliver(metered)
    told = []
    for signature, body in receiver.take(2):
        event = metered.client.construct_event(body, signature, endpoint.secret)
        assert metered.client.v1.events.retrieve(event.id).type == event.type
        told.append((event.type, event.data.object["status"]))
    assert told == [("invoice.created", "draft"), ("invoice.paid", "paid")]
    assert [event.type for event in metered.client.v1.events.list({"type": "invoice.*"}).data] == [
        "invoice.paid",
        "invoice.finalized",
        "invoice.created",
    ]
    metered.client.v1.webhook_endpoints.update(endpoint.id, {"disabled": True})
    metered.at(NOW + 70 * 86_400)
    assert deliver(metered) == {"delivered": 0, "failed": 0}
    assert metered.client.v1.webhook_endpoints.delete(endpoint.id).deleted is True
    with pytest.raises(stripe.InvalidRequestError, match="No such event"):
        metered.client.v1.events.retrieve(event.id + "x")


@pytest.mark.parametrize("order", ["reversed", "shuffled"])
def test_deliveries_are_repeated_and_reordered_on_demand(metered: Metered, receiver: Receiver, order: str) -> None:
    """H4: every copy is sent, in another order than that of the events."""
    metered.emulator.control("POST", "/deliveries", {"copies": 2, "order": order})
    thin_destination(metered, receiver.url)
    for window in range(4):
        metered.at(NOW + 10 * window)
        metered.send("1", f"e{window}", customer="cus_nobody")
    metered.at(NOW + 60)
    assert deliver(metered) == {"delivered": 4, "failed": 0}
    came = [json.loads(body)["created"] for _, body in receiver.take(8)]
    assert len(receiver.came) == 8
    assert sorted(came) == sorted(2 * sorted(set(came)))
    assert came != sorted(came)


def test_deliveries_are_tried_again(metered: Metered, receiver: Receiver) -> None:
    """H5: after another status than 2xx, on the emulator's clock, until the tries are used up."""
    metered.emulator.control("POST", "/deliveries", {"retry_seconds": [60, 600]})
    thin_destination(metered, receiver.url)
    receiver.status = 500
    metered.send("1", "a", customer="cus_nobody")
    metered.at(NOW + 10)
    assert deliver(metered) == {"delivered": 0, "failed": 1}
    metered.at(NOW + 69)
    assert deliver(metered) == {"delivered": 0, "failed": 0}
    metered.at(NOW + 70)
    assert deliver(metered) == {"delivered": 0, "failed": 1}
    receiver.status = 204
    metered.at(NOW + 670)
    assert deliver(metered) == {"delivered": 1, "failed": 0}
    (told,) = metered.emulator.control("GET", "/deliveries")["deliveries"]
    assert (told["outcome"], told["attempts"], told["status"]) == ("delivered", 3, 204)
    assert "secret" not in told
    receiver.status = 503
    metered.send("1", "b", customer="cus_nobody")
    for seconds in (680, 740, 1_340, 99_999):
        metered.at(NOW + seconds)
        deliver(metered)
    told = metered.emulator.control("GET", "/deliveries")["deliveries"][1]
    assert (told["outcome"], told["attempts"], told["status"]) == ("given_up", 3, 503)


def test_events_deliver_themselves(metered: Metered, receiver: Receiver) -> None:
    """H6: without anybody's request, once the window has ended."""
    thin_destination(metered, receiver.url)
    metered.send("1", "a", customer="cus_nobody")
    metered.emulator.control("POST", "/deliveries", {"mode": "automatic"})
    metered.at(NOW + 10)
    ((_, body),) = receiver.take(1)
    assert json.loads(body)["type"] == REPORT


@pytest.mark.parametrize("url", ["http://192.0.2.1/x", "https://127.0.0.1/x", "http://localhost.example/", "file:///x"])
def test_nothing_is_sent_to_a_network(metered: Metered, url: str) -> None:
    """H7: only http on a loopback address is accepted, by both kinds of destinations."""
    with pytest.raises(stripe.InvalidRequestError, match="only to http on a loopback address"):
        metered.client.v1.webhook_endpoints.create({"url": url, "enabled_events": ["*"]})
    with pytest.raises(stripe.InvalidRequestError, match="only to http on a loopback address"):
        thin_destination(metered, url)


def test_destinations_live_and_die(metered: Metered, receiver: Receiver) -> None:
    """H8: created, listed, read without a secret, deleted; then nothing is sent there."""
    thin_destination(metered, receiver.url)
    destinations = metered.client.v2.core.event_destinations
    (found,) = destinations.list().data
    assert destinations.retrieve(found.id).webhook_endpoint is None
    destinations.delete(found.id)
    with pytest.raises(stripe.InvalidRequestError, match="No such event destination"):
        destinations.retrieve(found.id)
    metered.send("1", "a", customer="cus_nobody")
    metered.at(NOW + 10)
    assert deliver(metered) == {"delivered": 0, "failed": 0}
    assert len(metered.client.v2.core.events.list().data) == 1


def test_events_are_kept_for_thirty_days(metered: Metered) -> None:
    """E6: a thin event can be fetched for 30 days."""
    metered.send("1", "a", customer="cus_nobody")
    metered.at(NOW + 10)
    (event,) = metered.client.v2.core.events.list().data
    metered.at(NOW + 10 + 30 * 86_400 - 1)
    assert metered.client.v2.core.events.retrieve(event.id).id == event.id
    metered.at(NOW + 10 + 30 * 86_400)
    with pytest.raises(stripe.InvalidRequestError, match="No such event"):
        metered.client.v2.core.events.retrieve(event.id)
    unset: Any = metered.client.v2.core.events.list().data
    assert unset == []
