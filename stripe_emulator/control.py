"""The control plane `/_emu`: what no Stripe has. Faults, clock, and everything the emulator knows.

Belongs here: these routes. Does not: anything under `/v1`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from stripe_emulator import TITLE, meter_events, received
from stripe_emulator.calls import Call
from stripe_emulator.contract import document_version
from stripe_emulator.deliveries import DeliveryKnobs, change_delivery_knobs, reset_delivery_knobs
from stripe_emulator.faults import Fault, FaultScript
from stripe_emulator.knobs import BillingKnobs, change_knobs, reset_knobs
from stripe_emulator.metering_knobs import (
    MAX_LAG_SECONDS,
    MIN_TAKEN_SECONDS,
    MeteringKnobs,
    change_metering_knobs,
    reset_metering_knobs,
)
from stripe_emulator.state import State
from stripe_emulator.wire import Json, encode_json

Account = Annotated[str | None, Query(description="only this account (acct_...); all of them when absent")]


class ClockChange(BaseModel):
    """Exactly one of: stop at an instant, move by seconds (a frozen clock stays frozen), follow the real clock."""

    model_config = ConfigDict(extra="forbid")

    freeze: int | None = None
    advance: int | None = None
    real: bool = False


class IngestLag(BaseModel):
    """From receipt of an event to its place in the summaries."""

    model_config = ConfigDict(extra="forbid")

    seconds: int = Field(ge=0, le=MAX_LAG_SECONDS)


class DedupWindow(BaseModel):
    """How long an identifier is refused; each one up to `jitter_seconds` longer."""

    model_config = ConfigDict(extra="forbid")

    seconds: int = Field(ge=MIN_TAKEN_SECONDS)
    jitter_seconds: int = Field(default=0, ge=0)


class ForeignEvent(BaseModel):
    """A meter event of another writer of the account: of no request of ours, unknown to journal and faults."""

    model_config = ConfigDict(extra="forbid")

    account: str
    event_name: str
    payload: dict[str, str]
    timestamp: int | None = None
    identifier: str | None = None


class Connection(BaseModel):
    """An account that has let a platform act for it."""

    model_config = ConfigDict(extra="forbid")

    platform: str = Field(pattern=r"^acct_[0-9A-Za-z]+$")
    account: str = Field(pattern=r"^acct_[0-9A-Za-z]+$")


class SnapshotName(BaseModel):
    """What a snapshot is called."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(default="snapshot", min_length=1, max_length=100)


class ControlPlane:
    """Handlers under `/_emu`, over one emulator's parts. All on the event loop: the state has one thread."""

    def __init__(
        self, state: State, faults: FaultScript, journal: deque[Json], deliver: Callable[[], Awaitable[Json]]
    ) -> None:
        self._state = state
        self._faults = faults
        self._journal = journal
        self._deliver = deliver

    def router(self) -> APIRouter:
        """The routes."""
        router = APIRouter(prefix="/_emu")
        for method, path, handler in (
            ("GET", "/health", self.health),
            ("GET", "/journal", self.read_journal),
            ("GET", "/ledger", self.read_ledger),
            ("GET", "/faults", self.pending_faults),
            ("POST", "/faults", self.script_faults),
            ("POST", "/clock", self.change_clock),
            ("POST", "/billing", self.change_billing),
            ("POST", "/metering", self.change_metering),
            ("POST", "/ingest_lag", self.change_ingest_lag),
            ("POST", "/dedup_window", self.change_dedup_window),
            ("POST", "/flush_ingest", self.flush_ingest),
            ("POST", "/foreign_event", self.receive_foreign_event),
            ("POST", "/connected_accounts", self.connect_account),
            ("GET", "/deliveries", self.read_deliveries),
            ("POST", "/deliveries", self.change_deliveries),
            ("POST", "/deliver", self.deliver),
            ("POST", "/snapshot", self.keep_snapshot),
            ("POST", "/restore", self.restore_snapshot),
            ("DELETE", "/state", self.forget),
        ):
            router.add_api_route(path, handler, methods=[method])
        return router

    async def health(self) -> Response:
        """What this is, and its clock."""
        return _json({"emulator": TITLE, "livemode": False, "now": self._state.now(), "openapi": document_version()})

    async def read_journal(self, account: Account = None) -> Response:
        """Every request since the start (the last 10,000) with its outcome."""
        return _json({"requests": [entry for entry in self._journal if account in (None, entry.get("account"))]})

    async def read_ledger(self, account: Account = None) -> Response:
        """Every meter event ever received, counted or not."""
        return _json({"events": self._state.events.ledger(account, self._state.now())})

    async def pending_faults(self) -> Response:
        """How many faults have not happened yet."""
        return _json({"pending": self._faults.pending()})

    async def script_faults(self, script: list[Fault]) -> Response:
        """Replace the script of faults."""
        self._faults.replace(script)
        return _json({"pending": self._faults.pending()})

    async def change_clock(self, change: ClockChange) -> Response:
        """Stop, move or release the clock."""
        if change.freeze is not None:
            self._state.set_clock(frozen=change.freeze)
        elif change.advance is not None and self._state.is_frozen():
            self._state.set_clock(frozen=self._state.now() + change.advance)
        elif change.advance is not None:
            self._state.set_clock(offset=self._state.clock_offset() + change.advance)
        elif change.real:
            self._state.set_clock()
        return _json({"now": self._state.now()})

    async def change_billing(self, knobs: BillingKnobs) -> Response:
        """Change billing knobs, or only read them: an empty object changes nothing."""
        return _json(change_knobs(self._state, knobs).model_dump())

    async def change_metering(self, knobs: MeteringKnobs) -> Response:
        """Change metering knobs, or only read them: an empty object changes nothing."""
        return _json(change_metering_knobs(self._state, knobs).model_dump())

    async def change_ingest_lag(self, lag: IngestLag) -> Response:
        """Let events received from now on wait before they count."""
        knobs = MeteringKnobs(ingest_lag_seconds=lag.seconds)
        return _json(change_metering_knobs(self._state, knobs).model_dump())

    async def change_dedup_window(self, window: DedupWindow) -> Response:
        """Let identifiers received from now on be refused for so long."""
        knobs = MeteringKnobs(taken_seconds=window.seconds, taken_jitter_seconds=window.jitter_seconds)
        return _json(change_metering_knobs(self._state, knobs).model_dump())

    async def flush_ingest(self) -> Response:
        """Let every event and cancel that waits settle now."""
        with self._state.transaction():
            return _json({"settled": self._state.events.flush(self._state.now())})

    async def receive_foreign_event(self, event: ForeignEvent) -> Response:
        """Take in an event as if somebody else had sent it: nothing about it is refused."""
        now = self._state.now()
        call = Call(state=self._state, account=event.account, path="", path_parameters={}, parameters={}, now=now)
        with self._state.transaction():
            reading = meter_events.receive_foreign(
                call, event.event_name, event.identifier, event.timestamp, event.payload
            )
        return _json({"identifier": reading.identifier, "timestamp": reading.ts})

    async def connect_account(self, connection: Connection) -> Response:
        """Let a platform's keys act for an account, by the header `Stripe-Account`."""
        with self._state.transaction():
            received.connect(self._state, connection.platform, connection.account)
        return _json({"platform": connection.platform, "account": connection.account})

    async def read_deliveries(self, account: Account = None) -> Response:
        """Every event on its way or arrived, with its tries."""
        return _json({"deliveries": self._state.deliveries.tell(account)})

    async def change_deliveries(self, knobs: DeliveryKnobs) -> Response:
        """Change delivery knobs, or only read them: an empty object changes nothing."""
        return _json(change_delivery_knobs(self._state, knobs).model_dump())

    async def deliver(self) -> Response:
        """Let happen what is due and try every delivery that is due, once."""
        return _json(await self._deliver())

    async def keep_snapshot(self, snapshot: SnapshotName) -> Response:
        """Keep everything but faults and journal in memory, under a name."""
        self._state.keep_snapshot(snapshot.name)
        return _json({"kept": snapshot.name})

    async def restore_snapshot(self, snapshot: SnapshotName) -> Response:
        """Everything as it was kept: objects, events, keys, knobs and clock."""
        if not self._state.restore_snapshot(snapshot.name):
            return _json({"error": f"no snapshot is called {snapshot.name}"}, status=404)
        return _json({"restored": snapshot.name})

    async def forget(self, account: Account = None) -> Response:
        """Forget one account; or everything, faults, journal, clock and knobs included."""
        self._state.forget(account)
        if account is None:
            self._state.set_clock()
            reset_knobs(self._state)
            reset_metering_knobs(self._state)
            reset_delivery_knobs(self._state)
            self._faults.replace([])
            self._journal.clear()
        return _json({"forgotten": account or "everything"})


def _json(body: Json, *, status: int = 200) -> Response:
    return Response(
        content=encode_json(body), status_code=status, media_type="application/json", headers={"X-Emulator": "1"}
    )
