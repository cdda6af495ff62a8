-- Listing the ledger and its quarantine, page by page. How a page is found is told in store/listing.py.

-- name: begin_snapshot
-- Every statement of the transaction sees one instant, so what the counters say of a day holds for its ledger rows.
set local transaction_isolation = 'repeatable read';

-- name: limit_time
-- A listing that would read the whole ledger is cut off instead of starving the others.
set local statement_timeout = '15s';

-- name: has_own_rules
-- Whether the tenant's counters may hold other numbers of events than its ledger, under other names, on other days.
select
    exists (
        select from meters
        where tenant_id = %(tenant_id)s
    )
    or exists (
        select from customer_aliases
        where tenant_id = %(tenant_id)s
    )
    or exists (
        select from event_voids
        where tenant_id = %(tenant_id)s
    )
    or exists (
        select from adjustments
        where tenant_id = %(tenant_id)s
    ) as has_own_rules;

-- name: load_span
-- One row: first and last day with counted events of anybody or uncounted ones of this tenant; nulls when there is none.
with cursor as materialized (
    select
        folded_below,
        system_identifier
    from fold_cursors
    where name = 'counters'
),

tail as (
    select
        (min(ts) at time zone 'UTC')::date as first_on,
        (max(ts) at time zone 'UTC')::date as last_on
    from events
    where
        tenant_id = %(tenant_id)s
        and xid >= coalesce((select folded_below from cursor), '0'::xid8)
)

select
    coalesce(
        (select system_identifier from cursor) <> (select system_identifier from pg_control_system()), false
    ) as is_foreign,
    least(tail.first_on, (select min(day) from counter_days)) as first_on,
    greatest(tail.last_on, (select max(day) from counter_days)) as last_on
from tail;

-- name: load_days
-- One row per UTC day in [first_on, last_on] on which the tenant has matching events: how many, and the newest ts.
with cursor as materialized (
    select folded_below from fold_cursors
    where name = 'counters'
),

part as (
    select
        day,
        event_count,
        last_ts
    from counters
    where
        tenant_id = %(tenant_id)s
        and day between %(first_on)s::date and %(last_on)s::date
        and (%(metric)s::text is null or meter = %(metric)s::text)
        and (%(customer_ref)s::text is null or customer_ref = %(customer_ref)s::text)
    union all
    select
        (ts at time zone 'UTC')::date as day,
        1 as event_count,
        ts as last_ts
    from events
    where
        tenant_id = %(tenant_id)s
        and xid >= coalesce((select folded_below from cursor), '0'::xid8)
        and ts >= %(first_on)s::date::timestamp at time zone 'UTC'
        and ts < (%(last_on)s::date + 1)::timestamp at time zone 'UTC'
        and (%(metric)s::text is null or metric = %(metric)s::text)
        and (
            %(customer_ref)s::text is null
            or (
                hashtextextended(customer_ref, 0) = hashtextextended(%(customer_ref)s::text, 0)
                and customer_ref = %(customer_ref)s::text
            )
        )
)

select
    day,
    sum(event_count)::bigint as event_count,
    max(last_ts) as newest_ts
from part
group by day
order by day;

-- name: load_days_by_ledger
-- As load_days, from the ledger alone.
select
    (ts at time zone 'UTC')::date as day,
    count(*) as event_count,
    max(ts) as newest_ts
from events
where
    tenant_id = %(tenant_id)s
    and ts >= %(first_on)s::date::timestamp at time zone 'UTC'
    and ts < (%(last_on)s::date + 1)::timestamp at time zone 'UTC'
    and (%(metric)s::text is null or metric = %(metric)s::text)
    and (%(customer_ref)s::text is null or customer_ref = %(customer_ref)s::text)
group by day
order by day;

-- name: count_by_counters
-- How many events of the tenant match, from the counters and the unfolded tail: no source, no times.
with cursor as materialized (
    select folded_below from fold_cursors
    where name = 'counters'
),

part as (
    select event_count
    from counters
    where
        tenant_id = %(tenant_id)s
        and (%(metric)s::text is null or meter = %(metric)s::text)
        and (%(customer_ref)s::text is null or customer_ref = %(customer_ref)s::text)
    union all
    select count(*) as event_count
    from events
    where
        tenant_id = %(tenant_id)s
        and xid >= coalesce((select folded_below from cursor), '0'::xid8)
        and (%(metric)s::text is null or metric = %(metric)s::text)
        and (
            %(customer_ref)s::text is null
            or (
                hashtextextended(customer_ref, 0) = hashtextextended(%(customer_ref)s::text, 0)
                and customer_ref = %(customer_ref)s::text
            )
        )
)

select coalesce(sum(event_count), 0)::bigint from part;

-- name: count_by_ledger
-- How many events of the tenant match, counted one by one.
select count(*)
from events
where
    tenant_id = %(tenant_id)s
    and (%(metric)s::text is null or metric = %(metric)s::text)
    and (%(customer_ref)s::text is null or customer_ref = %(customer_ref)s::text)
    and (%(source)s::text is null or source = %(source)s::text)
    and (%(from_ts)s::timestamptz is null or ts >= %(from_ts)s::timestamptz)
    and (%(until_ts)s::timestamptz is null or ts <= %(until_ts)s::timestamptz);

-- name: load_newest_first
-- Matching events of [first_ts, last_ts] beyond the key (after_ts, after_seq), newest first.
select
    seq,
    idempotency_key,
    tenant_id,
    metric,
    customer_ref,
    resource_id,
    quantity,
    ts,
    received_at,
    meta::text as meta,
    source,
    (
        select void.voided_at from event_voids as void
        where void.seq = events.seq
    ) as voided_at,
    (
        select void.replacement_key from event_voids as void
        where void.seq = events.seq
    ) as replaced_by
from events
where
    tenant_id = %(tenant_id)s
    and ts >= %(first_ts)s
    and ts <= %(last_ts)s
    and (%(after_seq)s::bigint is null or (ts, seq) < (%(after_ts)s::timestamptz, %(after_seq)s::bigint))
    and (%(metric)s::text is null or metric = %(metric)s::text)
    and (%(customer_ref)s::text is null or customer_ref = %(customer_ref)s::text)
    and (%(source)s::text is null or source = %(source)s::text)
order by ts desc, seq desc
limit %(most)s;

-- name: load_oldest_first
-- As load_newest_first, the other way round.
select
    seq,
    idempotency_key,
    tenant_id,
    metric,
    customer_ref,
    resource_id,
    quantity,
    ts,
    received_at,
    meta::text as meta,
    source,
    (
        select void.voided_at from event_voids as void
        where void.seq = events.seq
    ) as voided_at,
    (
        select void.replacement_key from event_voids as void
        where void.seq = events.seq
    ) as replaced_by
from events
where
    tenant_id = %(tenant_id)s
    and ts >= %(first_ts)s
    and ts <= %(last_ts)s
    and (%(after_seq)s::bigint is null or (ts, seq) > (%(after_ts)s::timestamptz, %(after_seq)s::bigint))
    and (%(metric)s::text is null or metric = %(metric)s::text)
    and (%(customer_ref)s::text is null or customer_ref = %(customer_ref)s::text)
    and (%(source)s::text is null or source = %(source)s::text)
order by ts, seq
limit %(most)s;

-- name: load_by_text_ascending
-- Matching events beyond the key (after_text, after_seq), by one of their texts.
select
    seq,
    idempotency_key,
    tenant_id,
    metric,
    customer_ref,
    resource_id,
    quantity,
    ts,
    received_at,
    meta::text as meta,
    source,
    (
        select void.voided_at from event_voids as void
        where void.seq = matching.seq
    ) as voided_at,
    (
        select void.replacement_key from event_voids as void
        where void.seq = matching.seq
    ) as replaced_by
from (
    select
        *,
        case %(sort)s when 'metric' then metric when 'customerRef' then customer_ref else source end
        collate "C" as sort_text
    from events
    where
        tenant_id = %(tenant_id)s
        and (%(metric)s::text is null or metric = %(metric)s::text)
        and (%(customer_ref)s::text is null or customer_ref = %(customer_ref)s::text)
        and (%(source)s::text is null or source = %(source)s::text)
        and (%(from_ts)s::timestamptz is null or ts >= %(from_ts)s::timestamptz)
        and (%(until_ts)s::timestamptz is null or ts <= %(until_ts)s::timestamptz)
) as matching
where %(after_seq)s::bigint is null or (sort_text, seq) > (%(after_text)s::text, %(after_seq)s::bigint)
order by sort_text, seq
limit %(most)s;

-- name: load_by_text_descending
-- As load_by_text_ascending, the other way round.
select
    seq,
    idempotency_key,
    tenant_id,
    metric,
    customer_ref,
    resource_id,
    quantity,
    ts,
    received_at,
    meta::text as meta,
    source,
    (
        select void.voided_at from event_voids as void
        where void.seq = matching.seq
    ) as voided_at,
    (
        select void.replacement_key from event_voids as void
        where void.seq = matching.seq
    ) as replaced_by
from (
    select
        *,
        case %(sort)s when 'metric' then metric when 'customerRef' then customer_ref else source end
        collate "C" as sort_text
    from events
    where
        tenant_id = %(tenant_id)s
        and (%(metric)s::text is null or metric = %(metric)s::text)
        and (%(customer_ref)s::text is null or customer_ref = %(customer_ref)s::text)
        and (%(source)s::text is null or source = %(source)s::text)
        and (%(from_ts)s::timestamptz is null or ts >= %(from_ts)s::timestamptz)
        and (%(until_ts)s::timestamptz is null or ts <= %(until_ts)s::timestamptz)
) as matching
where %(after_seq)s::bigint is null or (sort_text, seq) < (%(after_text)s::text, %(after_seq)s::bigint)
order by sort_text desc, seq desc
limit %(most)s;

-- name: load_conflicts
-- A tenant's conflicts beyond a key, newest first; what stands is found by the exact ts its key remembers.
select
    refused.key_hash,
    refused.payload_hash,
    refused.first_received_at,
    refused.last_received_at,
    refused.times_received,
    refused.idempotency_key,
    refused.metric,
    refused.customer_ref,
    refused.resource_id,
    refused.quantity,
    refused.ts,
    refused.meta::text as meta,
    refused.source,
    standing.metric as standing_metric,
    standing.customer_ref as standing_customer_ref,
    standing.resource_id as standing_resource_id,
    standing.quantity as standing_quantity,
    standing.ts as standing_ts,
    standing.meta::text as standing_meta,
    standing.source as standing_source,
    standing.received_at as standing_received_at
from event_conflicts as refused
left join event_keys as taken on refused.key_hash = taken.key_hash
left join lateral (
    select
        event.metric,
        event.customer_ref,
        event.resource_id,
        event.quantity,
        event.ts,
        event.meta,
        event.source,
        event.received_at
    from events as event
    where
        event.ts = taken.ts
        and event.tenant_id = refused.tenant_id
        and event.idempotency_key = refused.idempotency_key
    limit 1
) as standing on true
where
    refused.tenant_id = %(tenant_id)s
    and (
        %(after_key_hash)s::uuid is null
        or (refused.first_received_at, refused.key_hash, refused.payload_hash)
        < (%(after_at)s::timestamptz, %(after_key_hash)s::uuid, %(after_payload_hash)s::bigint)
    )
order by refused.first_received_at desc, refused.key_hash desc, refused.payload_hash desc
limit %(most)s;
