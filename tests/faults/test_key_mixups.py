"""C22: a key of another account, or of another kind. Nothing is sent, and nothing could be taken for something else."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from psycopg_pool import ConnectionPool
from pydantic import SecretStr

from stripemeter.billing import open_sink
from stripemeter.errors import InvalidInput, NotAllowed
from stripemeter.metering.days import month_bounds
from stripemeter.metering.deltas import Delta, push_identifier
from stripemeter.pipeline.push import push_usage
from tests.emulator import RunningEmulator
from tests.stripe_bench import NOW, ONCE, TODAY, SinkSettings, open_bench, shadow_sink

YESTERDAY = TODAY - timedelta(days=1)


def test_c22_a_key_of_another_account_sends_nothing(pool: ConnectionPool, emulator: RunningEmulator) -> None:
    """C22: refused by account before anything is planned, also with a row in flight; the right key goes on."""
    bench = open_bench(pool, emulator)
    bench.bind()
    bench.count("5", YESTERDAY)
    emulator.fault({"match": {"path_re": "meter_events"}, "do": {"kind": "reset_before_commit"}})
    push_usage(pool, bench.sink, now=NOW, retries=ONCE)
    before = bench.entries()
    stranger = RunningEmulator(url=emulator.url, key=f"{emulator.key}9", process=emulator.process)
    other = shadow_sink(stranger)
    assert other.account_id() != bench.sink.account_id()
    other.ensure_meter(event_name="calls", display_name="Calls")
    later = NOW + timedelta(minutes=20)
    with pytest.raises(NotAllowed, match=f"is of {other.account_id()}, but usage is mapped to"):
        push_usage(pool, other, now=later)
    assert (bench.entries(), emulator.ledger()) == (before, [])
    push_usage(pool, bench.sink, now=later)
    assert bench.at_stripe(YESTERDAY) == 5


def test_c22_an_identifier_contains_its_account() -> None:
    """C22: the very same delta has another identifier at another account: neither can stand for the other."""
    ours = Delta(
        stripe_account_id="acct_ours",
        stripe_event_name="calls",
        stripe_customer_id="cus_1",
        segment_start=month_bounds(YESTERDAY)[0],
        day=YESTERDAY,
        seq=1,
        stamped_at=NOW,
        quantity=Decimal(5),
    )
    theirs = replace(ours, stripe_account_id="acct_theirs")
    assert push_identifier(ours, entry_id=UUID(int=1)) != push_identifier(theirs, entry_id=UUID(int=1))


@pytest.mark.parametrize("key", ["sk_live_1", "rk_live_1", "pk_test_1"])
def test_c22_a_live_key_is_no_key_for_shadow_pushes(key: str) -> None:
    """C22: refused by its kind, before anybody is called."""
    with pytest.raises(InvalidInput, match="STRIPE_TEST_SECRET_KEY must start with"):
        open_sink(SinkSettings(stripe_test_secret_key=SecretStr(key)), mode="shadow")


def test_c22_a_test_key_is_no_key_for_the_account_that_bills() -> None:
    """C22: the other way round."""
    settings = SinkSettings(stripe_secret_key=SecretStr("sk_test_1"), allow_live=True)
    with pytest.raises(InvalidInput, match="STRIPE_SECRET_KEY must start with"):
        open_sink(settings, mode="live")
