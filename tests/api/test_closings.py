"""/v1/closings: a tenant's invoices by page, one with its proof, and nobody else's."""

from __future__ import annotations

import hashlib
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from stripemeter.metering.closings import BilledWindow, evidence_text
from stripemeter.store import closings, parity_proofs
from stripemeter.store.closings import FoundInvoice, MappedMeter
from stripemeter.store.mappings import PriceMapping, create_mapping
from stripemeter.store.parity_proofs import ParityProof, ProofLine
from stripemeter.store.postgres import open_pool, transaction
from stripemeter_api.closing_documents import ClosingAnswer, ClosingPage
from tests.api.serving import Api, all_pages

MADE_AT = datetime(2026, 12, 1, tzinfo=UTC)
WINDOW = BilledWindow(
    stripe_item_id="si_1", price_id="price_1", starts_at=datetime(2026, 11, 1, tzinfo=UTC), ends_at=MADE_AT
)


def found(database_url: str, tenant: str, *invoices: str) -> None:
    """Invoices of the tenant, each a minute later than the one before."""
    mapping = PriceMapping(
        id=uuid.uuid4(),
        tenant_id=tenant,
        meter="api_calls",
        aggregation="sum",
        stripe_account_id="acct_1",
        stripe_event_name="calls",
        stripe_meter_id="mtr_1",
        mode="live",
        created_at=MADE_AT,
    )
    with open_pool(database_url) as pool, transaction(pool) as tx:
        create_mapping(tx, mapping)
        for number, invoice in enumerate(invoices):
            row = FoundInvoice(
                stripe_account_id="acct_1",
                invoice_id=invoice,
                mode="live",
                tenant_id=tenant,
                customer_ref="c1",
                stripe_customer_id="cus_1",
                created_at=MADE_AT + timedelta(minutes=number),
                found_at=MADE_AT + timedelta(hours=1),
                finalizes_at=MADE_AT + timedelta(hours=1),
                settles_at=MADE_AT + timedelta(hours=48),
                is_grace_short=True,
            )
            closings.insert_found(tx, row, {WINDOW: MappedMeter(mapping_id=mapping.id, meter="api_calls")})


def prove(database_url: str, tenant: str, invoice: str) -> str:
    """A proof of 7.5 counted and 5 billed; returns its evidence."""
    amounts = {"meter": "api_calls", "currency": "usd", "billedMinor": 10, "pricedMinor": 15}
    text, sha256 = evidence_text({"windows": [{**amounts, "rounding": "half_up", "unpriced": ""}]})
    line = ProofLine(
        stripe_item_id="si_1",
        price_id="price_1",
        starts_at=WINDOW.starts_at,
        ends_at=WINDOW.ends_at,
        meter="api_calls",
        counted=Decimal("7.5"),
        pushed=Decimal("7.5"),
        billed=Decimal(5),
        difference=Decimal("2.5"),
        pushed_late=Decimal("2.5"),
        late_identifiers=("um1_late",),
    )
    proof = ParityProof(
        stripe_account_id="acct_1",
        invoice_id=invoice,
        mode="live",
        tenant_id=tenant,
        customer_ref="c1",
        control="observe",
        finalized_at=MADE_AT + timedelta(hours=1),
        is_equal=False,
        evidence=text,
        evidence_sha256=sha256,
        proven_at=MADE_AT + timedelta(hours=49),
        lines=(line,),
    )
    with open_pool(database_url) as pool, transaction(pool) as tx:
        assert parity_proofs.insert_proof(tx, proof)
        assert not parity_proofs.insert_proof(tx, proof)
    return text


def read(api: Api, tenant: str, invoice: str) -> Any:  # noqa: ANN401 - JSON
    """One invoice."""
    answer = api.get(f"/v1/closings/{invoice}", params={"tenantId": tenant})
    assert answer.status_code == 200, answer.text
    ClosingAnswer.model_validate(answer.json())
    return answer.json()


def test_invoices_come_newest_first_by_page(api: Api, tenant: str, database_url: str) -> None:
    """Every row once, over pages of two; another tenant has none of them."""
    names = [f"in_{tenant}_{number}" for number in range(5)]
    found(database_url, tenant, *names)
    rows = all_pages(api, "/v1/closings", "closings", tenantId=tenant, limit=2)
    assert [row["invoiceId"] for row in rows] == names[::-1]
    page = api.get("/v1/closings", params={"tenantId": tenant}).json()
    ClosingPage.model_validate(page)
    assert (page["closings"][0]["state"], page["closings"][0]["isGraceShort"]) == ("found", True)
    assert api.get("/v1/closings", params={"tenantId": f"not-{tenant}"}).json()["closings"] == []
    with open_pool(database_url) as pool, transaction(pool) as tx:
        (closed,) = closings.list_closings(tx, invoice_id=names[0])
        closings.move(tx, closed, "verified", now=MADE_AT, closed_at=MADE_AT)
    rows = all_pages(api, "/v1/closings", "closings", tenantId=tenant, isOpen="true", limit=2)
    assert [row["invoiceId"] for row in rows] == names[:0:-1]


def test_an_invoice_has_its_proof(api: Api, tenant: str, database_url: str) -> None:
    """Null until it is closed; then every line in units and money, and evidence that fits its hash."""
    invoice = f"in_{tenant}"
    found(database_url, tenant, invoice)
    assert read(api, tenant, invoice)["proof"] is None
    evidence = prove(database_url, tenant, invoice)
    proof = read(api, tenant, invoice)["proof"]
    assert (proof["isEqual"], proof["evidence"]) == (False, evidence)
    assert hashlib.sha256(proof["evidence"].encode()).hexdigest() == proof["evidenceSha256"]
    (line,) = proof["lines"]
    assert (line["counted"], line["billed"], line["difference"], line["pushedLate"]) == (7.5, 5, 2.5, 2.5)
    assert (line["billedMinor"], line["pricedMinor"], line["lateIdentifiers"]) == (10, 15, ["um1_late"])


def test_an_invoice_of_another_tenant_is_not_found(api: Api, tenant: str, database_url: str) -> None:
    """Neither its row nor its proof."""
    found(database_url, tenant, f"in_{tenant}")
    answer = api.get(f"/v1/closings/in_{tenant}", params={"tenantId": f"not-{tenant}"})
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
