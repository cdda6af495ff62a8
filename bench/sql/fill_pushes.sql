-- Customers with usage on each of the last days, all of it sent and accepted: one counter and one outbox row per day.
insert into customer_bindings (tenant_id, customer_ref, stripe_account_id, stripe_customer_id, created_at)
select 'bench', 'c' || i, %(account)s, 'cus_' || i, %(now)s
from generate_series(1, %(customers)s) as i;

insert into counters (
    tenant_id, customer_ref, meter, day, segment_start, event_count, quantity_sum, quantity_min, quantity_max,
    quantity_last, last_ts, last_seq
)
select
    'bench', 'c' || i, 'calls', d, date_trunc('month', d::timestamp) at time zone 'UTC', 1, 5, 5, 5, 5,
    d::timestamp at time zone 'UTC', 1
from generate_series(1, %(customers)s) as i
cross join unnest(%(days)s::date[]) as d
order by 2, 4;

insert into push_entries (
    id, mapping_id, tenant_id, meter, customer_ref, stripe_account_id, stripe_event_name, stripe_customer_id,
    segment_start, day, seq, delta, total_before, total_after, stamped_at, identifier, planned_at, state, attempt,
    first_attempt_at, last_attempt_at, settled_at
)
select
    gen_random_uuid(), m.id, 'bench', 'calls', c.customer_ref, m.stripe_account_id, m.stripe_event_name,
    'cus_' || substring(c.customer_ref from 2), c.segment_start, c.day, 1, 5, 0, 5,
    (c.day::timestamp + interval '23 hours') at time zone 'UTC', 'bench ' || c.customer_ref || ' ' || c.day,
    %(now)s, 'accepted', 1, %(now)s, %(now)s, %(now)s
from price_mappings as m
inner join counters as c on m.tenant_id = c.tenant_id
where m.tenant_id = 'bench' and %(is_sent)s;
