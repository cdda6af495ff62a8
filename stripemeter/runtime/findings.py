"""The shape of what `stripemeter doctor` finds.

Belongs here: verdicts and findings. Does not: looking (`runtime.checkup`, `runtime.database_checkup`), printing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """How a check came out; the value is what an operator sees."""

    OK = "✓"
    WARNED = "!"
    FAILED = "✗"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check: what was looked at, what was found, and the one command that fixes it (None when nothing is wrong)."""

    check: str
    verdict: Verdict
    found: str
    fix: str | None = None


def ok(check: str, found: str) -> Finding:
    """Nothing to do."""
    return Finding(check=check, verdict=Verdict.OK, found=found)


def warned(check: str, found: str, *, fix: str) -> Finding:
    """Works, but somebody may want to act."""
    return Finding(check=check, verdict=Verdict.WARNED, found=found, fix=fix)


def failed(check: str, found: str, *, fix: str) -> Finding:
    """Somebody must act."""
    return Finding(check=check, verdict=Verdict.FAILED, found=found, fix=fix)
