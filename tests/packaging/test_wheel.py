"""The wheel, installed where no checkout is near, is the whole product."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built without any index."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    finished = subprocess.run(command, check=False, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return next(folder.glob("stripemeter-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel and, beside it, the dependencies of ours; returns its directory.

    The dependencies are lent by a path file: unlike a site directory, what it adds runs no path files of its own, so
    the editable install that lives there stays out.
    """
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    install = ["-m", "pip", "--quiet", "--python", str(folder), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, *install], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return folder


def run(installed: Path, *command: str) -> str:
    """Standard output of a program of the installed environment, started far from any checkout.

    Raises:
        AssertionError: it failed; the message is what it said.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    program, *arguments = command
    finished = subprocess.run(
        [str(installed / "bin" / program), *arguments],
        check=False,
        cwd=installed,
        env={**environment, "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def test_the_wheel_holds_the_product(wheel: Path) -> None:
    """All packages, their type marker and every file of sql/ are in it; tests and tools are not."""
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"stripemeter/py.typed", "stripemeter/_shipped/dagster_home/dagster.yaml"} <= names
    assert "stripemeter/_shipped/openapi.json" in names
    shipped = {f"stripemeter/_shipped/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "sql").rglob("*.sql")}
    assert len(shipped) > 3
    assert shipped <= names
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"stripemeter", "stripemeter_assets", "stripemeter_api", "stripe_emulator"}
    assert not [name for name in names if "__pycache__" in name]


def test_nothing_of_the_checkout_is_near(installed: Path) -> None:
    """The environment imports the wheel's copy, so that the other tests of this file mean something."""
    for package in ("stripemeter", "stripemeter_api", "stripemeter_assets", "stripe_emulator"):
        file = run(installed, "python", "-c", f"import {package}; print({package}.__file__)").strip()
        assert Path(file).is_relative_to(installed), file


def test_importing_the_library_is_light(installed: Path) -> None:
    """`import stripemeter` loads no server, no frames, no Dagster and no driver."""
    heavy = ("polars", "dagster", "fastapi", "psycopg", "pydantic", "stripe", "duckdb", "uvicorn", "typer")
    program = f"import stripemeter, sys; print(stripemeter.__version__, *[m for m in {heavy} if m in sys.modules])"
    assert run(installed, "python", "-c", program).split() == ["0.1.0"]


def test_sql_comes_out_of_the_wheel(installed: Path) -> None:
    """Every query file and every migration loads from the installed package."""
    program = (
        "from stripemeter.store.sql import load_queries, shipped\n"
        "from stripemeter.store.migrations import load_migrations\n"
        "print(shipped('sql/queries'))\n"
        "print(sum(len(load_queries(path.stem)) for path in shipped('sql/queries').glob('*.sql')))\n"
        "print(*[migration.name for migration in load_migrations()])\n"
    )
    folder, queries, migrations = run(installed, "python", "-c", program).splitlines()
    assert Path(folder).is_relative_to(installed)
    assert Path(folder).parts[-3:] == ("_shipped", "sql", "queries")
    assert int(queries) > 10
    assert migrations.split() == sorted(path.name for path in (ROOT / "sql" / "migrations").glob("*.sql"))


def test_the_command_answers(installed: Path) -> None:
    """`stripemeter --help` lists the commands, without having loaded Dagster, the receiver or frames."""
    text = run(installed, "stripemeter", "--help")
    assert "up" in text
    assert "migrate" in text
    heavy = ("dagster", "stripemeter_api", "fastapi", "polars")
    program = f"import sys, stripemeter.cli.main; print(*[m for m in {heavy} if m in sys.modules])"
    assert not run(installed, "python", "-c", program).split()


def test_the_code_location_loads(installed: Path) -> None:
    """Dagster finds the definitions in the installed package."""
    program = "import dagster as dg, stripemeter_assets.definitions as d; dg.Definitions.validate_loadable(d.defs)"
    run(installed, "python", "-c", program)


def test_the_receiver_and_the_emulator_import(installed: Path) -> None:
    """The HTTP application and the Stripe emulator are importable from the installed package."""
    run(installed, "python", "-c", "import stripemeter_api.app, stripe_emulator.app")
