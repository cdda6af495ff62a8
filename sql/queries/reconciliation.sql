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

-- name: replace_verdict
-- The latest verdict on a day.
insert into reconciliations as r (
    mapping_id, customer_ref, segment_start, day, tenant_id, meter, status, cause,
    local_quantity, pushed_quantity, stripe_quantity, checked_at
)
values (
    %(mapping_id)s, %(customer_ref)s, %(segment_start)s, %(day)s, %(tenant_id)s, %(meter)s, %(status)s, %(cause)s,
    %(local_quantity)s, %(pushed_quantity)s, %(stripe_quantity)s, %(checked_at)s
)
on conflict (mapping_id, customer_ref, segment_start, day) do update
    set
        status = excluded.status,
        cause = excluded.cause,
        local_quantity = excluded.local_quantity,
        pushed_quantity = excluded.pushed_quantity,
        stripe_quantity = excluded.stripe_quantity,
        checked_at = excluded.checked_at
    where r.checked_at <= excluded.checked_at;

-- name: confirm_day
-- Rows of a day whose sum is what Stripe reports are confirmed; nothing when a row came in between.
update push_entries as e
set state = 'confirmed'
from push_totals as t
where
    e.stripe_account_id = %(stripe_account_id)s
    and e.stripe_event_name = %(stripe_event_name)s
    and e.stripe_customer_id = %(stripe_customer_id)s
    and e.segment_start = %(segment_start)s
    and e.day = %(day)s
    and e.state = 'accepted'
    and t.stripe_account_id = e.stripe_account_id
    and t.stripe_event_name = e.stripe_event_name
    and t.stripe_customer_id = e.stripe_customer_id
    and t.segment_start = e.segment_start
    and t.day = e.day
    and t.accepted_total = %(stripe_quantity)s
    and t.planned_total = t.accepted_total;

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
