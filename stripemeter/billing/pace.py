"""Pace: how fast one account is asked.

Belongs here: the token bucket that every request of a sink goes through, and its HTTP client. Does not: retries
(`pipeline.push_row`), the meaning of errors (`stripe_errors`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any

import stripe

from stripemeter.billing.sink import Mode
from stripemeter.errors import Unavailable

STRIPE_CALLS_PER_SECOND: Mapping[Mode, float] = {"live": 100, "shadow": 25}  # allow-float: seconds, calls a second
"""Source: docs.stripe.com/rate-limits, basic limit: 100 requests a second live, 25 in a sandbox. Meter events have a
bucket of their own live (1 000), but the other calls of an account share this one."""
MOST_WAIT_SECONDS = 5.0  # allow-float: seconds, calls a second
"""A longer wait is refused instead: the row stays in flight and its lease, a minute, is not used up by waiting."""
RECOVERY_SECONDS = 10.0  # allow-float: seconds, calls a second
"""After each such stretch without a refusal a tenth of the full pace comes back."""
SAME_REFUSAL_SECONDS = 1.0  # allow-float: seconds, calls a second
"""Refusals this close together are of requests already under way: they halve the pace once."""
SLOWEST_SHARE = 1 / 64


class Pace:
    """A token bucket of one second's worth, shared by the threads of a sink.

    Args:
        calls_per_second: the full pace, more than 0.
        clock: seconds that never go back.
        sleep: waits that many seconds.
    """

    def __init__(
        self,
        *,
        calls_per_second: float,  # allow-float: seconds, calls a second
        clock: Callable[[], float] = time.monotonic,  # allow-float: seconds, calls a second
        sleep: Callable[[float], None] = time.sleep,  # allow-float: seconds, calls a second
    ) -> None:
        self._full = calls_per_second
        self._clock = clock
        self._sleep = sleep
        self._lock = Lock()
        self._slowed_to = calls_per_second
        self._slowed_at: float | None = None  # allow-float: seconds, calls a second
        self._paused_until = 0.0  # allow-float: seconds, calls a second
        self._tokens = max(1.0, calls_per_second)  # allow-float: seconds, calls a second
        self._counted_at = clock()

    def calls_per_second(self) -> float:  # allow-float: seconds, calls a second
        """The pace now: the full one, or what refusals have left of it so far."""
        with self._lock:
            return self._rate(self._clock())

    def take(self) -> None:
        """Wait for one request's turn.

        Raises:
            Unavailable: the turn is more than MOST_WAIT_SECONDS away. Nothing was asked.
        """
        with self._lock:
            wait = self._reserve(self._clock())
        if wait > 0:
            self._sleep(wait)

    def slow_down(self, retry_after_seconds: float | None) -> None:  # allow-float: seconds, calls a second
        """Stripe refused a request as one too many: half the pace, and a pause as long as it asked for."""
        with self._lock:
            now = self._clock()
            if self._slowed_at is None or now - self._slowed_at >= SAME_REFUSAL_SECONDS:
                self._slowed_to = max(self._rate(now) / 2, self._full * SLOWEST_SHARE)
                self._tokens = min(self._tokens, 0.0)  # allow-float: seconds, calls a second
                self._counted_at = now
                self._slowed_at = now
            if retry_after_seconds is not None:
                self._paused_until = max(self._paused_until, now + retry_after_seconds)

    def _reserve(self, now: float) -> float:  # allow-float: seconds, calls a second
        rate = self._rate(now)
        most = max(1.0, rate)  # allow-float: calls
        tokens = min(most, self._tokens + (now - self._counted_at) * rate)
        wait = max((1 - tokens) / rate, self._paused_until - now, 0.0)  # allow-float: seconds, calls a second
        if wait > MOST_WAIT_SECONDS:
            raise Unavailable(
                f"Stripe asked for fewer requests: the next turn is in {wait:.0f} seconds",
                retry_after_seconds=int(wait) + 1,
            )
        self._tokens, self._counted_at = tokens - 1, now
        return wait

    def _rate(self, now: float) -> float:  # allow-float: seconds, calls a second
        if self._slowed_at is None:
            return self._full
        steps = int((now - self._slowed_at) / RECOVERY_SECONDS)
        return min(self._full, self._slowed_to + steps * self._full / 10)


class PacedClient(stripe.RequestsClient):
    """The SDK's HTTP client, each request at its turn; a refusal for pace slows the next ones down."""

    def __init__(self, *, pace: Pace, timeout: tuple[int, int]) -> None:
        super().__init__(timeout=timeout)
        self._pace = pace

    # The SDK's client takes no `_usage`, unlike its own base class, and is called without it.
    def request(  # type: ignore[override]
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        post_data: Any = None,  # noqa: ANN401 - the SDK's own signature
    ) -> tuple[bytes, int, Mapping[str, str]]:
        """One request, as the SDK sends it."""
        self._pace.take()
        body, status, answered = super().request(method, url, headers, post_data)
        # Refused for a lock on an object: that says nothing about pace.
        if status == 429 and "lock_timeout" not in str(body):
            asked = str(answered.get("Retry-After", ""))
            self._pace.slow_down(int(asked) if asked.isascii() and asked.isdigit() else None)
        return body, status, answered
