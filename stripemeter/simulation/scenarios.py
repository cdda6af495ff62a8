"""Scenarios: a story somebody wrote down, and what should come of it.

Belongs here: reading a document, the original's form and the one with a timeline. Does not: entries of a timeline
(`timelines`), running it (`running`), files (`cli`).

    {"metadata": {"name": "tiers", "version": "1"}, "inputs": {...}, "expected": {"total": 220}}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stripemeter.errors import InvalidInput, ScenarioError
from stripemeter.pricing import InvoiceInputs, Rounding
from stripemeter.pricing.invoice_documents import parse_invoice_inputs
from stripemeter.pricing.reading import elements_of, members_of, parse_text, parse_whole, refused, required, within
from stripemeter.pricing.rounding import DEFAULT_ROUNDING, parse_rounding
from stripemeter.simulation.comparisons import EXACTLY, Tolerances, parse_tolerances
from stripemeter.simulation.expectations import expected_refusal, parse_expected_invoice

DEFAULT_SEED = 1
_EITHER = ("metadata", "model", "seed", "rounding", "tolerances", "expected")
_METADATA = ("name", "description", "version", "tags")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A story and what should come of it; exactly one of `inputs` and `refusal` is there.

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
    members = members_of(document, (*_EITHER, "inputs"), "")
    metadata = members_of(required(members, "metadata", ""), _METADATA, "metadata")
    name = parse_text(required(metadata, "name", "metadata"), "metadata.name")
    if not name.strip():
        raise refused("must not be empty", "metadata.name")
    if "model" in members:
        parse_text(members["model"], "model")
    tags = elements_of(metadata.get("tags", []), "metadata.tags")
    refusal_path = expected_refusal(members.get("expected"), "expected")
    inputs, expected, refusal = None, None, None
    try:
        inputs = parse_invoice_inputs(required(members, "inputs", ""), "inputs")
    except InvalidInput as error:
        if refusal_path is None:
            raise
        refusal = error
    if refusal_path is None:
        expected = parse_expected_invoice(required(members, "expected", ""), "expected")
    return Scenario(
        name=name,
        description=parse_text(metadata.get("description", ""), "metadata.description"),
        version=str(metadata.get("version", "1")),
        tags=tuple(parse_text(tag, within("metadata.tags", number)) for number, tag in enumerate(tags)),
        seed=parse_whole(members.get("seed", DEFAULT_SEED), "seed"),
        rounding=parse_rounding(members.get("rounding", DEFAULT_ROUNDING)),
        tolerances=parse_tolerances(members["tolerances"], "tolerances") if "tolerances" in members else EXACTLY,
        document=document,
        inputs=inputs,
        expected=expected,
        expected_refusal=refusal_path,
        refusal=refusal,
    )
