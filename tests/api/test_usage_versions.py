"""Usage of windows in which a meter changed: the last day's aggregation, of what each day's own version reads."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from psycopg_pool import ConnectionPool

from stripemeter.pipeline.fold import fold
from tests.api.serving import Api, Ingest

FIRST = datetime(2026, 10, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
CHANGE = "2026-10-03"
"""From this day on the second version counts."""


def get(api: Api, route: str, tenant: str, **parameters: str) -> dict[str, Any]:
    """An answer about the meter m, its numbers exact."""
    answer = api.get(f"/v1/usage/{route}", params={"tenantId": tenant, "metric": "m", **parameters})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = msgspec.json.Decoder(float_hook=Decimal).decode(answer.content)
    return body


def define(
    pool: ConnectionPool, tenant: str, version: int, since: str, *, is_active: bool = True, **members: object
) -> None:
    """A version of the meter m, before any of its events was folded."""
    document = {"name": "m", "metrics": ["raw"], **members}
    with pool.connection() as connection:
        connection.execute(
            "insert into meters values (%s, 'm', %s, %s, %s, %s, 'test', now())",
            (tenant, version, since, is_active, json.dumps(document)),
        )


def raw(hours: float, quantity: str, **meta: str) -> dict[str, Any]:
    """An event of the metric raw so many hours after 1 October."""
    return {"metric": "raw", "quantity": quantity, "ts": (FIRST + hours * HOUR).isoformat(), "meta": meta}


def current(api: Api, tenant: str) -> tuple[str, Decimal]:
    """How October counts, and its number."""
    (metric,) = get(api, "current", tenant, customerRef="c1", at="2026-10-15T00:00:00Z")["metrics"]
    return metric["aggregation"], metric["current"]


def history(api: Api, tenant: str, step: str, *, days: int = 4) -> list[tuple[str, Decimal | None]]:
    """How each bucket of the first days of October counts, and its number."""
    end = (FIRST + timedelta(days=days)).isoformat()
    period = {"periodStart": FIRST.isoformat(), "periodEnd": end}
    found = get(api, "history", tenant, customerRef="c1", step=step, **period)
    assert found["aggregation"] == found["usage"][-1]["aggregation"]
    return [(point["aggregation"], point["value"]) for point in found["usage"]]


def query(api: Api, tenant: str, window: str, **parameters: str) -> list[tuple[str, Decimal | None]]:
    """As history, of /query."""
    span = {"from": FIRST.isoformat(), "to": (FIRST + timedelta(days=4)).isoformat(), **parameters}
    found = get(api, "query", tenant, window=window, **span)
    assert found["aggregation"] == found["usage"][-1]["aggregation"]
    return [(row["aggregation"], row["value"]) for row in found["usage"]]


@pytest.mark.parametrize("is_folded", [False, True])
@pytest.mark.parametrize(
    ("first", "second", "days", "month"),
    [
        # Until the 3rd the values are 5; 5 and 7. Then two people, one of them twice.
        ("sum", {"aggregation": "unique", "value": "meta.who"}, ["5", "12", "2", "1"], "4"),
        ("max", {"aggregation": "percentile", "percentile": "50"}, ["5", "7", "1", "1"], "1"),
        ("unique", {"aggregation": "sum"}, ["1", "2", "3", "1"], "21"),
        ("count", {"aggregation": "max"}, ["1", "2", "1", "1"], "7"),
    ],
)
def test_a_window_counts_as_its_last_day_what_each_day_reads(  # noqa: PLR0913
    api: Api,
    tenant: str,
    ingest: Ingest,
    pool: ConnectionPool,
    *,
    is_folded: bool,
    first: str,
    second: dict[str, Any],
    days: list[str],
    month: str,
) -> None:
    """Days are their own version's, months and weeks across the change the later one's, whoever answers."""
    define(pool, tenant, 1, "0001-01-01", aggregation=first)
    define(pool, tenant, 2, CHANGE, **second)
    ingest(raw(0, "5", who="a"), raw(25, "5", who="a"), raw(26, "7", who="b"))
    ingest(raw(48, "1", who="a"), raw(49, "1", who="b"), raw(50, "1", who="a"), raw(72, "1", who="b"))
    if is_folded:
        fold(pool)
    later = second["aggregation"]
    expected = [(first, Decimal(days[0])), (first, Decimal(days[1])), *((later, Decimal(day)) for day in days[2:])]
    assert current(api, tenant) == (later, Decimal(month))
    assert history(api, tenant, "day") == expected
    assert history(api, tenant, "month") == [(later, Decimal(month))]
    assert history(api, tenant, "month", days=2)[0][0] == first
    for members in ({}, {"source": "http"}):
        assert query(api, tenant, "day", **members) == expected
        assert query(api, tenant, "month", **members) == [(later, Decimal(month))]
        assert query(api, tenant, "day", aggregation="sum", **members) == [
            ("sum", number) for number in (5, 12, 3, 1)
        ]  # fmt: skip
    # Berlin's 3 October began with the last two hours of the 2nd, which the first version reads.
    berlin = {"from": "2026-10-02T00:00:00Z", "to": "2026-10-03T22:00:00Z", "timeZone": "Europe/Berlin"}
    assert [how for how, _ in query(api, tenant, "day", **berlin)] == [first, later]


@pytest.mark.parametrize("is_folded", [False, True])
def test_levels_go_on_across_a_change_unless_their_dimensions_end(
    api: Api, tenant: str, ingest: Ingest, pool: ConnectionPool, is_folded: bool
) -> None:
    """2 from the 1st, 3 from noon of the 2nd, in eu 4 from noon of the 3rd; nothing from the 5th, when it ends."""
    for name, dimensions in (("same", []), ("other", ["meta.region"])):
        define(pool, f"{tenant}-{name}", 1, "0001-01-01", aggregation="max")
        define(pool, f"{tenant}-{name}", 2, CHANGE, aggregation="time_weighted", dimensions=dimensions)
        define(
            pool,
            f"{tenant}-{name}",
            3,
            "2026-10-05",
            is_active=False,
            aggregation="time_weighted",
            dimensions=dimensions,
        )
        define(pool, f"{tenant}-{name}", 4, "2026-10-06", aggregation="time_weighted", dimensions=dimensions)
        readings = [raw(0, "2"), raw(36, "3"), raw(60, "4", region="eu")]
        ingest(*({**reading, "tenantId": f"{tenant}-{name}"} for reading in readings))
    if is_folded:
        fold(pool)
    for name, third in (("same", 3 * 12 + 4 * 12), ("other", 4 * 12)):
        numbers = [third * 3600, 4 * 24 * 3600]
        asked = f"{tenant}-{name}"
        assert history(api, asked, "day") == [("max", 2), ("max", 3), *(("time_weighted", each) for each in numbers)]
        for members in ({}, {"source": "http"}):
            assert query(api, asked, "day", **members)[2:] == [("time_weighted", each) for each in numbers]
            third_and_fourth = {"from": "2026-10-03T00:00:00Z", "to": "2026-10-05T00:00:00Z", **members}
            assert query(api, asked, "month", **third_and_fourth) == [("time_weighted", sum(numbers))]
            fifth = {"from": "2026-10-05T00:00:00Z", "to": "2026-10-06T00:00:00Z", **members}
            assert query(api, asked, "day", **fifth) == [("sum", 0)]
        before = (2 * 36 + 3 * 12) * 3600
        # Of readings the first version counted by their greatest, the month makes unit-seconds too.
        assert current(api, asked) == ("time_weighted", before + sum(numbers))
