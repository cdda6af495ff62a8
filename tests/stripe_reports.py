"""Error reports put in the inbox as the receiver would, for tests that are not about delivering them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime

from psycopg_pool import ConnectionPool

from stripemeter.pipeline.stripe_events import keep_event
from tests.emulator import RunningEmulator


def notifications(emulator: RunningEmulator) -> list[bytes]:
    """What the emulator would deliver: every thin event it has, without what it tells."""
    return [
        json.dumps(
            {
                "id": event.id,
                "object": "v2.core.event",
                "type": event.type,
                "livemode": event.livemode,
                "created": event.created,
            }
        ).encode()
        for event in emulator.client().v2.core.events.list({"limit": 100}).data
    ]


def keep_all(pool: ConnectionPool, bodies: Sequence[bytes], *, now: datetime) -> None:
    """Each in the inbox."""
    for body in bodies:
        keep_event(pool, body, now=now)
