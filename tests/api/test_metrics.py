from __future__ import annotations

from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.request_simulation import cancel_run
from stripemeter.pipeline.simulations import run_simulation
from stripemeter.store.postgres import open_pool
from tests.api.serving import Api, StartApi, post_events
from tests.simulations import NOW, ask, no_account

TS = "2026-01-01T00:00:00Z"


def scrape(api: Api) -> dict[tuple[Any, ...], float]:
    """Every sample of `GET /metrics`: (name, label value, ...) in order of the labels' names."""
    answer = api.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_metrics_add_up_over_workers(start_api: StartApi, own_database_url: str, tmp_path: Path) -> None:
    """Whichever worker is scraped answers for all of them; `process_*` is always there."""
    environment = {"DATABASE_URL": own_database_url, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics")}
    first, second = start_api(**environment), start_api(**environment)
    post_events(first, [{"ts": TS, "quantity": number} for number in range(3)])
    post_events(second, [{"ts": TS, "quantity": number} for number in range(5)])
    for api in (first, second):
        found = scrape(api)
        assert found["events_ingested_total", "api_calls"] == 5  # three of the second batch were duplicates
        assert found["http_requests_total", "POST", "/v1/events/ingest", "200"] == 2
        assert found["http_request_duration_seconds_count", "POST", "/v1/events/ingest"] == 2
        assert found["ingest_latency_ms_count",] == 2
        assert found["process_resident_memory_bytes",] > 0


def test_one_worker_alone_counts_in_memory(start_api: StartApi, own_database_url: str) -> None:
    """The same names without a directory; conflicts and refusals too."""
    api = start_api(DATABASE_URL=own_database_url)
    for quantity in (1, 2):
        post_events(api, [{"ts": TS, "quantity": quantity, "idempotencyKey": "k"}])
    assert api.post("/v1/events/ingest", content=b"{").status_code == 400
    found = scrape(api)
    assert found["events_ingested_total", "api_calls"] == 1
    assert found["events_upsert_conflicts_total",] == 1
    assert found["request_rejected_total", "invalid_input"] == 1
    assert found["process_cpu_seconds_total",] > 0


def test_the_folds_state_is_read_at_the_scrape(start_api: StartApi, own_database_url: str) -> None:
    """Pending events before the fold, none after it; the age of the cut while somebody writes."""
    api = start_api(DATABASE_URL=own_database_url)
    post_events(api, [{"ts": TS}, {"ts": TS, "metric": "seats"}])
    with open_pool(own_database_url) as pool:
        assert scrape(api)["stripemeter_fold_pending_events",] == 2
        with pool.connection() as writing:
            writing.execute("select pg_current_xact_id()")
            assert scrape(api)["stripemeter_fold_cut_age_seconds",] > 0
        fold(pool)
        assert scrape(api)["stripemeter_fold_pending_events",] == 0


def test_without_a_database_the_folds_state_is_absent(start_api: StartApi) -> None:
    """Never zero: an alert on absence works, an alert on a false zero does not."""
    api = start_api(DATABASE_URL="postgresql://nobody@127.0.0.1:1/nothing")
    read = ("stripemeter_fold", "stripemeter_stripe", "recon", "sim_")
    assert not [name for name, *_ in scrape(api) if name.startswith(read)]


def test_labels_are_bounded(start_api: StartApi, own_database_url: str) -> None:
    """Unknown paths share one route, unknown methods one name, and meters beyond a cap are `other`."""
    api = start_api(DATABASE_URL=own_database_url)
    for method in ("PROPFIND", "PURGE", "LOCK"):
        api.request(method, f"/path/{method}")
    post_events(api, [{"ts": TS, "metric": f"m{number}"} for number in range(250)])
    found = scrape(api)
    assert found["http_requests_total", "other", "unmatched", "404"] == 3
    meters = {key[1]: value for key, value in found.items() if key[0] == "events_ingested_total"}
    assert len(meters) == 201
    assert (meters["other"], sum(meters.values())) == (50, 250)


def test_simulations_are_counted_where_they_end(start_api: StartApi, own_database_url: str) -> None:
    """From the first scrape on; by whoever carried them out; a cancelled run is in no metric."""
    api = start_api(DATABASE_URL=own_database_url)
    names = ("sim_run_duration_seconds_count", "sim_assertions_total", "sim_stripe_api_calls_total")
    first = scrape(api)
    assert all(any(name == key[0] for key in first) for name in names)
    with open_pool(own_database_url) as pool:
        instants = count()
        for members in ({}, {"expected": {"total": 219.5, "currency": "USD"}}, {"expected": None}):
            run_id = ask(pool, **members)
            run_simulation(
                own_database_url, run_id, clock=lambda: NOW + timedelta(seconds=next(instants)), open_account=no_account
            )
        cancel_run(pool, ask(pool), tenant_id=None, now=NOW)
    found = scrape(api)
    for outcome in ("passed", "unmet", "unjudged"):
        assert found["sim_run_duration_seconds_count", "pure", outcome] == 1
        assert found["sim_run_duration_seconds_sum", "pure", outcome] == 1
    assert found["sim_run_duration_seconds_count", "pure", "failed"] == 0
    assert (found["sim_assertions_total", "pure", "passed"], found["sim_assertions_total", "pure", "failed"]) == (2, 1)
    buckets = [found["sim_invoice_delta_cents_bucket", "pure", bound] for bound in ("0.0", "10.0", "100.0", "+Inf")]
    assert buckets == [1, 1, 2, 2]  # 220 as expected; 0.50 off; nothing expected is no difference
    assert (found["sim_invoice_delta_cents_count", "pure"], found["sim_invoice_delta_cents_sum", "pure"]) == (2, 50)
    assert found["sim_stripe_api_calls_total", "pure"] == 0
    assert not any("acme" in key for key in found)
