"""GET /metrics: Prometheus text of every API worker, and the fold's state as of the scrape.

Belongs here: collecting. Does not: the instruments (`instruments.py`), what the database says (`probes.py`).

With `PROMETHEUS_MULTIPROC_DIR` the counters of all workers add up, whichever answers; `process_*` is always of the
worker that answers. When the database does not answer, the fold's gauges are absent: never zero.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import structlog
from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, REGISTRY, CollectorRegistry, Metric, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from starlette.responses import Response

from stripemeter.errors import StripeMeterError
from stripemeter_api.probes import Probes
from stripemeter_api.state import ProbesOfProcess

_log = structlog.get_logger(__name__)
router = APIRouter(tags=["health"])


@router.get("/metrics", response_class=Response, summary="Prometheus metrics")
def read_metrics(probes: ProbesOfProcess) -> Response:
    """Prometheus text format 0.0.4."""
    fold = CollectorRegistry(auto_describe=False)
    fold.register(_FoldCollector(probes))
    text = generate_latest(_process_registry()) + generate_latest(fold)
    return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)


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
