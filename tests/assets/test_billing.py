"""The assets `pushes` and `reconciliations` against the emulator, and when a push is asked for."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import dagster as dg
import pytest
from psycopg_pool import ConnectionPool

from stripemeter.billing import BillingSink
from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.reconciliation_months import find_run, request_run
from stripemeter.pipeline.reconciliation_report import delete_old_reports
from stripemeter.store.mappings import CustomerBinding, PriceMapping, bind_customer, create_mapping
from stripemeter.store.postgres import transaction
from stripemeter_assets import triggers
from stripemeter_assets.resources import PostgresResource, StripeResource
from tests.assets.running import Report, evaluations, execute
from tests.emulator import RunningEmulator
from tests.stripe_bench import shadow_sink

TODAY = datetime.now(UTC).date()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    """Customer `c1` of tenant `acme`, whose `api_calls` feed a Stripe meter."""

    sink: BillingSink
    meter_id: str
    customer_id: str

    def at_stripe(self, day: date) -> Decimal:
        """What Stripe holds of the day."""
        held = self.sink.read_daily_quantities(
            stripe_meter_id=self.meter_id, stripe_customer_id=self.customer_id, first=day, last=day
        )
        return held.get(day, Decimal(0))


@pytest.fixture
def mapped(
    pool: ConnectionPool,
    emulator: RunningEmulator,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Mapped:
    """A mapped meter and a bound customer, and the settings that lead there."""
    monkeypatch.setenv("STRIPEMETER_HOME", str(tmp_path))
    monkeypatch.setenv("STRIPE_TEST_SECRET_KEY", emulator.key)
    monkeypatch.setenv("STRIPEMETER_STRIPE_API_BASE", emulator.url)
    sink, now = shadow_sink(emulator), datetime.now(UTC)
    account = sink.account_id()
    meter = sink.ensure_meter(event_name="calls", display_name="Calls")
    customer_id = sink.create_customer(name="c1", idempotency_key=uuid.uuid4().hex)
    with transaction(pool) as tx:
        mapping = PriceMapping(
            id=uuid.uuid4(),
            tenant_id="acme",
            meter="api_calls",
            aggregation="sum",
            stripe_account_id=account,
            stripe_event_name="calls",
            stripe_meter_id=meter.stripe_meter_id,
            mode="shadow",
            created_at=now,
        )
        create_mapping(tx, mapping)
        binding = CustomerBinding(
            tenant_id="acme",
            customer_ref="c1",
            stripe_account_id=account,
            stripe_customer_id=customer_id,
            created_at=now,
        )
        bind_customer(tx, binding)
    return Mapped(sink=sink, meter_id=meter.stripe_meter_id, customer_id=customer_id)


def ask(instance: dg.DagsterInstance, postgres: PostgresResource) -> dg.RunRequest | dg.SkipReason:
    """One tick of `unpushed_usage`."""
    resources = {"postgres": postgres, "stripe": StripeResource()}
    with dg.build_sensor_context(instance=instance, resources=resources) as context:
        answer = triggers.unpushed_usage(context)
    assert isinstance(answer, dg.RunRequest | dg.SkipReason)
    return answer


def test_what_stripe_lacks_is_pushed_once_and_reconciled(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    pool: ConnectionPool,
    postgres_resource: PostgresResource,
    report_usage: Report,
    mapped: Mapped,
) -> None:
    """Usage asks for a run; the run sends it and compares; then nothing asks any more."""
    yesterday = TODAY - timedelta(days=1)
    report_usage(yesterday)
    fold(pool)
    assert isinstance(ask(instance, postgres_resource), dg.RunRequest)

    result = execute(definitions, "push", instance)

    assert result.success
    assert mapped.at_stripe(yesterday) == Decimal(3)
    metadata = {
        event.asset_key.to_user_string(): event.event_specific_data.materialization.metadata
        for event in result.get_asset_materialization_events()
    }
    assert metadata["pushes"]["shadow/accepted"].value == 1
    assert metadata["reconciliations"]["shadow/days"].value == 1
    assert evaluations(result)["stripe_equals_local"].passed
    assert isinstance(ask(instance, postgres_resource), dg.SkipReason)


def test_a_tenant_that_lost_an_event_is_not_pushed(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    pool: ConnectionPool,
    report_usage: Report,
    mapped: Mapped,
) -> None:
    """Law 2 is read again by the push itself: it fails and names the tenant, until the events add up."""
    yesterday = TODAY - timedelta(days=1)
    report_usage(yesterday)
    report_usage(yesterday, customer="c2")
    fold(pool)
    with transaction(pool) as tx:
        tx.execute("create table lost as select * from counters where customer_ref = 'c2'")
        tx.execute("delete from counters where customer_ref = 'c2'")

    result = execute(definitions, "push", instance)

    assert not result.success
    message = str(result.failure_data_for_node("pushes").user_failure_data.description)
    assert message == "shadow: nothing sent of 1 tenants whose events do not add up (check conservation): 'acme'"
    assert mapped.at_stripe(yesterday) == 0

    with transaction(pool) as tx:
        tx.execute("insert into counters select * from lost")
    assert execute(definitions, "push", instance).success
    assert mapped.at_stripe(yesterday) == Decimal(3)


def test_a_push_under_way_is_not_asked_for_twice(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    pool: ConnectionPool,
    postgres_resource: PostgresResource,
    report_usage: Report,
    mapped: Mapped,
) -> None:
    """One push at a time; and after one that failed as a whole there is a pause, whatever is left to send."""
    report_usage(TODAY - timedelta(days=1))
    fold(pool)
    run = instance.create_run_for_job(definitions.resolve_job_def("push"), status=dg.DagsterRunStatus.STARTED)
    assert ask(instance, postgres_resource) == dg.SkipReason("a push is under way")
    instance.report_run_failed(run)
    assert ask(instance, postgres_resource) == dg.SkipReason(f"a push failed less than {triggers.PUSH_PAUSE} ago")


def test_a_number_at_stripe_that_nobody_can_explain_is_an_error(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    pool: ConnectionPool,
    report_usage: Report,
    mapped: Mapped,
) -> None:
    """Somebody else wrote to the meter: the check fails on the worst day and names it, though others are equal."""
    good, bad = TODAY - timedelta(days=2), TODAY - timedelta(days=1)
    report_usage(good, bad)
    fold(pool)
    assert execute(definitions, "push", instance).success
    with transaction(pool) as tx:
        tx.execute(
            "update reconciliations set status = 'drift', cause = 'foreign_writer',"
            " stripe_quantity = stripe_quantity + 40 where day = %s",
            [bad],
        )
    check = _evaluate_check(definitions, instance)
    assert not check.passed
    assert check.severity is dg.AssetCheckSeverity.ERROR
    table = check.metadata["worst"]
    assert isinstance(table, dg.TableMetadataValue)
    assert [row.data["day"] for row in table.records] == [bad.isoformat()]


def test_stripe_that_does_not_answer_is_never_agreement(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    pool: ConnectionPool,
    report_usage: Report,
    mapped: Mapped,
) -> None:
    """Unknown is a failure with severity WARN: nothing is known to be wrong, nothing is shown as right."""
    report_usage(TODAY - timedelta(days=1))
    fold(pool)
    assert execute(definitions, "push", instance).success
    with transaction(pool) as tx:
        tx.execute("update reconciliations set status = 'unknown', cause = 'unreachable', stripe_quantity = null")
    check = _evaluate_check(definitions, instance)
    assert not check.passed
    assert check.severity is dg.AssetCheckSeverity.WARN


def test_a_verdict_on_a_day_nobody_compares_any_more_is_history(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    pool: ConnectionPool,
    report_usage: Report,
    mapped: Mapped,
) -> None:
    """Days older than Stripe takes are no longer read, so an old verdict must not keep the check red for ever."""
    report_usage(TODAY - timedelta(days=1))
    fold(pool)
    assert execute(definitions, "push", instance).success
    with transaction(pool) as tx:
        tx.execute(
            "update reconciliations set status = 'drift', cause = 'unknown', stripe_quantity = 0, day = %s,"
            " segment_start = %s",
            [TODAY - timedelta(days=60), datetime(2020, 1, 1, tzinfo=UTC)],
        )
    assert _evaluate_check(definitions, instance).passed


def test_without_a_stripe_key_nothing_is_asked_for(
    instance: dg.DagsterInstance, postgres_resource: PostgresResource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No key: no run, no call."""
    for name in ("STRIPE_SECRET_KEY", "STRIPE_TEST_SECRET_KEY", "STRIPEMETER_ALLOW_LIVE"):
        monkeypatch.delenv(name, raising=False)
    answer = ask(instance, postgres_resource)
    assert isinstance(answer, dg.SkipReason)
    assert "no Stripe key" in str(answer.skip_message)


@pytest.mark.parametrize("is_mapped", [False, True])
def test_nothing_is_reconciled_while_nothing_is_mapped(
    request: pytest.FixtureRequest, postgres_resource: PostgresResource, is_mapped: bool
) -> None:
    """The hourly run is skipped on a stack that pushes nothing."""
    if is_mapped:
        request.getfixturevalue("mapped")
    with dg.build_schedule_context(resources={"postgres": postgres_resource}) as context:
        answer = triggers.hourly_reconciliation(context)
    assert isinstance(answer, dg.RunRequest if is_mapped else dg.SkipReason)


def _evaluate_check(definitions: dg.Definitions, instance: dg.DagsterInstance) -> dg.AssetCheckEvaluation:
    job = dg.define_asset_job("only_the_check", selection=dg.AssetSelection.checks_for_assets("reconciliations"))
    merged = dg.Definitions.merge(definitions, dg.Definitions(jobs=[job]))
    return evaluations(execute(merged, "only_the_check", instance))["stripe_equals_local"]


def test_a_request_for_a_reconciliation_is_answered_by_one_run(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    pool: ConnectionPool,
    postgres_resource: PostgresResource,
    report_usage: Report,
    mapped: Mapped,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two requests, one run, both completed; the run keeps a page that loads nothing, a table and a plot."""
    monkeypatch.setenv("STRIPEMETER_HOME", str(tmp_path))
    report_usage(TODAY - timedelta(days=1), customer="c1")
    fold(pool)
    asked = [request_run(pool, "acme", now=datetime.now(UTC)) for _ in range(2)]
    with dg.build_sensor_context(instance=instance, resources={"postgres": postgres_resource}) as context:
        assert isinstance(triggers.requested_reconciliations(context), dg.RunRequest)
    result = execute(definitions, "reconcile", instance)
    assert result.success
    assert [find_run(pool, "acme", one).status for one in asked] == ["completed", "completed"]
    with dg.build_sensor_context(instance=instance, resources={"postgres": postgres_resource}) as context:
        assert triggers.requested_reconciliations(context) == dg.SkipReason("nobody asked")
    (event,) = result.get_asset_materialization_events()
    metadata = event.step_materialization_data.materialization.metadata
    assert "unsent" in str(metadata["shadow/differences"].value)
    assert "data:image/svg+xml;base64," in str(metadata["shadow/drift_over_time"].value)
    page = Path(str(metadata["html_report"].value))
    assert page.parent == tmp_path / "reports"
    text = page.read_text()
    assert "c1" in text
    assert "<polyline" in text
    assert not [word for word in ("<script", "src=", "href=") if word in text]
    assert delete_old_reports(tmp_path, now=datetime.now(UTC)) == 0
    assert delete_old_reports(tmp_path, now=datetime.now(UTC) + timedelta(days=15)) == 1
    assert not page.exists()


def test_a_failed_reconciliation_says_so_to_whoever_asked(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    pool: ConnectionPool,
    mapped: Mapped,
    emulator: RunningEmulator,
) -> None:
    """The key is refused: the run fails and the request is failed with the reason, not left waiting."""
    asked = request_run(pool, "acme", now=datetime.now(UTC))
    emulator.fault({"match": {"path_re": "account"}, "do": {"kind": "status", "status": 401}, "times": 100})
    assert not execute(definitions, "reconcile", instance).success
    found = find_run(pool, "acme", asked)
    assert (found.status, bool(found.error_message)) == ("failed", True)
