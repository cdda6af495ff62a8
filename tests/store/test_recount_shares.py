"""Heavy days: counted in shares of their customers, which together are the day, of one state."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from psycopg_pool import ConnectionPool

from stripemeter.pipeline import count_day
from stripemeter.pipeline.customers import add_alias
from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.prove import counters_equal_ledger
from stripemeter.pipeline.recount import recount_day
from stripemeter.store import ledger
from stripemeter.store.counters import lock_days
from stripemeter.store.postgres import transaction
from stripemeter.store.rulebook import load_rulebook
from stripemeter.store.scan import LedgerScanner, open_scanner
from tests.laws.worlds import Fact, ingest_into, let_late_events_count, stored_counters

NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)
AT = datetime(2026, 3, 10, 9, tzinfo=UTC)
DAY = AT.date()
CUSTOMERS = [f"customer_{number}" for number in range(12)]
TENANTS = ["acme", "globex"]


@pytest.fixture
def heavy(pool: ConnectionPool, database_url: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """A day of two tenants with an alias and late events, all counted, which is too large for one share."""
    punctual = [
        Fact(
            tenant=tenant,
            customer=customer,
            ts=AT + timedelta(minutes=number),
            quantity="1.5",
            key=f"{customer}{number}",
        )
        for tenant in TENANTS
        for customer in CUSTOMERS
        for number in range(3)
    ]
    let_late_events_count(pool, TENANTS)
    _send(database_url, [*punctual, *[Fact(customer=customer, ts=NOW, key=customer) for customer in CUSTOMERS[:3]]])
    fold(pool, now=NOW)
    _alias(pool, "customer_0", "customer_7")
    _send(database_url, [Fact(customer=customer, ts=AT, quantity="4", key=f"late{customer}") for customer in CUSTOMERS])
    fold(pool, now=NOW)
    monkeypatch.setattr(count_day, "SHARE_EVENTS", 10)
    return len(punctual) + len(CUSTOMERS)


def test_a_day_counted_in_shares_is_the_same_day(pool: ConnectionPool, heavy: int) -> None:
    """The proof and the recount of an undamaged heavy day find what the fold made; the late lane is absorbed."""
    assert counters_equal_ledger(pool, [DAY]) == ()
    recounted = recount_day(pool, DAY)
    assert recounted.events == heavy
    assert recounted.absorbed > 0
    assert recount_day(pool, DAY).changed == 0
    assert counters_equal_ledger(pool, [DAY]) == ()


def test_a_damaged_heavy_day_is_repaired(pool: ConnectionPool, heavy: int) -> None:
    """Every counter of every share, whatever was done to it; the report's totals are those after the repair."""
    recount_day(pool, DAY)
    before = stored_counters(pool, TENANTS)
    with transaction(pool) as tx:
        tx.execute("update counters set event_count = event_count + 1")
    recounted = recount_day(pool, DAY)
    assert recounted.changed == recounted.counters == 2 * len(CUSTOMERS) - 1
    assert sum(meter.events for meter in recounted.meters) == heavy
    assert {key: state for key, state in stored_counters(pool, TENANTS).items() if key[3] == DAY} == {
        key: state for key, state in before.items() if key[3] == DAY
    }


def test_shares_are_whole_customers_with_their_aliases(pool: ConnectionPool, heavy: int) -> None:
    """Every event once; the events of one customer, under whatever reference, are in one share."""
    with open_scanner(pool) as scanner:
        shares = list(scanner.scan_day_shares(DAY, below=_cursor(pool), shares=7))
        whole = scanner.scan_day(DAY, below=_cursor(pool))
    assert len(shares) == 7
    assert max(share.height for share in shares) < heavy
    assert pl.concat(shares).sort("seq").equals(whole.sort("seq"))
    owners = [
        {(row[0], "customer_0" if row == ("acme", "customer_7") else row[1]) for row in _customers(share)}
        for share in shares
    ]
    assert sum(map(len, owners)) == len(set.union(*owners)) == 2 * len(CUSTOMERS) - 1


def test_shares_are_of_one_state(pool: ConnectionPool, heavy: int) -> None:
    """What changes while they are read moves no event from a share that is still to come into one that is gone."""
    with open_scanner(pool) as scanner:
        below = _cursor(pool)
        expected = list(scanner.scan_day_shares(DAY, below=below, shares=3))
        reading = scanner.scan_day_shares(DAY, below=below, shares=3)
        found = [next(reading)]
        for customer in CUSTOMERS[1:7]:
            _alias(pool, "customer_11", customer)
        found += reading
        assert [share.sort("seq").equals(was.sort("seq")) for share, was in zip(found, expected, strict=True)] == [
            True,
            True,
            True,
        ]
        assert _moved(scanner, below, expected), "the next reading sees what was committed"


def test_the_transaction_that_holds_the_day_speaks_after_every_share(
    pool: ConnectionPool, heavy: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postgres ends one that is idle for a minute, which many shares are: a heavy day could never be counted."""
    spoke_at: list[datetime] = []
    scan_day_shares = LedgerScanner.scan_day_shares

    def watched(scanner: LedgerScanner, day: date, *, below: int, shares: int) -> Iterator[pl.DataFrame]:
        for share in scan_day_shares(scanner, day, below=below, shares=shares):
            spoke_at.append(_spoke_at(pool, backend))
            yield share
        spoke_at.append(_spoke_at(pool, backend))

    monkeypatch.setattr(LedgerScanner, "scan_day_shares", watched)
    with transaction(pool) as tx, open_scanner(pool) as scanner:
        backend = tx.info.backend_pid
        lock_days(tx, [DAY])
        counted = count_day.count_day(tx, scanner, DAY, load_rulebook(tx), below=ledger.load_cursor(tx), expected=heavy)
    assert counted.events == heavy
    assert len(spoke_at) > 3
    assert spoke_at == sorted(set(spoke_at))


def _spoke_at(pool: ConnectionPool, backend: int) -> datetime:
    """When the backend's transaction last went idle."""
    with transaction(pool) as tx:
        row = tx.execute(
            "select state_change from pg_stat_activity where pid = %(pid)s and state = 'idle in transaction'",
            {"pid": backend},
        ).fetchone()
    assert row is not None
    found: datetime = row[0]
    return found


def _moved(scanner: LedgerScanner, below: int, before: list[pl.DataFrame]) -> bool:
    after = scanner.scan_day_shares(DAY, below=below, shares=3)
    return [share.height for share in after] != [share.height for share in before]


def _customers(share: pl.DataFrame) -> list[tuple[str, str]]:
    return share.select("tenant_id", "customer_ref").unique().rows()


def _cursor(pool: ConnectionPool) -> int:
    with transaction(pool) as tx:
        return ledger.load_cursor(tx)


def _alias(pool: ConnectionPool, customer: str, alias: str) -> None:
    add_alias(pool, tenant_id="acme", customer_ref=customer, alias_ref=alias, now=NOW, drain_seconds=60)


def _send(database_url: str, facts: list[Fact]) -> None:
    with ingest_into(database_url) as ingest:
        ingest.accept(facts)
