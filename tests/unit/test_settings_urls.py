"""URLs of the database: for Dagster's driver, and for eyes."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest

from stripemeter.errors import InvalidInput
from stripemeter.runtime.dagster_home import dagster_pg_url
from stripemeter.runtime.preflight import masked


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("postgresql://u:p%40ss@h:5432/db", "postgresql+psycopg2://u:p%40ss@h:5432/db?options=-csearch_path%3Ddagster"),
        (
            "postgres://u@h/db?sslmode=require",
            "postgresql+psycopg2://u@h/db?sslmode=require&options=-csearch_path%3Ddagster",
        ),
        (
            "postgresql:///db?host=/run/pg",
            "postgresql+psycopg2:///db?host=%2Frun%2Fpg&options=-csearch_path%3Ddagster",
        ),
    ],
)
def test_dagster_gets_its_driver_and_its_schema(given: str, expected: str) -> None:
    """The driver is named, the rest of the URL stays, and the search path is the schema `dagster`."""
    assert dagster_pg_url(given) == expected


def test_options_of_the_operator_are_kept() -> None:
    """Ours come last, separated by a space that libpq can read."""
    url = dagster_pg_url("postgresql://h/db?options=-cstatement_timeout%3D1s")
    assert "+" not in urlsplit(url).query
    assert parse_qs(urlsplit(url).query)["options"] == ["-cstatement_timeout=1s -csearch_path=dagster"]


def test_another_database_is_refused() -> None:
    """Only PostgreSQL holds Dagster's tables."""
    with pytest.raises(InvalidInput, match="DATABASE_URL"):
        dagster_pg_url("sqlite:///x")


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("postgresql://user:secret@h:1/db", "postgresql://user:***@h:1/db"),
        ("postgresql://user:s@cret@h/db", "postgresql://user:***@h/db"),
        ("postgresql://user@h/db", "postgresql://user@h/db"),
        ("postgresql://h/db", "postgresql://h/db"),
        (
            "postgresql://h/db?user=u&password=secret&sslmode=require",
            "postgresql://h/db?user=u&password=***&sslmode=require",
        ),
    ],
)
def test_a_shown_url_has_no_password(given: str, shown: str) -> None:
    """Everything but the password stays readable."""
    assert masked(given) == shown
