"""Every error StripeMeter raises on purpose.

    StripeMeterError
    ├── InvalidInput        the caller sent something we cannot accept
    │   └── ScenarioError   a scenario that cannot be read, or cannot be run
    ├── NotAllowed          the caller may not do this
    ├── NotFound            no such thing for this tenant
    ├── Conflict            it clashes with what is already recorded
    ├── Unavailable         a dependency is down or full: nothing happened, try again
    │   └── TookTooLong     answering was given up after the time allowed: ask for less
    ├── StripeRejected      Stripe answered no: definitively not recorded there
    ├── OutcomeUnknown      it may have happened: read back before any retry
    └── InvariantBroken     our bug, or somebody edited our tables: stop and page

HTTP statuses and Dagster failures are chosen at the edges, never here.
"""

from __future__ import annotations

from typing import ClassVar


class StripeMeterError(Exception):
    """Base of the tree; `code` is stable, `retryable` says whether the same call may succeed later."""

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False


class InvalidInput(StripeMeterError):
    """The caller sent something we cannot accept.

    Args:
        message: what was expected, what came, what to do.
        field: JSON path of the offending member, e.g. `events[0].quantity`; empty when the whole body is meant.
        index: index of the offending event in its batch, or None.
    """

    code = "invalid_input"

    def __init__(self, message: str, *, field: str = "", index: int | None = None) -> None:
        super().__init__(message)
        self.field = field
        self.index = index


class ScenarioError(InvalidInput):
    """A scenario that cannot be read, or cannot be run; `field` is the path in its document."""

    code = "invalid_scenario"


class NotAllowed(StripeMeterError):
    """The caller may not do this."""

    code = "not_allowed"


class NotFound(StripeMeterError):
    """No such thing for this tenant."""

    code = "not_found"


class Conflict(StripeMeterError):
    """It clashes with what is already recorded."""

    code = "conflict"


class Unavailable(StripeMeterError):
    """A dependency is down or a queue is full: nothing happened, try again.

    Args:
        message: what is unavailable.
        retry_after_seconds: how long it asks us to wait, when it says.
    """

    code = "unavailable"
    retryable = True

    def __init__(self, message: str, *, retry_after_seconds: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class TookTooLong(Unavailable):
    """Answering was given up after the time allowed; `message` says what to ask for instead, and callers see it."""

    code = "took_too_long"


class StripeRejected(StripeMeterError):
    """Stripe answered no: definitively not recorded there.

    Args:
        message: Stripe's own message.
        status: HTTP status.
        stripe_code: Stripe's error code, when it sent one.
        request_id: Stripe's request id, when it sent one.
    """

    code = "stripe_rejected"

    def __init__(
        self, message: str, *, status: int, stripe_code: str | None = None, request_id: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.stripe_code = stripe_code
        self.request_id = request_id


class OutcomeUnknown(StripeMeterError):
    """It may have happened: read back before any retry.

    Args:
        message: what was attempted and what was seen.
        status: HTTP status, when there was an answer at all.
    """

    code = "outcome_unknown"
    retryable = True

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class InvariantBroken(StripeMeterError):
    """Our bug, or somebody edited our tables: stop and page."""

    code = "invariant_broken"
