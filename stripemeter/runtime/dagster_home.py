"""Dagster's home inside ours: its two configuration files, its database schema, its address.

Belongs here: `dagster.yaml`, `workspace.yaml`, `DAGSTER_PG_URL`. Does not: importing Dagster, anything it runs.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from stripemeter.errors import InvalidInput
from stripemeter.store.postgres import connect
from stripemeter.store.sql import load_queries, shipped

LOCATION = "stripemeter"
STORAGE_SCHEME = "postgresql+psycopg2"
"""Named in full: SQLAlchemy 2.1 reads a plain `postgresql://` as psycopg 3, which dagster-postgres cannot use."""
_SCHEMA_OPTION = "-csearch_path=dagster"


def write_dagster_home(folder: Path, *, code_server_port: int) -> None:
    """Write both files, at every start: the shipped configuration and where the code server listens."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(shipped("dagster_home/dagster.yaml"), folder / "dagster.yaml")
    (folder / "workspace.yaml").write_text(
        "# Written by StripeMeter at every start: edits are lost.\n"
        "load_from:\n"
        f"  - grpc_server: {{host: 127.0.0.1, port: {code_server_port}, location_name: {LOCATION}}}\n",
        encoding="ascii",
    )


def dagster_pg_url(database_url: str) -> str:
    """The same database through the driver Dagster can use, its tables in the schema `dagster`.

    Raises:
        InvalidInput: not a `postgresql://` URL.
    """
    parts = urlsplit(database_url)
    if parts.scheme not in ("postgresql", "postgres"):
        raise InvalidInput("DATABASE_URL must begin with postgresql://", field="DATABASE_URL")
    query = parse_qsl(parts.query, keep_blank_values=True)
    options = [value for name, value in query if name == "options"] + [_SCHEMA_OPTION]
    kept = [(name, value) for name, value in query if name != "options"]
    # quote, not quote_plus: libpq does not read + as a space.
    encoded = urlencode([*kept, ("options", " ".join(options))], quote_via=quote)
    return f"{STORAGE_SCHEME}://{parts.netloc}{parts.path}?{encoded}"


def create_schema(database_url: str) -> None:
    """Create the schema `dagster` if absent.

    Raises:
        Unavailable: the database cannot be reached.
    """
    with connect(database_url, application_name="stripemeter-up", autocommit=True) as connection:
        connection.execute(load_queries("runtime")["create_dagster_schema"])


def daemon_heartbeat_age_seconds(database_url: str) -> float | None:
    """Seconds since the newest heartbeat of any Dagster daemon; None when there never was one.

    Raises:
        Unavailable: the database cannot be reached.
    """
    queries = load_queries("runtime")
    with connect(database_url, application_name="stripemeter-up", autocommit=True) as connection:
        (exists,) = connection.execute(queries["has_daemon_heartbeats"]).fetchone() or (False,)
        if not exists:
            return None
        (age,) = connection.execute(queries["load_daemon_heartbeat_age"]).fetchone() or (None,)
        return float(age) if age is not None else None
