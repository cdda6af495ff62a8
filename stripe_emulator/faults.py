"""Faults on demand: an ordered script of what goes wrong with which request.

Belongs here: the script and matching a request against it. Does not: carrying a fault out (`app`).

`POST /_emu/faults` takes a list of `{"match": {...}, "do": {...}, "times": 1}`; the first rule that matches and is
not used up applies. Nothing is random: the same script and the same requests give the same faults.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Match(BaseModel):
    """Which requests. An absent member matches all; `nth` skips the first n-1 requests the others match."""

    model_config = ConfigDict(extra="forbid")

    method: str | None = None
    path_re: str | None = None
    identifier_re: str | None = None
    account: str | None = None
    nth: int = Field(default=1, ge=1)


class Do(BaseModel):
    """What goes wrong.

    status: answer `status` with `body` and `headers`; `committed` says whether the request was executed first. A 5xx
        is saved under the idempotency key, as Stripe does; a 4xx is not.
    commit_then_reset, commit_then_truncate: execute, then the connection breaks before or inside the answer.
    reset_before_commit: the connection breaks and nothing is executed.
    delay_request: the request waits `seconds` and is then executed, even if the client has left.
    drop_async: 200, and the event is never aggregated nor reported.
    async_reject: 200, and the event is rejected afterwards with `code`.
    """

    model_config = ConfigDict(extra="forbid")

    kind: Literal[
        "status",
        "commit_then_reset",
        "commit_then_truncate",
        "reset_before_commit",
        "delay_request",
        "drop_async",
        "async_reject",
    ]
    status: int = Field(default=500, ge=400, le=599)
    body: dict[str, Any] | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    committed: bool = False
    seconds: float = Field(default=0, ge=0, le=120)
    code: str = "meter_event_customer_not_found"


class Fault(BaseModel):
    """One rule of the script."""

    model_config = ConfigDict(extra="forbid")

    match: Match = Field(default_factory=Match)
    do: Do
    times: int = Field(default=1, ge=1)


class FaultScript:
    """The rules in force, in order, with how often each still applies."""

    def __init__(self) -> None:
        self._faults: list[list[Any]] = []  # [fault, requests still to skip, times left]

    def replace(self, faults: list[Fault]) -> None:
        """Forget the old script and start this one."""
        self._faults = [[fault, fault.match.nth - 1, fault.times] for fault in faults]

    def pending(self) -> int:
        """How many faults have not happened yet."""
        return sum(left for _, _, left in self._faults)

    def take(self, *, method: str, path: str, identifier: str, account: str) -> Do | None:
        """The fault of this request, used up by it; None when it goes well."""
        for entry in self._faults:
            fault, skip, left = entry
            if left == 0 or not _matches(fault.match, method, path, identifier, account):
                continue
            if skip > 0:
                entry[1] -= 1
                continue
            entry[2] -= 1
            do: Do = fault.do
            return do
        return None


def _matches(match: Match, method: str, path: str, identifier: str, account: str) -> bool:
    return (
        (match.method is None or match.method == method)
        and (match.path_re is None or re.search(match.path_re, path) is not None)
        and (match.identifier_re is None or re.search(match.identifier_re, identifier) is not None)
        and (match.account is None or match.account == account)
    )
