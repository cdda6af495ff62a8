"""Named queries: every shipped file loads, and a file that could mislead is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from stripemeter.store import sql
from stripemeter.store.sql import load_queries, shipped

MODULES = sorted(path.stem for path in shipped("sql/queries").glob("*.sql"))


@pytest.mark.parametrize("module", MODULES)
def test_every_shipped_query_has_a_name_a_purpose_and_a_body(module: str) -> None:
    """The first line says what comes back or changes; SQL follows."""
    queries = load_queries(module)
    assert queries
    for name, text in queries.items():
        first, _, rest = text.partition("\n")
        assert first.startswith("-- "), f"{module}.{name} does not say what it does"
        assert any(line and not line.startswith("--") for line in rest.splitlines()), f"{module}.{name} is empty"


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A query file that stands where the shipped ones do."""
    monkeypatch.setattr(sql, "shipped", lambda relative: tmp_path / Path(relative).name)
    load_queries.cache_clear()
    return tmp_path


def test_a_name_used_twice_is_refused(write_module: Path) -> None:
    """Otherwise the later would silently win."""
    (write_module / "twice.sql").write_text("-- name: a\nselect 1;\n-- name: a\nselect 2;\n")
    with pytest.raises(ValueError, match="used twice"):
        load_queries("twice")


def test_sql_before_the_first_name_is_refused(write_module: Path) -> None:
    """Otherwise it would silently be ignored; comments may stand there."""
    (write_module / "early.sql").write_text("-- Purpose.\nselect 0;\n-- name: a\nselect 1;\n")
    with pytest.raises(ValueError, match="before the first"):
        load_queries("early")
    (write_module / "fine.sql").write_text("-- Purpose.\n\n-- name: a\nselect 1;\n\n-- name: b\nselect 2;\n")
    assert load_queries("fine") == {"a": "select 1;", "b": "select 2;"}


def test_a_missing_file_is_named() -> None:
    """The message says which file and where it was looked for."""
    with pytest.raises(FileNotFoundError, match=r"queries/nothing\.sql"):
        load_queries("nothing")
