"""`sql/schema.sql`, which people read, is what the migrations, which databases run, add up to."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator

import psycopg
import pytest

from stripemeter.runtime.embedded_postgres import EmbeddedPostgres
from stripemeter.store.sql import shipped


@pytest.fixture
def schema_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """The URL of a database built from `sql/schema.sql` alone."""
    name = f"schema_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres.database_url("postgres"), autocommit=True) as connection:
        connection.execute(f"create database {name}")
    with psycopg.connect(postgres.database_url(name)) as connection:
        connection.execute(shipped("sql/schema.sql").read_bytes())
    yield postgres.database_url(name)
    with psycopg.connect(postgres.database_url("postgres"), autocommit=True) as connection:
        connection.execute(f"drop database {name} with (force)")


def dump(postgres: EmbeddedPostgres, database_url: str) -> list[str]:
    """Every object of a database as a statement, whatever the order of objects and of columns."""
    command = [str(postgres.bin_directory / "pg_dump"), "--schema-only", "--no-owner", "--no-privileges", database_url]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = [line for line in text.splitlines() if line and not line.startswith(("--", "\\"))]
    statements, current = [], list[str]()
    for line in lines:
        current.append(line)
        if line.endswith(";") and not line.startswith(" "):
            statements.append(_normal(current))
            current = []
    return sorted(statements)


def _normal(lines: list[str]) -> str:
    if not lines[0].startswith("CREATE TABLE"):
        return "\n".join(lines)
    # A column added by a later migration comes last in the database and stands where it belongs in schema.sql.
    inside = sorted(line.rstrip(",") for line in lines[1:-1])
    return "\n".join([lines[0], *inside, lines[-1]])


def test_the_schema_is_the_sum_of_the_migrations(
    postgres: EmbeddedPostgres, database_url: str, schema_url: str
) -> None:
    """A database from schema.sql and one from the migrations have the same tables, indexes, functions and comments."""
    assert dump(postgres, schema_url) == dump(postgres, database_url)


def test_a_difference_is_seen(postgres: EmbeddedPostgres, database_url: str, schema_url: str) -> None:
    """A column's type, a comment or a check that differs makes the two dumps differ."""
    before = dump(postgres, database_url)
    with psycopg.connect(schema_url, autocommit=True) as connection:
        for change in (
            "alter table event_conflicts alter column times_received type integer",
            "comment on table events is 'Something else.'",
            "alter table counters drop constraint counters_ordered",
        ):
            connection.execute(change)
            after = dump(postgres, schema_url)
            assert after != before, change
            before = after
