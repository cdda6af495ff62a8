-- Ledger rows for counting, read as Arrow. Parameters are ADBC's ($1).
-- sqlfluff:templater:placeholder:param_style:numeric_dollar

-- name: scan_window
-- The events of the xid window [$1, $2) that no void took back, any order; quantity as text, because Arrow has no
-- unbounded decimal. What only explicit meters read is null for tenants without any.
with metered as (
    select distinct tenant_id from meters
)

select
    event.tenant_id,
    event.customer_ref,
    event.metric,
    event.ts,
    event.seq,
    event.quantity::text as quantity,
    event.received_at,
    event.source in ('import', 'etl') or event.backfill_id is not null as is_history,
    false as is_late,
    case when metered.tenant_id is not null then event.source end as source,
    case when metered.tenant_id is not null then event.resource_id end as resource_id,
    case when metered.tenant_id is not null then event.meta::text end as meta
from events as event
left join metered on event.tenant_id = metered.tenant_id
where
    event.xid >= $1::xid8
    and event.xid < $2::xid8
    and not exists (
        select from event_voids as void
        where void.seq = event.seq
    );

-- name: keep_snapshot
-- Every read from here to the end of the transaction sees the same state.
set local transaction_isolation = 'repeatable read';

-- name: scan_day
-- The events of day $4, the time range [$1, $2), that the fold has read (xid below $3) and that count: neither voided
-- nor withheld by a late adjustment; any order. Of $5 shares of the customers, aliases with whom they mean, the one
-- numbered $6; with a single share the planner drops what chooses it.
with metered as (
    select distinct tenant_id from meters
),

late as materialized (
    select
        event_seq,
        status
    from adjustments
    where
        reason = 'late_event'
        and day = $4::date
),

voided as materialized (
    select seq
    from event_voids
    where
        ts >= $1
        and ts < $2
)

select
    event.tenant_id,
    event.customer_ref,
    event.metric,
    event.ts,
    event.seq,
    event.quantity::text as quantity,
    event.received_at,
    event.source in ('import', 'etl') or event.backfill_id is not null as is_history,
    coalesce(late.status = 'approved', false) as is_late,
    case when metered.tenant_id is not null then event.source end as source,
    case when metered.tenant_id is not null then event.resource_id end as resource_id,
    case when metered.tenant_id is not null then event.meta::text end as meta
from events as event
left join metered on event.tenant_id = metered.tenant_id
left join late on event.seq = late.event_seq
left join customer_aliases as alias
    on
        event.tenant_id = alias.tenant_id
        and event.customer_ref = alias.alias_ref
where
    event.ts >= $1
    and event.ts < $2
    and event.xid < $3::xid8
    and (late.status is null or late.status in ('approved', 'absorbed'))
    and not exists (
        select from voided
        where voided.seq = event.seq
    )
    and (
        $5::bigint = 1
        or mod(hashtextextended(coalesce(alias.customer_ref, event.customer_ref), 0) & 9223372036854775807, $5::bigint)
        = $6::bigint
    );

-- name: scan_counters
-- The counters of day $1, shape COUNTERS but for the sum: whole units and fraction of the stored one, as text.
select
    tenant_id,
    customer_ref,
    meter,
    day,
    segment_start,
    dimensions,
    is_late,
    event_count,
    primary_count,
    trunc(quantity_sum)::text as sum_whole,
    (quantity_sum - trunc(quantity_sum))::text as sum_fraction,
    quantity_min::text as quantity_min,
    quantity_max::text as quantity_max,
    quantity_last::text as quantity_last,
    last_ts,
    last_seq,
    first_ts,
    trim_scale(unit_microseconds)::text as unit_microseconds
from counters
where day = $1;

-- name: scan_items
-- The items of day $1, shape COUNTER_ITEMS.
select
    tenant_id,
    customer_ref,
    meter,
    day,
    segment_start,
    dimensions,
    is_late,
    item,
    item_count
from counter_items
where day = $1;

-- name: scan_archive_day
-- Every event of day $4, the time range [$1, $2), that the fold has read (xid below $3): every column that means
-- something outside this cluster (xid does not), and whether it counts.
with late as materialized (
    select
        event_seq,
        status
    from adjustments
    where
        reason = 'late_event'
        and day = $4::date
),

voided as materialized (
    select seq
    from event_voids
    where
        ts >= $1
        and ts < $2
)

select
    event.tenant_id,
    event.metric,
    event.customer_ref,
    event.ts,
    event.seq,
    event.quantity::text as quantity,
    event.received_at,
    event.source,
    event.idempotency_key,
    event.resource_id,
    event.meta::text as meta,
    event.backfill_id::text as backfill_id,
    case
        when voided.seq is not null then 'voided'
        when late.status = 'approved' then 'late'
        when late.status in ('pending', 'rejected', 'reverted') then 'withheld'
        else 'counted'
    end as state
from events as event
left join late on event.seq = late.event_seq
left join voided on event.seq = voided.seq
where
    event.ts >= $1
    and event.ts < $2
    and event.xid < $3::xid8;
