"""Texts travel to Postgres joined by a separator: whatever they hold, each arrives as it was sent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.store.postgres import transaction
from tests.laws.worlds import Fact, Ingest, ingest_into, outcomes

AWKWARD = ["\x1f", "\x1f\x1f", "a\x1fb", "=", "{}", '"', "\\", "null", "NULL", ",", " ", "é\U0001f600", "\x01"]


@pytest.fixture
def ingest(database_url: str) -> Iterator[Ingest]:
    """A group commit on this test's database."""
    with ingest_into(database_url) as opened:
        yield opened


def test_every_text_arrives_as_it_was_sent(pool: ConnectionPool, ingest: Ingest) -> None:
    """Separators, quotes, braces and nulls in tenant, metric, customer, resource and key, in one batch."""
    facts = [
        Fact(tenant=f"t{text}", metric=text, customer=text, resource=text, key=text, meta={"m": text})
        for text in AWKWARD
    ]
    assert outcomes(ingest.accept(facts)) == ["accepted"] * len(facts)
    assert _stored(pool) == sorted((f"t{text}", text, text, text, text, text) for text in AWKWARD)


def test_no_resource_is_not_the_empty_resource(pool: ConnectionPool, ingest: Ingest) -> None:
    """Absent and empty stay apart, and so do absent and empty meta; alone in a batch as well as together."""
    ingest.accept([Fact(key="absent")])
    ingest.accept([Fact(key="empty", resource="", meta={})])
    ingest.accept([Fact(key="absent again"), Fact(key="empty again", resource="", meta={})])
    with transaction(pool) as tx:
        found = tx.execute("select idempotency_key, resource_id, meta::text from events order by 1").fetchall()
    assert found == [
        ("absent", None, None),
        ("absent again", None, None),
        ("empty", "", "{}"),
        ("empty again", "", "{}"),
    ]


def _stored(pool: ConnectionPool) -> list[tuple[str, ...]]:
    with transaction(pool) as tx:
        return sorted(
            tx.execute(
                "select tenant_id, metric, customer_ref, resource_id, idempotency_key, meta ->> 'm' from events"
            ).fetchall()
        )
