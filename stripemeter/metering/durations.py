"""Durations before an instant: `-PT24H`, `-P7D`.

Belongs here: reading them. Does not: clocks, calendar arithmetic (years and months have no fixed length: refused).
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta

_DURATION = re.compile(r"-P(?:([0-9]{1,5})D)?(?:T(?:([0-9]{1,6})H)?(?:([0-9]{1,6})M)?(?:([0-9]{1,7})S)?)?")
_NAMES = ("days", "hours", "minutes", "seconds")


def before(text: str, now: datetime) -> datetime:
    """The instant that a negative ISO 8601 duration of days, hours, minutes and seconds before `now` names.

    Raises:
        ValueError: not such a duration.
    """
    found = _DURATION.fullmatch(text)
    if found is None or not any(found.groups()) or text.endswith("T"):
        raise ValueError("must be an RFC 3339 date-time with a zone, now, or a duration before now like -PT24H")
    parts = {name: int(part) for name, part in zip(_NAMES, found.groups(), strict=True) if part}
    try:
        return now - timedelta(**parts)
    except OverflowError as error:
        raise ValueError("is not an instant of the years 0001 to 9999") from error
