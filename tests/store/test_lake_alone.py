"""The lake alone: a day counted from its files, by the rules in them, is what Postgres counted, whatever the rules."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from random import Random

import polars as pl
import pytest
from psycopg_pool import ConnectionPool
from typer.testing import CliRunner

from stripemeter.cli.main import app
from stripemeter.errors import InvariantBroken
from stripemeter.metering.segments import parse_phase
from stripemeter.pipeline.archive import archive_day, prove_days, recount_from_lake, unarchived_days
from stripemeter.pipeline.customers import CustomerChange, put_customer
from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.meters import put_meter
from stripemeter.pipeline.void import void_event
from stripemeter.store.archived_days import load_archived_day
from stripemeter.store.customers import CustomerPhase
from stripemeter.store.lake import LocalLake, load_events, load_items, load_rules, stage_day
from stripemeter.store.lake_query import query_lake
from stripemeter.store.postgres import transaction
from stripemeter.store.rulebook import load_rulebook
from stripemeter.store.scan import open_scanner
from tests.laws.worlds import NOW, Fact, ingest_into

DAY = (NOW - timedelta(days=1)).date()
START = datetime.combine(DAY, datetime.min.time(), UTC)
AGGREGATIONS = ["count", "sum", "min", "max", "last", "avg", "unique", "time_weighted", "percentile"]
ODD = datetime(2026, 11, 22, 7, 31, 59, tzinfo=UTC)


@pytest.fixture
def lake(tmp_path: Path) -> LocalLake:
    """A lake that does not exist yet."""
    return LocalLake(root=tmp_path / "lake")


def decide_rules(pool: ConnectionPool) -> None:
    """A meter of every aggregation, filtered, split and bounded ones too; other names; segments from odd seconds."""
    documents: list[dict[str, object]] = [
        {
            "name": f"by_{how}",
            "metrics": ["api_calls", "gauge"],
            "aggregation": how,
            **({"value": "meta.user"} if how == "unique" else {}),
            **({"percentile": "95"} if how == "percentile" else {}),
        }
        for how in AGGREGATIONS
    ]
    documents += [
        {"name": "split", "metrics": ["api_calls"], "dimensions": ["meta.region", "resourceId"], "maxGroups": 2},
        {"name": "gauge", "filter": {"field": "meta.region", "op": "eq", "value": "eu"}, "aggregation": "max"},
    ]
    for document in documents:
        put_meter(pool, "acme", document, effective_on=None, actor="ann", expected_version=None, now=NOW)
    changes = {
        "a": CustomerChange(aliases=("a2", "a3"), billing=parse_phase(cadence="month", anchor_at=ODD)),
        "b": CustomerChange(
            phases=(
                CustomerPhase(meter="", phase=parse_phase(cadence="week", anchor_at=ODD), reason="billing"),
                CustomerPhase(
                    meter="by_sum",
                    phase=parse_phase(cadence="day", anchor_at=ODD + timedelta(seconds=1), starts_at=ODD),
                    reason="billing",
                ),
            )
        ),
    }
    for ref, change in changes.items():
        put_customer(pool, tenant_id="acme", customer_ref=ref, change=change, now=NOW)


def some_facts(seed: int) -> list[Fact]:
    """Events all over the day, some at the odd seconds; of a tenant with rules and of one without."""
    random = Random(seed)
    instants = [START, ODD, ODD + timedelta(seconds=1), ODD - timedelta(microseconds=1)]
    return [
        Fact(
            tenant="plain" if number % 7 == 0 else "acme",
            metric=random.choice(["api_calls", "gauge", "unmetered"]),
            customer=random.choice(["a", "a2", "a3", "b", "c"]),
            quantity=f"{random.randrange(10**9)}.{random.randrange(10**12):012}",
            ts=random.choice([*instants, START + timedelta(microseconds=random.randrange(86_400_000_000))]),
            key=str(number),
            resource=random.choice([None, "r1", "r2"]),
            meta={"user": random.choice(["u1", "u2", "é"]), "region": random.choice(["eu", "us", None])},
        )
        for number in range(90)
    ]


def counted_day(pool: ConnectionPool, database_url: str, seed: int) -> None:
    """Rules and events, folded in two halves, one event voided."""
    decide_rules(pool)
    facts = some_facts(seed)
    with ingest_into(database_url) as ingest:
        for half in (facts[:50], facts[50:]):
            ingest.accept(half)
            fold(pool, now=NOW)
    voided = next(fact for fact in facts if fact.tenant == "acme")
    void_event(pool, "acme", str(voided.key), reason="wrong", actor="ann", now=NOW)


@pytest.mark.parametrize("seed", range(3))
def test_a_day_is_counted_from_the_lake_alone(
    pool: ConnectionPool, database_url: str, lake: LocalLake, tmp_path: Path, seed: int
) -> None:
    """Every counter and item equals Postgres and gives the archived bytes; also after the rules have changed."""
    counted_day(pool, database_url, seed)
    archived = archive_day(pool, lake, DAY)
    found = recount_from_lake(lake, DAY)
    with open_scanner(pool) as scanner:
        assert scanner.holds_counters(DAY, found.counted)
    assert found.different == 0
    assert {row["meter"] for row in found.counted.items.iter_rows(named=True)} == {"by_unique", "by_percentile"}
    starts = set(found.counted.counters["segment_start"])
    assert {ODD, ODD + timedelta(seconds=1), datetime(2026, 11, 1, tzinfo=UTC)} <= starts
    rules = load_rules(lake, DAY, sha256=archived.rules_sha256).rulebook
    other = LocalLake(root=tmp_path / "other")
    again = stage_day(other, DAY, events=load_events(lake, DAY), counted=found.counted, rulebook=rules)
    with transaction(pool) as tx:
        of_then = load_archived_day(tx, DAY)
    assert of_then is not None
    assert again == of_then.files
    put_customer(pool, tenant_id="acme", customer_ref="a", change=CustomerChange(aliases=()), now=NOW)
    document = {"name": "by_sum", "metrics": ["gauge"], "aggregation": "max"}
    put_meter(pool, "acme", document, effective_on=DAY, actor="ann", expected_version=None, now=NOW)
    assert recount_from_lake(lake, DAY).counted.counters.equals(found.counted.counters)


def test_rules_that_the_day_does_not_meet_leave_its_bytes(
    pool: ConnectionPool, database_url: str, lake: LocalLake
) -> None:
    """Other tenants' rules, other metrics' meters, customers without events: the files stay the same."""
    counted_day(pool, database_url, 1)
    first = archive_day(pool, lake, DAY)
    put_meter(pool, "acme", {"name": "other"}, effective_on=None, actor="ann", expected_version=None, now=NOW)
    put_meter(pool, "new", {"name": "api_calls"}, effective_on=None, actor="ann", expected_version=None, now=NOW)
    put_customer(pool, tenant_id="acme", customer_ref="z", change=CustomerChange(aliases=("z2",)), now=NOW)
    second = archive_day(pool, lake, DAY)
    assert (second.rules_sha256, second.counters_sha256) == (first.rules_sha256, first.counters_sha256)
    document = json.loads((lake.root / f"rules/month={DAY:%Y-%m}/day={DAY}/part.json").read_bytes())
    assert list(document["tenants"]) == ["acme"]
    assert document["tenants"]["acme"]["aliases"] == {"a2": "a", "a3": "a"}
    with transaction(pool) as tx:
        assert "other" in load_rulebook(tx).of("acme").meters


def test_files_that_do_not_belong_together_are_seen(pool: ConnectionPool, database_url: str, lake: LocalLake) -> None:
    """The rules name the hashes of the day's other files, so that no manifest is needed to see damage."""
    counted_day(pool, database_url, 1)
    archive_day(pool, lake, DAY)
    for kind in ("events", "counters", "counter_items"):
        part = lake.root / f"{kind}/month={DAY:%Y-%m}/day={DAY}/part.parquet"
        content = part.read_bytes()
        part.write_bytes(content[:-1])
        with pytest.raises(InvariantBroken, match=f"{kind}/month"):
            recount_from_lake(lake, DAY)
        part.write_bytes(content)
    rules = lake.root / f"rules/month={DAY:%Y-%m}/day={DAY}/part.json"
    content = rules.read_bytes()
    for wrong in (b"{", content.replace(b'"format":1', b'"format":2'), content.replace(b'"by_sum"', b"5")):
        rules.write_bytes(wrong)
        with pytest.raises(InvariantBroken, match=r"part\.json cannot be read"):
            recount_from_lake(lake, DAY)
    rules.write_bytes(content.replace(str(DAY).encode(), b"2026-01-01"))
    with pytest.raises(InvariantBroken, match="is of 2026-01-01"):
        recount_from_lake(lake, DAY)
    rules.write_bytes(content.replace(b'"alias', b'"elias'))
    with pytest.raises(InvariantBroken):
        recount_from_lake(lake, DAY)


def test_a_day_of_an_earlier_release_is_read_and_archived_again(
    pool: ConnectionPool, database_url: str, lake: LocalLake
) -> None:
    """Two files and a manifest that names two: proven by the rules in Postgres, and asked for by the night."""
    counted_day(pool, database_url, 1)
    archive_day(pool, lake, DAY)
    later = NOW + timedelta(days=9)
    assert unarchived_days(pool, now=later, limit=9) == []
    with transaction(pool) as tx:
        tx.execute("update archived_days set item_count = null, items_sha256 = null, rules_sha256 = null")
    for kind in ("counter_items", "rules"):
        for part in lake.root.glob(f"{kind}/*/*/*"):
            part.unlink()
    assert prove_days(pool, lake, [DAY]).proven == (DAY,)
    assert query_lake(lake, "select count(*) from counters where event_count > 0").rows[0][0] > 0
    assert unarchived_days(pool, now=later, limit=9) == [DAY]
    with pytest.raises(InvariantBroken, match="archive the day again"):
        recount_from_lake(lake, DAY)
    assert archive_day(pool, lake, DAY).rules_sha256 is not None
    assert unarchived_days(pool, now=later, limit=9) == []
    assert recount_from_lake(lake, DAY).different == 0


@pytest.mark.parametrize(("kind", "column"), [("counters", "event_count"), ("counter_items", "item_count")])
def test_numbers_that_the_events_do_not_make_are_seen(
    pool: ConnectionPool, database_url: str, lake: LocalLake, kind: str, column: str
) -> None:
    """A file with the hash that the rules name and another number in one row: the recount says how many."""
    counted_day(pool, database_url, 1)
    archive_day(pool, lake, DAY)
    part = lake.root / f"{kind}/month={DAY:%Y-%m}/day={DAY}/part.parquet"
    before = sha256(part.read_bytes()).hexdigest().encode()
    frame = pl.read_parquet(part)
    frame.with_columns(pl.col(column) + (pl.int_range(pl.len()) == 3).cast(pl.Int64)).write_parquet(part)
    rules = lake.root / f"rules/month={DAY:%Y-%m}/day={DAY}/part.json"
    rules.write_bytes(rules.read_bytes().replace(before, sha256(part.read_bytes()).hexdigest().encode()))
    assert recount_from_lake(lake, DAY).different == 1


def test_items_that_change_after_the_archive_are_seen(pool: ConnectionPool, database_url: str, lake: LocalLake) -> None:
    """The proof compares them with Postgres as it does counters."""
    counted_day(pool, database_url, 1)
    archive_day(pool, lake, DAY)
    with transaction(pool) as tx:
        tx.execute("update counter_items set item_count = item_count + 1 where item = 'u1'")
    (mismatch,) = prove_days(pool, lake, [DAY]).mismatches
    assert "counters recount" in mismatch.problem


def test_items_are_asked_for_in_sql(pool: ConnectionPool, database_url: str, lake: LocalLake) -> None:
    """The view `counter_items` has every row of the table."""
    counted_day(pool, database_url, 1)
    archive_day(pool, lake, DAY)
    columns = "tenant_id, customer_ref, meter, day, segment_start, dimensions, is_late, item, item_count"
    with transaction(pool) as tx:
        rows = tx.execute(f"select {columns} from counter_items").fetchall()
    assert rows
    assert sorted(query_lake(lake, f"select {columns} from counter_items").rows) == sorted(rows)
    assert load_items(lake, DAY).height == len(rows)


def test_the_command_counts_without_postgres(
    pool: ConnectionPool, database_url: str, lake: LocalLake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Exit 0 when every day is as archived; 1 names the day that is not, and the others are counted all the same."""
    counted_day(pool, database_url, 1)
    archived = archive_day(pool, lake, DAY)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("STRIPEMETER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STRIPEMETER_LAKE", str(lake.root))
    monkeypatch.chdir(tmp_path)
    pool.close()
    run = CliRunner().invoke
    done = run(app, ["lake", "recount", str(DAY)])
    made = f"{archived.events} events make {archived.counters} counters, {archived.items} items"
    assert (done.exit_code, done.output) == (0, f"{DAY}: {made}, as archived\n")
    part = lake.root / f"rules/month={DAY:%Y-%m}/day={DAY}/part.json"
    part.write_bytes(part.read_bytes().replace(b'"a2":"a"', b'"a2":"b"'))
    done = run(app, ["lake", "recount", str(DAY), "2020-01-01"])
    assert done.exit_code == 1
    assert "are not what was archived" in done.output
    assert "2020-01-01: the lake has no rules" in done.output
    assert not (tmp_path / "home").exists()
