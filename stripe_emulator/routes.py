"""The table of contents of v1: which handler answers which operation of Stripe's document.

Belongs here: the table. Does not: what a handler does, v2 (`v2_routes`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from stripe_emulator import (
    adjustments,
    clock_routes,
    customers,
    destinations,
    events,
    invoices,
    meter_events,
    meters,
    prices,
    products,
    subscription_items,
    subscriptions,
    summaries,
)
from stripe_emulator.calls import Call
from stripe_emulator.wire import Json

HANDLERS: Mapping[str, Callable[[Call], Json]] = {
    "GET /v1/account": customers.retrieve_account,
    "POST /v1/billing/meter_event_adjustments": adjustments.create,
    "POST /v1/billing/meter_events": meter_events.create,
    "GET /v1/billing/meters": meters.list_all,
    "POST /v1/billing/meters": meters.create,
    "GET /v1/billing/meters/{id}": meters.retrieve,
    "POST /v1/billing/meters/{id}": meters.update,
    "POST /v1/billing/meters/{id}/deactivate": meters.deactivate,
    "GET /v1/billing/meters/{id}/event_summaries": summaries.list_all,
    "POST /v1/billing/meters/{id}/reactivate": meters.reactivate,
    "GET /v1/customers": customers.list_all,
    "POST /v1/customers": customers.create,
    "GET /v1/customers/{customer}": customers.retrieve,
    "POST /v1/customers/{customer}": customers.update,
    "DELETE /v1/customers/{customer}": customers.delete,
    "GET /v1/events": events.list_all,
    "GET /v1/events/{id}": events.retrieve,
    "GET /v1/invoices": invoices.list_all,
    "POST /v1/invoices/create_preview": invoices.create_preview,
    "GET /v1/invoices/{invoice}": invoices.retrieve,
    "POST /v1/invoices/{invoice}": invoices.update,
    "POST /v1/invoices/{invoice}/finalize": invoices.finalize,
    "GET /v1/invoices/{invoice}/lines": invoices.list_lines,
    "POST /v1/invoices/{invoice}/void": invoices.void,
    "GET /v1/prices": prices.list_all,
    "POST /v1/prices": prices.create,
    "GET /v1/prices/{price}": prices.retrieve,
    "POST /v1/prices/{price}": prices.update,
    "GET /v1/products": products.list_all,
    "POST /v1/products": products.create,
    "GET /v1/products/{id}": products.retrieve,
    "POST /v1/products/{id}": products.update,
    "DELETE /v1/products/{id}": products.delete,
    "GET /v1/subscription_items": subscription_items.list_all,
    "POST /v1/subscription_items": subscription_items.create,
    "GET /v1/subscription_items/{item}": subscription_items.retrieve,
    "POST /v1/subscription_items/{item}": subscription_items.update,
    "DELETE /v1/subscription_items/{item}": subscription_items.delete,
    "GET /v1/subscriptions": subscriptions.list_all,
    "POST /v1/subscriptions": subscriptions.create,
    "GET /v1/subscriptions/{subscription_exposed_id}": subscriptions.retrieve,
    "POST /v1/subscriptions/{subscription_exposed_id}": subscriptions.update,
    "DELETE /v1/subscriptions/{subscription_exposed_id}": subscriptions.cancel,
    "GET /v1/test_helpers/test_clocks": clock_routes.list_all,
    "POST /v1/test_helpers/test_clocks": clock_routes.create,
    "GET /v1/test_helpers/test_clocks/{test_clock}": clock_routes.retrieve,
    "DELETE /v1/test_helpers/test_clocks/{test_clock}": clock_routes.delete,
    "POST /v1/test_helpers/test_clocks/{test_clock}/advance": clock_routes.advance,
    "GET /v1/webhook_endpoints": destinations.list_all,
    "POST /v1/webhook_endpoints": destinations.create,
    "GET /v1/webhook_endpoints/{webhook_endpoint}": destinations.retrieve,
    "POST /v1/webhook_endpoints/{webhook_endpoint}": destinations.update,
    "DELETE /v1/webhook_endpoints/{webhook_endpoint}": destinations.delete,
}
