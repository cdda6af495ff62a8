"""The acceptance seeds of the original's defects, as far as counting goes: which test holds each, and the small ones.

Not here: those of Stripe, prices, alerts, SDKs and access. A seed names tests; one that is gone is found below.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.pipeline.adjustments import create_adjustment, decide, find
from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.meters import put_meter
from stripemeter.pipeline.prove import conservation, counters_equal_ledger
from stripemeter.pipeline.recount import recount_day
from stripemeter.store.adjustments import NewAdjustment
from stripemeter.store.usage import load_current_usage
from tests.laws.worlds import Fact, ingest_into, outcomes

TESTS = Path(__file__).resolve().parent.parent
SEEDS: dict[str, list[str]] = {
    "1: a new event is accepted, and usage shows it": [
        "api/test_usage.py::test_an_answered_event_is_in_the_next_read",
        "acceptance/test_readme.py::test_every_command_of_the_five_minutes_answers_as_printed",
    ],
    "2: the same event twice is one and a duplicate, and the metric counts one": [
        "store/test_group_commit_answers.py::test_a_retry_is_a_duplicate_for_ever",
        "api/test_metrics.py::test_metrics_add_up_over_workers",
    ],
    "3: a kill between commit and counting: counted once": [
        "faults/test_acknowledged_events.py::test_killing_a_service_loses_and_doubles_nothing",
        "store/test_fold_window.py::test_a_fold_that_dies_changes_nothing",
    ],
    "4: 24 a day for 30 days is 720; a maximum stays": [
        "acceptance/test_counting_seeds.py::test_thirty_days_of_24_are_720_and_a_maximum_stays",
    ],
    "5: any permutation, duplication and delay gives the same totals": [
        "laws/test_ledger_laws.py::test_the_order_and_batching_of_arrival_never_show",
        "laws/test_counting_laws.py::test_the_order_of_events_never_shows",
    ],
    "6: within the window it folds, beyond it is one adjustment, never both": [
        "store/test_late_events.py::test_within_the_window_it_simply_folds",
        "store/test_late_events.py::test_a_late_event_is_one_adjustment_and_counts_once",
        "store/test_late_events.py::test_a_fold_that_dies_leaves_no_adjustment",
    ],
    "7: approve changes usage and what is to be pushed at once, revert restores it exactly": [
        "api/test_adjustments.py::test_approval_counts_at_once_and_revert_is_as_if_nothing_happened",
        "store/test_push_days.py::test_adjustments_are_pushed_with_the_segment_they_take_effect_in",
        "laws/test_revert_laws.py::test_approve_then_revert_is_as_if_nothing_happened",
    ],
    "8: the same requestId twice is one adjustment": [
        "api/test_adjustments.py::test_the_same_request_id_is_the_same_row",
        "store/test_adjustments.py::test_two_creators_of_one_request_make_one_row",
    ],
    "12: an event of the last second of a month counts in it, whenever it comes": [
        "acceptance/test_counting_seeds.py::test_the_last_second_of_a_month_is_in_it_whenever_it_arrives",
        "contract/test_push.py::test_a_segment_that_ended_this_morning_is_closed",
    ],
    "14: 0.4 ten times is 4": ["acceptance/test_counting_seeds.py::test_ten_times_a_fraction_is_exact"],
    "18: a key belongs to its tenant; another payload under it is a conflict that is shown": [
        "store/test_group_commit_answers.py::test_tenants_do_not_share_keys",
        "api/test_ingest.py::test_a_conflict_is_listed",
    ],
    "19: fifty quick events without keys are fifty": [
        "store/test_group_commit_answers.py::test_quick_calls_without_keys_are_all_stored",
    ],
    "20: a header key on three events is three events, and safe to send again": [
        "store/test_group_commit_answers.py::test_a_header_key_stores_every_event_of_a_batch",
        "api/test_ingest.py::test_a_header_key_names_each_event",
    ],
    "28: every limit, at it and beyond it": [
        "api/test_ingest.py::test_limits_are_inclusive",
        "api/test_ingest.py::test_meta_has_a_limit_in_bytes",
        "api/test_ingest.py::test_an_event_may_lie_an_hour_ahead",
        "api/test_ingest_malformed.py::test_more_than_a_thousand_events_are_refused",
        "api/test_ingest_malformed.py::test_every_malformed_body_is_refused_whole_and_named",
    ],
    "29: a dry run of a replay changes nothing, applying twice is applying once": [
        "store/test_replay.py::test_a_dry_run_changes_nothing_and_says_what_apply_does",
        "store/test_replay.py::test_a_watermark_is_of_the_tenant_and_the_days_alone",
    ],
    "31: the outcomes of a backfill add up to its rows; rows of other tenants are refused": [
        "api/test_backfill.py::test_events_come_to_five_outcomes",
        "store/test_backfills.py::test_the_database_refuses_counts_that_do_not_add_up",
    ],
    "33: with four eyes, the creator cannot approve": [
        "api/test_adjustments.py::test_four_eyes",
        "api/test_actors.py::test_four_eyes_by_header",
    ],
    "34: each change has one row with actor, before, after and request id, which nobody changes": [
        "acceptance/test_counting_seeds.py::test_each_decision_has_one_row_with_its_request",
        "store/test_adjustments.py::test_the_audit_is_never_changed",
        "api/test_actors.py::test_a_void_says_who_and_by_which_request",
    ],
    "35: two of everything at once give the same": [
        "store/test_fold_concurrency.py::test_two_folds_at_once_fold_each_event_once",
        "store/test_backfill_runs.py::test_two_runners_of_one_operation_exclude_each_other",
    ],
}
NOVEMBER = datetime(2026, 11, 1, tzinfo=UTC)


def current(pool: ConnectionPool, metric: str, at: datetime) -> Decimal:
    """A customer's usage of one metric in the month of an instant."""
    found = load_current_usage(pool, tenant_id="acme", customer_ref="cust_1", metric=metric, at=at, now=at)
    return found.metrics[metric].quantity


@pytest.mark.parametrize("seed", SEEDS)
def test_every_seed_has_its_tests(seed: str) -> None:
    """By file and name."""
    for place in SEEDS[seed]:
        file, _, name = place.partition("::")
        assert re.search(rf"^def {name}\(", (TESTS / file).read_text(encoding="utf-8"), re.MULTILINE), place


def test_thirty_days_of_24_are_720_and_a_maximum_stays(pool: ConnectionPool, database_url: str) -> None:
    """Seed 4: counted day by day, and counted again, the month is whole; the original kept its last 48 hours."""
    put_meter(
        pool, "acme", {"name": "seats", "aggregation": "max"}, effective_on=None, actor="ann",
        expected_version=None, now=NOVEMBER,
    )  # fmt: skip
    days = [datetime(2026, 9, 1, tzinfo=UTC) + timedelta(days=number) for number in range(30)]
    with ingest_into(database_url, clock=lambda: days[-1]) as ingest:
        for number, day in enumerate(days):
            hours = [Fact(key=f"{number}-{hour}", ts=day + timedelta(hours=hour)) for hour in range(24)]
            ingest.accept(hours[::2])
            fold(pool, now=day + timedelta(days=1))
            ingest.accept(hours[1::2])
            if number == 0:
                ingest.accept([Fact(metric="seats", key="peak", ts=day, quantity="100")])
            ingest.accept([Fact(metric="seats", key=f"low-{number}", ts=day + timedelta(hours=1))])
            fold(pool, now=day + timedelta(days=1))
    assert (current(pool, "api_calls", days[-1]), current(pool, "seats", days[-1])) == (720, 100)
    for day in days:
        recount_day(pool, day.date(), now=days[-1])
    assert (current(pool, "api_calls", days[-1]), current(pool, "seats", days[-1])) == (720, 100)
    assert counters_equal_ledger(pool, [day.date() for day in days]) == ()


def test_the_last_second_of_a_month_is_in_it_whenever_it_arrives(pool: ConnectionPool, database_url: str) -> None:
    """Seed 12: received and folded after midnight, it is the old month's; the next second is the new month's."""
    last, after = NOVEMBER - timedelta(seconds=1), NOVEMBER + timedelta(minutes=5)
    with ingest_into(database_url, clock=lambda: after) as ingest:
        ingest.accept([Fact(key="new", ts=NOVEMBER, quantity="3")])
        fold(pool, now=after)
        ingest.accept([Fact(key="old", ts=last, quantity="7")])
        assert current(pool, "api_calls", last) == 7, "read before it is folded"
        fold(pool, now=after)
    assert (current(pool, "api_calls", last), current(pool, "api_calls", NOVEMBER)) == (7, 3)


def test_ten_times_a_fraction_is_exact(pool: ConnectionPool, database_url: str) -> None:
    """Seed 14: in ten folds, as in one."""
    with ingest_into(database_url, clock=lambda: NOVEMBER) as ingest:
        for number in range(10):
            fact = Fact(key=str(number), ts=NOVEMBER, quantity="0.4")
            assert outcomes(ingest.accept([fact, fact])) == ["accepted", "duplicate"]
            fold(pool, now=NOVEMBER)
            assert current(pool, "api_calls", NOVEMBER) == Decimal("0.4") * (number + 1)
    assert current(pool, "api_calls", NOVEMBER) == 4
    assert all(row.holds for row in conservation(pool))


def test_each_decision_has_one_row_with_its_request(pool: ConnectionPool) -> None:
    """Seed 34: who, before, after, by which request; deciding again adds none."""
    new = NewAdjustment(
        tenant_id="acme", metric="api_calls", customer_ref="cust_1", period="day", day=date(2026, 11, 1),
        effective_at=NOVEMBER, delta=Decimal(1), reason="correction", request_id="made", note=None, actor="ann",
    )  # fmt: skip
    created, _ = create_adjustment(pool, new, now=NOVEMBER, max_delta=Decimal(10))
    for request, decision in (("one", "approved"), ("two", "approved"), ("three", "reverted"), ("four", "reverted")):
        decide(pool, "acme", created.id, decision, actor="bob", now=NOVEMBER, request_id=request)  # type: ignore[arg-type]
    _, audit = find(pool, "acme", created.id)
    assert [(row.status_before, row.status_after, row.actor, row.request_id) for row in audit] == [
        (None, "pending", "ann", "made"),
        ("pending", "approved", "bob", "one"),
        ("approved", "reverted", "bob", "three"),
    ]
