"""Scenarios: a story somebody wrote down, and what should come of it.

Belongs here: reading a document, the original's form (`inputs`) and the one with a clock (`timeline`); what of it a run
depends on. Does not: stories (`stories`), running them (`running`), files (`cli`).

    {"metadata": {"name": "tiers", "version": "1"}, "inputs": {...}, "expected": {"total": 220}}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stripemeter.errors import InvalidInput, ScenarioError
from stripemeter.pricing import InvoiceInputs, Rounding
from stripemeter.pricing.invoice_documents import parse_invoice_inputs
from stripemeter.pricing.reading import elements_of, members_of, parse_text, parse_whole, refused, required, within
from stripemeter.pricing.rounding import DEFAULT_ROUNDING, parse_rounding
from stripemeter.simulation.comparisons import EXACTLY, Tolerances, parse_tolerances
from stripemeter.simulation.expectations import SELECTORS, expected_refusal, parse_expected_invoice
from stripemeter.simulation.stories import STORY, Story, parse_story

DEFAULT_SEED = 1
_EITHER = ("metadata", "model", "seed", "rounding", "tolerances", "expected")
_METADATA = ("name", "description", "version", "tags")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A story and what should come of it; exactly one of `inputs`, `story` and `refusal` is there.

    Args:
        name: of 1 to 255 characters.
        description: what it shows.
        version: its author's.
        tags: for finding it.
        seed: of what is drawn, unless a run says another.
        rounding: of invoice lines.
        tolerances: of amounts.
        document: what it was read from.
        inputs: of the one invoice, in the original's form.
        expected: of it.
        story: with a clock; what is expected is in it.
        expected_refusal: the path at which it must be refused; None: it must not be.
        refusal: why and where it is, of a scenario that must be.
    """

    name: str
    description: str
    version: str
    tags: tuple[str, ...]
    seed: int
    rounding: Rounding
    tolerances: Tolerances
    document: Mapping[str, object]
    inputs: InvoiceInputs | None = None
    expected: Mapping[str, Any] | None = None
    story: Story | None = None
    expected_refusal: str | None = None
    refusal: InvalidInput | None = None


def read_scenario(document: Mapping[str, object]) -> Scenario:
    """The scenario of a document.

    Args:
        document: decoded JSON or YAML; numbers or decimal strings.

    Raises:
        ScenarioError: it cannot be right; `field` is the path of what is wrong, and the message begins with it.
    """
    try:
        return _read(document)
    except ScenarioError:
        raise
    except InvalidInput as error:
        raise ScenarioError(str(error), field=error.field) from error


def _read(document: Mapping[str, object]) -> Scenario:
    try:
        json.dumps(document, ensure_ascii=False, default=str).encode()
    except (TypeError, ValueError, RecursionError) as error:  # of half a character, too
        raise refused(f"cannot be written as JSON: {error}", "") from error
    members = members_of(document, (*_EITHER, "inputs", *STORY), "")
    metadata = members_of(required(members, "metadata", ""), _METADATA, "metadata")
    name = parse_text(required(metadata, "name", "metadata"), "metadata.name")
    if not name.strip():
        raise refused("must not be empty", "metadata.name")
    if "model" in members:
        parse_text(members["model"], "model")
    tags = elements_of(metadata.get("tags", []), "metadata.tags")
    refusal_path = expected_refusal(members.get("expected"), "expected")
    content: dict[str, Any] = {}
    try:
        content = _content(members, is_expected=refusal_path is None)
    except InvalidInput as error:
        if refusal_path is None:
            raise
        content["refusal"] = error
    return Scenario(
        name=name,
        description=parse_text(metadata.get("description", ""), "metadata.description"),
        version=str(metadata.get("version", "1")),
        tags=tuple(parse_text(tag, within("metadata.tags", number)) for number, tag in enumerate(tags)),
        seed=parse_whole(members.get("seed", DEFAULT_SEED), "seed"),
        rounding=parse_rounding(members.get("rounding", DEFAULT_ROUNDING)),
        tolerances=parse_tolerances(members["tolerances"], "tolerances") if "tolerances" in members else EXACTLY,
        document=document,
        expected_refusal=refusal_path,
        **content,
    )


def _content(members: Mapping[str, Any], *, is_expected: bool) -> dict[str, Any]:
    if ("inputs" in members) == ("timeline" in members):
        raise refused("needs either inputs or a timeline", "")
    if "timeline" in members:
        return {"story": parse_story(members, members.get("expected") if is_expected else None)}
    if unused := [name for name in STORY if name in members]:
        raise refused("goes with a timeline, not with inputs", unused[0])
    inputs = parse_invoice_inputs(members["inputs"], "inputs")
    if not is_expected:
        return {"inputs": inputs}
    return {"inputs": inputs, "expected": parse_expected_invoice(required(members, "expected", ""), "expected")}


def fingerprint(scenario: Scenario, seed: int) -> str:
    """A hash of all that a run's observations depend on: everything but names and what is expected.

    A record of a run says something about a scenario only while the two have the same.
    """
    document = {name: value for name, value in scenario.document.items() if name in (*STORY, "inputs")}
    if isinstance(timeline := document.get("timeline"), list | tuple):
        document["timeline"] = [_unexpecting(entry) for entry in timeline]
    text = json.dumps([document, scenario.rounding, seed], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _unexpecting(entry: object) -> object:
    if not isinstance(entry, Mapping):
        return entry
    kept = {name: value for name, value in entry.items() if name != "note"}
    if isinstance(kept.get("expect"), Mapping):
        kept["expect"] = {name: value for name, value in kept["expect"].items() if name in SELECTORS}
    return kept
