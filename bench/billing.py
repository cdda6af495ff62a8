"""What the benches of pushes need: a Stripe emulator, and a database whose customers have usage and an outbox.

Belongs here: starting the emulator, filling both sides alike. Does not: measuring (`pushing`).
"""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from pathlib import Path
from typing import Any

import stripe
from psycopg_pool import ConnectionPool
from pydantic import SecretStr

from bench.context import Context
from stripemeter.billing import BillingSink, open_sink
from stripemeter.billing.sink import Transport
from stripemeter.errors import Unavailable
from stripemeter.runtime import ports
from stripemeter.runtime.children import spawn
from stripemeter.runtime.services import answers_ok
from stripemeter.store.mappings import PriceMapping, create_mapping
from stripemeter.store.postgres import transaction

_FILL = Path(__file__).parent / "sql" / "fill_pushes.sql"
_START_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkSettings:
    """What a sink is opened with."""

    stripe_test_secret_key: SecretStr
    stripe_api_base: str
    stripe_secret_key: SecretStr | None = None
    allow_live: bool = False
    stripe_calls_per_second: float | None = None
    stripe_transport: Transport = "v1"
    connected_accounts: tuple[str, ...] = ()


@contextmanager
def emulator(context: Context, state: Path | None = None) -> Iterator[str]:
    """The URL of a Stripe emulator; in memory without `state`."""
    port = ports.claim("127.0.0.1", 0, setting="port")
    log = context.scratch / f"emulator-{port}.log"
    argv = [context.python, "-m", "stripe_emulator", "--port", str(port)]
    if state is not None:
        argv += ["--state", str(state)]
    with log.open("wb") as output:
        process = spawn(argv, log=output, env={}, cwd=Path(__file__).parent.parent)
    try:
        deadline = time.monotonic() + _START_SECONDS
        is_ready = answers_ok("127.0.0.1", port, "/_emu/health")
        while not is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise Unavailable(f"the emulator did not start:\n{log.read_text(encoding='utf-8')[-2000:]}")
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def open_account(url: str, key: str | None = None) -> tuple[str, BillingSink]:
    """The key of an account, a new one by default, and the account as a sink."""
    key = key or f"sk_test_{uuid.uuid4().hex}"
    return key, open_sink(SinkSettings(stripe_test_secret_key=SecretStr(key), stripe_api_base=url))


def bare_client(url: str, key: str) -> stripe.StripeClient:
    """Stripe's own SDK, without retries, as a loop over it would use it."""
    bases: Any = dict.fromkeys(("api", "files", "connect", "meter_events"), url)
    return stripe.StripeClient(
        key, base_addresses=bases, max_network_retries=0, http_client=stripe.RequestsClient(timeout=20)
    )


def fill(
    pool: ConnectionPool, sink: BillingSink, *, customers: int, days: Sequence[date], now: datetime, is_sent: bool
) -> str:
    """Map `calls`, give every customer 5 on every day, `is_sent` or not; returns the Stripe meter's id."""
    meter = sink.ensure_meter(event_name="calls", display_name="Calls")
    values = {"account": sink.account_id(), "customers": customers, "days": list(days), "now": now, "is_sent": is_sent}
    with transaction(pool) as tx:
        create_mapping(
            tx,
            PriceMapping(
                id=uuid.uuid4(),
                tenant_id="bench",
                meter="calls",
                aggregation="sum",
                stripe_account_id=sink.account_id(),
                stripe_event_name="calls",
                stripe_meter_id=meter.stripe_meter_id,
                mode=sink.mode,
                created_at=now,
            ),
        )
        for statement in _FILL.read_text(encoding="utf-8").split(";\n"):
            if statement.strip():
                tx.execute(statement.encode(), values)
    with pool.connection() as connection:
        connection.autocommit = True
        connection.execute("vacuum analyze")
        connection.autocommit = False
    return meter.stripe_meter_id


def fill_stripe(state: Path, *, account: str, meter: str, customers: int, days: Sequence[date], now: datetime) -> None:
    """The same customers and days in the state of an emulator that is not running; it has one customer to copy."""
    received = int(now.timestamp())
    with closing(sqlite3.connect(state)) as db, db:
        (model,) = db.execute("select body from objects where kind = 'customer' and account = ?", (account,)).fetchone()
        names = [f"cus_{number}" for number in range(1, customers + 1)]
        db.executemany(
            "insert into objects (account, kind, id, name, body) values (?, 'customer', ?, ?, ?)",
            [(account, name, name, json.dumps(json.loads(model) | {"id": name})) for name in names],
        )
        stamps = [int(datetime.combine(day, time_of_day(23), UTC).timestamp()) for day in days]
        db.executemany(
            "insert into meter_events (account, identifier, event_name, meter, customer, ts, value, received_at, state)"
            " values (?, ?, 'calls', ?, ?, ?, '5', ?, 'visible')",
            [(account, f"bench {name} {ts}", meter, name, ts, received) for name in names for ts in stamps],
        )


def last_days(count: int, now: datetime) -> list[date]:
    """That many whole days before `now`, the oldest first."""
    return [now.date() - timedelta(days=ago) for ago in range(count, 0, -1)]
