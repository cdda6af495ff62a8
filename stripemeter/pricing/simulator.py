"""The simulator: an invoice of what somebody would use, at prices somebody may never charge.

Belongs here: taking either form of inputs. Does not: prices (`invoices`), scenarios.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stripemeter.pricing.contracts import InvoiceInputs
from stripemeter.pricing.invoice_documents import parse_invoice_inputs
from stripemeter.pricing.invoices import Invoice, price_invoice
from stripemeter.pricing.rounding import DEFAULT_ROUNDING, Rounding, parse_rounding


class InvoiceSimulator:
    """Makes invoices; nothing is stored and nothing is asked.

    Args:
        rounding: where fractions of an invoice line go. Stripe's own direction is not known for certain.

    Raises:
        InvalidInput: there is no such rounding.
    """

    def __init__(self, rounding: Rounding = DEFAULT_ROUNDING) -> None:
        self._rounding = parse_rounding(rounding)

    def simulate(self, inputs: InvoiceInputs | Mapping[str, Any]) -> Invoice:
        """The invoice of these inputs.

        Args:
            inputs: typed, or the original's camelCase dict (`invoice_documents`).

        Raises:
            InvalidInput: they cannot be right; `field` is the path of what is wrong.
        """
        if not isinstance(inputs, InvoiceInputs):
            inputs = parse_invoice_inputs(inputs)
        return price_invoice(inputs, self._rounding)
