"""Which database a command on this machine means.

Belongs here: that one question. Does not: connecting.
"""

from __future__ import annotations

from stripemeter.errors import NotFound
from stripemeter.runtime.settings import Settings
from stripemeter.runtime.stack_record import read_record


def current_database_url(settings: Settings) -> str:
    """`DATABASE_URL`, else the embedded database of the stack that runs in this home. Holds the password.

    Raises:
        NotFound: neither exists; says what to do.
    """
    if settings.database_url is not None:
        return settings.database_url
    record = read_record(settings.state)
    if record is None or not record.is_supervised:
        raise NotFound(
            f"no database: DATABASE_URL is not set and no stack runs in {settings.state}. Run: stripemeter up -d"
        )
    return record.database_url
