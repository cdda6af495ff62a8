"""Standing from payment attempts: states, notices, what their order may not change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest

from stripemeter.access.dunning import (
    DunningPolicy,
    Notice,
    PaymentAttempt,
    Standing,
    attempts_of,
    standing_of,
)
from stripemeter.errors import InvalidInput

START = datetime(2026, 1, 1, tzinfo=UTC)
POLICY = DunningPolicy(retry_days=(3, 5), days_until_blocked=14, days_recovered=7)


def test_the_whole_story_of_a_payment_that_fails() -> None:
    """Retry scheduled, past due after the last retry, blocked, recovered when paid, and in the end as before."""
    attempts = [*attempts_of("in_1", _day(0), _never, POLICY), _attempt("in_1", 20, "paid", 4)]

    seen = {day: standing_of(attempts, POLICY, _day(day)).state for day in (-1, 0, 2, 3, 7, 8, 13, 14, 19, 20, 26, 27)}

    assert seen == {
        -1: "ok",
        0: "retry_scheduled",
        2: "retry_scheduled",
        3: "retry_scheduled",
        7: "retry_scheduled",
        8: "past_due",
        13: "past_due",
        14: "blocked",
        19: "blocked",
        20: "recovered",
        26: "recovered",
        27: "ok",
    }


def test_notices_are_due_at_each_failure_at_the_block_and_at_the_recovery() -> None:
    """Each once, at its instant; none is due of what has not happened."""
    attempts = [*attempts_of("in_1", _day(0), _never, POLICY), _attempt("in_1", 20, "paid", 4)]

    assert standing_of(attempts, POLICY, _day(3)).notices == (_failed("in_1", 0), _failed("in_1", 3))
    assert standing_of(attempts, POLICY, _day(21)).notices == (
        _failed("in_1", 0),
        _failed("in_1", 3),
        _failed("in_1", 8),
        Notice(at=_day(14), reason="blocked"),
        Notice(at=_day(20), reason="recovered"),
    )
    assert standing_of(attempts, POLICY, _day(27)).notices == ()


def test_order_and_repetition_change_nothing() -> None:
    """Whatever order attempts are heard of in, and however often."""
    attempts = (
        _attempt("in_1", 0, "failed", 1, next_day=3),
        _attempt("in_1", 3, "failed", 2, next_day=8),
        _attempt("in_1", 8, "paid", 3),
        _attempt("in_2", 5, "failed", 1),
    )
    for now in range(-1, 30):
        standings = {standing_of([*order, order[0]], POLICY, _day(now)) for order in permutations(attempts)}
        assert len(standings) == 1


def test_what_comes_after_is_not_looked_at() -> None:
    """Standing in the past is what it was then."""
    attempts = [_attempt("in_1", 0, "failed", 1, next_day=3), _attempt("in_1", 3, "paid", 2)]

    assert standing_of(attempts, POLICY, _day(1)) == standing_of(attempts[:1], POLICY, _day(1))


def test_a_retry_that_is_due_now_is_no_longer_ahead() -> None:
    """At its instant nothing is known to come: whoever asks is not told of a retry in the past."""
    attempts = [_attempt("in_1", 0, "failed", 1, next_day=3)]

    at_once = standing_of(attempts, POLICY, _day(3))
    before = standing_of(attempts, POLICY, _day(3) - timedelta(microseconds=1))

    assert (at_once.state, at_once.next_attempt_at) == ("past_due", None)
    assert (before.state, before.next_attempt_at) == ("retry_scheduled", _day(3))


def test_a_customer_is_recovered_only_when_nothing_is_owed() -> None:
    """One invoice paid of two leaves the other's debt, from the first failure on."""
    attempts = [
        _attempt("in_1", 0, "failed", 1),
        _attempt("in_2", 10, "failed", 1),
        _attempt("in_1", 12, "paid", 2),
    ]

    standing = standing_of(attempts, POLICY, _day(14))

    assert (standing.state, standing.since, standing.unpaid_invoices) == ("blocked", _day(0), ("in_2",))


def test_a_voided_invoice_is_owed_no_more_and_recovers_nobody() -> None:
    """Nothing was paid: as if it had never been owed."""
    attempts = [_attempt("in_1", 0, "failed", 1), _attempt("in_1", 20, "voided", 1)]

    assert standing_of(attempts, POLICY, _day(19)).state == "blocked"
    assert standing_of(attempts, POLICY, _day(20)) == Standing(state="ok")


def test_a_subscription_that_stripe_gave_up_blocks() -> None:
    """Earlier than the policy would, and without a failure heard of; not before it happened."""
    failed = [_attempt("in_1", 0, "failed", 1)]

    assert standing_of(failed, POLICY, _day(4), given_up_at=_day(4)).state == "blocked"
    assert standing_of(failed, POLICY, _day(3), given_up_at=_day(4)).state == "past_due"
    assert standing_of([], POLICY, _day(5), given_up_at=_day(4)).state == "blocked"


@pytest.mark.parametrize(("days", "state"), [(0, "blocked"), (1, "past_due")])
def test_days_until_blocked_may_be_none(days: int, state: str) -> None:
    """0: a failed payment blocks at once."""
    policy = DunningPolicy(days_until_blocked=days)

    assert standing_of([_attempt("in_1", 0, "failed", 1)], policy, _day(0)).state == state


def test_attempts_end_with_success() -> None:
    """Retries by the policy's days; a success is the last, a payment that works needs no retry."""
    tried = list(attempts_of("in_1", _day(0), lambda at: at >= _day(3), POLICY))

    assert tried == [_attempt("in_1", 0, "failed", 1, next_day=3), _attempt("in_1", 3, "paid", 2)]
    assert standing_of([_attempt("in_1", 0, "paid", 1)], POLICY, _day(1)) == Standing(state="ok")


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        ({"retry_days": (3, 0)}, "retry_days[1]"),
        ({"days_until_blocked": -1}, "days_until_blocked"),
        ({"days_recovered": 366}, "days_recovered"),
    ],
)
def test_a_policy_that_cannot_be_right_is_refused(policy: dict[str, object], field: str) -> None:
    """Naming what is out of bounds."""
    with pytest.raises(InvalidInput) as refused:
        DunningPolicy(**policy)  # type: ignore[arg-type]
    assert refused.value.field == field


def _day(number: int) -> datetime:
    return START + timedelta(days=number)


def _attempt(invoice: str, day: int, outcome: str, number: int, next_day: int | None = None) -> PaymentAttempt:
    following = None if next_day is None else _day(next_day)
    return PaymentAttempt(
        invoice_id=invoice,
        at=_day(day),
        outcome=outcome,  # type: ignore[arg-type]
        number=number,
        next_attempt_at=following,
    )


def _failed(invoice: str, day: int) -> Notice:
    return Notice(at=_day(day), reason="payment_failed", invoice_id=invoice)


def _never(_: datetime) -> bool:
    return False
