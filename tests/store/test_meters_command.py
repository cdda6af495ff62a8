"""`stripemeter meters`: a file says what is counted, and what it would change is shown before it does."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from stripemeter.cli.main import app
from stripemeter.errors import InvalidInput, NotFound, StripeMeterError
from stripemeter.pipeline.fold import fold
from stripemeter.store.postgres import open_pool

FILE = """
tenant: acme
meters:
  - name: pro_calls
    metrics: [calls]
    filter:
      and:
        - {field: meta.plan, op: eq, value: pro}
        - {field: meta.size, op: gte, value: 0.10000000000000000001}
  - name: seats
    value: meta.seats
    aggregation: percentile
    percentile: 99.9
    dimensions: [meta.region]
    effectiveFrom: 2026-11-01
"""


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, database_url: str) -> CliRunner:
    """Types commands at this test's database."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    return CliRunner()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The file, to be changed by the test."""
    path = tmp_path / "meters.yaml"
    path.write_text(FILE)
    return path


def meters(runner: CliRunner, *words: str, status: int = 0) -> list[str]:
    """What `stripemeter meters ...` prints on standard output."""
    answer = runner.invoke(app, ["meters", *words])
    if isinstance(answer.exception, StripeMeterError):
        raise answer.exception
    assert answer.exit_code == status, answer.output
    return answer.stdout.splitlines()


def test_a_file_is_compared_applied_and_exported(runner: CliRunner, file: Path) -> None:
    """Diff exits 1 with what apply would do, changing nothing; then 0; an export applied is a no-op."""
    planned = ["create pro_calls (version 1, all of history)", "create seats (version 1, from 2026-11-01)"]
    assert meters(runner, "diff", str(file), status=1) == planned
    assert meters(runner, "apply", str(file)) == planned
    assert meters(runner, "apply", str(file)) == []
    assert meters(runner, "diff", str(file)) == []
    exported = "\n".join(meters(runner, "export", "--tenant", "acme")) + "\n"
    assert "0.10000000000000000001" in exported
    file.write_text(exported)
    assert meters(runner, "diff", str(file), "--prune") == []
    assert meters(runner, "apply", str(file), "--prune") == []
    assert meters(runner, "list", "--tenant", "acme") == [
        "pro_calls\tsum\tcalls\tversion 1 from 0001-01-01",
        "seats\tpercentile\tseats\tversion 1 from 2026-11-01",
    ]


def test_a_scheduled_version_survives_an_export(runner: CliRunner, file: Path) -> None:
    """Its day is written, so applying the export does not bring it forward."""
    file.write_text("tenant: acme\nmeters: [{name: seats, effectiveFrom: 9999-01-01}]")
    meters(runner, "apply", str(file))
    exported = meters(runner, "export", "--tenant", "acme")
    assert "  effectiveFrom: '9999-01-01'" in exported
    file.write_text("\n".join(exported))
    assert meters(runner, "diff", str(file)) == []


def test_a_change_shows_its_members_and_prune_ends_the_rest(runner: CliRunner, file: Path) -> None:
    """What the file does not name is left alone unless asked."""
    meters(runner, "apply", str(file))
    today = datetime.now(UTC).date()
    file.write_text("tenant: acme\nmeters: [{name: seats, value: 2}]")
    changed = [
        f"change seats (version 2, from {today})",
        '  value: "meta.seats" -> "2"',
        '  aggregation: "percentile" -> "sum"',
        '  percentile: "99.9" -> null',
        '  dimensions: ["meta.region"] -> []',
    ]
    assert meters(runner, "diff", str(file), status=1) == changed
    removed = f"remove pro_calls (version 2, from {today})"
    assert meters(runner, "apply", str(file), "--prune") == [*changed, removed]
    assert meters(runner, "list", "--tenant", "acme") == [f"seats\tsum\tseats\tversion 2 from {today}"]
    shown = meters(runner, "show", "pro_calls", "--tenant", "acme")
    assert shown[0] == "name: pro_calls"
    assert [line.partition(", 20")[0].partition(", cli:")[0] for line in shown[-2:]] == [
        "# version 1 from 0001-01-01",
        f"# version 2 from {today}, ended",
    ]
    file.write_text("tenant: acme\nmeters: []")
    assert meters(runner, "diff", str(file)) == []
    assert meters(runner, "diff", str(file), "--prune", status=1) == [f"remove seats (version 3, from {today})"]


def test_apply_counts_again_and_says_how_far_it_is(runner: CliRunner, file: Path, database_url: str) -> None:
    """It returns when every day it touched is counted by the new rules."""
    with psycopg.connect(database_url) as tx:
        for day in ("2026-11-01", "2026-11-02", "2026-11-04"):
            tx.execute("select ensure_events_month('2026-11-01')")
            tx.execute(
                "insert into events (tenant_id, metric, customer_ref, quantity, ts, meta, received_at, idempotency_key,"
                """ source) values ('acme', 'calls', 'ada', 5, %s, '{"plan":"pro","size":1}', now(), %s, 'import')""",
                (f"{day}T09:00:00Z", uuid.uuid4().hex),
            )
    with open_pool(database_url) as pool:
        fold(pool)
    answer = runner.invoke(app, ["meters", "apply", str(file)])
    assert answer.exit_code == 0
    assert answer.stderr.splitlines()[-1] == "counted again: 3 of 3 days"
    with psycopg.connect(database_url) as tx:
        row = tx.execute("select sum(quantity_sum), count(*) from counters where meter = 'pro_calls'").fetchone()
    assert row == (Decimal(15), 3)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("tenant: acme", "meters"),
        ("meters: []", "tenant"),
        ("tenant: acme\nmeters: []\ncolour: blue", "colour"),
        ("tenant: acme\nmeters: {}", "meters"),
        ("tenant: acme\nmeters: [{name: a}, {name: b, filter: {and: []}}]", "meters[1].filter.and"),
        ("tenant: acme\nmeters: [{name: a}, {name: a}]", "meters[1].name"),
        ("tenant: acme\nmeters: [{name: a, effectiveFrom: 2026-13-01}]", "meters[0].effectiveFrom"),
        ("tenant: acme\nmeters: [{name: a, value: .inf}]", "file"),
        ("tenant: acme\nmeters: [{name: a, value: 1, value: 2}]", "file"),
        ("tenant: acme\nmeters: [{1: a}]", "file"),
        ("tenant: acme\nmeters: &m [*m]", "file"),
        ("tenant: !!python/object:os.system x", "file"),
        ("tenant: [", "file"),
        ("- tenant", ""),
    ],
)
def test_what_is_no_file_of_meters_is_refused(runner: CliRunner, file: Path, text: str, field: str) -> None:
    """Before anything is changed, by the member that is wrong."""
    file.write_text(text)
    with pytest.raises(InvalidInput) as refused:
        meters(runner, "apply", str(file))
    assert refused.value.field == field


def test_what_is_not_there_is_said(runner: CliRunner, tmp_path: Path) -> None:
    """A file, a meter, a day."""
    with pytest.raises(InvalidInput, match="cannot be read"):
        meters(runner, "diff", str(tmp_path / "none.yaml"))
    with pytest.raises(NotFound):
        meters(runner, "show", "none", "--tenant", "acme")
    with pytest.raises(InvalidInput):
        meters(runner, "list", "--tenant", "acme", "--day", "today")
