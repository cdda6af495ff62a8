"""`python -m tools.stripe_probe [--out FILE] [--only QUESTION ...] [--emulator URL]`.

Belongs here: the key, asking all questions, the file of answers. Does not: the questions.

The key comes from STRIPE_SANDBOX_KEY and must be one of a sandbox. The file is what `python -m stripe_emulator
--observed FILE` sets its knobs from. What takes a day to know is asked again by a later run with the same file.
Exit: 0 all answered; 1 something could not be answered; 2 nothing was asked.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import stripe

from tools.stripe_probe import billing_questions, metering_questions
from tools.stripe_probe.desk import STRIPE, Desk, Json, NotSettledError, open_desk
from tools.stripe_probe.metering_questions import HOUR, Answer

DEFAULT_FILE = Path(__file__).resolve().parents[2] / "stripe_emulator" / "observed.json"
KEY = "STRIPE_SANDBOX_KEY"
AGES_ASKED = (25 * HOUR, 48 * HOUR)
QUESTIONS: dict[str, Callable[[Desk], Answer]] = {
    question.__name__: question for question in (*metering_questions.QUESTIONS, *billing_questions.QUESTIONS)
}


def main(argv: list[str]) -> int:
    """Ask, and write down."""
    parser = argparse.ArgumentParser(prog="python -m tools.stripe_probe", description=__doc__)
    parser.add_argument("--out", type=Path, default=DEFAULT_FILE)
    parser.add_argument("--only", nargs="+", choices=QUESTIONS, default=list(QUESTIONS))
    parser.add_argument("--emulator", metavar="URL", help="ask the emulator there, to try the questions themselves")
    arguments = parser.parse_args(argv)
    key = os.environ.get(KEY, "")
    if not key:
        print(f"{KEY} is not set: nothing was asked of Stripe", file=sys.stderr)  # noqa: T201
        return 2
    kept = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {}
    try:
        with open_desk(key, emulator_url=arguments.emulator) as desk:
            report = ask(desk, arguments.only, kept, arguments.emulator or STRIPE)
    except ValueError as error:
        print(f"{KEY}: {error}", file=sys.stderr)  # noqa: T201
        return 2
    arguments.out.write_text(json.dumps(report, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    failed = [name for name in arguments.only if "error" in report["answers"][name]]
    print(f"{len(arguments.only) - len(failed)} answered, {len(failed)} not: {arguments.out}")  # noqa: T201
    return 1 if failed else 0


def ask(desk: Desk, names: list[str], kept: Json, asked_of: str) -> Json:
    """The report: former answers, replaced by those of the questions asked now."""
    report: Json = {"answers": {}, "knobs": {"billing": {}, "metering": {}}, "later": [], "pending": [], **kept}
    report |= {"asked_of": asked_of, "account": desk.client.v1.accounts.retrieve_current().id}
    report["pending"] = [entry for entry in report["pending"] if not _asked_again(desk, report, entry)]
    for name in names:
        report["answers"][name] = _answered(desk, report, name)
    return report


def _answered(desk: Desk, report: Json, name: str) -> Json:
    seen = len(desk.recorder.request_ids)
    entry: Json = {"asked_at": datetime.fromtimestamp(desk.now(), UTC).isoformat()}
    try:
        answer = QUESTIONS[name](desk)
    except (stripe.StripeError, NotSettledError) as error:
        entry["error"] = f"{type(error).__name__}: {error}"
    else:
        entry["observed"] = answer.observed
        entry["knobs"] = answer.metering | answer.billing
        report["knobs"]["metering"] |= answer.metering
        report["knobs"]["billing"] |= answer.billing
        if answer.pending is not None:
            report["pending"].append({**answer.pending, "ages": []})
    entry["request_ids"] = desk.recorder.request_ids[seen:]
    print(f"{name}: {entry.get('observed', entry.get('error'))}")  # noqa: T201
    return entry


def _asked_again(desk: Desk, report: Json, entry: Json) -> bool:
    """Ask what is old enough; true when it was asked at every age."""
    age = desk.now() - entry["sent_at"]
    due = [wanted for wanted in AGES_ASKED if wanted <= age and wanted not in entry["ages"]]
    if due:
        report["later"].append(metering_questions.ask_again(desk, entry))
        entry["ages"] += due
    # Once accepted, the identifier is taken anew: there is nothing more to ask of it.
    return bool(due) and (report["later"][-1]["message"] is None or len(entry["ages"]) == len(AGES_ASKED))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
