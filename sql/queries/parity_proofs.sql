-- Parity proofs: what closed invoices bill against what we counted.

-- name: insert_proof
-- Once; a second worker's proof of the same invoice changes nothing.
insert into parity_proofs (
    stripe_account_id, invoice_id, mode, tenant_id, customer_ref, control, finalized_at, is_equal, evidence,
    evidence_sha256, proven_at
)
values (
    %(stripe_account_id)s, %(invoice_id)s, %(mode)s, %(tenant_id)s, %(customer_ref)s, %(control)s, %(finalized_at)s,
    %(is_equal)s, %(evidence)s, %(evidence_sha256)s, %(proven_at)s
)
on conflict (stripe_account_id, invoice_id) do nothing;

-- name: insert_line
-- One of its lines.
insert into parity_proof_lines (
    stripe_account_id, invoice_id, stripe_item_id, price_id, starts_at, ends_at, meter, counted, pushed, billed,
    pushed_late, late_identifiers
)
values (
    %(stripe_account_id)s, %(invoice_id)s, %(stripe_item_id)s, %(price_id)s, %(starts_at)s, %(ends_at)s, %(meter)s,
    %(counted)s, %(pushed)s, %(billed)s, %(pushed_late)s, %(late_identifiers)s
);

-- name: list_proofs
-- The newest of a tenant or of all, or that of one invoice.
select
    stripe_account_id, invoice_id, mode, tenant_id, customer_ref, control, finalized_at, is_equal, evidence,
    evidence_sha256, proven_at
from parity_proofs
where
    (%(tenant_id)s::text is null or tenant_id = %(tenant_id)s)
    and (%(invoice_id)s::text is null or invoice_id = %(invoice_id)s)
order by finalized_at desc, invoice_id
limit %(limit)s;

-- name: load_lines
-- A proof's lines.
select
    stripe_item_id, price_id, starts_at, ends_at, meter, counted, pushed, billed, difference, pushed_late,
    late_identifiers
from parity_proof_lines
where stripe_account_id = %(stripe_account_id)s and invoice_id = %(invoice_id)s
order by meter, starts_at, stripe_item_id, price_id;
