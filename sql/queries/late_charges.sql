-- Late usage as money: windows of final invoices that lack usage, and the charges that bill it.

-- name: find_late_windows
-- Mappings of final, settled invoices, or of one of them, that lack usage there or have too much, where late usage is to
-- be billed as money. `since`: usage of earlier days was never meant for Stripe.
with lacking as (
    select distinct
        d.mapping_id,
        d.customer_ref,
        d.segment_start,
        m.late_policy,
        (greatest(m.created_at, b.created_at) at time zone 'UTC')::date - %(open_days)s as since
    from push_days as d
    inner join price_mappings as m on d.mapping_id = m.id
    inner join customer_bindings as b
        on
            d.tenant_id = b.tenant_id
            and d.customer_ref = b.customer_ref
            and d.stripe_account_id = b.stripe_account_id
    where
        m.late_policy in ('invoice_item', 'credit_note')
        and d.mode = %(mode)s
        and d.stripe_account_id = %(stripe_account_id)s
        and d.tenant_id <> all(%(left_out)s::text[])
        and d.day >= (greatest(m.created_at, b.created_at) at time zone 'UTC')::date - %(open_days)s
        and d.counted <> d.planned
)

select distinct
    c.invoice_id,
    w.mapping_id,
    l.late_policy,
    l.since
from lacking as l
inner join invoice_closings as c on l.customer_ref = c.customer_ref
inner join invoice_windows as w
    on
        c.stripe_account_id = w.stripe_account_id
        and c.invoice_id = w.invoice_id
        and l.mapping_id = w.mapping_id
        and l.segment_start >= w.starts_at
        and l.segment_start < w.ends_at
where
    c.stripe_account_id = %(stripe_account_id)s
    and c.mode = %(mode)s
    and c.finalized_at is not null
    and c.settles_at <= %(now)s
    and c.state in ('finalized', 'verified', 'failed')
    and (%(invoice_id)s::text is null or c.invoice_id = %(invoice_id)s)
order by c.invoice_id, w.mapping_id;

-- name: load_charged
-- The charges of a window, in order.
select seq, quantity_after, state, released_at
from late_charges
where
    stripe_account_id = %(stripe_account_id)s
    and invoice_id = %(invoice_id)s
    and stripe_item_id = %(stripe_item_id)s
    and price_id = %(price_id)s
    and starts_at = %(starts_at)s
    and ends_at = %(ends_at)s
order by seq;

-- name: insert_charge
-- A new charge, before anything is sent; one of nothing is settled by being written.
insert into late_charges (
    id, identity, kind, mode, mapping_id, tenant_id, meter, customer_ref, stripe_account_id, stripe_customer_id,
    invoice_id, stripe_item_id, price_id, starts_at, ends_at, seq, quantity_before, quantity_after, amount_minor,
    currency, derivation, derivation_sha256, state, planned_at, settled_at
)
values (
    %(id)s, %(identity)s, %(kind)s, %(mode)s, %(mapping_id)s, %(tenant_id)s, %(meter)s, %(customer_ref)s,
    %(stripe_account_id)s, %(stripe_customer_id)s, %(invoice_id)s, %(stripe_item_id)s, %(price_id)s, %(starts_at)s,
    %(ends_at)s, %(seq)s, %(quantity_before)s, %(quantity_after)s, %(amount_minor)s, %(currency)s, %(derivation)s,
    %(derivation_sha256)s, %(state)s, %(planned_at)s, %(settled_at)s
);

-- name: insert_day
-- A day whose usage a charge bills.
insert into late_charge_days (charge_id, mapping_id, customer_ref, segment_start, day, quantity)
values (%(charge_id)s, %(mapping_id)s, %(customer_ref)s, %(segment_start)s, %(day)s, %(quantity)s);

-- name: claim_due
-- The oldest charge of an account that is to be sent is ours until the lease ends, but for those named.
with due as (
    select id
    from late_charges
    where
        stripe_account_id = %(stripe_account_id)s
        and mode = %(mode)s
        and state in ('planned', 'sending')
        and id <> all(%(but)s::uuid[])
        and coalesce(lease_until, '-infinity') <= %(now)s
        and coalesce(next_attempt_at, '-infinity') <= %(now)s
    order by planned_at, id
    limit 1
    for update skip locked
)

update late_charges as c
set
    state = 'sending',
    attempt = c.attempt + 1,
    lease_until = %(lease_until)s,
    next_attempt_at = null
from due
where c.id = due.id
returning
    c.id, c.identity, c.kind, c.mode, c.mapping_id, c.tenant_id, c.meter, c.customer_ref, c.stripe_account_id,
    c.stripe_customer_id, c.invoice_id, c.stripe_item_id, c.price_id, c.starts_at, c.ends_at, c.seq,
    c.quantity_before, c.quantity_after, c.amount_minor, c.currency, c.derivation, c.derivation_sha256, c.state,
    c.planned_at, c.attempt, c.key_no, c.settled_at, c.stripe_object_id, c.http_status, c.error_message, c.released_at;

-- name: settle_accepted
-- Stripe has it.
update late_charges
set
    state = 'accepted',
    stripe_object_id = %(stripe_object_id)s,
    settled_at = %(now)s,
    lease_until = null,
    http_status = null,
    error_message = ''
where id = %(id)s and state = 'sending';

-- name: settle_rejected
-- Stripe refused it: its usage is lacking again, and waits for a person.
update late_charges
set
    state = 'rejected',
    settled_at = %(now)s,
    lease_until = null,
    http_status = %(http_status)s,
    error_message = %(error_message)s
where id = %(id)s and state = 'sending';

-- name: settle_open
-- Nobody knows, or not now: it is looked for, and sent again where it is not there.
update late_charges
set
    lease_until = null,
    next_attempt_at = %(next_attempt_at)s,
    key_no = key_no + %(key_steps)s,
    http_status = %(http_status)s,
    error_message = %(error_message)s
where id = %(id)s and state = 'sending';

-- name: release
-- The usage of a refused charge may be charged anew.
update late_charges
set released_at = %(now)s
where id = %(id)s and state = 'rejected' and released_at is null;

-- name: list_charges
-- Charges, newest first: all, or those that are not at Stripe yet or were refused and nobody released them.
select
    id, identity, kind, mode, mapping_id, tenant_id, meter, customer_ref, stripe_account_id, stripe_customer_id,
    invoice_id, stripe_item_id, price_id, starts_at, ends_at, seq, quantity_before, quantity_after, amount_minor,
    currency, derivation, derivation_sha256, state, planned_at, attempt, key_no, settled_at, stripe_object_id,
    http_status, error_message, released_at
from late_charges
where
    (%(tenant_id)s::text is null or tenant_id = %(tenant_id)s)
    and (%(is_every)s or state in ('planned', 'sending') or (state = 'rejected' and released_at is null))
order by planned_at desc, id
limit %(limit)s;
