"""A Stripe account whose prices and subscriptions a test writes down, in front of the emulator.

A real HTTP server on a free port: it answers for prices, subscriptions and their items from what the test said, and
passes everything else on to the emulator, which knows the account, its meters, customers and events.
"""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from tests.emulator import RunningEmulator


@dataclass(slots=True, kw_only=True)
class WrittenAccount:
    """What the account has; `is_down`: it answers everything with 503. `requests`: method and path, as they came."""

    emulator: RunningEmulator
    url: str = ""
    prices: dict[str, dict[str, Any]] = field(default_factory=dict)
    items: dict[str, tuple[str, str]] = field(default_factory=dict)
    is_down: bool = False
    requests: list[str] = field(default_factory=list)

    @property
    def account_id(self) -> str:
        """The account behind the emulator's key."""
        return str(self.emulator.client().v1.accounts.retrieve_current().id)

    def add_meter(self, event_name: str, *, formula: Literal["sum", "count", "last"] = "sum") -> str:
        """A meter at the emulator."""
        meter = self.emulator.client().v1.billing.meters.create(
            {"event_name": event_name, "display_name": event_name, "default_aggregation": {"formula": formula}}
        )
        return str(meter.id)

    def add_customer(self) -> str:
        """A customer at the emulator."""
        return str(self.emulator.client().v1.customers.create({}).id)

    def add_price(self, price_id: str, meter: str | None, *, currency: str = "usd") -> str:
        """A monthly price on a meter; without one a licensed price."""
        recurring = {"interval": "month", "usage_type": "licensed" if meter is None else "metered", "meter": meter}
        self.prices[price_id] = {
            "id": price_id,
            "object": "price",
            "active": True,
            "currency": currency,
            "recurring": recurring,
        }
        return price_id

    def subscribe(self, item_id: str, customer: str, price_id: str) -> str:
        """An active subscription of one item."""
        self.items[item_id] = (customer, price_id)
        return item_id

    def answer(self, path: str, query: dict[str, list[str]]) -> dict[str, Any] | None:
        """What it answers to a GET; None: the emulator knows."""
        kind, _, name = path.removeprefix("/v1/").partition("/")
        if kind == "prices":
            return self.prices.get(name) or _missing(f"No such price: '{name}'")
        if kind == "subscription_items":
            return self._item(name) if name in self.items else _missing(f"No such subscription_item: '{name}'")
        if kind == "subscriptions":
            mine = [item for item, (customer, _) in self.items.items() if [customer] == query["customer"]]
            return _page(path, [self._subscription(item) for item in mine])
        return None

    def _item(self, item_id: str) -> dict[str, Any]:
        return {"id": item_id, "object": "subscription_item", "price": self.prices[self.items[item_id][1]]}

    def _subscription(self, item_id: str) -> dict[str, Any]:
        items = _page("/v1/subscription_items", [self._item(item_id)])
        return {"id": f"sub_{item_id}", "object": "subscription", "status": "active", "items": items}


@contextmanager
def written_account(emulator: RunningEmulator) -> Iterator[WrittenAccount]:
    """Serve an account with nothing in it."""
    account = WrittenAccount(emulator=emulator)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def log_message(self, *_: object) -> None:
            """The test's output is its own."""

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0)) or None
            account.requests.append(f"{self.command} {urlsplit(self.path).path}")
            status, answer = self._find(body)
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def _find(self, body: bytes | None) -> tuple[int, bytes]:
            if account.is_down:
                return 503, b'{"error": {"type": "api_error", "message": "down"}}'
            parts = urlsplit(self.path)
            written = account.answer(parts.path, parse_qs(parts.query)) if self.command == "GET" else None
            if written is not None:
                return (404 if "error" in written else 200), json.dumps(written).encode()
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
            asked = urllib.request.Request(emulator.url + self.path, data=body, method=self.command, headers=headers)
            try:
                with urllib.request.urlopen(asked, timeout=10) as response:
                    return response.status, response.read()
            except urllib.error.HTTPError as error:
                return error.code, error.read()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    account.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield account
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


_HOP = ("host", "connection", "content-length", "accept-encoding")


def _page(url: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"object": "list", "url": url, "has_more": False, "data": rows}


def _missing(message: str) -> dict[str, Any]:
    return {"error": {"type": "invalid_request_error", "code": "resource_missing", "message": message}}
