-- What the fold asks before it folds old events, and what it writes of late ones.

-- name: load_watermarks
-- The greatest event time folded of each track (tenant, customer, metric) that has any.
select
    track.tenant_id,
    track.customer_ref,
    track.metric,
    newest.last_ts
from unnest(%(tenants)s::text[], %(customers)s::text[], %(metrics)s::text[]) as track (tenant_id, customer_ref, metric)
inner join lateral (
    select c.last_ts
    from counters as c
    where
        c.tenant_id = track.tenant_id
        and c.customer_ref = track.customer_ref
        and c.meter = track.metric
    -- The last segment of the last day; of its lanes and dimensions the newest.
    order by c.day desc, c.segment_start desc, c.last_ts desc
    limit 1
) as newest on true;

-- name: load_standing
-- What the counters of these (tenant, customer, metric, day, segment) hold, all lanes and dimensions together.
select
    asked.tenant_id,
    asked.customer_ref,
    asked.metric,
    asked.day,
    asked.segment_start,
    sum(c.event_count)::bigint as event_count,
    min(c.quantity_min) as quantity_min,
    max(c.quantity_max) as quantity_max,
    (array_agg(c.quantity_last order by c.last_ts desc, c.last_seq desc))[1] as quantity_last,
    max(c.last_ts) as last_ts,
    (array_agg(c.last_seq order by c.last_ts desc, c.last_seq desc))[1] as last_seq
from
    unnest(
        %(tenants)s::text[], %(customers)s::text[], %(metrics)s::text[], %(days)s::date[], %(segments)s::timestamptz[]
    ) as asked (tenant_id, customer_ref, metric, day, segment_start)
inner join counters as c
    on
        asked.tenant_id = c.tenant_id
        and asked.customer_ref = c.customer_ref
        and asked.metric = c.meter
        and asked.day = c.day
        and asked.segment_start = c.segment_start
group by asked.tenant_id, asked.customer_ref, asked.metric, asked.day, asked.segment_start;

-- name: load_aggregations
-- How the mapped meters of these tenants count: the live mapping, else the shadow one, else the newest that is off.
select distinct on (tenant_id, meter)
    tenant_id,
    meter,
    aggregation
from price_mappings
where tenant_id = any(%(tenants)s::text[])
order by tenant_id, meter, mode = 'live' desc, mode = 'shadow' desc, created_at desc, id;

-- name: insert_late_adjustments
-- One adjustment per late event, with its first audit row; an event has at most one, for ever. The customer is the one
-- that the event's reference meant when it was judged: aliases change under the cursor's lock alone. Ids begin with the
-- time, as a UUID of version 7 does (which PostgreSQL makes from 18 on), so that thousands go to the same index pages.
with created as (
    insert into adjustments (
        id, tenant_id, metric, customer_ref, period, day, effective_at, delta, reason, status, actor, created_at,
        updated_at, event_seq, event_key
    )
    select
        (
            lpad(to_hex((extract(epoch from %(now)s::timestamptz) * 1000)::bigint), 12, '0')
            || right(replace(gen_random_uuid()::text, '-', ''), 20)
        )::uuid,
        event.tenant_id,
        event.metric,
        coalesce(alias.customer_ref, event.customer_ref),
        'day',
        (event.ts at time zone 'UTC')::date,
        event.ts,
        late.delta::numeric,
        'late_event',
        late.status,
        %(actor)s,
        %(now)s,
        %(now)s,
        late.seq,
        event.idempotency_key
    from unnest(%(deltas)s::text[], %(statuses)s::text[], %(seqs)s::bigint[]) as late (delta, status, seq)
    inner join events as event on late.seq = event.seq
    left join customer_aliases as alias
        on event.tenant_id = alias.tenant_id and event.customer_ref = alias.alias_ref
    where
        event.xid >= %(lower)s::xid8
        and event.xid < %(upper)s::xid8
    returning id, tenant_id, status
)

insert into adjustment_transitions (
    adjustment_id, tenant_id, action, status_before, status_after, actor, happened_at
)
select
    id,
    tenant_id,
    'created',
    null,
    status,
    %(actor)s,
    %(now)s
from created;

-- name: absorb_day
-- The approved late adjustments of a day become part of its counters.
with absorbed as (
    update adjustments
    set
        status = 'absorbed',
        updated_at = %(now)s
    where
        reason = 'late_event'
        and status = 'approved'
        and day = %(day)s
    returning id, tenant_id
)

insert into adjustment_transitions (
    adjustment_id, tenant_id, action, status_before, status_after, actor, happened_at
)
select
    id,
    tenant_id,
    'absorbed',
    'approved',
    'absorbed',
    %(actor)s,
    %(now)s
from absorbed;
