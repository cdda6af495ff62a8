-- Reconciliation by calendar month: the latest verdicts of its days, added up. History is never summed.

-- name: list_items
-- One row per mapped meter, customer and UTC month with a verdict. Where a meter is mapped live and shadow, `is_billed`
-- is the live one. A month is known when every day of it is.
with months as (
    select
        r.mapping_id,
        r.tenant_id,
        r.meter,
        r.customer_ref,
        date_trunc('month', r.day)::date as month,
        sum(r.local_quantity) as local,
        case when bool_and(r.stripe_quantity is not null) then sum(r.stripe_quantity) end as stripe,
        bool_or(r.status = 'unknown') as has_unknown,
        bool_or(r.status = 'drift') as has_drift,
        bool_or(r.status = 'within_epsilon') as has_tolerated,
        array_remove(array_agg(distinct r.cause), null) as causes,
        max(r.checked_at) as checked_at
    from reconciliations as r
    where
        (%(tenant_id)s::text is null or r.tenant_id = %(tenant_id)s)
        and r.day >= %(first_on)s
        and r.day <= %(last_on)s
    group by r.mapping_id, r.tenant_id, r.meter, r.customer_ref, date_trunc('month', r.day)::date
)

select
    p.mapping_id,
    p.tenant_id,
    p.meter,
    p.customer_ref,
    p.month,
    m.mode,
    m.mode = 'live' or not bool_or(m.mode = 'live') over (partition by p.tenant_id, p.meter) as is_billed,
    p.local,
    p.stripe,
    p.has_unknown,
    p.has_drift,
    p.has_tolerated,
    exists(
        select 1 from reconciliation_history as h
        where
            h.mapping_id = p.mapping_id
            and h.customer_ref = p.customer_ref
            and h.day >= p.month
            and h.day < p.month + interval '1 month'
            and h.status = 'drift'
            and h.cause not in ('unsent', 'in_flight')
    ) as had_drift,
    p.causes,
    p.checked_at
from months as p
inner join price_mappings as m on p.mapping_id = m.id
where m.mode <> 'off'
order by abs(p.local - p.stripe) desc nulls first, p.month, p.meter, p.customer_ref, p.mapping_id
limit %(limit)s;

-- name: list_worst
-- Drift and Stripe's total of the customers' months that differ most, over all tenants; only days that are not ok are
-- looked for, as the others add nothing to a month's drift.
with worst as (
    select
        r.tenant_id,
        r.meter,
        r.customer_ref,
        r.mapping_id,
        date_trunc('month', r.day)::date as month,
        sum(r.drift) as drift
    from reconciliations as r
    inner join price_mappings as m on r.mapping_id = m.id
    where r.status in ('within_epsilon', 'drift') and r.day >= %(first_on)s and m.mode <> 'off'
    group by r.tenant_id, r.meter, r.customer_ref, r.mapping_id, date_trunc('month', r.day)::date
    order by abs(sum(r.drift)) desc, r.tenant_id, r.meter, r.customer_ref
    limit %(limit)s
)

select
    w.tenant_id,
    w.meter || ':' || w.customer_ref as item,
    to_char(w.month, 'YYYY-MM') as period,
    w.drift,
    (
        select coalesce(sum(r.stripe_quantity), 0)
        from reconciliations as r
        where
            r.mapping_id = w.mapping_id
            and r.customer_ref = w.customer_ref
            and r.day >= w.month
            and r.day < w.month + interval '1 month'
    ) as stripe
from worst as w
order by abs(w.drift) desc, w.tenant_id, item;
