"""Cut Stripe's OpenAPI document down to the paths the emulator serves.

Belongs here: what is kept and what is cut. Does not: how the emulator reads the result (`stripe_emulator.contract`).

    pip download --no-deps --python-version 3.14 --only-binary=:all: seahaven-stripe-world==0.3.0
    python -m tools.prune_stripe_openapi seahaven_stripe_world-0.3.0-py3-none-any.whl

Kept as Stripe wrote it: types, formats, enums, bounds, required, nullable. Cut: prose, `x-*`, parameter encodings.
An expandable field becomes the id it is when nobody expands it; an object of a schema not in KEPT becomes an object
of unknown shape. One thing is corrected: MISPLACED. The document is Stripe's, under the MIT licence copied beside it.
"""

from __future__ import annotations

import hashlib
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

PACKAGE = "seahaven-stripe-world==0.3.0"
WHEEL_SHA256 = "f4466fea9dbdb7225ad2de9452b91df5f8b53559edb71b49afe446e1a001307a"
SPEC_SHA256 = "f0e0fc8fffbffda45bf5f3df59846443c1d47a3cfcbfae232eedf4743124ebee"
SPEC_IN_WHEEL = "seahaven_stripe_world/spec/spec3.json"
TARGET = Path(__file__).resolve().parent.parent / "stripe_emulator" / "openapi" / "stripe.json"

OPERATIONS = {
    "/v1/account": ("get",),
    "/v1/billing/credit_balance_summary": ("get",),
    "/v1/billing/credit_balance_transactions": ("get",),
    "/v1/billing/credit_balance_transactions/{id}": ("get",),
    "/v1/billing/credit_grants": ("get", "post"),
    "/v1/billing/credit_grants/{id}": ("get", "post"),
    "/v1/billing/credit_grants/{id}/expire": ("post",),
    "/v1/billing/credit_grants/{id}/void": ("post",),
    "/v1/billing/meter_event_adjustments": ("post",),
    "/v1/billing/meter_events": ("post",),
    "/v1/billing/meters": ("get", "post"),
    "/v1/billing/meters/{id}": ("get", "post"),
    "/v1/billing/meters/{id}/deactivate": ("post",),
    "/v1/billing/meters/{id}/event_summaries": ("get",),
    "/v1/billing/meters/{id}/reactivate": ("post",),
    "/v1/credit_notes": ("get", "post"),
    "/v1/credit_notes/{id}": ("get",),
    "/v1/customers": ("get", "post"),
    "/v1/customers/{customer}": ("delete", "get", "post"),
    "/v1/events": ("get",),
    "/v1/events/{id}": ("get",),
    "/v1/invoiceitems": ("get", "post"),
    "/v1/invoiceitems/{invoiceitem}": ("get",),
    "/v1/invoices": ("get",),
    "/v1/invoices/create_preview": ("post",),
    "/v1/invoices/{invoice}": ("get", "post"),
    "/v1/invoices/{invoice}/finalize": ("post",),
    "/v1/invoices/{invoice}/lines": ("get",),
    "/v1/invoices/{invoice}/pay": ("post",),
    "/v1/invoices/{invoice}/void": ("post",),
    "/v1/payment_methods/{payment_method}": ("get",),
    "/v1/payment_methods/{payment_method}/attach": ("post",),
    "/v1/prices": ("get", "post"),
    "/v1/prices/{price}": ("get", "post"),
    "/v1/products": ("get", "post"),
    "/v1/products/{id}": ("delete", "get", "post"),
    "/v1/subscription_items": ("get", "post"),
    "/v1/subscription_items/{item}": ("delete", "get", "post"),
    "/v1/subscriptions": ("get", "post"),
    "/v1/subscriptions/{subscription_exposed_id}": ("delete", "get", "post"),
    "/v1/test_helpers/test_clocks": ("get", "post"),
    "/v1/test_helpers/test_clocks/{test_clock}": ("delete", "get"),
    "/v1/test_helpers/test_clocks/{test_clock}/advance": ("post",),
    "/v1/webhook_endpoints": ("get", "post"),
    "/v1/webhook_endpoints/{webhook_endpoint}": ("delete", "get", "post"),
}
KEPT = {
    "account",
    "address",
    "api_errors",
    "automatic_tax",
    "billing.credit_balance_summary",
    "billing.credit_balance_transaction",
    "billing.credit_grant",
    "billing.meter",
    "billing.meter_event",
    "billing.meter_event_adjustment",
    "billing.meter_event_summary",
    "billing_bill_resource_invoice_item_parents_invoice_item_parent",
    "billing_bill_resource_invoice_item_parents_invoice_item_subscription_parent",
    "billing_bill_resource_invoicing_lines_common_credited_items",
    "billing_bill_resource_invoicing_lines_common_proration_details",
    "billing_bill_resource_invoicing_lines_parents_invoice_line_item_invoice_item_parent",
    "billing_bill_resource_invoicing_lines_parents_invoice_line_item_parent",
    "billing_bill_resource_invoicing_lines_parents_invoice_line_item_subscription_item_parent",
    "billing_bill_resource_invoicing_parents_invoice_parent",
    "billing_bill_resource_invoicing_parents_invoice_quote_parent",
    "billing_bill_resource_invoicing_parents_invoice_subscription_parent",
    "billing_bill_resource_invoicing_pricing_pricing",
    "billing_bill_resource_invoicing_pricing_pricing_price_details",
    "billing_clocks_resource_status_details_advancing_status_details",
    "billing_clocks_resource_status_details_status_details",
    "billing_credit_grants_resource_amount",
    "billing_credit_grants_resource_applicability_config",
    "billing_credit_grants_resource_applicable_price",
    "billing_credit_grants_resource_balance_credit",
    "billing_credit_grants_resource_balance_credits_application_invoice_voided",
    "billing_credit_grants_resource_balance_credits_applied",
    "billing_credit_grants_resource_balance_debit",
    "billing_credit_grants_resource_monetary_amount",
    "billing_credit_grants_resource_scope",
    "billing_meter_resource_aggregation_settings",
    "billing_meter_resource_billing_meter_event_adjustment_cancel",
    "billing_meter_resource_billing_meter_status_transitions",
    "billing_meter_resource_billing_meter_value",
    "billing_meter_resource_customer_mapping_settings",
    "connect_account_reference",
    "credit_balance",
    "credit_note",
    "credit_note_line_item",
    "customer",
    "deleted_customer",
    "deleted_product",
    "deleted_subscription_item",
    "deleted_test_helpers.test_clock",
    "deleted_webhook_endpoint",
    "error",
    "event",
    "invoice",
    "invoice_line_item_period",
    "invoice_setting_custom_field",
    "invoice_setting_customer_rendering_options",
    "invoice_setting_customer_setting",
    "invoiceitem",
    "invoices_payment_settings",
    "invoices_resource_pretax_credit_amount",
    "invoices_resource_status_transitions",
    "line_item",
    "notification_event_data",
    "notification_event_request",
    "payment_method",
    "payment_method_card",
    "price",
    "price_tier",
    "product",
    "recurring",
    "shipping",
    "subscription",
    "subscription_automatic_tax",
    "subscription_item",
    "subscriptions_resource_billing_cycle_anchor_config",
    "subscriptions_resource_billing_mode",
    "subscriptions_resource_billing_mode_flexible",
    "subscriptions_resource_subscription_invoice_settings",
    "test_helpers.test_clock",
    "transform_quantity",
    "webhook_endpoint",
}
MISPLACED = ("/v1/billing/credit_balance_transactions",)
"""Lists whose `url` the document gives the pattern of another list's: by it no client could ask for the next page."""
PROSE = {"description", "summary", "title", "encoding", "style", "explode", "operationId", "deprecated"}


def pruned(spec: dict[str, Any]) -> dict[str, Any]:
    """The part of Stripe's document the emulator needs; same structure, sorted keys."""
    schemas = spec["components"]["schemas"]
    document = {
        "openapi": spec["openapi"],
        "info": {"title": spec["info"]["title"], "version": spec["info"]["version"], "license": {"name": "MIT"}},
        "paths": {
            path: {method: _operation(spec["paths"][path][method]) for method in methods}
            for path, methods in OPERATIONS.items()
        },
        "components": {"schemas": {name: _schema(schemas[name]) for name in sorted(KEPT)}},
    }
    for path in MISPLACED:
        listed = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        del listed["properties"]["url"]["pattern"]
    return document


def text_of(document: dict[str, Any]) -> str:
    """The document as it is kept."""
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def read_spec(wheel: Path) -> dict[str, Any]:
    """Stripe's whole document out of the wheel.

    Raises:
        ValueError: the wheel or the document is not the one whose hash is written above.
    """
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != WHEEL_SHA256:
        raise ValueError(f"{wheel.name}: not the wheel this tool was written for")
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(SPEC_IN_WHEEL)
    if hashlib.sha256(text).hexdigest() != SPEC_SHA256:
        raise ValueError(f"{SPEC_IN_WHEEL}: not the document this tool was written for")
    spec: dict[str, Any] = json.loads(text)
    return spec


def main(argv: list[str]) -> int:
    """Write the pruned document; 0 when done."""
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    document = pruned(read_spec(Path(argv[1])))
    TARGET.write_text(text_of(document), encoding="utf-8")
    print(f"{TARGET.name}: {TARGET.stat().st_size:,} bytes, {len(document['paths'])} paths")  # noqa: T201
    return 0


def _operation(operation: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {"responses": _schema(operation["responses"])}
    if "parameters" in operation:
        kept["parameters"] = [_schema(parameter) for parameter in operation["parameters"]]
    content = operation.get("requestBody", {}).get("content", {})
    form = content.get("application/x-www-form-urlencoded")
    if form is not None and form["schema"].get("properties"):
        kept["requestBody"] = {"content": {"application/x-www-form-urlencoded": _schema(form)}}
    return kept


def _schema(node: Any, *, names_are_fields: bool = False) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(node, list):
        return [_schema(item) for item in node]
    if not isinstance(node, dict):
        return node
    if names_are_fields:
        return {name: _schema(value) for name, value in node.items()}
    if "x-expansionResources" in node:
        identifier = {"type": "string", "maxLength": 5000}
        return {**identifier, "nullable": True} if node.get("nullable") else identifier
    reference = node.get("$ref")
    if reference is not None:
        return {"$ref": reference} if reference.rsplit("/", 1)[1] in KEPT else {"type": "object"}
    return {
        key: _schema(value, names_are_fields=key == "properties")
        for key, value in node.items()
        if key not in PROSE and not key.startswith("x-")
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv))
