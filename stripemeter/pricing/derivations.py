"""Derivations: amounts with all they were computed from, as records that can be computed again.

Belongs here: JSON-able records of quotes and invoices, and proving that a record still computes to itself. Does not:
reading them nicely (`rendering`).

Amounts are texts in major units of the currency. A record made today is recomputed by the price function of tomorrow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stripemeter.errors import InvariantBroken
from stripemeter.pricing.invoice_documents import inputs_document, parse_invoice_inputs
from stripemeter.pricing.invoice_writing import amount_text, invoice_document, line_document
from stripemeter.pricing.invoices import Invoice, price_invoice
from stripemeter.pricing.price_configs import parse_price_config, to_price_config
from stripemeter.pricing.quotes import Quote, quote
from stripemeter.pricing.reading import members_of, parse_number, plain, required
from stripemeter.pricing.rounding import parse_rounding

_QUOTE = ("priceConfig", "quantity", "rounding", "lines", "total", "currency")
_INVOICE = ("inputs", "rounding", "invoice")


def quote_record(quoted: Quote) -> dict[str, Any]:
    """A quote with its price: `recompute_quote` makes the same quote of it."""
    currency = quoted.price.currency
    return {
        "priceConfig": to_price_config(quoted.price),
        "quantity": plain(quoted.quantity),
        "rounding": quoted.rounding,
        "lines": [line_document(line, currency) for line in quoted.lines],
        "total": amount_text(quoted.total_minor, currency),
        "currency": currency,
    }


def recompute_quote(record: object) -> Quote:
    """The quote of a record, computed again.

    Raises:
        InvalidInput: no record.
        InvariantBroken: it now comes to something else; the message names the first difference.
    """
    members = members_of(record, _QUOTE, "")
    quoted = quote(
        parse_price_config(required(members, "priceConfig", ""), "priceConfig"),
        parse_number(required(members, "quantity", ""), "quantity"),
        parse_rounding(required(members, "rounding", "")),
    )
    _compare(members, quote_record(quoted), ("lines", "total", "currency"))
    return quoted


def invoice_record(invoice: Invoice) -> dict[str, Any]:
    """An invoice with all its inputs: `recompute_invoice` makes the same invoice of it."""
    return {
        "inputs": inputs_document(invoice.inputs),
        "rounding": invoice.rounding,
        "invoice": invoice_document(invoice),
    }


def recompute_invoice(record: object) -> Invoice:
    """The invoice of a record, computed again.

    Raises:
        InvalidInput: no record.
        InvariantBroken: it now comes to something else; the message names the first difference.
    """
    members = members_of(record, _INVOICE, "")
    inputs = parse_invoice_inputs(required(members, "inputs", ""), "inputs")
    invoice = price_invoice(inputs, parse_rounding(required(members, "rounding", "")))
    _compare(members, invoice_record(invoice), ("invoice",))
    return invoice


def _compare(recorded: Mapping[str, Any], computed: Mapping[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        for path, then, now in _differences(recorded.get(name), computed[name], name):
            raise InvariantBroken(f"{path} was recorded as {then!r:.80} and is computed as {now!r:.80}")


def _differences(then: object, now: object, path: str) -> Iterator[tuple[str, object, object]]:
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for name in [*now, *(name for name in then if name not in now)]:
            yield from _differences(then.get(name), now.get(name), f"{path}.{name}")
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for number, (before, after) in enumerate(zip(then, now, strict=True)):
            yield from _differences(before, after, f"{path}[{number}]")
    elif then != now:
        yield path, then, now
