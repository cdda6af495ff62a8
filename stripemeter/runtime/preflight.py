"""What must be true before anything starts, each with an error that names the setting and says what to do.

Belongs here: checks that fail an `up` within seconds. Does not: diagnosis of a running stack (`runtime.checkup`).
"""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from stripemeter.errors import InvalidInput, NotAllowed
from stripemeter.runtime.ports import is_loopback

MINIMUM_SERVER_VERSION = 140000
_CONNECT_SECONDS = 5
_SERVER_MODULES = ("dagster", "dagster_webserver", "dagster_postgres", "fastapi", "uvicorn", "polars")


def open_home(home: Path) -> Path:
    """Create the state directory if absent and return it, once it was shown to be writable.

    Raises:
        InvalidInput: it cannot be created or written.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        (home / "logs").mkdir(exist_ok=True)
        probe = home / ".writable"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise InvalidInput(
            f"cannot write to {home}: {error.strerror}. Set STRIPEMETER_HOME to a directory you own",
            field="STRIPEMETER_HOME",
        ) from error
    return home


def refuse_public_bind(host: str) -> None:
    """Raises NotAllowed unless only this machine can reach the address: requests are not authenticated yet."""
    if not is_loopback(host):
        raise NotAllowed(
            f"STRIPEMETER_API_HOST={host} would let other machines in, and the API has no authentication yet: anybody "
            "could write usage. Use 127.0.0.1 and put an authenticating proxy in front"
        )


def require_server_packages() -> None:
    """Raises InvalidInput when only the client library is installed."""
    missing = [name for name in _SERVER_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise InvalidInput(
            f"not installed: {', '.join(missing)}. Install the server: pip install 'stripemeter[server]'"
        )


def check_database_url(database_url: str) -> None:
    """Log in once.

    Raises:
        InvalidInput: not a `postgresql://` URL, nobody answers there, the login is refused, or the server is too old.
    """
    scheme = urlsplit(database_url).scheme
    if scheme not in ("postgresql", "postgres"):
        raise InvalidInput(
            "DATABASE_URL is not a PostgreSQL URL: expected postgresql://user:password@host:5432/database",
            field="DATABASE_URL",
        )
    try:
        with psycopg.connect(database_url, connect_timeout=_CONNECT_SECONDS) as connection:
            version = connection.info.server_version
    except psycopg.Error as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InvalidInput(
            f"DATABASE_URL={masked(database_url)}: {reason}. Check host, port, user, password and database, or unset "
            "it to use the embedded PostgreSQL",
            field="DATABASE_URL",
        ) from error
    if version < MINIMUM_SERVER_VERSION:
        raise InvalidInput(
            f"DATABASE_URL={masked(database_url)}: PostgreSQL {version // 10000}, but 14 or later is needed",
            field="DATABASE_URL",
        )


def masked(database_url: str) -> str:
    """A `postgresql://` URL without its password."""
    parts = urlsplit(database_url)
    query = re.sub(r"(^|&)(password=)[^&]*", r"\1\2***", parts.query)
    login, at, host = parts.netloc.rpartition("@")
    user, colon, _ = login.partition(":")
    return parts._replace(netloc=f"{user}{colon and ':***'}{at}{host}", query=query).geturl()


def worker_directory() -> str:
    """The working directory children inherit; a deleted one would fail each of them obscurely.

    Raises:
        InvalidInput: the current directory no longer exists.
    """
    try:
        return os.getcwd()  # noqa: PTH109 - the question is whether it still exists, not its path
    except FileNotFoundError as error:
        raise InvalidInput("the current directory no longer exists: cd somewhere else") from error
