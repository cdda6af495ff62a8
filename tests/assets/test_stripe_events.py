"""The sensor and job that work through what Stripe told, against the emulator."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from psycopg_pool import ConnectionPool

from stripemeter.pipeline.push import push_usage
from stripemeter.pipeline.stripe_events import keep_event
from stripemeter.store.postgres import transaction
from stripemeter_assets import stripe_events
from stripemeter_assets.resources import PostgresResource, StripeResource, close_shared
from tests.assets.running import execute
from tests.emulator import RunningEmulator
from tests.stripe_bench import NO_PAUSE, NOW, TODAY, StripeBench, open_bench
from tests.stripe_reports import notifications


@pytest.fixture
def bench(
    pool: ConnectionPool, emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> StripeBench:
    """A bound customer, and the settings that lead there."""
    monkeypatch.setenv("STRIPEMETER_HOME", str(tmp_path))
    monkeypatch.setenv("STRIPE_TEST_SECRET_KEY", emulator.key)
    monkeypatch.setenv("STRIPEMETER_STRIPE_API_BASE", emulator.url)
    opened = open_bench(pool, emulator)
    opened.bind()
    return opened


def ask(instance: dg.DagsterInstance, postgres: PostgresResource) -> dg.RunRequest | dg.SkipReason:
    """One tick of the sensor."""
    resources = {"postgres": postgres, "stripe": StripeResource()}
    with dg.build_sensor_context(instance=instance, resources=resources) as context:
        answer = stripe_events.reported_rows(context)
    assert isinstance(answer, dg.RunRequest | dg.SkipReason)
    return answer


def report_of_a_dropped_row(bench: StripeBench) -> None:
    """A row that Stripe dropped days ago by the machine's clock, and its report in the inbox."""
    bench.count("5", TODAY - timedelta(days=1))
    bench.emulator.fault({"match": {"path_re": "meter_events"}, "do": {"kind": "accept_then_async_reject"}})
    push_usage(bench.pool, bench.sink, now=NOW, retries=NO_PAUSE)
    bench.emulator.freeze(NOW + timedelta(seconds=20))
    (told,) = notifications(bench.emulator)
    assert keep_event(bench.pool, told, now=NOW) == "waiting"


def age(bench: StripeBench) -> None:
    """Let an hour pass since the first reading."""
    with transaction(bench.pool) as tx:
        tx.execute("update push_doubts set next_reading_at = now(), read_at = read_at - interval '1 hour'")


def test_a_report_is_read_and_its_row_read_back_by_runs(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    postgres_resource: PostgresResource,
    bench: StripeBench,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The inbox asks for a run, the doubt for one more, and then nothing asks: the row is found dropped."""
    assert ask(instance, postgres_resource) == dg.SkipReason("no report waits, and no row is to be read back")
    report_of_a_dropped_row(bench)
    assert isinstance(ask(instance, postgres_resource), dg.RunRequest)
    assert execute(definitions, "stripe_error_reports", instance).success
    assert bench.states() == ["accepted"]
    age(bench)
    answer = ask(instance, postgres_resource)
    assert isinstance(answer, dg.SkipReason)
    assert "a run ended less than" in str(answer.skip_message)
    monkeypatch.setattr(stripe_events, "PAUSE", timedelta(0))
    assert isinstance(ask(instance, postgres_resource), dg.RunRequest)
    assert execute(definitions, "stripe_error_reports", instance).success
    assert bench.states() == ["rejected_async"]
    assert ask(instance, postgres_resource) == dg.SkipReason("no report waits, and no row is to be read back")


def test_a_stripe_that_refuses_the_key_fails_the_run(
    definitions: dg.Definitions, instance: dg.DagsterInstance, bench: StripeBench
) -> None:
    """Nothing is taken for processed: the report waits."""
    report_of_a_dropped_row(bench)
    bench.emulator.fault(
        {"match": {"path_re": "core/events"}, "do": {"kind": "status", "status": 401}},
    )
    assert not execute(definitions, "stripe_error_reports", instance).success
    with transaction(bench.pool) as tx:
        assert tx.execute("select count(*) from stripe_events where processed_at is null").fetchone() == (1,)


def test_without_a_key_nothing_is_asked(
    instance: dg.DagsterInstance, postgres_resource: PostgresResource, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A stack without a key works through nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STRIPE_TEST_SECRET_KEY", raising=False)
    close_shared()
    answer = ask(instance, postgres_resource)
    assert isinstance(answer, dg.SkipReason)
    assert "no Stripe key" in str(answer.skip_message)


def test_housekeeping_forgets_old_events(
    definitions: dg.Definitions, instance: dg.DagsterInstance, bench: StripeBench
) -> None:
    """Processed ones go after ninety days; what waits or failed stays."""
    with transaction(bench.pool) as tx:
        for name, age_days, outcome in (("old", 91, "done"), ("new", 89, "ignored"), ("bad", 91, "failed")):
            tx.execute(
                """
                insert into stripe_events (id, type, is_live, is_thin, created_at, received_at, payload, processed_at,
                    outcome)
                values (%s, 't', false, false, now(), now(), '{}', now() - %s * interval '1 day', %s)
                """,
                (name, age_days, outcome),
            )
        tx.execute(
            """
            insert into stripe_events (id, type, is_live, is_thin, created_at, received_at, payload)
            values ('waits', 't', false, false, %s, %s, '{}')
            """,
            [datetime(2020, 1, 1, tzinfo=UTC)] * 2,
        )
    assert execute(definitions, "housekeeping", instance).success
    with transaction(bench.pool) as tx:
        assert tx.execute("select id from stripe_events order by id").fetchall() == [("bad",), ("new",), ("waits",)]
