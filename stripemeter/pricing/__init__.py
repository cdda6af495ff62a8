"""Pricing: what usage costs, line by line, as Stripe would bill it. Pure, exact, and usable alone.

Belongs here: the public surface. Does not: pricing many customers at once, which needs Polars
(`stripemeter.pricing.quote_frames`).

    from stripemeter.pricing import InvoiceSimulator
    InvoiceSimulator().simulate({...}).total
"""

from stripemeter.pricing.contracts import (
    CreditGrant,
    Discount,
    InvoiceInputs,
    MinimumCommitment,
    PrepaidCommitment,
    UsageItem,
)
from stripemeter.pricing.derivations import invoice_record, quote_record, recompute_invoice, recompute_quote
from stripemeter.pricing.invoices import Invoice, InvoiceLine, price_invoice
from stripemeter.pricing.price_configs import parse_price_config, to_price_config
from stripemeter.pricing.prices import Graduated, Percentage, PerUnit, Price, Tier, Transform, Volume
from stripemeter.pricing.prorations import Proration, prorate
from stripemeter.pricing.quotes import Line, Quote, quote
from stripemeter.pricing.rendering import render_html, render_json, render_text
from stripemeter.pricing.rounding import Rounding
from stripemeter.pricing.simulator import InvoiceSimulator
from stripemeter.pricing.stripe_prices import price_from_stripe, price_to_stripe

__all__ = [
    "CreditGrant",
    "Discount",
    "Graduated",
    "Invoice",
    "InvoiceInputs",
    "InvoiceLine",
    "InvoiceSimulator",
    "Line",
    "MinimumCommitment",
    "PerUnit",
    "Percentage",
    "PrepaidCommitment",
    "Price",
    "Proration",
    "Quote",
    "Rounding",
    "Tier",
    "Transform",
    "UsageItem",
    "Volume",
    "invoice_record",
    "parse_price_config",
    "price_from_stripe",
    "price_invoice",
    "price_to_stripe",
    "prorate",
    "quote",
    "quote_record",
    "recompute_invoice",
    "recompute_quote",
    "render_html",
    "render_json",
    "render_text",
    "to_price_config",
]
