"""What simulations came to so far, for `GET /metrics`.

Belongs here: the `sim_*` metrics. Does not: collecting (`metrics`), counting (`pipeline.simulations`, in the
transaction that ends a run, so that no restart and no second process loses or doubles one).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

import structlog
from prometheus_client import Metric
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, SummaryMetricFamily
from prometheus_client.registry import Collector
from psycopg_pool import ConnectionPool

from stripemeter.errors import StripeMeterError
from stripemeter.pipeline.simulations import DELTA_CENTS_BOUNDS
from stripemeter.store.postgres import transaction
from stripemeter.store.simulations import RunTotal, load_totals

DRIVERS = ("pure", "stripe")
OUTCOMES = ("passed", "unmet", "unjudged", "failed")
"""Of runs that were carried out; cancelled ones are in no metric."""
_log = structlog.get_logger(__name__)


class SimulationCollector(Collector):
    """Every series from the first scrape on; none when the database does not answer."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    def collect(self) -> Iterable[Metric]:
        """Labels are closed sets: no tenant, no scenario."""
        try:
            with transaction(self._pool) as tx:
                totals = [total for total in load_totals(tx) if total.outcome in OUTCOMES]
        except StripeMeterError as error:
            _log.warning("simulation_totals_unknown", reason=str(error))
            return
        yield from simulation_metrics(totals)


def simulation_metrics(totals: Sequence[RunTotal]) -> Iterator[Metric]:
    """The four metrics of what ended runs came to."""
    duration = SummaryMetricFamily(
        "sim_run_duration_seconds", "What simulation runs took, by how they came out.", labels=("driver", "outcome")
    )
    assertions = CounterMetricFamily(
        "sim_assertions", "Expected values of completed runs against what came.", labels=("driver", "result")
    )
    delta = HistogramMetricFamily(
        "sim_invoice_delta_cents",
        "Of each run that expects an invoice total: the greatest difference, in hundredths of the major unit.",
        labels=("driver",),
    )
    calls = CounterMetricFamily("sim_stripe_api_calls", "Requests simulation runs sent to Stripe.", labels=("driver",))
    for driver in DRIVERS:
        own = [total for total in totals if total.driver == driver]
        for outcome in OUTCOMES:
            runs = [total for total in own if total.outcome == outcome]
            count, seconds = sum(total.run_count for total in runs), sum(total.seconds for total in runs)
            duration.add_metric((driver, outcome), count, float(seconds))
        assertions.add_metric((driver, "passed"), sum(total.met_count for total in own))
        assertions.add_metric((driver, "failed"), sum(total.unmet_count for total in own))
        compared = [total for total in own if total.delta_cents_bound in DELTA_CENTS_BOUNDS]
        in_band = [sum(t.run_count for t in compared if t.delta_cents_bound == bound) for bound in DELTA_CENTS_BOUNDS]
        bounds = [str(float(bound)) if bound.is_finite() else "+Inf" for bound in DELTA_CENTS_BOUNDS]
        delta.add_metric(
            (driver,),
            buckets=list(zip(bounds, map(float, accumulate(in_band)), strict=True)),
            sum_value=float(sum(total.delta_cents for total in compared)),
        )
        calls.add_metric((driver,), sum(total.stripe_calls for total in own))
    yield from (duration, assertions, delta, calls)
