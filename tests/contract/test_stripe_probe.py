"""The probe of a Stripe sandbox, tried at the emulator: it must find out every setting of every unknown knob."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.emulator import RunningEmulator, start_emulator
from tools.stripe_probe.__main__ import QUESTIONS, ask
from tools.stripe_probe.desk import open_desk

NOW = datetime(2026, 11, 23, 12, 10, 20, tzinfo=UTC)
ROOT = Path(__file__).parents[2]
FOUND: list[tuple[str, str, dict[str, Any]]] = [
    ("identifier_scope", "metering", {"identifier_scope": "account"}),
    ("identifier_scope", "metering", {"identifier_scope": "meter"}),
    ("identifier_scope", "metering", {"identifier_scope": "customer"}),
    ("unknown_customer", "metering", {"unknown_customer": "reported"}),
    ("unknown_customer", "metering", {"unknown_customer": "refused"}),
    ("summaries", "metering", {"ingest_lag_seconds": 120}),
    ("summaries", "metering", {"summary_end": "included"}),
    ("summaries", "metering", {"empty_windows": "zero"}),
    ("concurrency", "metering", {"concurrent_events": "refused"}),
    ("event_window_of_a_clock", "metering", {"event_window_clock": "frozen"}),
    ("event_window_of_a_clock", "metering", {"event_window_clock": "wall"}),
    ("line_rounding", "billing", {"line_rounding": "half_up"}),
    ("line_rounding", "billing", {"line_rounding": "half_even"}),
    ("line_rounding", "billing", {"line_rounding": "ceiling"}),
    ("usage_before_price_change", "billing", {"usage_before_price_change": "lost"}),
    ("usage_before_price_change", "billing", {"usage_before_price_change": "counted"}),
    ("boundary_second", "billing", {"boundary_second": "beginning_period", "grace_seconds": 7_200}),
    ("boundary_second", "billing", {"boundary_second": "ending_period", "grace_seconds": 600}),
    ("boundary_second", "billing", {"boundary_second": "both", "grace_seconds": 3_600}),
]


def asked(emulator: RunningEmulator, *questions: str, kept: dict[str, Any] | None = None) -> dict[str, Any]:
    """The report."""
    with open_desk(emulator.key, emulator_url=emulator.url) as desk:
        return ask(desk, list(questions), kept or {}, emulator.url)


def typed(*words: str, key: str | None) -> subprocess.CompletedProcess[str]:
    """What an operator types."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STRIPE")}
    if key is not None:
        environment["STRIPE_SANDBOX_KEY"] = key
    return subprocess.run(
        [sys.executable, "-m", "tools.stripe_probe", *words],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(("question", "path", "setting"), FOUND)
def test_the_probe_finds_the_setting(
    emulator: RunningEmulator, question: str, path: str, setting: dict[str, Any]
) -> None:
    """Whatever the knob says is what the question answers, with the ids of its requests."""
    emulator.freeze(NOW)
    working = {"working_seconds": 0.2} if question == "concurrency" else {}
    emulator.control("POST", f"/{path}", setting | working)
    report = asked(emulator, question)
    answer = report["answers"][question]
    assert answer["knobs"].items() >= setting.items()
    assert report["knobs"][path].items() >= setting.items()
    known = {entry["request_id"] for entry in emulator.journal()}
    assert set(answer["request_ids"]) <= known
    assert len(answer["request_ids"]) > 1


def test_what_has_no_knob_is_written_down(emulator: RunningEmulator) -> None:
    """Values, hour windows, `last`, negative months: what Stripe did."""
    emulator.freeze(NOW)
    answers = asked(emulator, "values", "hour_windows", "last_out_of_order", "negative_total")["answers"]
    assert {value for value, message in answers["values"]["observed"].items() if message is None} == {
        "0.5",
        "0.000000000001",
        "0.0000000000001",
        "-1",
    }
    assert answers["hour_windows"]["observed"] == {"earlier_stamp_received_last": 5, "after_its_cancel": 9}
    assert list(answers["last_out_of_order"]["observed"].values()) == [7]
    assert answers["negative_total"]["observed"] == {"lines": [{"amount": 0, "quantity": 0}]}


def test_an_identifier_is_asked_about_again_after_a_day(emulator: RunningEmulator) -> None:
    """A later run resends what an earlier one sent, at 25 and at 48 hours, until it is free."""
    emulator.freeze(NOW)
    emulator.control("POST", "/metering", {"taken_seconds": 30 * 3_600})
    first = asked(emulator, "identifier_scope")
    emulator.control("POST", "/clock", {"advance": 24 * 3_600})
    assert asked(emulator, kept=first)["later"] == []
    emulator.control("POST", "/clock", {"advance": 3_600})
    second = asked(emulator, kept=first)
    assert [(entry["hours"], entry["message"] is None) for entry in second["later"]] == [(25.0, False)]
    emulator.control("POST", "/clock", {"advance": 23 * 3_600})
    third = asked(emulator, kept=second)
    assert [(entry["hours"], entry["message"] is None) for entry in third["later"]] == [(25.0, False), (48.0, True)]
    assert third["pending"] == []


def test_a_question_that_fails_says_so_and_the_others_are_asked(emulator: RunningEmulator) -> None:
    """What never settles is an error of that question alone."""
    emulator.freeze(NOW)
    emulator.control("POST", "/ingest_lag", {"seconds": 86_400})
    report = asked(emulator, "summaries", "unknown_customer")
    assert report["answers"]["summaries"]["error"].startswith("NotSettledError: after 900 s")
    assert report["answers"]["unknown_customer"]["observed"] == {"message": None}
    assert report["knobs"]["metering"] == {"unknown_customer": "reported"}


def test_nothing_is_left_behind(emulator: RunningEmulator) -> None:
    """Meters and prices are inactive, products archived, clocks gone; one customer waits to be asked about again."""
    emulator.freeze(NOW)
    asked(emulator, *QUESTIONS)
    client = emulator.client()
    assert client.v1.billing.meters.list({"status": "active"}).data == []
    assert client.v1.prices.list({"active": True}).data == []
    assert client.v1.products.list({"active": True}).data == []
    assert client.v1.test_helpers.test_clocks.list().data == []
    assert len(client.v1.customers.list().data) == 1


def test_without_a_sandboxs_key_nothing_is_asked(tmp_path: Path) -> None:
    """No key, or a live one: exit 2, one sentence, no file."""
    out = tmp_path / "observed.json"
    for key, said in ((None, "nothing was asked of Stripe"), ("sk_live_1", "starts with sk_test_ or rk_test_")):
        done = typed("--out", str(out), key=key)
        assert (done.returncode, said in done.stderr, "Traceback" in done.stderr) == (2, True, False)
    assert not out.exists()


def test_the_emulator_takes_its_knobs_from_the_answers(emulator: RunningEmulator, tmp_path: Path) -> None:
    """From one emulator's settings through the file into another's."""
    emulator.freeze(NOW)
    settings = {"billing": {"line_rounding": "ceiling"}, "metering": {"unknown_customer": "refused"}}
    for path, setting in settings.items():
        emulator.control("POST", f"/{path}", setting)
    out = tmp_path / "observed.json"
    words = ("--emulator", emulator.url, "--out", str(out), "--only", "line_rounding", "unknown_customer")
    done = typed(*words, key=emulator.key)
    assert done.returncode == 0, done.stderr
    written = json.loads(out.read_text(encoding="utf-8"))
    assert (written["knobs"], written["asked_of"]) == (settings, emulator.url)
    other = start_emulator(observed=out)
    try:
        for path, setting in settings.items():
            assert other.control("POST", f"/{path}", {}).items() >= setting.items()
    finally:
        other.kill()


def test_answers_no_knob_has_are_refused(tmp_path: Path) -> None:
    """A file of something else, or of a setting there is not, stops the emulator with a sentence."""
    for text in ("{}", '{"knobs": {"billing": {"line_rounding": "sideways"}}}', '{"knobs": {"taxes": {}}}', "no"):
        file = tmp_path / "observed.json"
        file.write_text(text, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "stripe_emulator", "--port", "1", "--observed", str(file)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert (done.returncode, "--observed:" in done.stderr, "Traceback" in done.stderr) == (2, True, False)
