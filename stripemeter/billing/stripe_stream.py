"""Stripe's stream of meter events: up to 100 in one request, checked afterwards.

Belongs here: sessions and sending a batch. Does not: what is in a batch (`pipeline.push_batch`), single events
(`stripe_sink`).

Source: Stripe API 2026-10-28, v2 MeterEventSession (a token lasts 15 minutes) and MeterEventStream (live accounts only;
the answer is empty, what is wrong with an event is told by an error report).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

import stripe

from stripemeter.billing.stripe_errors import error_body

MOST_EVENTS = 100
RENEW_AFTER_SECONDS = 12 * 60
"""A token is used no longer, well inside its 15 minutes."""


class StripeStream:
    """The stream of one account. Safe to use from several threads.

    Args:
        client: the account's client, which opens sessions.
        client_of: a client that speaks with a session's token.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        client: stripe.StripeClient,
        client_of: Callable[[str], stripe.StripeClient],
        *,
        clock: Callable[[], float] = time.monotonic,  # allow-float: seconds
    ) -> None:
        self._client = client
        self._client_of = client_of
        self._clock = clock
        self._session: stripe.StripeClient | None = None
        self._opened_at = 0.0  # allow-float: seconds
        self._lock = Lock()

    def send(self, events: Sequence[Any], *, idempotency_key: str) -> None:
        """Send the batch, once; again only when it was refused because its session had ended.

        Raises:
            stripe.StripeError: whatever Stripe says otherwise.
        """
        parameters: Any = {"events": list(events)}
        options: Any = {"idempotency_key": idempotency_key}
        try:
            self._open().v2.billing.meter_event_stream.create(parameters, options)
        except stripe.StripeError as error:
            if error.http_status != 401 or error_body(error).get("type") != "temporary_session_expired":
                raise
            self._forget()
            self._open().v2.billing.meter_event_stream.create(parameters, options)

    def _open(self) -> stripe.StripeClient:
        with self._lock:
            now = self._clock()
            if self._session is None or now - self._opened_at >= RENEW_AFTER_SECONDS:
                token = self._client.v2.billing.meter_event_session.create().authentication_token
                self._session, self._opened_at = self._client_of(token), now
            return self._session

    def _forget(self) -> None:
        with self._lock:
            self._session = None
