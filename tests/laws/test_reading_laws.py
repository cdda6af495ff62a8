"""Laws of meters: a definition survives being written down, and an event is read as a naive reader would."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from fractions import Fraction
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from stripemeter.metering.meters import Reading, Unread, decode_meta, meter_document, parse_meter, read_event
from tests.laws.test_parsing_laws import QUANTITIES

NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(lambda names: ".".join(["meta", *names]))
FIELDS = st.one_of(PATHS, st.sampled_from(["metric", "resourceId", "source"]))
NUMBERS = st.one_of(st.integers(-3, 3), st.decimals(-3, 3, places=1), st.sampled_from(["1.0", "2", "-0.5"]))
OPERANDS = st.one_of(NUMBERS, st.booleans(), st.sampled_from(["", "x", "http", "tokens", "true"]))
CONDITIONS = st.one_of(
    st.fixed_dictionaries({"field": FIELDS, "op": st.just("eq"), "value": OPERANDS}),
    st.fixed_dictionaries({"field": FIELDS, "op": st.just("in"), "value": st.lists(OPERANDS, min_size=1, max_size=3)}),
    st.fixed_dictionaries({"field": FIELDS, "op": st.sampled_from(["gt", "gte", "lt", "lte"]), "value": NUMBERS}),
    st.fixed_dictionaries({"field": FIELDS, "op": st.just("exists"), "value": st.booleans()}),
)


def _joined(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    parts = st.lists(inner, min_size=1, max_size=3)
    return st.fixed_dictionaries({"and": parts}) | st.fixed_dictionaries({"or": parts})


FILTERS = CONDITIONS | _joined(CONDITIONS | _joined(CONDITIONS))
AGGREGATIONS = st.sampled_from(["count", "sum", "min", "max", "last", "avg", "unique", "time_weighted", "percentile"])
METERS = st.fixed_dictionaries(
    {"name": st.sampled_from(["tokens", "tokens_pro"])},
    optional={
        "metrics": st.lists(st.sampled_from(["tokens", "other"]), min_size=1, max_size=3),
        "filter": FILTERS,
        "value": st.one_of(PATHS, st.sampled_from(["quantity", "resourceId", "0.5", 3])),
        "aggregation": AGGREGATIONS,
        "dimensions": st.lists(PATHS | st.sampled_from(["resourceId", "source"]), max_size=5),
        "maxGroups": st.integers(1, 1000),
    },
).map(lambda document: document | ({"percentile": "99.5"} if document.get("aggregation") == "percentile" else {}))
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.integers(-(2**70), 2**200),
    st.floats(-60000, 60000, width=16),
    st.sampled_from(["", "x", "1.0", "2", "true", "1e5", "٣", "-0"]),
    # Short enough to stand in a key as they are: what becomes of long ones is an example in tests/unit/test_meters.py.
    st.text(st.characters(exclude_categories=["Cs"]), max_size=15),
)
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3))
METAS = st.none() | st.dictionaries(NAMES, JSON, max_size=3)
RESOURCES = st.sampled_from([None, "", "x", "2", "1.0"])


@given(document=METERS)
def test_a_definition_survives_being_written_down(document: dict[str, Any]) -> None:
    """Through JSON, exactly; and what is written is written the same way again."""
    definition = parse_meter(document)
    written = meter_document(definition)
    again = parse_meter(json.loads(json.dumps(written)))
    assert again == definition
    assert meter_document(again) == written


@given(document=METERS, meta=METAS, quantity=QUANTITIES, resource=RESOURCES)
def test_an_event_is_read_as_a_naive_reader_would(
    document: dict[str, Any], meta: dict[str, Any] | None, quantity: Decimal, resource: str | None
) -> None:
    """The naive reader follows the document, not the definition, and counts in fractions."""
    text = None if meta is None else json.dumps(meta)
    found = read_event(
        parse_meter(document),
        metric="tokens",
        quantity=quantity,
        resource_id=resource,
        source="http",
        meta=decode_meta(text),
    )
    event = {"metric": "tokens", "resourceId": resource, "source": "http"}
    exact = None if text is None else json.loads(text, parse_float=Decimal)
    assert found == _naive(document, {**event, "meta": exact}, quantity)


@given(text=st.from_regex(r'\{"a":-?(0|[1-9][0-9]{0,500})(\.[0-9]{1,2000})?([eE][+-]?[0-9]{1,6})?\}', fullmatch=True))
def test_no_number_in_meta_breaks_a_reader(text: str) -> None:
    """However large, small or long: it is a quantity or it is not."""
    for aggregation in ("sum", "unique", "count"):
        document = {"name": "tokens", "value": "meta.a", "aggregation": aggregation, "dimensions": ["meta.a"]}
        found = read_event(
            parse_meter(document),
            metric="tokens",
            quantity=Decimal(1),
            resource_id=None,
            source="http",
            meta=decode_meta(text),
        )
        assert isinstance(found, Reading) or found in {"value_missing", "value_not_a_number"}


def _naive(document: dict[str, Any], event: dict[str, Any], quantity: Decimal) -> Reading | Unread:
    if event["metric"] not in document.get("metrics", [document["name"]]):
        return "metric"
    if "filter" in document and not _passes(document["filter"], event):
        return "filter"
    asked = document.get("value", "quantity")
    value = {"quantity": quantity, "0.5": Decimal("0.5"), 3: 3}.get(asked, _at(event, asked))
    aggregation = document.get("aggregation", "sum")
    if value is None or (aggregation == "unique" and _text(value) is None):
        return "value_missing"
    number = _fraction(value)
    is_quantity = number is not None and 0 <= number < 10**26 and (number * 10**12).denominator == 1
    if not is_quantity and aggregation not in {"count", "unique"}:
        return "value_not_a_number"
    counted = Decimal(str(value)) if is_quantity else quantity
    item = {"unique": _text(value), "percentile": _text(counted)}.get(aggregation)
    texts = {path: _text(_at(event, path)) for path in sorted(set(document.get("dimensions", [])))}
    return Reading(counted, item, json.dumps(texts, ensure_ascii=False, separators=(",", ":")) if texts else "")


def _passes(condition: dict[str, Any], event: dict[str, Any]) -> bool:
    if "and" in condition:
        return all(_passes(part, event) for part in condition["and"])
    if "or" in condition:
        return any(_passes(part, event) for part in condition["or"])
    there, operand = _at(event, condition["field"]), condition["value"]
    if condition["op"] == "exists":
        return bool((there is not None) == operand)
    if condition["op"] in {"eq", "in"}:
        operands = operand if condition["op"] == "in" else [operand]
        return _text(there) is not None and _text(there) in [_text(each) for each in operands]
    number, bound = _fraction(there), _fraction(operand)
    if number is None or bound is None:
        return False
    return {"gt": number > bound, "gte": number >= bound, "lt": number < bound, "lte": number <= bound}[condition["op"]]


def _at(event: dict[str, Any], path: object) -> Any:  # noqa: ANN401 - JSON
    value: Any = event
    for name in str(path).split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _fraction(value: object) -> Fraction | None:
    if isinstance(value, str):
        return Fraction(value) if re.fullmatch("-?[0-9]+([.][0-9]+)?", value) else None
    return Fraction(value) if isinstance(value, int | Decimal) and not isinstance(value, bool) else None


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str | bool):
        return json.dumps(value) if isinstance(value, bool) else value
    number = _fraction(value)
    if number is None:
        return None
    sign, (whole, rest) = "-" if number < 0 else "", divmod(abs(number), 1)
    digits = ""
    while rest:
        digit, rest = divmod(rest * 10, 1)
        digits += str(digit)
    return f"{sign}{whole}.{digits}".rstrip(".")
