"""Malformed requests: each is refused as a whole, with the offending member named, and nothing of it is stored."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from tests.api.serving import Api

NOW = "2026-03-04T12:00:00Z"
EVENT: dict[str, Any] = {"tenantId": "malformed", "metric": "m", "customerRef": "c", "quantity": 1, "ts": NOW}
GOOD = json.dumps(EVENT)
PATH = "/v1/events/ingest"


def body_of(event: str) -> str:
    """A request whose second event is the text given: the first is good, and must not be stored either."""
    return f'{{"events":[{GOOD},{event}]}}'


def with_raw(name: str, raw: str) -> str:
    """A good event but for one member, given as raw JSON."""
    members = {key: json.dumps(value) for key, value in EVENT.items()}
    members[name] = raw
    return "{" + ",".join(f'"{key}":{value}' for key, value in members.items()) + "}"


WHOLE = {
    "": "body",
    " ": "body",
    "{": "body",
    "}": "body",
    "[]": "body",
    "null": "body",
    "5": "body",
    '"events"': "body",
    "true": "body",
    "{}": "events",
    '{"Events":[]}': "events",
    '{"events":[]}': "events",
    '{"events":null}': "events",
    '{"events":{}}': "events",
    '{"events":"x"}': "events",
    '{"events":5}': "events",
    f"[{GOOD}]": "body",
    GOOD: "events",
    f'{{"events":[{GOOD}]}}x': "body",
    f'{{"events":[{GOOD}],}}': "body",
    f'{{"events":[{GOOD},]}}': "body",
    f'{{"events":[{GOOD}]': "body",
    f"{{'events':[{GOOD}]}}": "body",
    f'\ufeff{{"events":[{GOOD}]}}': "body",
    f'{{"events":[{GOOD}]}}{{"events":[{GOOD}]}}': "body",
    '{"events":[' + "[" * 5000 + "]" * 5000 + "]}": "events[0]",
    '{"x":' + "[" * 100_000 + "]" * 100_000 + "}": "body",
    f'{{"events":[{GOOD},null]}}': "events[1]",
    f'{{"events":[{GOOD},[]]}}': "events[1]",
    f'{{"events":[{GOOD},5]}}': "events[1]",
    f'{{"events":[{GOOD},"x"]}}': "events[1]",
    f'{{"events":[{GOOD},{{}}]}}': "events[1].",
}
MEMBERS = {
    "tenantId": ["null", "5", "true", "[]", "{}", '""', f'"{"t" * 256}"', '"a\\u0000b"', '"\\u0000"'],
    "metric": ["null", "5", "[]", '""', f'"{"m" * 101}"', '"a\\u0000"'],
    "customerRef": ["null", "5", "{}", '""', f'"{"c" * 256}"', '"\\u0000c"'],
    "resourceId": ["5", "[]", "false", f'"{"r" * 256}"', '"\\u0000"'],
    "idempotencyKey": ["5", "[]", '""', f'"{"k" * 256}"', '"k\\u0000"'],
    "source": ["null", "5", '""', '"HTTP"', '"sdk "', '"unknown"'],
    "quantity": [
        *("null", "true", "[]", "{}", '""', '" "', '"1 "', '" 1"', '"+1"', '".5"', '"1."', '"1e3"', '"0x10"', '"1,5"'),
        *('"NaN"', '"Infinity"', '"-Infinity"', '"abc"', '"\uff11"', '"1_000"', "-1", '"-1"', "-0.5", "-1e-12", "1e26"),
        *("1e400", "1e9999", "1e-13", "0.0000000000001", '"100000000000000000000000000"', "1e99999", "9" * 5000),
        f'"{"9" * 27}"',
    ],
    "ts": [
        *(
            "null",
            "5",
            "1700000000",
            "1.5",
            "[]",
            '""',
            '"now"',
            '"2026-03-04"',
            '"2026-03-04T12:00:00"',
            '"12:00:00Z"',
        ),
        *('"2026-02-30T00:00:00Z"', '"2026-13-01T00:00:00Z"', '"2026-03-04T24:00:00Z"', '"2026-03-04T23:59:60Z"'),
        *(
            '"2026-03-04T12:00:00+25:00"',
            '"0000-01-01T00:00:00Z"',
            '"0001-01-01T00:00:00+01:00"',
            '"10000-01-01T00:00:00Z"',
        ),
        *(
            '"9999-12-31T23:59:59-01:00"',
            '"1772625600000"',
            '"Wed, 04 Mar 2026 12:00:00 GMT"',
            '"2026-03-04T12:00:00Z "',
        ),
    ],
    "meta": [
        *("5", "[]", '"x"', "true", '{"a":1e400}', '{"a":1e131072}', '{"a":1e-16384}', '{"a":"\\u0000"}'),
        *('{"\\u0000":1}', f'{{"a":{"9" * 5000}}}'),
    ],
}
BROKEN = {
    "tenantId": ["NaN", '"a\nb"', '"\\ud800"', '"\\x41"', '"a', "'a'"],
    "quantity": ["01", "+1", ".5", "1.", "1e", "NaN", "Infinity", "-", "0x10", "1_0"],
    "ts": ['"\\uZZZZ"'],
    "meta": ['{"a":}', '{"a":NaN}', "{a:1}", f'{{"a":{"[" * 5000}{"]" * 5000}}}', '{"a":01}', '{"a":1,}'],
}
NAMED = [
    *WHOLE.items(),
    *[(body_of(with_raw(name, raw)), f"events[1].{name}") for name, raws in MEMBERS.items() for raw in raws],
    *[(body_of(with_raw(name, raw)), "body") for name, raws in BROKEN.items() for raw in raws],
    *[
        (body_of(json.dumps({key: value for key, value in EVENT.items() if key != name})), f"events[1].{name}")
        for name in EVENT
    ],
]
INVALID_UTF8 = [
    *[(body_of(with_raw(name, '"\xff"')), name) for name in ("tenantId", "metric", "customerRef", "idempotencyKey")],
    (body_of(with_raw("meta", '{"a":"\xff"}')), "meta"),
    (body_of(with_raw("quantity", '"\xff"')), "quantity"),
]


def rows(database_url: str) -> tuple[object, ...]:
    """How much is stored and tallied, of anything."""
    with psycopg.connect(database_url) as connection:
        found = connection.execute(
            "select (select count(*) from events), (select count(*) from event_keys),"
            " (select count(*) from event_conflicts), (select coalesce(sum(received), 0) from ingest_tallies)"
        ).fetchone()
    assert found is not None
    return found


@pytest.fixture
def unchanged(api: Api, database_url: str) -> Any:  # noqa: ANN401 - a fixture without a value
    """Nothing may be stored while the test runs."""
    before = rows(database_url)
    yield
    assert rows(database_url) == before


def check_refused(api: Api, body: bytes, path: str) -> None:
    """400 as a problem document that names the member; the original's members beside it."""
    answer = api.post(PATH, content=body, headers={"content-type": "application/json"})
    shown = body[:200]
    assert answer.status_code == 400, (shown, answer.text)
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] == "invalid_input"
    assert problem["status"] == 400
    assert problem["accepted"] == problem["duplicates"] == 0
    assert problem["requestId"] == answer.headers["x-request-id"]
    (error,) = problem["errors"]
    assert error["path"].startswith(path), (shown, error)
    if path != "events[1].":
        assert error["path"] == path, (shown, error)
    assert error["message"]
    assert error["index"] == (1 if path.startswith("events[1]") else 0 if path.startswith("events[0]") else -1)


def test_there_are_many_ways_to_be_wrong() -> None:
    """The table is what it says."""
    assert len(NAMED) >= 150


def test_every_malformed_body_is_refused_whole_and_named(api: Api, unchanged: None) -> None:
    """One request per line of the table; its good first event is not stored either."""
    for body, path in NAMED:
        check_refused(api, body.encode(), path)


@pytest.mark.parametrize(("body", "name"), INVALID_UTF8, ids=[name for _, name in INVALID_UTF8])
def test_text_that_is_not_utf8_is_refused(api: Api, unchanged: None, body: str, name: str) -> None:
    """A byte no UTF-8 text has is the request's fault, never an internal error."""
    answer = api.post(PATH, content=body.encode("latin-1"), headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["errors"][0]["path"] in {"body", f"events[1].{name}"}


@pytest.mark.parametrize("count", [1001, 2000])
def test_more_than_a_thousand_events_are_refused(api: Api, unchanged: None, count: int) -> None:
    """The batch's bound, named."""
    answer = api.post(PATH, json={"events": [EVENT] * count})
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (400, "events")
    assert str(count) in answer.json()["detail"]


@pytest.mark.parametrize("key", ["", "k" * 241], ids=["empty", "too long"])
def test_an_unusable_header_key_is_refused(api: Api, unchanged: None, key: str) -> None:
    """1 to 240 characters: room for the index."""
    answer = api.post(PATH, json={"events": [EVENT]}, headers={"Idempotency-Key": key})
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (400, "Idempotency-Key")


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-type": "application/json", "content-encoding": "gzip"},
        {"content-type": "application/jsonp"},
    ],
    ids=str,
)
def test_another_media_type_is_refused(api: Api, unchanged: None, headers: dict[str, str]) -> None:
    """415, before the body is looked at."""
    answer = api.post(PATH, content=body_of(GOOD), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


def test_a_body_over_the_limit_is_refused(api: Api, unchanged: None) -> None:
    """413 whether the length is declared or found out while reading."""
    body = f'{{"events":[{GOOD}]}}'.encode() + b" " * 1_048_576

    def chunks() -> Any:  # noqa: ANN401 - a generator of bytes
        for start in range(0, len(body), 65_536):
            yield body[start : start + 65_536]

    for content in (body, chunks()):
        answer = api.post(PATH, content=content, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


def test_a_body_of_exactly_the_limit_is_taken(api: Api, tenant: str) -> None:
    """The bound is inclusive."""
    body = json.dumps({"events": [{**EVENT, "tenantId": tenant}]}).encode()
    answer = api.post(PATH, content=body.ljust(1_048_576), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["accepted"]) == (200, 1)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_another_method_is_refused(api: Api, unchanged: None, method: str) -> None:
    """405, as a problem document."""
    answer = api.request(method, PATH)
    assert answer.status_code == 405
    assert answer.headers["content-type"] == "application/problem+json"
