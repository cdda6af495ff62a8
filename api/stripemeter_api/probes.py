"""Probes: what of this installation works right now, found out by trying, each within a deadline.

Belongs here: database, fold, Dagster daemon, Stripe, the ingest rate. Does not: HTTP answers, metrics.

A probe that does not answer in time counts as failed; it runs on a thread of its own, so a database that accepts a
connection and then says nothing cannot hold the answer up. While such a thread is still stuck, no second one is sent.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Generic, TypeVar

import httpx2
from psycopg_pool import ConnectionPool

from stripemeter.errors import StripeMeterError, Unavailable
from stripemeter.runtime.settings import Settings
from stripemeter.store.freshness import (
    AcceptedTotal,
    FoldState,
    load_accepted_total,
    load_daemon_heartbeat,
    load_fold_state,
    load_worst_drift,
)
from stripemeter.store.postgres import transaction

DATABASE_SECONDS = 2.5
STRIPE_SECONDS = 1.0
STRIPE_CACHED_SECONDS = 10.0
STRIPE_API_BASE = "https://api.stripe.com"
MAX_FOLD_LAG = timedelta(seconds=60)
"""An event normally waits about 5 s to be counted: a minute means that nobody counts."""
MAX_HEARTBEAT_AGE = timedelta(seconds=120)
"""Dagster's daemons report every 30 s: four beats missed."""
RATE_WINDOW = timedelta(seconds=60)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseState:
    """What one look at the database found."""

    fold: FoldState
    last_beat_at: datetime | None
    accepted: AcceptedTotal
    worst_drift: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Checks by name, a sentence for each that fails, and what was measured (None where nothing could be)."""

    checks: dict[str, bool]
    reasons: list[str]
    events_per_second: float | None
    fold_lag_seconds: float | None
    worst_drift: Decimal | None

    @property
    def status(self) -> str:
        """Without its database this service can do nothing; without the rest it still accepts and answers."""
        if not self.checks["database"]:
            return "unhealthy"
        return "healthy" if all(self.checks.values()) else "degraded"


class Probes:
    """The probes of one process; safe from any thread."""

    def __init__(self, settings: Settings, pool: ConnectionPool) -> None:
        self._pool = pool
        self._has_stripe_key = settings.stripe_secret_key is not None or settings.stripe_test_secret_key is not None
        self._stripe_base = settings.stripe_api_base or STRIPE_API_BASE
        self._stripe_known: tuple[float, str | None] | None = None
        self._database = _Deadline(self._look_at_database, DATABASE_SECONDS)
        self._stripe = _Deadline(self._reach_stripe, STRIPE_SECONDS)
        self._samples: deque[AcceptedTotal] = deque(maxlen=256)

    def database_state(self) -> DatabaseState:
        """What the database says about itself and those who work on it.

        Raises:
            Unavailable: it did not answer within DATABASE_SECONDS.
        """
        return self._database.run()

    def readiness(self) -> Readiness:
        """The result of every probe."""
        stripe_reason = self._stripe_reason()
        try:
            state = self.database_state()
        except StripeMeterError:
            reasons = ["database: no answer", "fold: unknown without the database", "workers: unknown without it"]
            return Readiness(
                checks={"database": False, "fold": False, "workers": False, "stripe": stripe_reason is None},
                reasons=reasons + ([stripe_reason] if stripe_reason else []),
                events_per_second=None,
                fold_lag_seconds=None,
                worst_drift=None,
            )
        found = {"fold": _fold_reason(state.fold), "workers": _workers_reason(state), "stripe": stripe_reason}
        return Readiness(
            checks={"database": True, **{name: reason is None for name, reason in found.items()}},
            reasons=[reason for reason in found.values() if reason],
            events_per_second=self._rate(state.accepted),
            fold_lag_seconds=state.fold.lag.total_seconds(),
            worst_drift=state.worst_drift,
        )

    def _look_at_database(self) -> DatabaseState:
        # Yesterday too: a rate measured across midnight must not lose what came before it.
        since = (datetime.now(UTC) - timedelta(days=1)).date()
        with transaction(self._pool) as tx:
            return DatabaseState(
                fold=load_fold_state(tx),
                last_beat_at=load_daemon_heartbeat(tx),
                accepted=load_accepted_total(tx, since),
                worst_drift=load_worst_drift(tx),
            )

    def _stripe_reason(self) -> str | None:
        if not self._has_stripe_key:
            return "stripe: neither STRIPE_SECRET_KEY nor STRIPE_TEST_SECRET_KEY is set, nothing can be pushed"
        if self._stripe_known is None or time.monotonic() - self._stripe_known[0] > STRIPE_CACHED_SECONDS:
            try:
                self._stripe.run()
                reason = None
            except StripeMeterError as error:
                reason = f"stripe: {error}"
            self._stripe_known = (time.monotonic(), reason)
        return self._stripe_known[1]

    def _reach_stripe(self) -> None:
        """Any HTTP answer will do: reachable is what is asked, and no key is spent on asking."""
        try:
            httpx2.get(self._stripe_base, timeout=STRIPE_SECONDS)
        except httpx2.HTTPError as error:
            raise Unavailable(f"{self._stripe_base} cannot be reached ({type(error).__name__})") from error

    def _rate(self, newest: AcceptedTotal) -> float | None:
        """Accepted events per second since the oldest sample of the window; None for a first look."""
        self._samples.append(newest)
        while len(self._samples) > 2 and newest.read_at - self._samples[1].read_at >= RATE_WINDOW:
            self._samples.popleft()
        oldest = self._samples[0]
        seconds = (newest.read_at - oldest.read_at).total_seconds()
        # A day that left the sum makes it smaller: there is nothing to compare with until the next look.
        if seconds <= 0 or newest.accepted < oldest.accepted:
            return None
        return round((newest.accepted - oldest.accepted) / seconds, 3)


class _Deadline(Generic[T]):
    """Runs one function on a thread of its own and waits so long, no longer; one such thread at a time."""

    def __init__(self, function: Callable[[], T], seconds: float) -> None:
        self._function = function
        self._seconds = seconds
        self._lock = threading.Lock()
        self._running: _Attempt[T] | None = None

    def run(self) -> T:
        with self._lock:
            if self._running is None or self._running.done.is_set():
                self._running = _Attempt(self._function)
            attempt = self._running
        return attempt.wait(self._seconds)


class _Attempt(Generic[T]):
    """One run of a function; any number of callers may wait for it."""

    def __init__(self, function: Callable[[], T]) -> None:
        self.done = threading.Event()
        self._function = function
        self._results: list[T] = []
        self._error: Exception | None = None
        threading.Thread(target=self._run, name="probe", daemon=True).start()

    def wait(self, seconds: float) -> T:
        if not self.done.wait(seconds):
            raise Unavailable(f"no answer within {seconds:g} s")
        if self._error is not None:
            raise self._error
        return self._results[0]

    def _run(self) -> None:
        try:
            self._results.append(self._function())
        except Exception as error:  # noqa: BLE001 - handed to whoever waits
            self._error = error
        finally:
            self.done.set()


def _fold_reason(fold: FoldState) -> str | None:
    if fold.is_foreign:
        return "fold: its cursor belongs to another PostgreSQL cluster, counters must be rebuilt"
    if fold.lag > MAX_FOLD_LAG:
        return f"fold: {fold.pending_count} events wait to be counted, the oldest for {fold.lag.total_seconds():.0f} s"
    return None


def _workers_reason(state: DatabaseState) -> str | None:
    if state.last_beat_at is None:
        return "workers: no Dagster daemon has ever reported to this database"
    age = state.accepted.read_at - state.last_beat_at
    if age > MAX_HEARTBEAT_AGE:
        return f"workers: the Dagster daemon last reported {age.total_seconds():.0f} s ago"
    return None
