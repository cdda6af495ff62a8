-- Late usage: what Stripe no longer takes on its own day and a mapping wants carried, and where it went.

-- name: has_policy
-- Whether any mapping that is on carries late usage.
select exists(
    select 1 from price_mappings
    where mode <> 'off' and late_policy = 'carry_forward'
) as has_policy;

-- name: load_late_days
-- Days of mappings that carry that are too old for Stripe or on a final invoice, and not what was sent; of some accounts
-- or all, without these tenants. Usage of days that Stripe took no more when mapping and customer were recorded was
-- never meant for it.
select
    d.mapping_id,
    d.tenant_id,
    d.meter,
    d.customer_ref,
    d.stripe_account_id,
    d.stripe_event_name,
    d.stripe_meter_id,
    d.stripe_customer_id,
    d.segment_start,
    d.day,
    d.counted - d.planned as lacking
from push_days as d
inner join price_mappings as m on d.mapping_id = m.id
inner join customer_bindings as b
    on
        d.tenant_id = b.tenant_id
        and d.customer_ref = b.customer_ref
        and d.stripe_account_id = b.stripe_account_id
where
    m.late_policy = 'carry_forward'
    and d.mode = any(%(modes)s)
    and (%(stripe_account_id)s::text is null or d.stripe_account_id = %(stripe_account_id)s)
    and d.tenant_id <> all(%(left_out)s::text[])
    and d.day >= (greatest(m.created_at, b.created_at) at time zone 'UTC')::date - %(open_days)s
    and d.day <= %(today)s
    and case
        when d.counted <> d.planned
            then d.day < %(first_day)s or is_segment_closed(d.mapping_id, d.customer_ref, d.segment_start)
    end
order by d.mapping_id, d.customer_ref, d.day, d.segment_start;

-- name: find_closed
-- Which of some segments have a final invoice. `place`: which.
select t.place
from
    unnest(%(mapping_ids)s::uuid[], %(customer_refs)s::text[], %(segment_starts)s::timestamptz[])
    with ordinality as t (mapping_id, customer_ref, segment_start, place)
where is_segment_closed(t.mapping_id, t.customer_ref, t.segment_start);

-- name: cancel_final
-- Rows of the outbox that were never sent, or are proven absent, of segments whose invoice is final: lacking again.
update push_entries
set
    state = 'cancelled',
    settled_at = %(now)s,
    lease_until = null,
    next_attempt_at = null,
    error_message = 'not sent: its invoice is final'
where
    stripe_account_id = %(stripe_account_id)s
    and state = 'planned'
    and first_attempt_at is null
    and is_segment_closed(mapping_id, customer_ref, segment_start);

-- name: insert_carry
-- Late usage, owed on another day from here on.
insert into push_carries (
    id, mapping_id, tenant_id, meter, customer_ref, from_segment_start, from_day, to_segment_start, to_day, quantity,
    carried_at
)
values (
    %(id)s, %(mapping_id)s, %(tenant_id)s, %(meter)s, %(customer_ref)s, %(from_segment_start)s, %(from_day)s,
    %(to_segment_start)s, %(to_day)s, %(quantity)s, %(carried_at)s
);

-- name: list_carries
-- What was carried, newest first, of one tenant when given, with the row of the outbox that tells it and its state.
select
    k.id, k.mapping_id, k.tenant_id, k.meter, k.customer_ref, k.from_segment_start, k.from_day, k.to_segment_start,
    k.to_day, k.quantity, k.carried_at, k.entry_id, e.state as entry_state
from push_carries as k
left join push_entries as e on k.entry_id = e.id
where %(tenant_id)s::text is null or k.tenant_id = %(tenant_id)s
order by k.carried_at desc, k.id
limit %(limit)s;
