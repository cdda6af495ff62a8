"""Scenarios on test clocks: what Stripe's emulator bills is what the simulator says, and what differs is seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from stripemeter.billing.clock_accounts import ClockAccount
from stripemeter.cli.main import app
from stripemeter.cli.yaml_files import read_yaml
from stripemeter.errors import InvalidInput
from stripemeter.pipeline.billing_plays import BillingRun, play_on_stripe
from stripemeter.simulation.running import run_scenario
from stripemeter.simulation.scenarios import read_scenario
from tests.emulator import RunningEmulator

LABS = Path(__file__).parents[2] / "labs"
TIERS: dict[str, Any] = {
    "model": "graduated",
    "currency": "USD",
    "tiers": [{"upTo": 100, "unitPrice": "0.105", "flatPrice": 1}, {"upTo": None, "unitPrice": "0.083"}],
}


def story(*timeline: dict[str, Any], price: dict[str, Any] = TIERS, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    """A document with one plan of one metric; it expects that usage is seen."""
    return {
        "metadata": {"name": "story"},
        "start": "2026-01-01",
        "plans": [{"name": "usage", "currency": "USD", "usage": [{"metric": "calls", "priceConfig": price}]}],
        "timeline": list(timeline),
        **more,
    }


def play(emulator: RunningEmulator, document: dict[str, Any]) -> BillingRun:
    """On the emulator."""
    return play_on_stripe(read_scenario(document), ClockAccount(key=emulator.key, api_base=emulator.url))


def late_and_twice(price: dict[str, Any] = TIERS) -> dict[str, Any]:
    """Two months of a subscription that began within a month; every third event twice, every fourth 50 minutes late."""
    return story(
        {"at": "2026-01-10T12:00:00Z", "subscribe": {"plan": "usage"}},
        {
            "generate": {
                "metric": "calls",
                "quantity": 7,
                "count": 40,
                "until": "2026-03-10",
                "late": {"every": 4, "by": "PT50M"},
                "duplicate": {"every": 3, "after": "PT10M"},
            }
        },
        {
            "at": "2026-03-10T11:59:59Z",
            "events": [{"metric": "calls", "quantity": "0.25", "ts": "2026-03-10T11:59:59Z"}],
        },
        {"at": "2026-03-10T12:00:00Z", "events": [{"metric": "calls", "quantity": 9}]},
        {"at": "2026-03-10T13:00:00Z", "expect": {"events": {"duplicates": 13}}},
        price=price,
    )


def test_late_and_duplicate_events_are_billed_alike(emulator: RunningEmulator) -> None:
    """Each delivery is sent: Stripe refuses the second of an event, and both invoices are equal line by line."""
    done = play(emulator, late_and_twice())
    assert [each.differences for each in done.invoices] == [[], []]
    assert done.passed
    assert (done.events, done.refused_events) == (40 + 13 + 2, 13)
    assert done.invoices[1].ours["quantity of calls"] == "126.25"  # 18 of the 40 events, and one more
    assert len(done.invoices[1].theirs["lines of calls"]) == 3  # two tiers and a flat amount
    mine = [entry for entry in emulator.journal() if entry.get("idempotency_key") or entry["path"].startswith("/v1")]
    assert done.calls == len(mine)


def test_a_subscription_that_begins_between_two_anchors(emulator: RunningEmulator) -> None:
    """Its first period is a short one, and ends where the others do: on the last of each month."""
    done = play(
        emulator,
        story(
            {"at": "2026-01-10T12:00:00Z", "subscribe": {"plan": "usage", "anchorAt": "2025-12-31"}},
            {"generate": {"metric": "calls", "quantity": 7, "count": 30, "until": "2026-03-31"}},
            {"at": "2026-03-31T01:00:00Z", "expect": {"events": {"accepted": 30}}},
        ),
    )
    ends = [each.what for each in done.invoices]
    assert ends == [f"invoice to 2026-{day}T00:00:00Z" for day in ("01-31", "02-28", "03-31")]
    assert [each.differences for each in done.invoices] == [[], [], []]


def test_a_difference_is_seen(emulator: RunningEmulator) -> None:
    """Stripe that rounds otherwise bills otherwise: each invoice says where."""
    emulator.control("POST", "/billing", {"line_rounding": "ceiling"})
    done = play(emulator, late_and_twice({"model": "flat", "currency": "USD", "unitPrice": "0.001"}))
    assert not done.passed
    (difference,) = [each for each in done.invoices[0].differences if each.startswith("total")]
    assert difference == "total: ours 15, Stripe's 16"


def test_usage_that_comes_after_the_invoice_is_on_neither(emulator: RunningEmulator) -> None:
    """Final is final: our run says what is unbilled, and Stripe bills it nowhere."""
    document = story(
        {"subscribe": {"plan": "usage"}, "events": [{"metric": "calls", "quantity": 5}]},
        {"at": "2026-02-01T02:00:00Z", "events": [{"metric": "calls", "quantity": 3, "ts": "2026-01-31T23:00:00Z"}]},
        {"at": "2026-02-01T03:00:00Z", "expect": {"invoice": {"unbilled": {"calls": 3}}}},
    )
    assert run_scenario(read_scenario(document)).passed
    done = play(emulator, document)
    assert done.passed
    assert done.invoices[0].theirs["quantity of calls"] == "5"


def test_a_price_that_changes_cuts_the_usage_alike(emulator: RunningEmulator) -> None:
    """A price of its plan's, then another plan: each stretch is priced by itself, with tiers and flat amounts anew."""
    cheaper = {"model": "flat", "currency": "USD", "unitPrice": "0.004"}
    document = story(
        {
            "subscribe": {"plan": "usage"},
            "generate": {"metric": "calls", "quantity": 7, "rate": {"count": 1, "per": "P1D"}, "until": "2026-03-01"},
        },
        {"at": "2026-01-16", "price": {"plan": "usage", "metric": "calls", "priceConfig": cheaper}},
        {"at": "2026-02-10T12:00:00Z", "change": {"from": "usage", "to": "other"}},
        {"at": "2026-03-01T01:00:00Z", "expect": {"events": {"accepted": 59}}},
    )
    document["plans"].append({"name": "other", "currency": "USD", "usage": [{"metric": "calls", "priceConfig": TIERS}]})
    done = play(emulator, document)
    assert [each.differences for each in done.invoices] == [[], []]
    # 105 calls at the tiers and 112 at 0.4 cents; 70 at 0.4 cents and 126 at the tiers.
    january, february = (sorted(each.theirs["lines of calls"]) for each in done.invoices)
    assert (january, february) == ([42, 45, 100, 1050], [28, 100, 216, 1050])


def test_credit_is_burnt_alike(emulator: RunningEmulator) -> None:
    """Two grants by expiry, one rolled over, one for another metric: what each invoice takes is the same."""
    week = {"metric": "calls", "quantity": 100}
    done = play(
        emulator,
        story(
            {
                "subscribe": {"plan": "usage", "cadence": "week"},
                "credit": {"reason": "A", "amount": 15, "expiresAt": "2026-01-16"},
            },
            {"credit": {"reason": "B", "amount": 8, "expiresAt": "2026-02-10"}, "events": [week]},
            {"credit": {"reason": "C", "amount": 50, "priority": 1, "metrics": ["other"]}},
            {"at": "P8D", "events": [week]},
            {"at": "P12D", "creditExpiry": {"reason": "A", "expiresAt": "2026-03-01"}},
            {"at": "P16D", "events": [week]},
            {"at": "P22D", "expect": {"invoice": {"total": "11.50"}}},
            price={"model": "flat", "currency": "USD", "unitPrice": "0.115"},
        ),
    )
    assert [each.differences for each in done.invoices] == [[], [], []]
    assert [each.theirs["credits"] for each in done.invoices] == [1150, 1150, 0]


def test_the_dunning_lab_plays_on_stripes_own_retries(emulator: RunningEmulator) -> None:
    """Retries, the block, paying by hand: access follows from Stripe's attempts as it does from ours."""
    emulator.control("POST", "/billing", {"retry_days": "3,5,7"})
    done = play(emulator, dict(read_yaml(LABS / "dunning.sim.yaml")))
    assert [each.differences for each in (*done.invoices, *done.standings)] == [[]] * 13
    seen = [each.theirs["state"] for each in done.standings]
    assert {"retry_scheduled", "blocked", "recovered", "ok"} <= set(seen)


def test_everything_made_is_taken_back(emulator: RunningEmulator) -> None:
    """Clocks with their customers, and meters; also when it fails."""
    client = emulator.client()
    play(emulator, late_and_twice())
    emulator.fault(
        {"match": {"path_re": "/v1/billing/meter_events"}, "do": {"kind": "status", "status": 400}, "times": 1}
    )
    with pytest.raises(Exception, match="Fault on demand"):
        play(emulator, late_and_twice())
    assert client.v1.test_helpers.test_clocks.list().data == []
    assert client.v1.billing.meters.list({"status": "active"}).data == []


def test_the_command_compares_and_writes_down(emulator: RunningEmulator, tmp_path: Path, monkeypatch: Any) -> None:  # noqa: ANN401
    """Exit 0 and a file; 2 with the reason for what cannot be played."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STRIPEMETER_STRIPE_API_BASE", emulator.url)
    file = tmp_path / "late.sim.json"
    file.write_text(json.dumps(late_and_twice()), encoding="utf-8")
    done = CliRunner().invoke(app, ["sim", "run", "--billing", "--scenario", str(file)])
    assert (done.exit_code, done.stdout[:31]) == (0, "ok     story: 3 of 3 equal at h"), done.output
    record = json.loads((tmp_path / "results" / "late.billing.json").read_text(encoding="utf-8"))
    assert (record["passed"], record["refusedMeterEvents"]) == (True, 13)
    refused = CliRunner().invoke(app, ["sim", "run", "--billing", "--scenario", str(LABS / "commitments.sim.yaml")])
    assert (refused.exit_code, "have no commitments" in refused.stdout) == (2, True)
    monkeypatch.setenv("STRIPE_SANDBOX_KEY", "sk_live_x")
    live = CliRunner().invoke(app, ["sim", "run", "--billing", "--scenario", str(file)])
    assert live.exit_code != 0
    assert isinstance(live.exception, InvalidInput | SystemExit)
