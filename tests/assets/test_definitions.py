"""The code location as a whole: what it holds, and that it loads anywhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import dagster as dg

from stripemeter_assets.definitions import defs

ASSETS = {
    "events": "ledger",
    "counters": "metering",
    "event_archive": "ledger",
    "pushes": "billing",
    "reconciliations": "billing",
    "late_charges": "billing",
    "invoice_closings": "billing",
    "backtests": "pricing",
}


def test_the_assets_are_the_pipeline() -> None:
    """Tables in the order usage flows and the lake beside them, each owned, grouped and named."""
    specs = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}
    assert {name: spec.group_name for name, spec in specs.items()} == ASSETS
    assert all(spec.owners == ["team:billing"] and spec.kinds and spec.description for spec in specs.values())
    upstream = {name: [dep.asset_key.to_user_string() for dep in spec.deps] for name, spec in specs.items()}
    assert upstream == {
        "events": [],
        "counters": ["events"],
        "event_archive": ["events", "counters"],
        "pushes": ["counters"],
        "reconciliations": ["pushes"],
        "late_charges": ["reconciliations"],
        "invoice_closings": ["reconciliations", "late_charges"],
        "backtests": ["event_archive", "counters"],
    }


def test_columns_are_those_of_the_frames() -> None:
    """The UI shows the columns the core validates."""
    specs = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}
    columns = specs["counters"].metadata["dagster/column_schema"].columns
    assert [column.name for column in columns][:5] == ["tenant_id", "customer_ref", "meter", "day", "segment_start"]


def test_everything_that_starts_by_itself_is_on() -> None:
    """Dagster leaves sensors and schedules off unless told otherwise, and then nothing happens at all."""
    repository = defs.get_repository_def()
    assert all(sensor.default_status is dg.DefaultSensorStatus.RUNNING for sensor in repository.sensor_defs)
    assert all(schedule.default_status is dg.DefaultScheduleStatus.RUNNING for schedule in repository.schedule_defs)


def test_the_location_loads_from_another_directory_without_a_database(tmp_path: Path) -> None:
    """Loading opens nothing: a code server starts while Postgres is away, whatever its directory."""
    code = (
        "import dagster as dg; from stripemeter_assets.definitions import defs; dg.Definitions.validate_loadable(defs)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PATH": "/usr/bin"},
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
