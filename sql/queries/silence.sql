-- Who stopped reporting. Only counters of a few days and the unfolded tail are read, never the ledger behind them.

-- name: load_silent
-- Tenants, meters and customers with events on at least least_days of the days [first_on, silent_on) and none since
-- silent_on, longest silence first; at most %(most)s. Parts of a tenant that is silent as a whole are left out.
with cursor as materialized (
    select folded_below from fold_cursors
    where name = 'counters'
),

reported as (
    select
        tenant_id,
        meter,
        customer_ref,
        day,
        last_ts
    from counters
    where day >= %(first_on)s::date
    union all
    select
        tenant_id,
        metric as meter,
        customer_ref,
        (ts at time zone 'UTC')::date as day,
        ts as last_ts
    from events
    where
        xid >= coalesce((select folded_below from cursor), '0'::xid8)
        and ts >= %(first_on)s::date::timestamp at time zone 'UTC'
),

reporter as (
    select
        tenant_id,
        meter,
        customer_ref,
        count(distinct day) as day_count,
        max(last_ts) as last_seen_at
    from reported
    group by grouping sets ((tenant_id), (tenant_id, meter), (tenant_id, customer_ref))
    having
        max(day) < %(silent_on)s::date
        and count(distinct day) >= %(least_days)s
)

select
    part.tenant_id,
    part.meter,
    part.customer_ref,
    part.day_count,
    part.last_seen_at
from reporter as part
where
    (part.meter is null and part.customer_ref is null)
    or not exists (
        select
        from reporter as whole
        where
            whole.tenant_id = part.tenant_id
            and whole.meter is null
            and whole.customer_ref is null
    )
order by part.last_seen_at, part.tenant_id, part.meter, part.customer_ref
limit %(most)s;
