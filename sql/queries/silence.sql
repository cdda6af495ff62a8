-- Who stopped reporting. Only counters of a few days and the unfolded tail are read, never the ledger behind them.

-- name: load_silent
-- Tenants, meters and customers with events on at least least_days of the days [first_on, silent_on) and none since
-- silent_on, longest silence first; at most %(most)s. Parts of a tenant that is silent as a whole are left out. An event that no
-- meter counts is a report of its tenant and customer; the meter '' it is kept under is no meter.
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
        event.tenant_id,
        event.metric as meter,
        coalesce(alias.customer_ref, event.customer_ref) as customer_ref,
        (event.ts at time zone 'UTC')::date as day,
        event.ts as last_ts
    from events as event
    left join customer_aliases as alias
        on event.tenant_id = alias.tenant_id and event.customer_ref = alias.alias_ref
    where
        event.xid >= coalesce((select folded_below from cursor), '0'::xid8)
        and event.ts >= %(first_on)s::date::timestamp at time zone 'UTC'
        and not exists (
            select from event_voids as void
            where void.seq = event.seq
        )
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
    part.meter is distinct from ''
    and (
        (part.meter is null and part.customer_ref is null)
        or not exists (
            select
            from reporter as whole
            where
                whole.tenant_id = part.tenant_id
                and whole.meter is null
                and whole.customer_ref is null
        )
    )
order by part.last_seen_at, part.tenant_id, part.meter, part.customer_ref
limit %(most)s;
