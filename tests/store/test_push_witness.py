"""The file that remembers, outside the database, what was sent."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.errors import Unavailable
from stripemeter.store import push_witness
from stripemeter.store.postgres import transaction
from stripemeter.store.push_witness import PushWitness


@pytest.fixture
def witness(tmp_path: Path) -> PushWitness:
    """A witness that knows of nothing."""
    return PushWitness(tmp_path / "pushed", "acct_1")


def send(pool: ConnectionPool, *identifiers: str, attempt: int = 1) -> None:
    """Rows of the outbox under these identifiers, planned and (from the first attempt on) sent."""
    with transaction(pool) as tx:
        tx.execute(
            "insert into price_mappings (id, tenant_id, meter, aggregation, stripe_account_id, stripe_event_name,"
            " stripe_meter_id, mode, created_at)"
            " select gen_random_uuid(), 't', 'calls', 'sum', 'acct_1', 'calls', 'mtr_1', 'shadow', now()"
            " where not exists (select from price_mappings)"
        )
        for identifier in identifiers:
            tx.execute(
                """
                insert into push_entries (id, mapping_id, tenant_id, meter, customer_ref, stripe_account_id,
                    stripe_event_name, stripe_customer_id, segment_start, day, seq, delta, total_before, total_after,
                    stamped_at, identifier, planned_at, state, attempt)
                select gen_random_uuid(), id, 't', 'calls', 'ada', 'acct_1', 'calls', %s, '2026-11-01Z', '2026-11-02',
                    1, 5, 0, 5, '2026-11-02 12:00Z', %s, now(), 'planned', %s
                from price_mappings
                """,
                (uuid.uuid4().hex, identifier, attempt),
            )


def contradiction(pool: ConnectionPool, witness: PushWitness, epoch: int = 1) -> str:
    """What the witness says against the database."""
    with transaction(pool) as tx:
        return witness.contradiction(tx, epoch)


def test_what_the_database_knows_is_no_contradiction(pool: ConnectionPool, witness: PushWitness) -> None:
    """Nothing sent, then rows that are there and were claimed."""
    assert contradiction(pool, witness) == ""
    send(pool, "um1_a", "um1_b")
    witness.record(1, ["um1_a", "um1_b"])
    assert contradiction(pool, witness) == ""


def test_what_it_does_not_know_is(pool: ConnectionPool, witness: PushWitness) -> None:
    """A row that is not there, or is there and was never claimed: sent after this database's time."""
    send(pool, "um1_a")
    send(pool, "um1_b", attempt=0)
    witness.record(1, ["um1_a", "um1_b"])
    assert "1 events that were sent from here, such as um1_b" in contradiction(pool, witness)
    witness.record(1, ["um1_c"])
    assert "2 events" in contradiction(pool, witness)


def test_earlier_epochs_are_forgiven_and_later_ones_are_not(pool: ConnectionPool, witness: PushWitness) -> None:
    """What was lost before a fence was read at Stripe; an epoch this database never had is of its future."""
    witness.record(1, ["um1_lost"])
    assert contradiction(pool, witness, epoch=2) == ""
    witness.record(3, ["um1_future"])
    assert "later epoch" in contradiction(pool, witness, epoch=2)


def test_half_a_line_spoils_nothing(pool: ConnectionPool, witness: PushWitness, tmp_path: Path) -> None:
    """A process killed while it wrote had sent nothing of it; what comes after it counts."""
    (tmp_path / "pushed").mkdir()
    (tmp_path / "pushed" / "acct_1.sent").write_text("1 um1_a\n1")
    send(pool, "um1_a")
    assert contradiction(pool, witness) == ""
    witness.record(1, ["um1_b"])
    assert "such as um1_b" in contradiction(pool, witness)


def test_it_stays_small_and_keeps_the_newest(pool: ConnectionPool, witness: PushWitness, tmp_path: Path) -> None:
    """Beyond MOST_LINES only the newest stay; the last one is always among them."""
    known = [f"um1_{number}" for number in range(20)]
    for _ in range(push_witness.MOST_LINES // 20):
        witness.record(1, known)
    witness.record(1, ["um1_newest"])
    send(pool, *known, "um1_newest")
    assert contradiction(pool, witness) == ""
    lines = (tmp_path / "pushed" / "acct_1.sent").read_text().splitlines()
    assert (len(lines), lines[-1]) == (push_witness.KEPT_LINES, "1 um1_newest")
    assert sorted(path.name for path in (tmp_path / "pushed").iterdir()) == ["acct_1.sent", "lock"]


def test_many_write_at_once(pool: ConnectionPool, witness: PushWitness, tmp_path: Path) -> None:
    """Every line whole."""
    with ThreadPoolExecutor(8) as writers:
        list(writers.map(lambda number: witness.record(1, [f"um1_{number}"] * 5), range(40)))
    lines = [line for line in (tmp_path / "pushed" / "acct_1.sent").read_text().splitlines() if line]
    assert sorted(lines) == sorted(f"1 um1_{number}" for number in range(40) for _ in range(5))
    assert "40 events" not in contradiction(pool, PushWitness(tmp_path / "pushed", "acct_2"))


def test_where_nothing_can_be_written_nothing_is_sent(tmp_path: Path) -> None:
    """A file in the directory's place: refused before anything leaves."""
    (tmp_path / "pushed").touch()
    with pytest.raises(Unavailable, match="remembers what was pushed"):
        PushWitness(tmp_path / "pushed", "acct_1").record(1, ["um1_a"])
