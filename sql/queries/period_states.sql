-- What counters add up to per customer, meter and segment, for whole months of a tenant.

-- name: list_days
-- Days of [first_on, last_on] that have usage: what the lake holds of each, and whether it is as counted now.
select
    coalesce(archived.day, counted.day) as day,
    archived.counters_sha256,
    archived.items_sha256,
    archived.rules_sha256,
    coalesce(archived.folded_at, '-infinity') <> coalesce(counted.last_folded_at, '-infinity') as is_stale
from archived_days as archived
full join counter_days as counted on archived.day = counted.day
where
    coalesce(archived.day, counted.day) between %(first_on)s::date and %(last_on)s::date
    and (archived.day is not null or counted.last_folded_at is not null)
order by coalesce(archived.day, counted.day);

-- name: load_states
-- Counters of these days added up; the sum as whole units and the rest, decimals as text.
select
    customer_ref,
    meter,
    segment_start,
    sum(event_count)::bigint as event_count,
    floor(sum(quantity_sum))::text as sum_whole,
    (sum(quantity_sum) - floor(sum(quantity_sum)))::text as sum_fraction,
    min(quantity_min)::text as quantity_min,
    max(quantity_max)::text as quantity_max,
    ((array_agg(quantity_last order by last_ts desc, last_seq desc))[1])::text as quantity_last,
    max(last_ts) as last_ts,
    (array_agg(last_seq order by last_ts desc, last_seq desc))[1] as last_seq
from counters
where
    tenant_id = %(tenant_id)s
    and day = any(%(days)s::date[])
    and meter <> ''
group by customer_ref, meter, segment_start;

-- name: load_items
-- The distinct values these unique meters saw on these days.
select distinct
    customer_ref,
    meter,
    segment_start,
    item
from counter_items
where
    tenant_id = %(tenant_id)s
    and day = any(%(days)s::date[])
    and meter = any(%(meters)s::text[]);

-- name: list_subscribed
-- Customers with recorded subscription items, and since when the first is recorded.
select
    customer_ref,
    min(created_at) as since
from customer_items
where tenant_id = %(tenant_id)s
group by customer_ref
order by customer_ref;

-- name: list_bound
-- Which accounts bill each customer.
select
    customer_ref,
    stripe_account_id
from customer_bindings
where tenant_id = %(tenant_id)s
order by customer_ref, stripe_account_id;

-- name: list_own_prices
-- Which Stripe Price the own subscription items of customers bill each meter by at %(now)s.
select distinct on (customer_ref, meter, stripe_account_id)
    customer_ref,
    meter,
    stripe_account_id,
    stripe_price_id
from item_prices
where
    tenant_id = %(tenant_id)s
    and effective_from <= %(now)s
order by customer_ref, meter, stripe_account_id, effective_from desc;
