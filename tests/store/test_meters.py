"""Changing a meter makes a version and counts again exactly the days it touches."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.errors import Conflict, InvalidInput, NotFound, Unavailable
from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.meters import MeterChange, create_meter, delete_meter, put_meter
from stripemeter.pipeline.prove import counters_equal_ledger
from stripemeter.store.ledger import lock_cursor
from stripemeter.store.postgres import connect, open_pool, transaction

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
TODAY = NOW.date()
PATIENT = 60
"""Seconds a change may take to count its days again: more than any machine needs for these."""
PRO = {"name": "pro_calls", "metrics": ["calls"], "filter": {"field": "meta.plan", "op": "eq", "value": "pro"}}


def put(
    pool: ConnectionPool,
    document: object,
    *,
    effective_on: date | None = None,
    expected: int | None = None,
    seconds: int = PATIENT,
) -> MeterChange:
    """Say what tenant `t` counts."""
    return put_meter(
        pool,
        "t",
        document,
        effective_on=effective_on,
        actor="ann",
        expected_version=expected,
        now=NOW,
        recount_seconds=seconds,
    )


def delete(pool: ConnectionPool, name: str, *, effective_on: date | None = None) -> MeterChange:
    """End a meter of tenant `t`."""
    return delete_meter(
        pool,
        "t",
        name,
        effective_on=effective_on,
        actor="ann",
        expected_version=None,
        now=NOW,
        recount_seconds=PATIENT,
    )


def send(pool: ConnectionPool, day: str, quantity: int, *, metric: str = "calls", meta: str | None = None) -> None:
    """One event of tenant `t` as an import stores it (history is never late), folded."""
    ts = datetime.fromisoformat(day).replace(hour=9, tzinfo=UTC)
    with transaction(pool) as tx:
        tx.execute("select ensure_events_month(%s)", (ts.date().replace(day=1),))
        tx.execute(
            "insert into events (tenant_id, metric, customer_ref, quantity, ts, meta, received_at, idempotency_key,"
            " source) values ('t', %s, 'ada', %s, %s, %s, %s, %s, 'import')",
            (metric, quantity, ts, meta, NOW, uuid.uuid4().hex),
        )
    fold(pool)


def counted(pool: ConnectionPool) -> dict[tuple[str, str], Decimal]:
    """Quantities by (meter, day), once the ledger makes the same."""
    with transaction(pool) as tx:
        rows = tx.execute("select meter, day, sum(quantity_sum) from counters group by meter, day").fetchall()
    assert counters_equal_ledger(pool, sorted({row[1] for row in rows})) == ()
    return {(meter, day.isoformat()): quantity for meter, day, quantity in rows}


def waiting(pool: ConnectionPool) -> list[tuple[date, date, str]]:
    """Ranges of days that wait to be counted again."""
    with transaction(pool) as tx:
        return tx.execute("select next_day, last_day, reason from slice_recounts order by id").fetchall()


def create(pool: ConnectionPool, document: object, **said: Any) -> MeterChange:  # noqa: ANN401 - options
    """Create a meter of tenant `t`."""
    options = {"effective_on": None, "expected_version": None, "recount_seconds": PATIENT, **said}
    return create_meter(pool, "t", document, actor="ann", now=NOW, **options)


def test_a_create_whose_answer_was_lost_is_the_same_meter(
    pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database died while days were counted again: asked again, it is no conflict and the rest is counted."""
    send(pool, "2026-11-22", 5, meta='{"plan": "pro"}')

    def die(*_: object, **__: object) -> int:
        raise Unavailable("Postgres went away")

    with monkeypatch.context() as patch:
        patch.setattr("stripemeter.pipeline.meters.drain", die)
        with pytest.raises(Unavailable):
            create(pool, PRO, expected_version=0)
    assert waiting(pool) != []
    again = create(pool, PRO, expected_version=0)
    assert (again.is_created, again.is_changed, again.pending_days) == (False, False, 0)
    assert [recorded.version.version for recorded in again.versions] == [1]
    assert counted(pool)["pro_calls", "2026-11-22"] == 5


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({**PRO, "aggregation": "max"}, {}),
        (PRO, {"effective_on": date(2026, 11, 1)}),
        (PRO, {"expected_version": 1}),
        (PRO, {"expected_version": 2}),
    ],
)
def test_another_create_of_the_name_is_a_conflict(pool: ConnectionPool, document: object, said: dict[str, Any]) -> None:
    """Another definition, day or expectation: not this request's meter. Nothing changes."""
    create(pool, PRO)
    with pytest.raises(Conflict):
        create(pool, document, **said)
    assert [recorded.version.version for recorded in create(pool, PRO).versions] == [1]


def test_a_meter_made_again_is_the_same_when_asked_again(pool: ConnectionPool) -> None:
    """After its end it has a next version; what a PUT made is nobody's create."""
    create(pool, PRO)
    delete(pool, "pro_calls")
    for is_changed in (True, False):
        assert create(pool, PRO, expected_version=2).is_changed is is_changed
    put(pool, {**PRO, "aggregation": "max"})
    with pytest.raises(Conflict):
        create(pool, {**PRO, "aggregation": "max"})


def test_a_tenant_has_a_bounded_number_of_meters(pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal names the bound; those there are can be changed, and ended ones made again; others have their own."""
    monkeypatch.setattr("stripemeter.pipeline.meters.MAX_METERS", 2)
    create(pool, PRO)
    put(pool, {"name": "second"})
    for make in (create, put):
        with pytest.raises(InvalidInput, match="at most 2 meters") as refused:
            make(pool, {"name": "third"})
        assert refused.value.field == "name"
    assert put(pool, {"name": "second", "aggregation": "max"}).is_changed
    delete(pool, "second")
    with pytest.raises(InvalidInput):
        create(pool, {"name": "third"})
    assert create(pool, {"name": "second"}).is_changed
    other = create_meter(pool, "u", {"name": "third"}, effective_on=None, actor="ann", now=NOW)
    assert other.is_created


def test_a_new_meter_counts_all_of_history_and_a_change_counts_from_today(pool: ConnectionPool) -> None:
    """Its days are counted again before the answer; those of the time before a change are not."""
    for day in ("2024-02-29", "2026-11-22", "2026-11-23"):
        send(pool, day, 3, meta='{"plan": "pro"}')
        send(pool, day, 4, meta='{"plan": "free"}')
    made = put(pool, PRO)
    assert (made.is_created, made.is_changed, made.pending_days) == (True, True, 0)
    everything = {("calls", day): 7 for day in ("2024-02-29", "2026-11-22", "2026-11-23")}
    pro = {("pro_calls", day): 3 for day in ("2024-02-29", "2026-11-22", "2026-11-23")}
    assert counted(pool) == everything | pro
    changed = put(pool, {**PRO, "value": "100"})
    assert [(each.version.version, each.version.effective_on) for each in changed.versions] == [
        (1, date(1, 1, 1)),
        (2, TODAY),
    ]
    assert (changed.is_created, changed.versions[-1].actor) == (False, "ann")
    assert counted(pool) == everything | pro | {("pro_calls", "2026-11-23"): 100}
    put(pool, {**PRO, "value": "10"}, effective_on=date(2026, 11, 22))
    assert counted(pool) == everything | pro | {("pro_calls", "2026-11-22"): 10, ("pro_calls", "2026-11-23"): 10}


def test_new_events_count_by_the_newest_version(pool: ConnectionPool) -> None:
    """Folded as well as recounted."""
    put(pool, {"name": "calls", "filter": {"field": "meta.plan", "op": "eq", "value": "pro"}})
    send(pool, "2026-11-22", 3, meta='{"plan": "pro"}')
    send(pool, "2026-11-22", 4)
    assert counted(pool) == {("calls", "2026-11-22"): 3, ("", "2026-11-22"): 4}


def test_only_days_with_events_of_the_meter_wait(pool: ConnectionPool) -> None:
    """As few ranges as there are unbroken runs of days, whoever counts the metrics: others, or nobody."""
    send(pool, "2026-11-01", 1)
    send(pool, "2026-11-02", 1)
    send(pool, "2026-11-05", 1)
    send(pool, "2026-11-03", 1, metric="other")
    put(pool, {"name": "calls", "metrics": ["nothing"]})
    assert counted(pool) == {
        ("", "2026-11-01"): 1,
        ("", "2026-11-02"): 1,
        ("other", "2026-11-03"): 1,
        ("", "2026-11-05"): 1,
    }
    put(pool, {"name": "elsewhere", "metrics": ["calls"]})
    made = put(pool, PRO, effective_on=date(2026, 11, 2), seconds=0)
    assert made.pending_days == 2
    assert waiting(pool) == [
        (date(2026, 11, 2), date(2026, 11, 2), "meter pro_calls version 1"),
        (date(2026, 11, 5), date(2026, 11, 5), "meter pro_calls version 1"),
    ]


def test_saying_the_same_again_makes_no_version(pool: ConnectionPool) -> None:
    """Spelled differently too; from an earlier day on it is something else."""
    put(pool, PRO, effective_on=date(2026, 11, 1))
    again = put(pool, {**PRO, "aggregation": "sum", "value": "quantity", "maxGroups": 100, "dimensions": []})
    assert (again.is_created, again.is_changed, len(again.versions)) == (False, False, 1)
    assert not put(pool, PRO, effective_on=date(2026, 12, 1)).is_changed
    assert put(pool, PRO, effective_on=date(2026, 10, 31)).is_changed
    put(pool, {**PRO, "value": "2"}, effective_on=date(2026, 11, 20))
    assert put(pool, PRO, effective_on=date(2026, 11, 10)).is_changed, "so until the 20th, but not from then on"


def test_a_deleted_meter_counts_its_past(pool: ConnectionPool) -> None:
    """From today on the metric of its name counts by itself again; it cannot be deleted twice, but made again."""
    send(pool, "2026-11-22", 3)
    send(pool, "2026-11-23", 3)
    put(pool, {"name": "calls", "value": "1"})
    assert counted(pool) == {("calls", "2026-11-22"): 1, ("calls", "2026-11-23"): 1}
    deleted = delete(pool, "calls")
    assert (deleted.versions[-1].version.is_active, deleted.versions[-1].version.effective_on) == (False, TODAY)
    assert counted(pool) == {("calls", "2026-11-22"): 1, ("calls", "2026-11-23"): 3}
    with pytest.raises(NotFound):
        delete(pool, "calls")
    assert delete(pool, "calls", effective_on=date(2026, 11, 1)).is_changed
    assert counted(pool) == {("calls", "2026-11-22"): 3, ("calls", "2026-11-23"): 3}
    made = create_meter(
        pool, "t", {"name": "calls", "value": "2"}, effective_on=None, actor="ann", now=NOW, recount_seconds=PATIENT
    )
    assert made.versions[-1].version.version == 4
    assert counted(pool) == {("calls", "2026-11-22"): 3, ("calls", "2026-11-23"): 2}


def test_a_change_that_was_decided_on_an_older_version_is_refused(pool: ConnectionPool) -> None:
    """0 expects none; nothing was written."""
    put(pool, PRO, expected=0)
    put(pool, {**PRO, "value": "2"}, expected=1)
    for expected in (0, 1, 3):
        with pytest.raises(Conflict, match="version 2 is the newest"):
            put(pool, {**PRO, "value": "3"}, expected=expected)
    with pytest.raises(Conflict, match="there is a meter"):
        create_meter(pool, "t", PRO, effective_on=None, actor="ann", now=NOW)
    assert len(put(pool, {**PRO, "value": "2"}).versions) == 2


def test_what_is_no_definition_changes_nothing(pool: ConnectionPool) -> None:
    """And deleting what is not there is not found."""
    with pytest.raises(InvalidInput):
        put(pool, {**PRO, "aggregation": "mode"})
    with pytest.raises(NotFound):
        delete(pool, "pro_calls")
    assert waiting(pool) == []


def test_a_change_waits_for_the_fold(pool: ConnectionPool, database_url: str) -> None:
    """While somebody holds the cursor no rule changes, so no event is folded by a rule its recount does not know."""
    with connect(database_url, autocommit=True) as admin:
        admin.execute(
            "do $$ begin execute format('alter database %I set lock_timeout = 100', current_database()); end $$"
        )
    with transaction(pool) as folding, open_pool(database_url, max_size=2) as impatient:
        lock_cursor(folding)
        with pytest.raises(Unavailable, match="lock timeout"):
            put(impatient, PRO)
