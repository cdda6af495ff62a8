"""Doing something for every Stripe account, none at another's expense.

Belongs here: the loop over accounts, and how one that failed fails the run. Does not: what is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import dagster as dg

from stripemeter.billing import BillingSink
from stripemeter.errors import StripeMeterError

Report = TypeVar("Report")


def for_each_account(
    log: dg.DagsterLogManager, sinks: Iterable[BillingSink], verb: Callable[[BillingSink], Report]
) -> dict[str, Report]:
    """What the verb reports, by the account's name (`shadow`, `live`, `live/acct_...`).

    An account that fails does not keep the next from its turn.

    Raises:
        dg.Failure: an account failed; names each. What the others did is done.
    """
    reports: dict[str, Report] = {}
    failures: dict[str, StripeMeterError] = {}
    for sink in sinks:
        try:
            reports[sink.name] = verb(sink)
            log.info("%s: done", sink.name)
        except StripeMeterError as error:
            failures[sink.name] = error
            log.exception("%s failed", sink.name)
    if failures:
        raise dg.Failure("; ".join(f"{name}: {error}" for name, error in failures.items()), allow_retries=False)
    return reports
