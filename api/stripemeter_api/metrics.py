"""GET /metrics: Prometheus text of every API worker, and the state of fold and reconciliation as of the scrape.

Belongs here: collecting. Does not: the instruments (`instruments.py`), what the database says (`probes.py`), what
simulations came to (`simulation_metrics.py`).

With `PROMETHEUS_MULTIPROC_DIR` the counters of all workers add up, whichever answers; `process_*` is always of the
worker that answers. When the database does not answer, their gauges are absent: never zero.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import structlog
from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, REGISTRY, CollectorRegistry, Metric, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from psycopg_pool import ConnectionPool
from starlette.responses import Response

from stripemeter.errors import StripeMeterError
from stripemeter.metering.days import month_start
from stripemeter.store import push_doubts, stripe_events
from stripemeter.store.postgres import transaction
from stripemeter.store.reconciliation_periods import drift_ratio, list_worst
from stripemeter.store.reconciliation_runs import load_totals
from stripemeter_api.probes import Probes
from stripemeter_api.simulation_metrics import SimulationCollector
from stripemeter_api.state import Pool, ProbesOfProcess

_log = structlog.get_logger(__name__)
MAX_ITEMS = 200
"""Customers' months with a gauge of their own, the worst first: a label per customer must stay bounded."""
router = APIRouter(tags=["health"])


@router.get("/metrics", response_class=Response, summary="Prometheus metrics")
def read_metrics(pool: Pool, probes: ProbesOfProcess) -> Response:
    """Prometheus text format 0.0.4."""
    fold = CollectorRegistry(auto_describe=False)
    fold.register(_FoldCollector(probes))
    if _answers(pool):
        for collector in (_ReconciliationCollector(pool), _InboxCollector(pool), SimulationCollector(pool)):
            fold.register(collector)
    text = generate_latest(_process_registry()) + generate_latest(fold)
    return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)


def _answers(pool: ConnectionPool) -> bool:
    """Whether the database does. Else each collector would wait in turn, longer than a scrape may take."""
    try:
        with transaction(pool):
            return True
    except StripeMeterError as error:
        _log.warning("database_state_unknown", reason=str(error))
        return False


def _process_registry() -> CollectorRegistry:
    if not os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        return REGISTRY
    registry = CollectorRegistry(auto_describe=False)
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call] # the client's own gap
    ProcessCollector(registry=registry)
    return registry


class _FoldCollector(Collector):
    """The fold's gauges, read when they are asked for."""

    def __init__(self, probes: Probes) -> None:
        self._probes = probes

    def collect(self) -> Iterable[Metric]:
        """One gauge each, or none when the database does not answer."""
        try:
            fold = self._probes.database_state().fold
        except StripeMeterError as error:
            _log.warning("fold_state_unknown", reason=str(error))
            return
        yield GaugeMetricFamily(
            "stripemeter_fold_cut_age_seconds",
            "Age of the oldest writing transaction: no event committed after it began can be counted yet.",
            fold.cut_age.total_seconds(),
        )
        yield GaugeMetricFamily(
            "stripemeter_fold_pending_events",
            "Accepted events that are not in the counters yet (at most 100000 are looked at).",
            fold.pending_count,
        )
        yield GaugeMetricFamily(
            "stripemeter_fold_lag_seconds",
            "How long the oldest of them has waited since its arrival.",
            fold.lag.total_seconds(),
        )


class _ReconciliationCollector(Collector):
    """Runs so far, and the drift of the months that differ; none when the database does not answer."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    def collect(self) -> Iterable[Metric]:
        """The latest verdicts of this UTC month and the last."""
        this_month = month_start(datetime.now(UTC).date())
        try:
            with transaction(self._pool) as tx:
                runs, seconds = load_totals(tx)
                worst = list_worst(tx, first_on=month_start(this_month - timedelta(days=1)), limit=MAX_ITEMS)
        except StripeMeterError as error:
            _log.warning("reconciliation_state_unknown", reason=str(error))
            return
        yield CounterMetricFamily("recon_runs", "Comparisons of an account with Stripe.", runs)
        yield SummaryMetricFamily("recon_duration_seconds", "What they took.", runs, float(seconds))
        labels = ("tenant", "subscription_item", "period")
        drift = GaugeMetricFamily(
            "reconciliation_diff_abs", "Absolute drift of a customer's month, where it differs.", labels=labels
        )
        ratio = GaugeMetricFamily("reconciliation_diff_pct", "The same as a fraction of Stripe's.", labels=labels)
        seen: set[tuple[str, ...]] = set()
        for one in worst:  # a meter may be mapped to several accounts: the worst of them has the gauge
            values = (one.tenant_id, one.item, one.period)
            if values not in seen:
                seen.add(values)
                drift.add_metric(values, float(abs(one.drift)))
                ratio.add_metric(values, float(drift_ratio(one.drift, one.stripe)))
        yield drift
        yield ratio


class _InboxCollector(Collector):
    """What Stripe told and nobody has processed, and what it may not have counted; none without the database."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    def collect(self) -> Iterable[Metric]:
        """One gauge each."""
        try:
            with transaction(self._pool) as tx:
                waiting = stripe_events.count_waiting(tx)
                doubted = push_doubts.count_open(tx)
        except StripeMeterError as error:
            _log.warning("stripe_inbox_unknown", reason=str(error))
            return
        since = waiting.oldest_received_at
        yield GaugeMetricFamily(
            "stripemeter_stripe_events_waiting", "Events of Stripe's that nobody has processed.", waiting.count
        )
        yield GaugeMetricFamily(
            "stripemeter_stripe_events_wait_seconds",
            "How long the first of them has waited since its arrival.",
            0 if since is None else (datetime.now(UTC) - since).total_seconds(),
        )
        yield GaugeMetricFamily(
            "stripemeter_push_doubts_open",
            "Deltas that Stripe acknowledged and may not have counted, still to be read back.",
            doubted,
        )
