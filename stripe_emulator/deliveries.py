"""Deliveries: sending events, signed as Stripe signs them, at least once and in no promised order.

Belongs here: order, copies, tries. Does not: who is told (`destinations`), what waits (`outbox`).
Rules H of `RULES.md`.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import http.client
import time
from collections import defaultdict
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

from stripe_emulator.outbox import Delivery
from stripe_emulator.state import State
from stripe_emulator.wire import Json

_NAME = "deliveries"
_TIMEOUT_SECONDS = 10
_OK = range(200, 300)


class DeliveryKnobs(BaseModel):
    """`POST /_emu/deliveries`: what is absent stays as it is.

    mode: by itself, or only when `POST /_emu/deliver` says so.
    copies: how often each event is sent.
    order: of what is due at once; `shuffled` is the same for the same deliveries.
    retry_seconds: from one try to the next, on the emulator's clock; afterwards it is given up.
    """

    model_config = ConfigDict(extra="forbid")

    mode: Literal["automatic", "on_demand"] = "automatic"
    copies: int = Field(default=1, ge=1, le=5)
    order: Literal["created", "reversed", "shuffled"] = "created"
    retry_seconds: list[Annotated[int, Field(ge=1)]] = [300, 3_600, 7_200]


def delivery_knobs(state: State) -> DeliveryKnobs:
    """The settings in force."""
    return DeliveryKnobs.model_validate_json(state.setting(_NAME) or "{}")


def change_delivery_knobs(state: State, given: DeliveryKnobs) -> DeliveryKnobs:
    """Set what is given and tell all."""
    changed = delivery_knobs(state).model_copy(update=given.model_dump(exclude_unset=True))
    state.change_setting(_NAME, changed.model_dump_json())
    return changed


def reset_delivery_knobs(state: State) -> None:
    """Every knob back to its default."""
    state.change_setting(_NAME, None)


class Courier:
    """Sends what is due; one round at a time."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._round = asyncio.Lock()

    async def deliver_due(self) -> Json:
        """Try everything that is due once, and tell how many were delivered and how many not."""
        async with self._round:
            knobs = delivery_knobs(self._state)
            due = self._state.deliveries.due(self._state.now())
            answers: dict[int, list[int | None]] = defaultdict(list)
            for delivery in _in_order([copy for copy in due for _ in range(knobs.copies)], knobs.order):
                answers[delivery.seq].append(await asyncio.to_thread(_send, delivery))
            with self._state.transaction():
                outcomes = [self._settle(delivery, answers[delivery.seq], knobs) for delivery in due]
            return {"delivered": outcomes.count("delivered"), "failed": len(outcomes) - outcomes.count("delivered")}

    def _settle(self, delivery: Delivery, answers: list[int | None], knobs: DeliveryKnobs) -> str:
        good = [status for status in answers if status in _OK]
        if good:
            self._state.deliveries.settle(delivery.seq, status=good[0], outcome="delivered", due_at=None)
            return "delivered"
        is_last = delivery.attempts >= len(knobs.retry_seconds)
        outcome = "given_up" if is_last else "waiting"
        next_at = None if is_last else self._state.now() + knobs.retry_seconds[delivery.attempts]
        self._state.deliveries.settle(delivery.seq, status=answers[-1], outcome=outcome, due_at=next_at)
        return outcome


def signature_header(payload: str, secret: str, signed_at: int) -> str:
    """`Stripe-Signature`: the instant, and the HMAC of instant and payload."""
    mac = hmac.new(secret.encode(), f"{signed_at}.{payload}".encode(), hashlib.sha256)
    return f"t={signed_at},v1={mac.hexdigest()}"


def _in_order(sendings: list[Delivery], order: str) -> list[Delivery]:
    if order == "reversed":
        return sendings[::-1]
    if order == "shuffled":
        numbered = enumerate(sendings)
        return [
            delivery
            for _, delivery in sorted(
                numbered, key=lambda entry: hashlib.sha256(f"{entry[0]}/{entry[1].seq}".encode()).digest()
            )
        ]
    return sendings


def _send(delivery: Delivery) -> int | None:
    """The HTTP status; None when nobody answered. No redirect is followed: it could leave the machine."""
    parts = urlsplit(delivery.url)
    host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname or ""
    connection = http.client.HTTPConnection(host, parts.port or 80, timeout=_TIMEOUT_SECONDS)
    # Signed with the real clock: receivers compare it with theirs, whatever the emulator's says.
    headers = {
        "Content-Type": "application/json; charset=utf-8",
        "Stripe-Signature": signature_header(delivery.payload, delivery.secret, int(time.time())),
        "User-Agent": "Stripe/1.0 (emulator)",
        "X-Emulator": "1",
    }
    path = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
    try:
        connection.request("POST", path, delivery.payload.encode(), headers)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
