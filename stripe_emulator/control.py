"""The control plane `/_emu`: what no Stripe has. Faults, clock, and everything the emulator knows.

Belongs here: these routes. Does not: anything under `/v1`.
"""

from __future__ import annotations

from collections import deque
from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict

from stripe_emulator import TITLE
from stripe_emulator.contract import document_version
from stripe_emulator.faults import Fault, FaultScript
from stripe_emulator.knobs import BillingKnobs, change_knobs, reset_knobs
from stripe_emulator.state import State
from stripe_emulator.wire import Json, encode_json

Account = Annotated[str | None, Query(description="only this account (acct_...); all of them when absent")]


class ClockChange(BaseModel):
    """Exactly one of: stop at an instant, move by seconds (a frozen clock stays frozen), follow the real clock."""

    model_config = ConfigDict(extra="forbid")

    freeze: int | None = None
    advance: int | None = None
    real: bool = False


class ControlPlane:
    """Handlers under `/_emu`, over one emulator's parts. All on the event loop: the state has one thread."""

    def __init__(self, state: State, faults: FaultScript, journal: deque[Json]) -> None:
        self._state = state
        self._faults = faults
        self._journal = journal

    def router(self) -> APIRouter:
        """The routes."""
        router = APIRouter(prefix="/_emu")
        router.add_api_route("/health", self.health, methods=["GET"])
        router.add_api_route("/journal", self.read_journal, methods=["GET"])
        router.add_api_route("/ledger", self.read_ledger, methods=["GET"])
        router.add_api_route("/faults", self.pending_faults, methods=["GET"])
        router.add_api_route("/faults", self.script_faults, methods=["POST"])
        router.add_api_route("/clock", self.change_clock, methods=["POST"])
        router.add_api_route("/billing", self.change_billing, methods=["POST"])
        router.add_api_route("/state", self.forget, methods=["DELETE"])
        return router

    async def health(self) -> Response:
        """What this is, and its clock."""
        return _json({"emulator": TITLE, "livemode": False, "now": self._state.now(), "openapi": document_version()})

    async def read_journal(self, account: Account = None) -> Response:
        """Every request since the start (the last 10,000) with its outcome."""
        return _json({"requests": [entry for entry in self._journal if account in (None, entry.get("account"))]})

    async def read_ledger(self, account: Account = None) -> Response:
        """Every meter event ever received, counted or not."""
        return _json({"events": self._state.ledger(account)})

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

    async def forget(self, account: Account = None) -> Response:
        """Forget one account; or everything, faults, journal, clock and knobs included."""
        self._state.forget(account)
        if account is None:
            self._state.set_clock()
            reset_knobs(self._state)
            self._faults.replace([])
            self._journal.clear()
        return _json({"forgotten": account or "everything"})


def _json(body: Json) -> Response:
    return Response(content=encode_json(body), media_type="application/json", headers={"X-Emulator": "1"})
