"""The asset `backtests`: its summary stands in the materialisation, its reports where it says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import dagster as dg
import pytest
from psycopg_pool import ConnectionPool

from stripemeter.pipeline.archive import archive_day
from stripemeter.pipeline.fold import fold
from stripemeter.store.lake import LocalLake
from stripemeter_assets.assets.backtests import backtests
from stripemeter_assets.resources import LakeResource, PostgresResource
from tests.assets.running import Report

PLAN = "name: {name}\ncurrency: USD\nmetrics: {{api_calls: {{model: flat, unitPrice: {price}}}}}\n"


def test_a_run_answers_its_configuration(
    pool: ConnectionPool,
    postgres_resource: PostgresResource,
    instance: dg.DagsterInstance,
    report_usage: Report,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Two customers, a day of the lake and one of Postgres, two candidates; a month that cannot be fails the run."""
    monkeypatch.setenv("STRIPEMETER_HOME", str(tmp_path / "home"))
    lake = LocalLake(root=tmp_path / "lake")
    for customer in ("c1", "c2"):
        report_usage(date(2026, 1, 5), date(2026, 2, 5), count=2, customer=customer)
    fold(pool)
    archive_day(pool, lake, date(2026, 1, 5))
    for name, price in (("old", 1), ("dear", 2), ("same", 1)):
        (tmp_path / f"{name}.yaml").write_text(PLAN.format(name=name, price=price))
    question: dict[str, object] = {
        "tenant": "acme",
        "plans": [str(tmp_path / "dear.yaml"), str(tmp_path / "same.yaml")],
        "baseline": str(tmp_path / "old.yaml"),
        "first": "2026-01",
        "last": "2026-02",
    }
    resources = {"postgres": postgres_resource, "lake": LakeResource(location=str(lake.root))}

    def materialize(asked: Mapping[str, object]) -> dg.ExecuteInProcessResult:
        return dg.materialize(
            [backtests],
            instance=instance,
            resources=resources,
            run_config={"ops": {"backtests": {"config": asked}}},
            raise_on_error=False,
        )

    done = materialize(question)
    assert done.success
    (event,) = done.get_asset_materialization_events()
    metadata = event.event_specific_data.materialization.metadata
    assert metadata["delta_dear"].value == "12.00 USD: 0 customers pay less, 2 more, 0 the same"
    assert metadata["delta_same"].value == "0.00 USD: 0 customers pay less, 0 more, 2 the same"
    assert "1 days were read from the lake, 1 from Postgres" in str(metadata["summary"].value)
    assert json.loads(Path(str(metadata["json_report"].value)).read_text())["customers"] == 2
    assert Path(str(metadata["html_report"].value)).read_text().startswith("<!doctype html>")
    assert not materialize(question | {"last": "2999-01"}).success
