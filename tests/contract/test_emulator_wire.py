"""The emulator on the wire: keys, parameters, lists, idempotency. Through the official SDK over HTTP."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import stripe

from tests.emulator import RunningEmulator, start_emulator

METER: Any = {"display_name": "Calls", "event_name": "calls", "default_aggregation": {"formula": "sum"}}


def test_requests_need_a_test_key(emulator: RunningEmulator) -> None:
    """No key, a live key and a wrong key are all 401; two test keys are two accounts."""
    for key, words in (("sk_live_abcdefghijkl", "refuses live keys"), ("pk_test_abcdefghijkl", "Invalid API Key")):
        with pytest.raises(stripe.AuthenticationError, match=words):
            emulator.client(key).v1.accounts.retrieve_current()
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{emulator.url}/v1/account", timeout=10)
    assert (refused.value.code, refused.value.headers["X-Emulator"]) == (401, "1")
    refused.value.close()
    mine = emulator.client().v1.accounts.retrieve_current().id
    assert mine != emulator.client("sk_test_somebody_else").v1.accounts.retrieve_current().id


def test_a_platform_acts_for_its_connected_accounts(emulator: RunningEmulator) -> None:
    """By the header alone, and only where it was connected; what it makes there is not its own."""
    client = emulator.client()
    mine = client.v1.accounts.retrieve_current().id
    options: Any = {"stripe_account": "acct_connected"}
    with pytest.raises(stripe.PermissionError, match="does not have access to account 'acct_connected'"):
        client.v1.accounts.retrieve_current(None, options)
    emulator.control("POST", "/connected_accounts", {"platform": mine, "account": "acct_connected"})
    assert client.v1.accounts.retrieve_current(None, options).id == "acct_connected"
    theirs = client.v1.customers.create({"name": "ada"}, options).id
    assert client.v1.customers.retrieve(theirs, None, options).name == "ada"
    with pytest.raises(stripe.InvalidRequestError, match="No such customer"):
        client.v1.customers.retrieve(theirs)


def test_unknown_urls_and_objects_are_404(emulator: RunningEmulator) -> None:
    """Stripe's two kinds of 404: no such URL, no such object."""
    client = emulator.client()
    with pytest.raises(stripe.InvalidRequestError, match=r"Unrecognized request URL \(POST: /v1/tax/calculations\)"):
        client.v1.tax.calculations.create({"currency": "usd", "line_items": []})
    with pytest.raises(stripe.InvalidRequestError, match="No such customer: 'cus_none'") as missing:
        client.v1.customers.retrieve("cus_none")
    assert (missing.value.http_status, missing.value.code) == (404, "resource_missing")


def test_parameters_are_checked(emulator: RunningEmulator) -> None:
    """Unknown, missing and malformed parameters are 400 and name the parameter."""
    client = emulator.client()
    cases: list[tuple[Any, str | None, str]] = [
        ({**METER, "colour": "red"}, "parameter_unknown", "colour"),
        ({"display_name": "x", "event_name": "y"}, "parameter_missing", "default_aggregation"),
        ({**METER, "default_aggregation": {"formula": "max"}}, None, "default_aggregation[formula]"),
        ({**METER, "event_name": "n" * 101}, None, "event_name"),
    ]
    for parameters, code, param in cases:
        with pytest.raises(stripe.InvalidRequestError) as refused:
            client.v1.billing.meters.create(parameters)
        assert (refused.value.http_status, refused.value.code, refused.value.param) == (400, code, param)
    with pytest.raises(stripe.InvalidRequestError, match="Invalid integer: soon"):
        client.raw_request("get", "/v1/customers", limit="soon")


def test_customers_live_and_die(emulator: RunningEmulator) -> None:
    """Create, read, change, list, delete; a deleted customer answers as deleted and is in no list."""
    client = emulator.client()
    ada = client.v1.customers.create({"name": "Ada", "email": "ada@example.com", "metadata": {"a": "1", "b": "2"}})
    changed = client.v1.customers.update(ada.id, {"metadata": {"a": "", "c": "3"}, "phone": "1"})
    assert changed.metadata is not None
    assert (changed.metadata.to_dict(), changed.phone, changed.livemode) == ({"b": "2", "c": "3"}, "1", False)
    assert [found.id for found in client.v1.customers.list({"email": "ada@example.com"}).data] == [ada.id]
    client.v1.customers.delete(ada.id)
    assert client.v1.customers.retrieve(ada.id).deleted is True
    assert client.v1.customers.list().data == []


def test_lists_are_paged(emulator: RunningEmulator) -> None:
    """Newest first, ten by default, at most a hundred, and the SDK's own paging walks them all."""
    client = emulator.client()
    made = [client.v1.customers.create({"name": str(number)}).id for number in range(13)]
    first = client.v1.customers.list()
    assert ([found.id for found in first.data], first.has_more) == (made[:2:-1], True)
    assert [found.id for found in client.v1.customers.list({"limit": 4}).auto_paging_iter()] == made[::-1]
    before = client.v1.customers.list({"ending_before": made[0], "limit": 2})
    assert ([found.id for found in before.data], before.has_more) == ([made[2], made[1]], True)
    with pytest.raises(stripe.InvalidRequestError, match="between 1 and 100"):
        client.v1.customers.list({"limit": 101})


def test_idempotency_keys_replay(emulator: RunningEmulator) -> None:
    """A key replays its first answer for a day, a 500 as much as a 200; with other parameters it is refused."""
    client = emulator.client()
    first = client.v1.customers.create({"name": "Ada"}, {"idempotency_key": "k1"})
    again = client.v1.customers.create({"name": "Ada"}, {"idempotency_key": "k1"})
    assert again.id == first.id
    assert again.last_response is not None
    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    with pytest.raises(stripe.IdempotencyError, match="same parameters"):
        client.v1.customers.create({"name": "Eve"}, {"idempotency_key": "k1"})
    emulator.fault({"do": {"kind": "status", "status": 500}})
    for _ in range(2):
        with pytest.raises(stripe.APIError) as failed:
            client.v1.customers.create({"name": "Bob"}, {"idempotency_key": "k2"})
        assert failed.value.http_status == 500
    assert client.v1.customers.create({"name": "Bob"}, {"idempotency_key": "k3"}).name == "Bob"
    emulator.control("POST", "/clock", {"advance": 24 * 3600})
    assert client.v1.customers.create({"name": "Ada"}, {"idempotency_key": "k1"}).id != first.id


def test_refusals_are_not_replayed(emulator: RunningEmulator) -> None:
    """A 429 and a malformed request leave their key free for the right request."""
    client = emulator.client()
    emulator.fault({"do": {"kind": "status", "status": 429, "headers": {"Retry-After": "7"}}})
    with pytest.raises(stripe.RateLimitError) as limited:
        client.v1.customers.create({"name": "Ada"}, {"idempotency_key": "k"})
    assert limited.value.headers is not None
    assert limited.value.headers["retry-after"] == "7"
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.customers.create({"nom": "Ada"}, {"idempotency_key": "k"})  # type: ignore[arg-type]
    assert client.v1.customers.create({"name": "Ada"}, {"idempotency_key": "k"}).name == "Ada"


@pytest.mark.parametrize(
    ("kind", "happened"),
    [("reset_before_commit", 0), ("commit_then_reset", 1), ("commit_then_truncate", 1)],
)
def test_broken_connections(emulator: RunningEmulator, kind: str, happened: int) -> None:
    """The client sees a broken connection; whether the request happened is in the kind's name."""
    client = emulator.client()
    emulator.fault({"do": {"kind": kind}})
    with pytest.raises(stripe.APIConnectionError):
        client.v1.customers.create({"name": "Ada"})
    assert len(client.v1.customers.list().data) == happened
    assert emulator.journal()[0]["fault"] == kind


def test_faults_are_scripted(emulator: RunningEmulator) -> None:
    """A fault waits for the request it names: the method, the path, the nth of them, so many times."""
    client = emulator.client()
    emulator.fault(
        {"match": {"method": "POST", "path_re": "customers$", "nth": 2}, "do": {"kind": "status"}, "times": 1}
    )
    client.v1.customers.create({"name": "first"})
    client.v1.customers.list()
    with pytest.raises(stripe.APIError):
        client.v1.customers.create({"name": "second"})
    client.v1.customers.create({"name": "third"})
    assert emulator.control("GET", "/faults") == {"pending": 0}


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    """With a state file, everything answered 200 is there after kill -9, idempotency keys included."""
    file = tmp_path / "emulator.sqlite"
    first = start_emulator(state=file)
    try:
        ada = first.client().v1.customers.create({"name": "Ada"}, {"idempotency_key": "k"})
    finally:
        first.kill()
    second = start_emulator(state=file, key=first.key)
    try:
        client = second.client()
        assert client.v1.customers.retrieve(ada.id).name == "Ada"
        assert client.v1.customers.create({"name": "Ada"}, {"idempotency_key": "k"}).id == ada.id
    finally:
        second.kill()


def test_only_loopback() -> None:
    """It refuses to be served to a network."""
    done = subprocess.run(
        [sys.executable, "-m", "stripe_emulator", "--port", "1", "--host", "0.0.0.0"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "not a loopback address" in done.stderr


def test_an_answer_stripe_could_not_give_is_our_defect(tmp_path: Path) -> None:
    """The contract judges responses: with a narrower schema the same answer is refused, loudly, and nothing is kept."""
    package = Path(__file__).parents[2] / "stripe_emulator"
    shutil.copytree(package, tmp_path / "stripe_emulator")
    document = tmp_path / "stripe_emulator" / "openapi" / "stripe.json"
    spec = json.loads(document.read_text())
    spec["components"]["schemas"]["customer"]["properties"]["name"] = {"type": "integer"}
    document.write_text(json.dumps(spec))
    broken = start_emulator(cwd=tmp_path)
    try:
        with pytest.raises(stripe.APIError, match="EMULATOR VIOLATES STRIPE SPEC"):
            broken.client().v1.customers.create({"name": "Ada"})
        assert broken.client().v1.customers.list().data == []
    finally:
        broken.kill()
