-- Reconciliation: our days against Stripe's, the verdicts, and confirming what matched.

-- name: load_days
-- Every day inside the window of every mapped meter and bound customer, as we know it.
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
    d.counted,
    d.planned,
    d.accepted,
    d.last_accepted_at,
    exists(
        select 1 from push_entries as e
        where
            e.stripe_account_id = d.stripe_account_id
            and e.stripe_event_name = d.stripe_event_name
            and e.stripe_customer_id = d.stripe_customer_id
            and e.state in ('rejected', 'rejected_async', 'quarantined')
            and e.released_at is null
    ) as is_rejected
from push_days as d
where
    d.stripe_account_id = %(stripe_account_id)s
    and d.mode = %(mode)s
    and d.day >= %(first_day)s
    and d.day <= %(today)s
order by d.mapping_id, d.customer_ref, d.day, d.segment_start;

-- name: replace_verdicts
-- The latest verdicts on some days, written in the order of their keys so that two writers cannot deadlock.
insert into reconciliations as r (
    mapping_id, customer_ref, segment_start, day, tenant_id, meter, status, cause,
    local_quantity, pushed_quantity, stripe_quantity, checked_at
)
select
    mapping_id,
    customer_ref,
    segment_start,
    day,
    tenant_id,
    meter,
    status,
    cause,
    local_quantity,
    pushed_quantity,
    stripe_quantity,
    checked_at
from
    unnest(
        %(mapping_id)s::uuid[],
        %(customer_ref)s::text[],
        %(segment_start)s::timestamptz[],
        %(day)s::date[],
        %(tenant_id)s::text[],
        %(meter)s::text[],
        %(status)s::text[],
        %(cause)s::text[],
        %(local_quantity)s::numeric[],
        %(pushed_quantity)s::numeric[],
        %(stripe_quantity)s::numeric[],
        %(checked_at)s::timestamptz[]
    )
        as v (
            mapping_id, customer_ref, segment_start, day, tenant_id, meter, status, cause,
            local_quantity, pushed_quantity, stripe_quantity, checked_at
        )
order by mapping_id, customer_ref, segment_start, day
on conflict (mapping_id, customer_ref, segment_start, day) do update
    set
        status = excluded.status,
        cause = excluded.cause,
        local_quantity = excluded.local_quantity,
        pushed_quantity = excluded.pushed_quantity,
        stripe_quantity = excluded.stripe_quantity,
        checked_at = excluded.checked_at
    where r.checked_at <= excluded.checked_at;

-- name: confirm_days
-- Rows of days whose sum is what Stripe reports are confirmed; none of a day in which a row came in between.
with exact as (
    select e.id
    from
        unnest(
            %(stripe_account_id)s::text[],
            %(stripe_event_name)s::text[],
            %(stripe_customer_id)s::text[],
            %(segment_start)s::timestamptz[],
            %(day)s::date[],
            %(stripe_quantity)s::numeric[]
        )
            as d (stripe_account_id, stripe_event_name, stripe_customer_id, segment_start, day, stripe_quantity)
    inner join push_totals as t
        on
            d.stripe_account_id = t.stripe_account_id
            and d.stripe_event_name = t.stripe_event_name
            and d.stripe_customer_id = t.stripe_customer_id
            and d.segment_start = t.segment_start
            and d.day = t.day
            and d.stripe_quantity = t.accepted_total
    inner join push_entries as e
        on
            d.stripe_account_id = e.stripe_account_id
            and d.stripe_event_name = e.stripe_event_name
            and d.stripe_customer_id = e.stripe_customer_id
            and d.segment_start = e.segment_start
            and d.day = e.day
    where e.state = 'accepted' and t.planned_total = t.accepted_total
    order by e.id
    for update of e
)

update push_entries as e
set state = 'confirmed'
from exact
where e.id = exact.id and e.state = 'accepted';

-- name: list_verdicts
-- The latest verdicts that are not ok, worst first.
select
    tenant_id, meter, customer_ref, segment_start, day, status, cause,
    local_quantity, pushed_quantity, stripe_quantity, drift, checked_at
from reconciliations
where status <> 'ok' and (%(tenant_id)s::text is null or tenant_id = %(tenant_id)s)
order by abs(drift) desc nulls first, day desc, customer_ref
limit %(limit)s;

-- name: count_verdicts
-- How many days have each verdict.
select status, count(*) as days
from reconciliations
where %(tenant_id)s::text is null or tenant_id = %(tenant_id)s
group by status
order by status;
