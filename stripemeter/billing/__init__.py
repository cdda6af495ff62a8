"""Billing: the port usage leaves through, and its Stripe adapter.

Belongs here: what a billing system is to us (`BillingSink`) and how Stripe is one. Does not: what to send and when
(`pipeline.push`). Importing this package does not import `stripe`; opening a sink does.
"""

from stripemeter.billing.opening import open_sink, open_sinks
from stripemeter.billing.sink import (
    Accepted,
    AlreadyAccepted,
    BillingSink,
    Invoice,
    InvoiceLine,
    MeterEvent,
    Mode,
    StripeMeter,
    StripePrice,
)

__all__ = [
    "Accepted",
    "AlreadyAccepted",
    "BillingSink",
    "Invoice",
    "InvoiceLine",
    "MeterEvent",
    "Mode",
    "StripeMeter",
    "StripePrice",
    "open_sink",
    "open_sinks",
]
