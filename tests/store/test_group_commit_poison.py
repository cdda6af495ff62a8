"""Poison: what Postgres never takes. The parser refuses all we know; should one slip through, only it is rejected."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from psycopg_pool import ConnectionPool

from stripemeter.errors import InvalidInput
from stripemeter.metering.events import IngestLimits, UsageEvent, key_hash, parse_ingest
from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.prove import conservation
from tests.laws.worlds import NOW, Fact, Ingest, Parsed, ingest_into, ledger_rows, outcomes, parse


@pytest.fixture
def ingest(database_url: str) -> Iterator[Ingest]:
    """A group commit on this test's database."""
    with ingest_into(database_url) as opened:
        yield opened


def poisoned(tenant: str, key: str, **members: str) -> UsageEvent:
    """An event the parser would never make."""
    (event,) = parse([Fact(tenant=tenant, key=key)])
    assert isinstance(event, UsageEvent)
    return msgspec.structs.replace(event, **members)


POISONS = {
    "NUL in text": {"metric": "a\x00b"},
    "lone surrogate": {"customer_ref": "\ud800"},
    "NUL in meta": {"meta": '{"a": "\\u0000"}'},
    "meta not JSON": {"meta": "{"},
    "quantity too great": {"quantity": "1" + "0" * 26},
    "quantity negative": {"quantity": "-1"},
    "quantity no number": {"quantity": "many"},
    "unknown source": {"source": "gossip"},
}


@pytest.mark.parametrize("members", POISONS.values(), ids=POISONS)
def test_only_the_poison_is_rejected(pool: ConnectionPool, ingest: Ingest, members: dict[str, str]) -> None:
    """In a batch with other tenants' requests and good neighbours, one event is an error and all others are stored."""
    requests: list[list[Parsed]] = [
        parse([Fact(tenant="a", key=str(n)) for n in range(3)]),
        [
            *parse([Fact(tenant="b", key="before")]),
            poisoned("b", "bad", **members),
            *parse([Fact(tenant="b", key="after")]),
        ],
        parse([Fact(tenant="c", key=str(n)) for n in range(3)]),
    ]
    first, second, third = ingest.accept_together(requests)
    assert not isinstance(first, BaseException)
    assert not isinstance(second, BaseException)
    assert not isinstance(third, BaseException)
    assert outcomes(first) == outcomes(third) == ["accepted"] * 3
    assert outcomes(second) == ["accepted", "error", "accepted"]
    assert (second[1].idempotency_key, second[1].code) == ("bad", "unstorable")
    fold(pool)
    rows = {row.tenant_id: row for row in conservation(pool)}
    assert [(rows[t].received, rows[t].accepted, rows[t].rejected, rows[t].counted) for t in "abc"] == [
        (3, 3, 0, 3),
        (3, 2, 1, 2),
        (3, 3, 0, 3),
    ]
    assert all(row.holds for row in rows.values())


@pytest.mark.parametrize("members", POISONS.values(), ids=POISONS)
def test_poison_under_a_taken_key_is_rejected_and_its_neighbours_are_answered_truly(
    pool: ConnectionPool, ingest: Ingest, members: dict[str, str]
) -> None:
    """The poison is not inserted, its key being taken, but must not reach the quarantine after the batch committed."""
    ingest.accept([Fact(tenant="b", key="bad")])
    bad = msgspec.structs.replace(poisoned("b", "bad", **members), payload_hash=1)
    first, second = ingest.accept_together([parse([Fact(tenant="a", key="good")]), [bad]])
    assert not isinstance(first, BaseException)
    assert not isinstance(second, BaseException)
    assert outcomes(first) == ["accepted"], "told the truth: not a duplicate of its own first try"
    assert outcomes(second) == [QUARANTINED.get(str(members), "error")]
    rows = {row.tenant_id: row for row in conservation(pool)}
    assert (rows["a"].received, rows["b"].received) == (1, 2)
    assert all(row.holds for row in rows.values())


QUARANTINED = {str(POISONS["quantity negative"]): "conflict", str(POISONS["unknown source"]): "conflict"}
"""Refused by checks of the ledger alone: the quarantine may keep them."""


def test_a_tenant_that_cannot_be_written_is_answered_without_a_tally(pool: ConnectionPool, ingest: Ingest) -> None:
    """Even the tenant's name is poison: its event is rejected, the flusher lives, the others are stored."""
    event = poisoned("b", "bad", tenant_id="b\x00")
    bad = msgspec.structs.replace(event, key_hash=key_hash("b\x00", "bad"))
    first, second = ingest.accept_together([parse([Fact(tenant="a", key="good")]), [bad, *parse([Fact(key="ok")])]])
    assert not isinstance(first, BaseException)
    assert not isinstance(second, BaseException)
    assert outcomes(first) == ["accepted"]
    assert outcomes(second) == ["error", "accepted"]
    assert all(row.holds for row in conservation(pool))


def test_a_poisoned_request_keeps_first_and_second_bearer_apart(pool: ConnectionPool, ingest: Ingest) -> None:
    """Isolated one by one, the events of a request are still told in their order."""
    (one,), (two,) = parse([Fact(key="k")]), parse([Fact(key="k", quantity="2")])
    (answer,) = ingest.accept_together([[one, poisoned("acme", "bad", metric="\x00"), one, two]])
    assert not isinstance(answer, BaseException)
    assert outcomes(answer) == ["accepted", "error", "duplicate", "conflict"]
    (row,) = conservation(pool)
    assert (row.received, row.accepted, row.duplicates, row.conflicts, row.rejected) == (4, 1, 1, 1, 1)
    assert row.holds


@pytest.mark.parametrize(
    "meta",
    [
        '{"a":1e131072}',
        '{"a":1e-16384}',
        '{"a":1e308000}',
        '{"a":0e-20000}',
        '{"a":[{"b":-1e99999}]}',
        '{"a":"\\u0000"}',
        '{"\\u0000":1}',
        '{"a":"\\ud800"}',
        '{"a":"\xff"}',
        '{"a":1e999999999999999999999}',
    ],
)
def test_what_jsonb_refuses_the_parser_refuses_first(meta: str) -> None:
    """Numbers beyond numeric, NUL and broken text in meta are the request's fault, named, before any batch."""
    document = '{"tenantId":"a","metric":"m","customerRef":"c","quantity":1,"ts":"2026-11-23T00:00:00Z","meta":@}'
    body = b'{"events":[' + document.encode().replace(b"@", meta.encode("latin-1")) + b"]}"
    with pytest.raises(InvalidInput) as refused:
        parse_ingest(body, header_key=None, now=NOW, limits=IngestLimits())
    assert refused.value.field in {"events[0].meta", "body"}


@pytest.mark.parametrize(
    "number", ["1e308", "-1e308", "1.7976931348623157e308", "5e-324", "1e-1074", "0e5", "9" * 4000]
)
def test_what_the_parser_lets_through_jsonb_takes(pool: ConnectionPool, ingest: Ingest, number: str) -> None:
    """The bounds are on the safe side: the greatest and least numbers of a double are stored."""
    document = '{"tenantId":"a","metric":"m","customerRef":"c","quantity":1,"ts":"2026-11-23T00:00:00Z","meta":{"n":@}}'
    body = f'{{"events":[{document.replace("@", number)}]}}'.encode()
    assert outcomes(ingest.accept_parsed(parse_ingest(body, header_key=None, now=NOW, limits=IngestLimits()))) == [
        "accepted"
    ]
    assert len(ledger_rows(pool, ["a"])) == 1
