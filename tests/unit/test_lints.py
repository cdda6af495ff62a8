"""Every lint of `make check` catches what it is there for, and lets pass what it is not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools import squawk
from tools.lints import floats, glue, length, purity, queries, sql_text
from tools.lints.source import Finding, Source, load_sources

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def lines(findings: Iterator[Finding]) -> list[int]:
    """The lines of findings, in order."""
    return sorted(finding.line for finding in findings)


@pytest.mark.parametrize(
    "planted",
    [
        "rate = 0.1",
        "rate = float(text)",
        "def rate(x: float) -> None: ...",
        "schema = {'quantity': pl.Float64}",
        "rate = 1e3",
    ],
)
def test_a_float_near_quantities_is_found(planted: str) -> None:
    """A float literal, call, annotation or column type in quantity code is a finding."""
    source = Source(path="stripemeter/pricing/quote.py", text=f"{planted}\n")
    assert lines(floats.check(source)) == [1]


def test_a_float_with_a_named_reason_passes() -> None:
    """Seconds may be floats when the line says so; an escape without a reason excuses nothing."""
    path = "stripemeter/pipeline/fold.py"
    excused = "PAUSE = 0.05  # allow-float: seconds\nRATE = 0.05  # allow-float:\nRATIO = 0.05  # allow-sql-text: no\n"
    assert lines(floats.check(Source(path=path, text=excused))) == [2, 3]


def test_a_float_elsewhere_passes() -> None:
    """The rule is about quantity and money code: a supervisor's pause is not its business."""
    assert not list(floats.check(Source(path="stripemeter/runtime/supervisor.py", text="PAUSE = 0.05\n")))


@pytest.mark.parametrize(
    "planted",
    [
        "connection.execute('select 1')",
        "connection.execute(f'insert into {table} values (1)')",
        "connection.execute('''\n  with open as (select 1) select * from open''')",
        "QUERY = 'update events set quantity = 0'",
        "QUERY = 'DELETE FROM events'",
        "QUERY = 'create unique index x on y (z)'",
    ],
)
def test_sql_in_python_is_found(planted: str) -> None:
    """A string or f-string that is a statement of SQL is a finding, in the product."""
    found = list(sql_text.check(Source(path="stripemeter/store/ledger.py", text=f"{planted}\n")))
    assert [finding.lint for finding in found] == ["sql-text"]


def test_talking_about_sql_passes() -> None:
    """Docstrings, messages that merely start with a verb of SQL, and tests are let alone."""
    text = '"""select is a verb."""\n\nHELP = "update the price"\nTITLE = "with love"\nNAME = "select"\n'
    assert not list(sql_text.check(Source(path="stripemeter/cli/main.py", text=text)))
    assert not list(sql_text.check(Source(path="tests/store/test_x.py", text="Q = 'select 1'\n")))


def test_glue_with_a_long_body_is_found() -> None:
    """More than fifteen statements in an asset or a route, at any depth, are a finding on its definition."""
    body = "".join(f"        step_{number}()\n" for number in range(15))
    asset = f'def counters() -> None:\n    """Usage."""\n    with tx:\n{body}'
    route = f'@router.get("/v1/usage")\nasync def usage() -> None:\n    with tx:\n{body}'
    assert lines(glue.check(Source(path="stripemeter_assets/assets/counters.py", text=asset))) == [1]
    assert lines(glue.check(Source(path="api/stripemeter_api/usage.py", text=route))) == [2]
    shorter = asset.replace("        step_14()\n", "")
    assert not list(glue.check(Source(path="stripemeter_assets/assets/counters.py", text=shorter)))


def test_glue_that_computes_with_a_quantity_is_found() -> None:
    """An asset that adds quantities is a finding; one that subtracts times is not."""
    path = "stripemeter_assets/assets/counters.py"
    computing = "def counters() -> None:\n    rest = row.quantity - pushed\n"
    timing = "def counters() -> None:\n    since = now - timedelta(days=1)\n"
    assert lines(glue.check(Source(path=path, text=computing))) == [2]
    assert not list(glue.check(Source(path=path, text=timing)))


@pytest.mark.parametrize(
    "planted", ["datetime.now(UTC)", "uuid4()", "pl.read_parquet(x)", "frame.write_csv(x)", "open(x)"]
)
def test_a_pure_package_that_reaches_out_is_found(planted: str) -> None:
    """A clock, an identity or a file in a pure package is a finding."""
    assert lines(purity.check(Source(path="stripemeter/metering/days.py", text=f"x = {planted}\n"))) == [1]
    assert not list(purity.check(Source(path="stripemeter/pipeline/fold.py", text=f"x = {planted}\n")))


def test_a_long_file_needs_a_decision_record() -> None:
    """401 lines are a finding unless a decision record names the file; 400 are none."""
    long = Source(path="stripemeter/x.py", text="x\n" * 401)
    assert lines(length.check(long, decisions="")) == [1]
    assert not list(length.check(long, decisions="- `stripemeter/x.py` is one table"))
    assert not list(length.check(Source(path="stripemeter/x.py", text="x\n" * 400), decisions=""))


def test_a_query_has_a_purpose_and_a_caller() -> None:
    """A query without a purpose line, or that no Python names, is a finding on its header."""
    text = "-- name: load_a\n-- Every a.\nselect 1;\n\n-- name: load_b\nselect 2;\n\n"
    text += "-- name: load_c\n-- Every c.\nselect 3;\n"
    found = queries.check(Source(path="sql/queries/x.sql", text=text), 'Q["load_a"] Q["load_b"]')
    assert [(finding.line, finding.lint) for finding in found] == [(5, "query"), (8, "query")]


def test_a_finding_reads_as_an_editor_expects() -> None:
    """`path:line:` comes first, so that an editor can jump there."""
    assert str(Finding(path="a/b.py", line=3, lint="float", message="why")) == "a/b.py:3: float: why"


def test_a_repository_lists_new_files_and_not_ignored_ones(tmp_path: Path) -> None:
    """A file is linted before its first commit, and what .gitignore names never is."""
    subprocess.run(["git", "init", "--quiet"], check=True, cwd=tmp_path)
    (tmp_path / ".gitignore").write_text("ignored.py\n", encoding="utf-8")
    for name in ("new.py", "ignored.py", "other.txt"):
        (tmp_path / name).write_text("", encoding="utf-8")
    assert [source.path for source in load_sources(tmp_path, ".py")] == ["new.py"]


@pytest.mark.parametrize(
    ("path", "planted", "rule"),
    [
        ("stripemeter/metering/x.py", "import polars as pl\n\npl.read_csv('x')\n", "TID251"),
        ("stripemeter/cli/x.py", "import dagster as dg\n\nprint(dg)\n", "TID253"),
        ("stripemeter/store/x.py", "from .sql import load_queries\n\nload_queries('x')\n", "TID252"),
        ("tests/unit/test_x.py", "def test_x() -> None:\n    assert True\n", "D103"),
    ],
)
def test_ruff_knows_our_rules(path: str, planted: str, rule: str) -> None:
    """Frames are read in the store, Dagster stays out of the CLI, imports are absolute, every test has a docstring."""
    command = [str(BIN / "ruff"), "check", "--stdin-filename", path, "--output-format", "concise", "-"]
    finished = subprocess.run(command, check=False, cwd=ROOT, input=planted, capture_output=True, text=True)
    assert rule in finished.stdout


@pytest.mark.parametrize(
    ("planted", "rule"),
    [
        ("create index x on events (ts);", "require-concurrent-index-creation"),
        ("alter table events add column x text not null;", "adding-required-field"),
        ("alter table events alter column metric type varchar(10);", "changing-column-type"),
        ("drop table events;", "ban-drop-table"),
    ],
)
def test_squawk_refuses_what_blocks_writers(tmp_path: Path, planted: str, rule: str) -> None:
    """A migration that would hold up running writers, or break the release beside it, is a finding."""
    path = tmp_path / "0002_x.sql"
    path.write_text(f"-- migrate:up\n{planted}\n", encoding="utf-8")
    assert any(rule in finding for finding in squawk.check(path))


def test_squawk_does_not_read_the_down_half(tmp_path: Path) -> None:
    """What a down half drops is nobody's business, and blanking it leaves line numbers as they were."""
    path = tmp_path / "0002_x.sql"
    path.write_text("-- migrate:up\nselect 1;\n-- migrate:down\ndrop table events;\n", encoding="utf-8")
    assert not squawk.check(path)
    assert squawk.blank_down_half("a\n-- migrate:down\nb\n") == "a\n\n\n"


@pytest.mark.parametrize(
    ("path", "planted", "contract"),
    [
        ("stripemeter/metering/planted.py", "import os\n", "the domain does no I/O"),
        ("stripemeter/metering/planted.py", "import stripemeter.store.sql\n", "dependencies point inward"),
        ("stripemeter/planted/__init__.py", "", "dependencies point inward"),
        (
            "stripemeter/store/planted.py",
            "import stripemeter_assets\n",
            "the receiver and the assets stand on the library, not on each other",
        ),
        ("stripemeter/store/planted.py", "import dagster\n", "dagster stays in its package"),
        ("stripemeter/pipeline/planted.py", "import fastapi\n", "fastapi stays in the receiver and the emulator"),
        ("stripemeter/pipeline/planted.py", "import stripe\n", "only billing talks to stripe"),
        ("stripemeter/store/planted.py", "import asyncpg\n", "asyncpg lives behind the ingest flusher"),
        ("stripe_emulator/planted.py", "import stripemeter.errors\n", "the emulator knows nobody"),
        ("stripemeter/runtime/planted.py", "import stripe_emulator\n", "nobody knows the emulator"),
    ],
)
def test_an_import_against_the_house_is_found(tmp_path: Path, path: str, planted: str, contract: str) -> None:
    """Each import contract is broken by the import it forbids."""
    for package in ("stripemeter", "stripemeter_assets", "stripe_emulator", "api/stripemeter_api"):
        target = tmp_path / Path(package).name
        shutil.copytree(ROOT / package, target, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text(planted, encoding="utf-8")
    finished = subprocess.run(
        [str(BIN / "lint-imports"), "--no-cache"], check=False, cwd=tmp_path, capture_output=True, text=True
    )
    assert f"{contract} BROKEN" in " ".join(finished.stdout.split())
