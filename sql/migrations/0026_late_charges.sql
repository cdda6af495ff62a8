-- migrate:up
-- Late usage as money: an item on the customer's next invoice, or a credit note on the one it belongs to.

-- squawk-ignore ban-drop-constraint
alter table price_mappings drop constraint price_mappings_late_policy_check;
-- squawk-ignore constraint-missing-not-valid
alter table price_mappings add constraint price_mappings_late_policy_check
check (late_policy in ('hold', 'carry_forward', 'invoice_item', 'credit_note'));
comment on column price_mappings.late_policy is 'What becomes of usage that Stripe no longer takes on its own day: kept and reported, owed on the current one, or billed as money.';

create table late_charges (
    id uuid primary key,
    identity text not null unique check (identity ~ '^um1_late_[0-9a-f]{40}$'),
    kind text not null check (kind in ('invoice_item', 'credit_note', 'nothing')),
    mode text not null check (mode in ('shadow', 'live')),
    mapping_id uuid not null references price_mappings (id),
    tenant_id text not null,
    meter text not null,
    customer_ref text not null,
    stripe_account_id text not null,
    stripe_customer_id text not null,
    invoice_id text not null,
    stripe_item_id text not null,
    price_id text not null,
    starts_at timestamptz not null,
    ends_at timestamptz not null,
    seq integer not null check (seq > 0),
    quantity_before numeric not null,
    quantity_after numeric not null,
    amount_minor bigint not null check (amount_minor >= 0),
    currency text not null check (currency ~ '^[A-Z]{3}$'),
    derivation text not null,
    derivation_sha256 text not null,
    state text not null check (state in ('planned', 'sending', 'accepted', 'rejected')),
    planned_at timestamptz not null,
    attempt integer not null default 0 check (attempt >= 0),
    key_no integer not null default 0 check (key_no >= 0),
    lease_until timestamptz,
    next_attempt_at timestamptz,
    settled_at timestamptz,
    stripe_object_id text,
    http_status integer,
    error_message text not null default '',
    released_at timestamptz,
    foreign key (stripe_account_id, invoice_id) references invoice_closings (stripe_account_id, invoice_id),
    constraint late_charges_window unique (
        stripe_account_id, invoice_id, stripe_item_id, price_id, starts_at, ends_at, seq
    ),
    constraint late_charges_ordered check (starts_at < ends_at),
    constraint late_charges_late check (quantity_before <> quantity_after),
    constraint late_charges_nothing check ((kind = 'nothing') = (amount_minor = 0)),
    constraint late_charges_derivation
    check (derivation_sha256 = encode(sha256(convert_to(derivation, 'UTF8')), 'hex')),
    constraint late_charges_settled check ((state in ('accepted', 'rejected')) = (settled_at is not null)),
    constraint late_charges_at_stripe
    check ((state = 'accepted' and kind <> 'nothing') = (stripe_object_id is not null)),
    constraint late_charges_released check (released_at is null or state = 'rejected')
);
comment on table late_charges is 'Late usage of a window whose invoice is final, as money: written before Stripe is told, never deleted.';
comment on column late_charges.identity is 'A hash over what is charged: Idempotency-Key at Stripe, and in the metadata of what it became.';
comment on column late_charges.kind is 'nothing: more or less of it costs the same.';
comment on column late_charges.seq is 'Which charge of its window.';
comment on column late_charges.quantity_before is 'What the invoice and the charges before this one bill.';
comment on column late_charges.amount_minor is 'The price of quantity_after less that of quantity_before, without its sign.';
comment on column late_charges.derivation is 'Both quotes with their price, as JSON that computes again.';
comment on column late_charges.key_no is 'Part of the Idempotency-Key; grows after an error that Stripe would repeat.';
comment on column late_charges.stripe_object_id is 'ii_... or cn_...';
comment on column late_charges.released_at is 'When a person let its usage be charged anew.';
create index late_charges_open on late_charges (stripe_account_id, mode) where state in ('planned', 'sending');
create index late_charges_by_tenant on late_charges (tenant_id, planned_at);

create table late_charge_days (
    charge_id uuid not null references late_charges (id),
    mapping_id uuid not null references price_mappings (id),
    customer_ref text not null,
    segment_start timestamptz not null,
    day date not null,
    quantity numeric not null check (quantity <> 0),
    primary key (charge_id, segment_start, day)
);
comment on table late_charge_days is 'The days whose usage a charge bills: it counts there no more, unless Stripe refused the charge.';
create index late_charge_days_by_day on late_charge_days (mapping_id, customer_ref, day);

create or replace view carry_changes as
select
    mapping_id,
    customer_ref,
    from_segment_start as segment_start,
    from_day as day,
    -quantity as quantity
from push_carries
union all
select
    mapping_id,
    customer_ref,
    to_segment_start as segment_start,
    to_day as day,
    quantity
from push_carries
union all
select
    d.mapping_id,
    d.customer_ref,
    d.segment_start,
    d.day,
    -d.quantity as quantity
from late_charge_days as d
inner join late_charges as c on d.charge_id = c.id
where c.state <> 'rejected';
comment on view carry_changes is 'What billing late usage elsewhere changed: less on its own day, more on the day it is owed on, if any.';

-- migrate:down
create or replace view carry_changes as
select
    mapping_id,
    customer_ref,
    from_segment_start as segment_start,
    from_day as day,
    -quantity as quantity
from push_carries
union all
select
    mapping_id,
    customer_ref,
    to_segment_start as segment_start,
    to_day as day,
    quantity
from push_carries;
comment on view carry_changes is 'What carrying late usage changed: less on its own day, more on the day it is owed on.';
drop table late_charge_days;
drop table late_charges;
update price_mappings set late_policy = 'hold'
where late_policy in ('invoice_item', 'credit_note');
-- squawk-ignore ban-drop-constraint
alter table price_mappings drop constraint price_mappings_late_policy_check;
-- squawk-ignore constraint-missing-not-valid
alter table price_mappings add constraint price_mappings_late_policy_check
check (late_policy in ('hold', 'carry_forward'));
comment on column price_mappings.late_policy is 'What becomes of usage that Stripe no longer takes on its own day: kept and reported, or owed on the current one.';
