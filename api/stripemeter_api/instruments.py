"""The Prometheus instruments of the API, and cheap functions to use them.

Belongs here: names, labels and bounds of what this process counts. Does not: numbers read from the database at scrape
(`metrics.py`), what a request is.

Names are the original's where it had them. Every label is a closed or capped set: a caller must not be able to grow
our memory by inventing meters, methods or paths. With `PROMETHEUS_MULTIPROC_DIR` set (before this module is imported)
every value lives in a file of that directory and one scrape of any worker adds up all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from prometheus_client import Counter, Histogram

UNMATCHED = "unmatched"
"""Route label of requests that no route matched: their paths are the caller's, not ours."""
MAX_METERS = 200
"""Distinct meters one process labels; later ones share OTHER."""
OTHER = "other"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
REJECTED_REASONS = frozenset(
    {"invalid_input", "body_too_large", "unsupported_media_type", "unavailable", "internal_error", OTHER}
)

_REQUESTS = Counter("http_requests_total", "Requests answered.", ("method", "route", "status_code"))
_REQUEST_SECONDS = Histogram(
    "http_request_duration_seconds",
    "Time from a request's head to the end of its answer.",
    ("method", "route"),
    buckets=(0.01, 0.025, 0.05, 0.1, 0.2, 0.25, 0.5, 1, 2.5, 5, 10),
)
_INGESTED = Counter("events_ingested_total", "Events accepted: durable and new.", ("meter",))
_INGEST_MS = Histogram(
    "ingest_latency_ms",
    "Milliseconds from an ingest request's head to its durable answer.",
    buckets=(1, 2.5, 5, 10, 25, 50, 100, 200, 250, 500, 1000, 2500, 5000, 10_000),
)
_CONFLICTS = Counter(
    "events_upsert_conflicts_total", "Events refused because their key already stands with a different payload."
)
_REJECTED = Counter("request_rejected_total", "Requests refused as a whole, by the code of the answer.", ("reason",))

_ADJUSTMENTS_CREATED = Counter("api_adjustments_created_total", "Adjustments created.", ("reason",))
_ADJUSTMENTS_APPROVED = Counter("api_adjustments_approved_total", "Adjustments approved.")
_ADJUSTMENTS_REJECTED = Counter("stripemeter_adjustments_rejected_total", "Adjustments rejected.")
_ADJUSTMENTS_REVERTED = Counter("api_adjustments_reverted_total", "Adjustments reverted.")
_DECISIONS = {
    "approved": _ADJUSTMENTS_APPROVED,
    "rejected": _ADJUSTMENTS_REJECTED,
    "reverted": _ADJUSTMENTS_REVERTED,
}

_request_observers: dict[tuple[str, str, int], tuple[Callable[[], None], Callable[[float], None]]] = {}
_ingest_counters: dict[str, Callable[[float], None]] = {}


def count_adjustment_created(reason: str) -> None:
    """Count a new adjustment by its reason, one of the contract's."""
    _ADJUSTMENTS_CREATED.labels(reason).inc()


def count_adjustment_decided(decision: Literal["approved", "rejected", "reverted"]) -> None:
    """Count a decision that changed something."""
    _DECISIONS[decision].inc()


def observe_request(route: str, method: str, status: int, seconds: float) -> None:
    """Count one answered request.

    Args:
        route: the route's template (`/v1/events`) or UNMATCHED, never a raw path.
        method: as sent; unknown ones are counted as OTHER.
        status: HTTP status of the answer.
        seconds: how long it took.
    """
    observers = _request_observers.get((route, method, status))
    if observers is None:
        observers = _bind_request(route, method, status)
    count, observe = observers
    count()
    observe(seconds)


def count_ingested(meter: str, count: int = 1) -> None:
    """Count accepted events of one metric (the first MAX_METERS of this process by name, the rest as OTHER)."""
    increase = _ingest_counters.get(meter)
    if increase is None:
        increase = _bind_meter(meter)
    increase(count)


observe_ingest: Callable[[float], None] = _INGEST_MS.observe
"""Record how long one ingest request took, in milliseconds."""
count_conflicts: Callable[[float], None] = _CONFLICTS.inc
"""Count events answered `conflict`."""


def count_rejected_request(reason: str) -> None:
    """Count one refused request by its error's code; a code outside REJECTED_REASONS is counted as OTHER."""
    _REJECTED.labels(reason if reason in REJECTED_REASONS else OTHER).inc()


def _bind_request(route: str, method: str, status: int) -> tuple[Callable[[], None], Callable[[float], None]]:
    known = method if method in METHODS else OTHER
    observers = (_REQUESTS.labels(known, route, str(status)).inc, _REQUEST_SECONDS.labels(known, route).observe)
    if known != OTHER:  # an invented method must not become a key of this cache either
        _request_observers[(route, method, status)] = observers
    return observers


def _bind_meter(meter: str) -> Callable[[float], None]:
    if len(_ingest_counters) >= MAX_METERS:
        return _INGESTED.labels(OTHER).inc
    increase = _INGESTED.labels(meter).inc
    _ingest_counters[meter] = increase
    return increase
