"""Closing invoices from Dagster: the asset, its check, the schedule and the sensor."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from psycopg_pool import ConnectionPool

from stripemeter.pipeline.closing import release_invoice
from stripemeter.pipeline.push import push_usage
from stripemeter.pipeline.stripe_events import keep_event
from stripemeter.store.closings import list_due
from stripemeter.store.postgres import transaction
from stripemeter_assets import closing
from stripemeter_assets.resources import PostgresResource, StripeResource
from stripemeter_assets.verdicts import sort_closings
from tests.assets.running import evaluations, execute
from tests.closing_bench import ClosingBench, open_closing
from tests.emulator import RunningEmulator
from tests.late_usage_bench import set_policy

CHECK = "closed_invoices_prove_parity"


@pytest.fixture
def bench(
    pool: ConnectionPool, emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> ClosingBench:
    """A week that ended three days ago and is all at Stripe, where it is still in its grace."""
    monkeypatch.setenv("STRIPEMETER_HOME", str(tmp_path))
    monkeypatch.setenv("STRIPE_TEST_SECRET_KEY", emulator.key)
    monkeypatch.setenv("STRIPEMETER_STRIPE_API_BASE", emulator.url)
    opened = open_closing(pool, emulator, start=datetime.now(UTC).replace(microsecond=0) - timedelta(days=10))
    opened.count("5")
    sent_at = opened.start + timedelta(days=4)
    opened.go_to(sent_at)
    push_usage(pool, opened.stripe.sink, now=sent_at)
    opened.go_to(opened.start + timedelta(days=7, minutes=20))
    return opened


def test_under_control_the_run_closes_and_the_check_is_green(
    definitions: dg.Definitions, instance: dg.DagsterInstance, bench: ClosingBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run from draft to proof; its report is on the asset's page."""
    monkeypatch.setenv("STRIPEMETER_CLOSING", "control")
    result = execute(definitions, "close", instance)
    assert (result.success, evaluations(result)[CHECK].passed) == (True, True)
    event = next(
        one for one in result.get_asset_materialization_events() if one.asset_key == dg.AssetKey("invoice_closings")
    )
    metadata = event.step_materialization_data.materialization.metadata
    assert (metadata["shadow/found"].value, metadata["shadow/verified"].value) == (1, 1)
    assert [proof.is_equal for proof in bench.proofs()] == [True]


def test_observing_a_grace_that_is_too_short_is_a_warning(
    definitions: dg.Definitions, instance: dg.DagsterInstance, bench: ClosingBench
) -> None:
    """The default touches nothing and says that late usage will be missing."""
    result = execute(definitions, "close", instance)
    check = evaluations(result)[CHECK]
    assert (result.success, check.passed, check.severity) == (True, False, dg.AssetCheckSeverity.WARN)
    assert bench.closing().invoice_id in str(check.metadata["grace_too_short"].value)
    assert bench.invoice().auto_advance is True


def test_a_failed_invoice_is_an_error_until_it_is_released(
    definitions: dg.Definitions, instance: dg.DagsterInstance, bench: ClosingBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another writer: the table names the invoice and the reason; after a release the check is green."""
    monkeypatch.setenv("STRIPEMETER_CLOSING", "control")
    bench.write("3", bench.start + timedelta(days=3))
    check = evaluations(execute(definitions, "close", instance))[CHECK]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "another writer" in str(check.metadata["worst"].value)
    release_invoice(bench.pool, bench.closing().invoice_id, actor="eve", reason="agreed", now=datetime.now(UTC))
    assert evaluations(execute(definitions, "close", instance))[CHECK].passed


def test_what_waits_too_long_is_told(bench: ClosingBench) -> None:
    """A draft that is ours and not held, or settled and neither closed nor failed: late, not wrong yet."""
    found_at = bench.start + timedelta(days=7, minutes=20)
    bench.close(found_at, "control")
    settles_at = bench.closing().settles_at
    for state, at, overdue in (
        ("found", found_at + timedelta(minutes=29), 0),
        ("found", found_at + timedelta(minutes=31), 1),
        ("controlled", settles_at + timedelta(minutes=119), 0),
        ("drained", settles_at + timedelta(minutes=121), 1),
    ):
        with transaction(bench.pool) as tx:
            tx.execute("update invoice_closings set state = %s", [state])
            listed = list_due(
                tx, stripe_account_id=bench.stripe.sink.account_id(), mode="shadow", now=at + timedelta(days=9)
            )
        assert len(sort_closings(listed, now=at).overdue) == overdue, (state, at)


@pytest.mark.parametrize("is_mapped", [True, False])
def test_the_schedule_looks_when_something_is_mapped(
    bench: ClosingBench, postgres_resource: PostgresResource, is_mapped: bool
) -> None:
    """Nothing mapped, nothing to ask Stripe."""
    if not is_mapped:
        with transaction(bench.pool) as tx:
            tx.execute("update price_mappings set mode = 'off'")
    resources = {"postgres": postgres_resource, "stripe": StripeResource()}
    with dg.build_schedule_context(resources=resources) as context:
        answer = closing.frequent_closing(context)
    assert isinstance(answer, dg.RunRequest if is_mapped else dg.SkipReason)


def test_a_message_of_stripes_asks_for_one_run(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    bench: ClosingBench,
    postgres_resource: PostgresResource,
) -> None:
    """Told of an invoice: somebody looks at once, and the message is answered; delivered again it changes nothing."""
    body = json.dumps(
        {
            "id": "evt_1",
            "object": "event",
            "type": "invoice.created",
            "livemode": False,
            "created": int(bench.start.timestamp()),
            "data": {"object": {"object": "invoice"}},
        }
    ).encode()
    resources = {"postgres": postgres_resource, "stripe": StripeResource()}

    def tick() -> dg.RunRequest | dg.SkipReason:
        with dg.build_sensor_context(instance=instance, resources=resources) as context:
            answer = closing.told_invoices(context)
        assert isinstance(answer, dg.RunRequest | dg.SkipReason)
        return answer

    assert tick() == dg.SkipReason("Stripe told of no invoice")
    keep_event(bench.pool, body, now=datetime.now(UTC))
    assert isinstance(tick(), dg.RunRequest)
    assert execute(definitions, "close", instance).success
    keep_event(bench.pool, body, now=datetime.now(UTC))
    assert tick() == dg.SkipReason("Stripe told of no invoice")
    assert bench.closing().state == "found"


def test_late_usage_is_charged_before_its_invoice_is_proven(
    definitions: dg.Definitions, instance: dg.DagsterInstance, bench: ClosingBench
) -> None:
    """One run: an invoice item at Stripe and a proof that differs in nothing. A refused charge is an error."""
    set_policy(bench.stripe, "invoice_item")
    bench.close(bench.start + timedelta(days=7, minutes=20), "observe")
    bench.close(bench.start + timedelta(days=7, hours=2), "observe")
    bench.count("7")
    bench.go_to(datetime.now(UTC))
    checks = evaluations(execute(definitions, "close", instance))
    assert (checks["late_charges_arrive"].passed, bench.closing().state) == (True, "verified")
    (item,) = bench.stripe.emulator.client().v1.invoice_items.list({"customer": bench.customer_id}).data
    assert item.amount == 4
    bench.count("8")
    bench.stripe.emulator.fault({"match": {"path_re": "invoiceitems"}, "do": {"kind": "status", "status": 400}})
    check = evaluations(execute(definitions, "close", instance))["late_charges_arrive"]
    bench.stripe.emulator.fault()
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert bench.closing().invoice_id in str(check.metadata["worst"].value)
