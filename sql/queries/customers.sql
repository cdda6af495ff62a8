-- Customers: what somebody said about them, their other references, billing phases and Stripe items.

-- name: load_aliases
-- Other references of these tenants' customers, or of all when none are named.
select tenant_id, alias_ref, customer_ref
from customer_aliases
where %(tenants)s::text[] is null or tenant_id = any(%(tenants)s::text[]);

-- name: load_phases
-- Billing phases of these tenants, or of all when none are named; of one customer and meter ascending.
select tenant_id, customer_ref, meter, starts_at, cadence, cadence_count, anchor_at
from billing_phases
where %(tenants)s::text[] is null or tenant_id = any(%(tenants)s::text[])
order by tenant_id, customer_ref, meter, starts_at;

-- name: load_phases_of
-- Billing phases that some (customer, meter) may follow: their own, and those of every meter. `place`: whose.
select t.place, p.meter, p.starts_at, p.cadence, p.cadence_count, p.anchor_at
from
    unnest(%(tenant_ids)s::text[], %(customer_refs)s::text[], %(meters)s::text[])
    with ordinality as t (tenant_id, customer_ref, meter, place)
inner join billing_phases as p
    on t.tenant_id = p.tenant_id and t.customer_ref = p.customer_ref and p.meter in (t.meter, '')
order by t.place, p.meter, p.starts_at;

-- name: find_alias
-- The customer a reference is another name of; no row when it is none.
select customer_ref
from customer_aliases
where tenant_id = %(tenant_id)s and alias_ref = %(alias_ref)s;

-- name: list_aliases
-- Other references of some customers.
select customer_ref, alias_ref
from customer_aliases
where tenant_id = %(tenant_id)s and customer_ref = any(%(customer_refs)s)
order by customer_ref, alias_ref;

-- name: list_refs
-- A page of the customers somebody said something about, by reference.
select customer_ref
from (
    select c.customer_ref
    from customers as c
    where c.tenant_id = %(tenant_id)s
    union
    select b.customer_ref
    from customer_bindings as b
    where b.tenant_id = %(tenant_id)s
) as known
where %(after)s::text is null or customer_ref collate "C" > %(after)s::text collate "C"
order by customer_ref collate "C"
limit %(most)s;

-- name: list_customers
-- What is recorded of some customers themselves.
select customer_ref, time_zone, created_at, updated_at
from customers
where tenant_id = %(tenant_id)s and customer_ref = any(%(customer_refs)s);

-- name: list_phases
-- Billing phases of some customers, with their reasons.
select customer_ref, meter, starts_at, cadence, cadence_count, anchor_at, reason
from billing_phases
where tenant_id = %(tenant_id)s and customer_ref = any(%(customer_refs)s)
order by customer_ref, meter, starts_at;

-- name: list_bindings
-- The Stripe customers some customers are.
select tenant_id, customer_ref, stripe_account_id, stripe_customer_id, created_at
from customer_bindings
where tenant_id = %(tenant_id)s and customer_ref = any(%(customer_refs)s)
order by customer_ref, stripe_account_id;

-- name: list_items
-- Subscription items of some customers.
select customer_ref, meter, stripe_account_id, stripe_subscription_id, stripe_item_id
from customer_items
where tenant_id = %(tenant_id)s and customer_ref = any(%(customer_refs)s)
order by customer_ref, stripe_account_id, meter;

-- name: list_accounts
-- Stripe accounts a tenant's meters or customers are at.
select m.stripe_account_id
from price_mappings as m
where m.tenant_id = %(tenant_id)s
union
select b.stripe_account_id
from customer_bindings as b
where b.tenant_id = %(tenant_id)s
order by stripe_account_id;

-- name: put_customer
-- The customer is recorded; its time zone is replaced when one is given.
insert into customers as c (tenant_id, customer_ref, time_zone, created_at, updated_at)
values (%(tenant_id)s, %(customer_ref)s, coalesce(%(time_zone)s, 'UTC'), %(now)s, %(now)s)
on conflict (tenant_id, customer_ref) do update
    set time_zone = coalesce(%(time_zone)s, c.time_zone), updated_at = excluded.updated_at;

-- name: delete_customer
-- The customer's time zone is the default again.
delete from customers
where tenant_id = %(tenant_id)s and customer_ref = %(customer_ref)s;

-- name: insert_alias
-- One more reference of a customer; nothing when the reference is an alias already.
insert into customer_aliases (tenant_id, alias_ref, customer_ref, created_at)
values (%(tenant_id)s, %(alias_ref)s, %(customer_ref)s, %(now)s)
on conflict (tenant_id, alias_ref) do nothing;

-- name: delete_alias
-- The reference is a customer of its own again.
delete from customer_aliases
where tenant_id = %(tenant_id)s and customer_ref = %(customer_ref)s and alias_ref = %(alias_ref)s;

-- name: delete_other_phases
-- Phases of a customer that are not exactly one of these.
delete from billing_phases as p
where
    p.tenant_id = %(tenant_id)s
    and p.customer_ref = %(customer_ref)s
    and (p.meter, p.starts_at, p.cadence, p.cadence_count, p.anchor_at, p.reason) not in (
        select kept.meter, kept.starts_at, kept.cadence, kept.cadence_count, kept.anchor_at, kept.reason
        from
            unnest(
                %(meters)s::text[], %(starts)s::timestamptz[], %(cadences)s::text[], %(counts)s::integer[],
                %(anchors)s::timestamptz[], %(reasons)s::text[]
            ) as kept (meter, starts_at, cadence, cadence_count, anchor_at, reason)
    );

-- name: insert_phases
-- Phases of a customer; what is there already stays as it was recorded.
insert into billing_phases (
    tenant_id, customer_ref, meter, starts_at, cadence, cadence_count, anchor_at, reason, created_at
)
select
    %(tenant_id)s,
    %(customer_ref)s,
    added.meter,
    added.starts_at,
    added.cadence,
    added.cadence_count,
    added.anchor_at,
    added.reason,
    %(now)s
from
    unnest(
        %(meters)s::text[], %(starts)s::timestamptz[], %(cadences)s::text[], %(counts)s::integer[],
        %(anchors)s::timestamptz[], %(reasons)s::text[]
    ) as added (meter, starts_at, cadence, cadence_count, anchor_at, reason)
on conflict (tenant_id, customer_ref, meter, starts_at) do nothing;

-- name: delete_items
-- The customer has no subscription items at an account, or at any when none is named.
delete from customer_items
where
    tenant_id = %(tenant_id)s
    and customer_ref = %(customer_ref)s
    and (%(stripe_account_id)s::text is null or stripe_account_id = %(stripe_account_id)s);

-- name: insert_item
-- The subscription item that bills a meter of a customer.
insert into customer_items (
    tenant_id, customer_ref, meter, stripe_account_id, stripe_subscription_id, stripe_item_id, created_at
)
values (
    %(tenant_id)s, %(customer_ref)s, %(meter)s, %(stripe_account_id)s, %(stripe_subscription_id)s,
    %(stripe_item_id)s, %(now)s
);

-- name: load_counted_days
-- Days from one on that some references have counters of.
select distinct c.day
from counters as c
where c.tenant_id = %(tenant_id)s and c.customer_ref = any(%(customer_refs)s) and c.day >= %(first)s
order by c.day;
