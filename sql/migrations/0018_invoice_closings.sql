-- migrate:up
-- Closing: every invoice with our usage on it, how far its closing is, and the proof that it bills what we counted.

create table invoice_polls (
    stripe_account_id text primary key,
    polled_at timestamptz not null
);
comment on table invoice_polls is 'Up to when an account''s invoices are known.';

create table invoice_closings (
    stripe_account_id text not null,
    invoice_id text not null,
    mode text not null check (mode in ('shadow', 'live')),
    tenant_id text not null,
    customer_ref text not null,
    stripe_customer_id text not null,
    control text not null check (control in ('observe', 'control')),
    state text not null check (
        state in ('found', 'controlled', 'drained', 'reconciled', 'finalized', 'verified', 'failed', 'dropped')
    ),
    created_at timestamptz not null,
    found_at timestamptz not null,
    finalizes_at timestamptz,
    settles_at timestamptz not null,
    is_grace_short boolean not null,
    finalize_key_no integer not null default 0 check (finalize_key_no >= 0),
    finalized_at timestamptz,
    closed_at timestamptz,
    checked_at timestamptz,
    lease_until timestamptz,
    message text not null default '',
    released_at timestamptz,
    released_by text,
    release_reason text,
    primary key (stripe_account_id, invoice_id),
    constraint invoice_closings_closed
    check ((state in ('verified', 'dropped')) <= (closed_at is not null)),
    constraint invoice_closings_released
    check ((released_at is null) = (released_by is null) and (released_at is null) = (release_reason is null))
);
comment on table invoice_closings is 'How each invoice with our usage on it is closed: one row per invoice of an account.';
comment on column invoice_closings.control is 'control: we keep the draft from advancing and finalize it; written before Stripe is told.';
comment on column invoice_closings.created_at is 'When Stripe made the draft.';
comment on column invoice_closings.finalizes_at is 'When Stripe said it would finalize it, as first seen; null: it would not.';
comment on column invoice_closings.settles_at is 'From when on no usage of its windows joins them by itself.';
comment on column invoice_closings.is_grace_short is 'Stripe finalizes before what is late may have arrived and been sent.';
comment on column invoice_closings.finalize_key_no is 'Part of the Idempotency-Key; grows after a 5xx, whose answer Stripe would repeat.';
comment on column invoice_closings.finalized_at is 'When it was finalized, as Stripe says.';
comment on column invoice_closings.closed_at is 'When nothing was left to do; its proof is stored, or it is not billed at all.';
comment on column invoice_closings.message is 'What it waits for, or why it failed.';
comment on column invoice_closings.released_at is 'When a person took its difference upon themselves.';
create index invoice_closings_open on invoice_closings (stripe_account_id, mode, settles_at) where closed_at is null;
create index invoice_closings_by_tenant on invoice_closings (tenant_id, created_at);

create table invoice_windows (
    stripe_account_id text not null,
    invoice_id text not null,
    stripe_item_id text not null,
    price_id text not null,
    starts_at timestamptz not null,
    ends_at timestamptz not null,
    mapping_id uuid not null references price_mappings (id),
    meter text not null,
    primary key (stripe_account_id, invoice_id, stripe_item_id, price_id, starts_at, ends_at),
    foreign key (stripe_account_id, invoice_id) references invoice_closings (stripe_account_id, invoice_id),
    constraint invoice_windows_ordered check (starts_at < ends_at)
);
comment on table invoice_windows is 'What an invoice bills of our usage: an item at a price over [starts_at, ends_at), whatever lines it has.';

create table parity_proofs (
    stripe_account_id text not null,
    invoice_id text not null,
    mode text not null check (mode in ('shadow', 'live')),
    tenant_id text not null,
    customer_ref text not null,
    control text not null check (control in ('observe', 'control')),
    finalized_at timestamptz not null,
    is_equal boolean not null,
    evidence text not null,
    evidence_sha256 text not null check (evidence_sha256 ~ '^[0-9a-f]{64}$'),
    proven_at timestamptz not null,
    primary key (stripe_account_id, invoice_id),
    constraint parity_proofs_hash check (evidence_sha256 = encode(sha256(convert_to(evidence, 'UTF8')), 'hex'))
);
comment on table parity_proofs is 'What a closed invoice bills against what we counted: written once, never changed.';
comment on column parity_proofs.is_equal is 'Whether every line bills exactly what we counted.';
comment on column parity_proofs.evidence is 'What was compared, as JSON: Stripe''s lines, our days, a hash over the events sent.';
create index parity_proofs_by_tenant on parity_proofs (tenant_id, finalized_at);

create table parity_proof_lines (
    stripe_account_id text not null,
    invoice_id text not null,
    stripe_item_id text not null,
    price_id text not null,
    starts_at timestamptz not null,
    ends_at timestamptz not null,
    meter text not null,
    counted numeric,
    pushed numeric,
    billed numeric not null,
    difference numeric generated always as (counted - billed) stored,
    pushed_late numeric not null,
    late_identifiers text[] not null,
    primary key (stripe_account_id, invoice_id, stripe_item_id, price_id, starts_at, ends_at),
    foreign key (stripe_account_id, invoice_id) references parity_proofs (stripe_account_id, invoice_id),
    constraint parity_proof_lines_known check ((counted is null) = (pushed is null))
);
comment on table parity_proof_lines is 'A proof''s lines: one per item, price and window.';
comment on column parity_proof_lines.counted is 'Null: our billing windows are not Stripe''s, so nobody can say.';
comment on column parity_proof_lines.billed is 'The quantity on the final invoice, its tiers added up.';
comment on column parity_proof_lines.pushed_late is 'Where they differ: of what Stripe acknowledged, what it got after the invoice was final.';
comment on column parity_proof_lines.late_identifiers is 'The first of those events, by what Stripe knows them by.';

create trigger parity_proofs_keep before update or delete on parity_proofs
for each row execute function refuse_change();
create trigger parity_proof_lines_keep before update or delete on parity_proof_lines
for each row execute function refuse_change();

-- migrate:down
drop table parity_proof_lines;
drop table parity_proofs;
drop table invoice_windows;
drop table invoice_closings;
drop table invoice_polls;
