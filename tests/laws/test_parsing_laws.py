"""What makes two events the same: canonical quantities, keys and payload hashes."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from stripemeter.metering.events import IngestLimits, UsageEvent, canonical_quantity, parse_ingest
from tests.laws.worlds import NOW, Fact, parse

EXACT = Context(prec=60)
TEXTS = st.text(
    # Separators and lookalikes first: where a careless join of fields would collide.
    st.one_of(
        st.sampled_from("|:=\\\"'{},\n\t \u2028é😀"), st.characters(exclude_characters="\0", exclude_categories=["Cs"])
    ),
    min_size=1,
    max_size=20,
)
QUANTITIES = st.integers(0, 10**38 - 1).map(lambda scaled: Decimal(scaled).scaleb(-12, EXACT))
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    TEXTS,
    st.sampled_from(["1.5", 1.5, "1", 1, "true", True, "null"]),
)
METAS = st.dictionaries(
    TEXTS,
    st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3)),
    max_size=3,
)
FACTS = st.builds(
    Fact,
    tenant=TEXTS,
    metric=TEXTS,
    customer=TEXTS,
    quantity=QUANTITIES.map(canonical_quantity),
    ts=st.datetimes(datetime(1, 1, 1), datetime(2026, 11, 23), timezones=st.just(UTC)),  # noqa: DTZ001 - bounds of the zone
    resource=st.one_of(st.none(), st.just(""), TEXTS),
    meta=st.one_of(st.none(), METAS),
)


def event_of(fact: Fact, *, header_key: str | None = None) -> UsageEvent:
    """The fact, accepted by the parser."""
    (event,) = parse([fact], header_key=header_key)
    assert isinstance(event, UsageEvent)
    return event


@given(quantity=QUANTITIES, zeros=st.integers(0, 5), exponent=st.integers(-30, 30))
def test_equal_quantities_have_one_text(quantity: Decimal, zeros: int, exponent: int) -> None:
    """However a number is written, its canonical text is one, plain, and exactly the number."""
    canonical = canonical_quantity(quantity)
    padded = canonical + ("" if "." in canonical else ".") + "0" * (zeros + 1)
    scientific = f"{quantity.scaleb(-exponent, EXACT):e}E{exponent:+d}".replace("e", "E", 1)
    mantissa, first, second = scientific.replace("E", " ").split()
    written = [f'"{padded}"', f'"{"0" * zeros}{canonical}"', canonical, f"{mantissa}e{int(first) + int(second)}"]
    for text in written:
        body = json.dumps({**Fact().document(), "quantity": "@"}).replace('"@"', text)
        assert _only(body).quantity == canonical, text
    assert Decimal(canonical) == quantity
    assert "E" not in canonical
    assert not (canonical.endswith("0") and "." in canonical)


@given(fact=FACTS, other=FACTS)
@example(fact=Fact(meta={"a": 1.5}), other=Fact(meta={"a": "1.5"}))
@example(fact=Fact(resource=None), other=Fact(resource=""))
@example(fact=Fact(meta=None), other=Fact(meta={}))
@example(fact=Fact(tenant="a", metric="b|c"), other=Fact(tenant="a|b", metric="c"))
@example(fact=Fact(ts=datetime(2026, 11, 1, tzinfo=UTC)), other=Fact(ts=datetime(2026, 11, 1, 0, 0, 0, 1, tzinfo=UTC)))
def test_different_events_never_share_a_derived_key(fact: Fact, other: Fact) -> None:
    """A15: a derived key and a payload hash differ whenever any billable field does, and only then."""
    first, second = event_of(fact), event_of(other)
    is_same = _billable(fact) == _billable(other)
    assert (first.idempotency_key == second.idempotency_key) is is_same
    assert (first.key_hash == second.key_hash) is is_same
    assert (first.payload_hash == second.payload_hash) is is_same


@given(
    fact=FACTS,
    field=st.sampled_from(["tenant", "metric", "customer", "resource", "quantity", "ts", "meta"]),
)
def test_every_billable_field_is_in_the_payload(fact: Fact, field: str) -> None:
    """Changing one field, by as little as a microsecond or the twelfth decimal, changes key and payload."""
    quantity = Decimal(fact.quantity)
    smallest = Decimal("1e-12")
    changed: dict[str, Any] = {
        "tenant": fact.tenant + "x",
        "metric": fact.metric + "x",
        "customer": fact.customer + "x",
        "resource": (fact.resource or "") + "x",
        "quantity": canonical_quantity(
            EXACT.subtract(quantity, smallest) if quantity else EXACT.add(quantity, smallest)
        ),
        "ts": fact.ts + timedelta(microseconds=1),
        "meta": {**(fact.meta or {}), "another member": 1},
    }
    first, second = event_of(fact), event_of(replace(fact, **{field: changed[field]}))
    assert first.idempotency_key != second.idempotency_key
    assert first.payload_hash != second.payload_hash


@given(fact=FACTS, zone=st.integers(-23, 23), data=st.data())
def test_a_retry_spelled_differently_is_the_same_event(fact: Fact, zone: int, data: st.DataObject) -> None:
    """Members of meta in another order, ts in another zone, white space: same key, same payload."""
    document = fact.document()
    members = data.draw(st.permutations(list(document.items())))
    respelled = {name: _reversed(value) if name == "meta" else value for name, value in members}
    original = event_of(fact)
    again = _only(json.dumps(respelled, indent=2, ensure_ascii=False))
    assert (again.key_hash, again.payload_hash) == (original.key_hash, original.payload_hash)
    if datetime(2, 1, 1, tzinfo=UTC) < fact.ts:
        local = fact.ts.replace(tzinfo=None) + timedelta(hours=zone)
        document["ts"] = f"{local.isoformat()}{'-' if zone < 0 else '+'}{abs(zone):02d}:00"
        assert _only(json.dumps(document)).payload_hash == original.payload_hash


@given(tenant=TEXTS, key=TEXTS, other_tenant=TEXTS, other_key=TEXTS)
@example(tenant="a", key="b:c", other_tenant="a:b", other_key="c")
def test_a_key_belongs_to_its_tenant(tenant: str, key: str, other_tenant: str, other_key: str) -> None:
    """A14: key hashes are equal only for the same (tenant, key)."""
    first = event_of(Fact(tenant=tenant, key=key))
    second = event_of(Fact(tenant=other_tenant, key=other_key))
    assert (first.key_hash == second.key_hash) is ((tenant, key) == (other_tenant, other_key))


@given(facts=st.lists(FACTS, min_size=2, max_size=5), header_key=TEXTS)
def test_a_header_key_gives_each_event_its_own(facts: list[Fact], header_key: str) -> None:
    """A16: on n events the header is `key:index`; on one it is the key; an event's own key precedes it."""
    keys = [event.idempotency_key for event in parse(facts, header_key=header_key)]
    assert keys == [f"{header_key}:{index}" for index in range(len(facts))]
    assert event_of(facts[0], header_key=header_key).idempotency_key == header_key
    assert event_of(replace(facts[0], key="own"), header_key=header_key).idempotency_key == "own"


def _billable(fact: Fact) -> tuple[object, ...]:
    # JSON text tells 1 from true and 1.5 from "1.5", which Python's equality of dicts does not.
    meta = None if fact.meta is None else json.dumps(fact.meta, sort_keys=True)
    return fact.tenant, fact.metric, fact.customer, fact.resource, fact.quantity, fact.ts, meta


def _only(event: str) -> UsageEvent:
    (parsed,) = parse_ingest(f'{{"events":[{event}]}}'.encode(), header_key=None, now=NOW, limits=IngestLimits())
    assert isinstance(parsed, UsageEvent)
    return parsed


def _reversed(value: object) -> object:
    if isinstance(value, dict):
        return {name: _reversed(inner) for name, inner in reversed(value.items())}
    return [_reversed(inner) for inner in value] if isinstance(value, list) else value
