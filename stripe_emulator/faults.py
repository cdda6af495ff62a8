"""Faults on demand: an ordered script of what goes wrong with which request.

Belongs here: the script and matching a request against it. Does not: carrying a fault out (`app`).

`POST /_emu/faults` takes a list of `{"match": {...}, "do": {...}, "times": 1}`; the first rule that matches and is
not used up applies. Nothing is random: the same script and the same requests give the same faults.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
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
    commit_part_then_reset: of a stream's events every second one is accepted, then the connection breaks; with another
        request it is commit_then_reset.
    reset_before_commit: the connection breaks and nothing is executed.
    delay_request: the request waits `seconds` and is then executed, even if the client has left.
    commit_then_timeout: execute, and answer `seconds` later, when the client has long left.
    duplicate_delivery: execute twice, as behind a proxy that resends; the answer is the second one's.
    drop_async: 200, and the event is never aggregated nor reported.
    accept_then_async_reject: 200, and the event is rejected and reported afterwards with `code`.
    rate_limit: 429 with `Stripe-Rate-Limited-Reason: reason` beyond `burst` requests, `rps` more for each second of the
        emulator's clock. It stands until the script is replaced: `times` does not concern it.
    """

    model_config = ConfigDict(extra="forbid")

    kind: Literal[
        "status",
        "commit_then_reset",
        "commit_then_truncate",
        "commit_part_then_reset",
        "reset_before_commit",
        "delay_request",
        "commit_then_timeout",
        "duplicate_delivery",
        "drop_async",
        "accept_then_async_reject",
        "rate_limit",
    ]
    status: int = Field(default=500, ge=400, le=599)
    body: dict[str, Any] | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    committed: bool = False
    seconds: float = Field(default=0, ge=0, le=120)
    code: str = "meter_event_customer_not_found"
    rps: int = Field(default=25, ge=1)
    burst: int = Field(default=25, ge=1)
    reason: Literal[
        "global-rate", "endpoint-rate", "global-concurrency", "endpoint-concurrency", "resource-specific"
    ] = "endpoint-rate"


class Fault(BaseModel):
    """One rule of the script."""

    model_config = ConfigDict(extra="forbid")

    match: Match = Field(default_factory=Match)
    do: Do
    times: int = Field(default=1, ge=1)


@dataclass(slots=True, kw_only=True)
class _Standing:
    """A rule in force."""

    fault: Fault
    skip: int
    left: int
    tokens: int
    filled_at: int | None = None

    @property
    def is_limit(self) -> bool:
        return self.fault.do.kind == "rate_limit"

    def is_beyond_limit(self, now: int) -> bool:
        """Whether a request at `now` finds the bucket empty; it takes a token otherwise."""
        if self.filled_at is not None:
            gained = max(0, now - self.filled_at) * self.fault.do.rps
            self.tokens = min(self.fault.do.burst, self.tokens + gained)
        self.filled_at = now
        if self.tokens == 0:
            return True
        self.tokens -= 1
        return False


class FaultScript:
    """The rules in force, in order, with how often each still applies."""

    def __init__(self) -> None:
        self._rules: list[_Standing] = []

    def replace(self, faults: list[Fault]) -> None:
        """Forget the old script and start this one."""
        self._rules = [
            _Standing(fault=fault, skip=fault.match.nth - 1, left=fault.times, tokens=fault.do.burst)
            for fault in faults
        ]

    def pending(self) -> int:
        """How many faults have not happened yet; rate limits are no such."""
        return sum(rule.left for rule in self._rules if not rule.is_limit)

    def take(self, *, method: str, path: str, identifier: str, account: str, now: int) -> Do | None:
        """The fault of this request, used up by it; None when it goes well."""
        for rule in self._rules:
            if rule.left == 0 or not _matches(rule.fault.match, method, path, identifier, account):
                continue
            if rule.skip > 0:
                rule.skip -= 1
            elif not rule.is_limit:
                rule.left -= 1
                return rule.fault.do
            elif rule.is_beyond_limit(now):
                return rule.fault.do
        return None


def _matches(match: Match, method: str, path: str, identifier: str, account: str) -> bool:
    return (
        (match.method is None or match.method == method)
        and (match.path_re is None or re.search(match.path_re, path) is not None)
        and (match.identifier_re is None or re.search(match.identifier_re, identifier) is not None)
        and (match.account is None or match.account == account)
    )
