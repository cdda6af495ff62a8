"""Requests in work: what Stripe refuses while another of its kind has not ended.

Belongs here: one event at a time of a customer and meter, one request at a time of an idempotency key. Does not:
what a request does.

The emulator executes a request at once; it is in work for as long as the knob `working_seconds` says.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from stripe_emulator.metering_knobs import metering_knobs
from stripe_emulator.meters import KIND as METER
from stripe_emulator.received import Received
from stripe_emulator.state import State
from stripe_emulator.wire import StripeError

_SINGLE_EVENT_PATHS = ("/v1/billing/meter_events", "/v2/billing/meter_events")


class InWork:
    """What is in work now."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._taken: set[tuple[str, ...]] = set()

    @asynccontextmanager
    async def hold(self, received: Received) -> AsyncIterator[None]:
        """Inside, nothing else of this kind is in work.

        Raises:
            StripeError: 409, because something is.
        """
        if received.method != "POST" or received.path not in _SINGLE_EVENT_PATHS:
            yield
            return
        knobs = metering_knobs(self._state)
        wanted = self._wanted(received, is_exclusive=knobs.concurrent_events == "refused")
        self._taken |= wanted
        try:
            if knobs.working_seconds:
                await asyncio.sleep(knobs.working_seconds)
            yield
        finally:
            self._taken -= wanted

    def _wanted(self, received: Received, *, is_exclusive: bool) -> set[tuple[str, ...]]:
        wanted: set[tuple[str, ...]] = set()
        if received.idempotency_key is not None:
            key = ("key", received.account, received.idempotency_key)
            if key in self._taken:
                raise StripeError(
                    409,
                    "There is currently another in-progress request using this Idempotent Key.",
                    code="idempotency_key_in_use",
                    kind="idempotency_error",
                )
            wanted.add(key)
        if is_exclusive:
            slot = ("event", received.account, *self._customer_and_meter(received))
            if slot in self._taken:
                raise StripeError(
                    409,
                    "There is another meter event for this customer and meter in progress.",
                    code="too_many_concurrent_requests",
                )
            wanted.add(slot)
        return wanted

    def _customer_and_meter(self, received: Received) -> tuple[str, str]:
        name, payload = received.parameters.get("event_name"), received.parameters.get("payload")
        meters = self._state.list_objects(received.account, METER, name=str(name))
        key = meters[0].body["customer_mapping"]["event_payload_key"] if meters else "stripe_customer_id"
        return str(name), str(payload.get(key)) if isinstance(payload, dict) else ""
