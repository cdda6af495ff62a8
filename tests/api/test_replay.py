"""POST /v1/replay: the contract's members, durations before now, and refusals by name."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.api.serving import Api, Ingest


def test_a_replay_of_the_last_day(api: Api, tenant: str, ingest: Ingest) -> None:
    """`-PT24H` to `now`, dry: what was found, and that nothing was applied."""
    ingest({"ts": datetime.now(UTC).isoformat(), "quantity": 2})
    body = {"tenantId": tenant, "metrics": ["api_calls"], "since": "-PT24H", "until": "now", "mode": "dry-run"}
    answer = api.post("/v1/replay", json=body)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["applied"] is False
    assert told["cursor"] is None
    assert set(told["changes"]) == {"api_calls"}
    assert told["changes"]["api_calls"]["counterDelta"] == 0
    assert told["summary"] == {"days": 2, "changedCounters": 0, "withheldLateEvents": 0, "pendingLateEvents": 0}
    assert api.post("/v1/replay", json={**body, "mode": "apply"}).json()["applied"] is True


def test_the_last_day_there_is_is_answered(api: Api, tenant: str) -> None:
    """No day has a day after the last one; nothing lies there, and the answer says so."""
    body = {"tenantId": tenant, "since": "9999-12-30T00:00:00Z", "until": "9999-12-31T23:59:59Z", "mode": "dry-run"}
    answer = api.post("/v1/replay", json=body)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["summary"]["days"], answer.json()["cursor"]) == (0, None)


def test_a_long_range_comes_in_pages(api: Api, tenant: str) -> None:
    """31 days, then the cursor of the rest; a cursor of another question is refused."""
    body = {"tenantId": tenant, "since": "2026-01-01T00:00:00Z", "until": "2026-02-11T00:00:00Z", "mode": "dry-run"}
    first = api.post("/v1/replay", json=body).json()
    assert first["summary"]["days"] == 31
    second = api.post("/v1/replay", json={**body, "cursor": first["cursor"]}).json()
    assert (second["summary"]["days"], second["cursor"]) == (10, None)
    other = api.post("/v1/replay", json={**body, "mode": "apply", "cursor": first["cursor"]})
    assert (other.status_code, other.json()["errors"][0]["path"]) == (400, "cursor")


@pytest.mark.parametrize(
    ("members", "path"),
    [
        ({"since": "-P"}, "since"),
        ({"since": "-PT"}, "since"),
        ({"since": "yesterday"}, "since"),
        ({"since": "2026-01-01T00:00:00"}, "since"),
        ({"until": "2020-01-01T00:00:00Z"}, "until"),
        ({"mode": "maybe"}, "mode"),
        ({"cursor": "x"}, "cursor"),
        ({"watermark": "x"}, "watermark"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_what_cannot_be_is_refused_by_name(api: Api, tenant: str, members: dict[str, Any], path: str) -> None:
    """400 names the member."""
    body = {"tenantId": tenant, "since": "-P7D", "mode": "dry-run"}
    answer = api.post("/v1/replay", json={**body, **members})
    assert answer.status_code == 400, answer.text
    assert answer.json()["errors"][0]["path"] == path
