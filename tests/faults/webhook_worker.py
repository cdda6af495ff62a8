"""A real receiver in front of a database, told by the emulator: two destinations, each with a secret of its own."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import httpx2

from tests.api.serving import start_worker, wait_alive
from tests.emulator import RunningEmulator

PATH = "/v1/stripe/webhooks"


@contextmanager
def receiving_worker(emulator: RunningEmulator, database_url: str, log: Path) -> Iterator[None]:
    """An API worker that the emulator delivers every event to, on demand."""
    emulator.control("POST", "/deliveries", {"mode": "on_demand"})
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        secrets = [_thin_destination(emulator, url + PATH), _snapshot_endpoint(emulator, url + PATH)]
        process = start_worker(
            listener.fileno(),
            log,
            {"DATABASE_URL": database_url, "STRIPEMETER_STRIPE_WEBHOOK_SECRETS": ",".join(secrets)},
        )
    try:
        with httpx2.Client(base_url=url, timeout=20) as client:
            wait_alive(client, process, log)
        yield
    finally:
        process.terminate()
        assert process.wait(20) == 0


def deliver(emulator: RunningEmulator, now: datetime) -> dict[str, int]:
    """Let the emulator come to `now` and try what is due there, once: how many deliveries were answered well."""
    emulator.freeze(now)
    counted: dict[str, int] = emulator.control("POST", "/deliver")
    return counted


def _thin_destination(emulator: RunningEmulator, url: str) -> str:
    made = emulator.client().v2.core.event_destinations.create(
        {
            "name": "errors",
            "type": "webhook_endpoint",
            "event_payload": "thin",
            "enabled_events": ["*"],
            "webhook_endpoint": {"url": url},
            "include": ["webhook_endpoint.signing_secret"],
        }
    )
    assert made.webhook_endpoint is not None
    assert made.webhook_endpoint.signing_secret is not None
    return made.webhook_endpoint.signing_secret


def _snapshot_endpoint(emulator: RunningEmulator, url: str) -> str:
    made = emulator.client().v1.webhook_endpoints.create({"url": url, "enabled_events": ["*"]})
    assert made.secret is not None
    return made.secret
