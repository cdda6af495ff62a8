"""Reconciliation over HTTP: the original's formats, from the latest verdicts, and nobody else's."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from stripemeter.store import reconciliations
from stripemeter.store.mappings import PriceMapping, create_mapping
from stripemeter.store.postgres import open_pool, transaction
from stripemeter.store.reconciliations import ReconciledDay
from tests.api.serving import Api

CHECKED_AT = datetime(2026, 11, 23, 12, tzinfo=UTC)


def verdict(
    database_url: str,
    tenant: str,
    *days: tuple[date, str | None, str | None, str, str | None],
    meter: str = "api_calls",
    customer: str = "c1",
    mapping: uuid.UUID | None = None,
) -> uuid.UUID:
    """Store verdicts (day, ours, Stripe's, status, cause) of a mapped meter; returns the mapping."""
    with open_pool(database_url) as pool, transaction(pool) as tx:
        if mapping is None:
            mapping = uuid.uuid4()
            create_mapping(
                tx,
                PriceMapping(
                    id=mapping,
                    tenant_id=tenant,
                    meter=meter,
                    aggregation="sum",
                    stripe_account_id="acct_1",
                    stripe_event_name=meter,
                    stripe_meter_id="mtr_1",
                    mode="shadow",
                    created_at=CHECKED_AT,
                ),
            )
        reconciliations.replace_verdicts(
            tx,
            [
                ReconciledDay(
                    mapping_id=mapping,
                    customer_ref=customer,
                    segment_start=datetime(day.year, day.month, 1, tzinfo=UTC),
                    day=day,
                    tenant_id=tenant,
                    meter=meter,
                    status=status,  # type: ignore[arg-type]
                    cause=cause,  # type: ignore[arg-type]
                    local_quantity=Decimal(ours or 0),
                    pushed_quantity=Decimal(0),
                    stripe_quantity=None if theirs is None else Decimal(theirs),
                    checked_at=datetime.now(UTC),
                )
                for day, ours, theirs, status, cause in days
            ],
        )
    return mapping


def report(api: Api, tenant: str, period: str = "2026-11") -> Any:  # noqa: ANN401 - JSON
    """The month as JSON."""
    answer = api.get(f"/v1/reconciliation/{period}", params={"tenantId": tenant})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_only_the_months_own_days_are_summed_however_often_they_were_compared(
    api: Api, tenant: str, database_url: str
) -> None:
    """Acceptance seed 16: three closed months and hourly runs give no drift."""
    days = [(date(2026, month, 3), "10.5", "10.5", "ok", None) for month in (9, 10, 11)]
    mapping = verdict(database_url, tenant, *days)
    for _ in range(3):
        verdict(database_url, tenant, *days, mapping=mapping)
    found = report(api, tenant)
    (row,) = found["reports"]
    assert (row["localTotal"], row["stripeTotal"], row["diff"], row["status"]) == (10.5, 10.5, 0, "ok")
    assert row["subscriptionItemId"] == "api_calls:c1"
    assert found["summary"] == {"total": 1, "ok": 1, "investigating": 0, "resolved": 0, "maxDiff": 0}
    assert found["suggestedAdjustments"] == []


def test_a_silent_stripe_is_never_ok(api: Api, tenant: str, database_url: str) -> None:
    """One unread day makes the month unknown: no total, no difference, to be investigated."""
    verdict(
        database_url,
        tenant,
        (date(2026, 11, 1), "5", "5", "ok", None),
        (date(2026, 11, 2), "5", None, "unknown", "unreachable"),
    )
    (row,) = report(api, tenant)["reports"]
    assert (row["status"], row["verdict"], row["stripeTotal"], row["diff"]) == ("investigate", "unknown", None, None)
    csv = api.get("/v1/reconciliation/2026-11", params={"tenantId": tenant, "format": "csv"}).text
    assert csv.splitlines()[1] == "api_calls:c1,2026-11,10,,,,investigate"


def test_what_was_repaired_is_resolved(api: Api, tenant: str, database_url: str) -> None:
    """A month that once differed without an excuse says so; tolerated drift is ok and still listed."""
    day = date(2026, 11, 1)
    mapping = verdict(database_url, tenant, (day, "5", "9", "drift", "foreign_writer"))
    assert report(api, tenant)["reports"][0]["status"] == "investigate"
    verdict(database_url, tenant, (day, "5", "5", "ok", None), mapping=mapping)
    verdict(database_url, tenant, (day, "1000", "999", "within_epsilon", "unsent"), customer="c2", mapping=mapping)
    rows = {row["customerRef"]: row for row in report(api, tenant)["reports"]}
    assert (rows["c1"]["status"], rows["c2"]["status"], rows["c2"]["verdict"]) == ("resolved", "ok", "within_epsilon")
    assert (rows["c2"]["diff"], rows["c2"]["causes"]) == (1, ["unsent"])


def test_csv_is_the_originals(api: Api, tenant: str, database_url: str) -> None:
    """Headers to the letter, drift_pct as a fraction and 1 against nothing, a TOTAL row, names of the attachments."""
    mapping = verdict(
        database_url,
        tenant,
        (date(2026, 10, 1), "8", "10", "drift", "rejected"),
        (date(2026, 11, 1), "4", "0", "drift", "unsent"),
    )
    verdict(database_url, tenant, (date(2026, 10, 2), "12", "10", "drift", "unsent"), customer="c2", mapping=mapping)
    verdict(database_url, tenant, (date(2026, 11, 1), "1", "1", "ok", None), meter="seats")
    answer = api.get("/v1/reconciliation/2026-11", params={"tenantId": tenant, "format": "csv"})
    assert answer.headers["content-disposition"] == f'attachment; filename="reconciliation_{tenant}_2026-11.csv"'
    assert answer.text == (
        "subscription_item_id,period,local,stripe,drift_abs,drift_pct,status\r\n"
        "api_calls:c1,2026-11,4,0,4,1,investigate\r\n"
        "seats:c1,2026-11,1,1,0,0,ok\r\n"
    )
    months = {"tenantId": tenant, "periodStart": "2026-10", "periodEnd": "2026-11"}
    answer = api.get("/v1/reconciliation/summary", params={**months, "format": "csv"})
    assert answer.headers["content-disposition"].endswith(f'_summary_{tenant}_2026-10_2026-11.csv"')
    assert answer.text == (
        "metric,local,stripe,drift_abs,drift_pct,items\r\n"
        "api_calls,24,20,8,0.4,3\r\n"
        "seats,1,1,0,0,1\r\n"
        "TOTAL,25,21,8,0.380952380952,4\r\n"
    )
    overall = api.get("/v1/reconciliation/summary", params=months).json()["overall"]
    assert overall == {
        "local": 25, "stripe": 21, "drift_abs": 8, "drift_pct": 0.380952380952, "metrics": 2, "items": 4, "unknown": 0,
    }  # fmt: skip


def test_a_request_is_queued_and_can_be_looked_up_by_its_tenant(api: Api, tenant: str) -> None:
    """202 with a job id, which only its tenant finds."""
    answer = api.post("/v1/reconciliation/run", json={"tenantId": tenant})
    assert (answer.status_code, answer.json()["message"]) == (202, "Reconciliation job queued")
    path = f"/v1/reconciliation/runs/{answer.json()['jobId']}"
    assert api.get(path, params={"tenantId": tenant}).json()["status"] == "queued"
    assert api.get(path, params={"tenantId": f"{tenant}-other"}).status_code == 404


@pytest.mark.parametrize(
    ("path", "params", "field"),
    [
        ("2026-13", {"tenantId": "t"}, "period"),
        ("2026-1", {"tenantId": "t"}, "period"),
        ("2026-11", {}, "tenantId"),
        ("2026-11", {"tenantId": "t", "format": "xml"}, "format"),
        ("summary", {"tenantId": "t", "periodStart": "2026-11", "periodEnd": "2026-10"}, "periodEnd"),
        ("summary", {"tenantId": "t", "periodStart": "x", "periodEnd": "2026-10"}, "periodStart"),
    ],
)
def test_a_bad_request_names_its_field(api: Api, path: str, params: dict[str, str], field: str) -> None:
    """400, never 500 or an empty report."""
    answer = api.get(f"/v1/reconciliation/{path}", params=params)
    assert answer.status_code == 400
    assert field in answer.text


def test_approvals_are_bounded_and_count_what_failed(api: Api, tenant: str) -> None:
    """Unknown ids fail one by one; too many, none, no reason, or too large a body are refused as a whole."""
    unknown = str(uuid.uuid4())
    path = "/v1/reconciliation/adjustments"
    answer = api.post(path, json={"adjustmentIds": [unknown], "reason": "r", "tenantId": tenant}).json()
    assert (answer["applied"], answer["failed"]) == (0, 1)
    assert answer["results"] == [{"id": unknown, "outcome": "failed", "message": "no such suggestion"}]
    for body, field in (
        ({"adjustmentIds": [unknown] * 1001, "reason": "r"}, "adjustmentIds"),
        ({"adjustmentIds": [], "reason": "r"}, "adjustmentIds"),
        ({"adjustmentIds": ["x"], "reason": "r"}, "adjustmentIds"),
        ({"adjustmentIds": [unknown]}, "reason"),
    ):
        refused = api.post(path, json=body)
        assert (refused.status_code, field in refused.text) == (400, True)
    assert api.post(path, content=b" " * 262_145).status_code == 413


def test_metrics_show_the_months_that_differ(api: Api, tenant: str, database_url: str) -> None:
    """The original's names; a fraction, not a percentage; a month that agrees has no gauge."""
    today = datetime.now(UTC).date()
    mapping = verdict(database_url, tenant, (today, "8", "10", "drift", "rejected"))
    verdict(database_url, tenant, (today, "4", "4", "ok", None), customer="c2", mapping=mapping)
    lines = [line for line in api.get("/metrics").text.splitlines() if tenant in line]
    labels = f'{{period="{today:%Y-%m}",subscription_item="api_calls:c1",tenant="{tenant}"}}'
    assert sorted(lines) == [f"reconciliation_diff_abs{labels} 2.0", f"reconciliation_diff_pct{labels} 0.2"]
    assert "recon_runs_total 0.0" in api.get("/metrics").text
