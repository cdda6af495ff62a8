-- Comparing an export: which customers and meters of a tenant there is anything of, to find what the export lacks.

-- name: list_counted
-- Customers and meters with counters in the days [first_on, last_on], or with manual adjustments in [from_ts, until_ts).
select distinct
    customer_ref,
    meter
from counters
where
    tenant_id = %(tenant_id)s
    and meter <> ''
    and day between %(first_on)s and %(last_on)s
union
select
    customer_ref,
    metric as meter
from adjustments
where
    tenant_id = %(tenant_id)s
    and reason <> 'late_event'
    and effective_at >= %(from_ts)s::timestamptz
    and effective_at < %(until_ts)s::timestamptz
limit %(most)s;

-- name: find_customers
-- Those of some references that a tenant ever counted or recorded anything of.
select asked.ref
from unnest(%(refs)s::text[]) as asked (ref)
where
    exists (
        select from counters as counted
        where counted.tenant_id = %(tenant_id)s and counted.customer_ref = asked.ref
    )
    or exists (
        select from customers as recorded
        where recorded.tenant_id = %(tenant_id)s and recorded.customer_ref = asked.ref
    );

-- name: find_meters
-- Those of some names that a tenant ever counted anything under, or has priced itself.
select asked.name
from unnest(%(names)s::text[]) as asked (name)
where
    exists (
        select from counters as counted
        where counted.tenant_id = %(tenant_id)s and counted.meter = asked.name
    )
    or exists (
        select from prices as own
        where own.tenant_id = %(tenant_id)s and own.price_id = asked.name
    );

-- name: list_item_metrics
-- The Stripe Prices that customers' own subscription items are or were billed by, and the meters they bill.
select distinct
    stripe_price_id,
    meter
from item_prices
where tenant_id = %(tenant_id)s;

-- name: list_waiting
-- Adjustments that take effect in [from_ts, until_ts) and wait for approval: of late events, and manual ones.
select
    customer_ref,
    metric as meter,
    effective_at,
    delta,
    reason = 'late_event' as is_late
from adjustments
where
    tenant_id = %(tenant_id)s
    and status = 'pending'
    and delta is not null
    and effective_at >= %(from_ts)s::timestamptz
    and effective_at < %(until_ts)s::timestamptz
limit %(most)s;
