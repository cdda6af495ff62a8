-- Usage as of now: the counters, plus the ledger rows the fold has not read yet, plus what people adjusted, in one
-- statement and so one snapshot.
-- How a meter counts is said by its price mapping: the live one, else the shadow one, else the newest that is off.
-- A reference that is another name of a customer reads that customer, whose unfolded events may come under each name.
-- The tail is narrowed by hash inside the index events_tail; comparing customer_ref itself settles collisions. An unfolded
-- event that may be late is for the rulebook to judge: oldest_at says how old they are, window_seconds the tenant's
-- shortest window, and the caller asks metered_usage.sql instead. Imported history is never late.
-- All lanes and dimensions of a counter add up. The meter '' holds what no meter counts, and is nobody's usage.

-- name: load_current_usage
-- One row per meter of a customer over the days [first_on, last_on], sorted by meter; one row with a null meter when
-- there is none, because how far the fold is (the first columns) is always answered. With has_rules the numbers are not
-- to be used: meters or billing phases say what and when to count, or a last value may be in force from before
-- (metered_usage.sql).
with cursor as materialized (
    select
        folded_below,
        advanced_at,
        system_identifier
    from fold_cursors
    where name = 'counters'
),

own as materialized (
    select
        coalesce(
            (
                select a.customer_ref
                from customer_aliases as a
                where a.tenant_id = %(tenant_id)s and a.alias_ref = %(customer_ref)s::text
            ),
            %(customer_ref)s::text
        ) as customer_ref
),

known as materialized (
    select own.customer_ref as ref from own
    union all
    select a.alias_ref as ref
    from customer_aliases as a
    where a.tenant_id = %(tenant_id)s and a.customer_ref = (select own.customer_ref from own)
),

part as (
    select
        meter,
        event_count,
        quantity_sum,
        quantity_min,
        quantity_max,
        quantity_last,
        last_ts,
        last_seq,
        0 as pending,
        null::timestamptz as oldest_at,
        null::numeric as delta
    from counters
    where
        tenant_id = %(tenant_id)s
        and customer_ref = (select own.customer_ref from own)
        and (%(metric)s::text is null or meter = %(metric)s::text)
        and meter <> ''
        and day between %(first_on)s::date and %(last_on)s::date
    union all
    select
        metric as meter,
        1 as event_count,
        quantity as quantity_sum,
        quantity as quantity_min,
        quantity as quantity_max,
        quantity as quantity_last,
        ts as last_ts,
        seq as last_seq,
        1 as pending,
        case when source not in ('import', 'etl') and backfill_id is null then ts end as oldest_at,
        null::numeric as delta
    from events
    where
        xid >= coalesce((select folded_below from cursor), '0'::xid8)
        and hashtextextended(customer_ref, 0) = any(array(select hashtextextended(known.ref, 0) from known))
        and tenant_id = %(tenant_id)s
        and customer_ref = any(array(select known.ref from known))
        and (%(metric)s::text is null or metric = %(metric)s::text)
        and ts >= %(first_on)s::date::timestamp at time zone 'UTC'
        and ts < (%(last_on)s::date + 1)::timestamp at time zone 'UTC'
        and not exists (
            select from event_voids as void
            where void.seq = events.seq
        )
    union all
    select
        metric as meter,
        0 as event_count,
        null::numeric as quantity_sum,
        null::numeric as quantity_min,
        null::numeric as quantity_max,
        null::numeric as quantity_last,
        null::timestamptz as last_ts,
        null::bigint as last_seq,
        0 as pending,
        null::timestamptz as oldest_at,
        delta
    from adjustments
    where
        tenant_id = %(tenant_id)s
        and customer_ref = any(array(select known.ref from known))
        and (%(metric)s::text is null or metric = %(metric)s::text)
        and day between %(first_on)s::date and %(last_on)s::date
        and reason <> 'late_event'
        and status = 'approved'
),

merged as (
    select
        meter,
        sum(event_count)::bigint as event_count,
        coalesce(sum(quantity_sum), 0) as quantity_sum,
        min(quantity_min) as quantity_min,
        max(quantity_max) as quantity_max,
        (array_agg(quantity_last order by last_ts desc nulls last, last_seq desc))[1] as quantity_last,
        sum(pending)::bigint as pending,
        min(oldest_at) as oldest_at,
        coalesce(sum(delta), 0) as adjusted
    from part
    group by meter
)

select
    (select advanced_at from cursor) as advanced_at,
    coalesce(
        (select system_identifier from cursor) <> (select system_identifier from pg_control_system()), false
    ) as is_foreign,
    (
        select coalesce(sum(waiting.last_day - waiting.next_day + 1), 0)::bigint
        from slice_recounts as waiting
        where waiting.tenant_id = %(tenant_id)s
    ) as recount_days,
    (select own.customer_ref from own) as customer_ref,
    (
        select mapping.aggregation
        from price_mappings as mapping
        where mapping.tenant_id = %(tenant_id)s and mapping.meter = merged.meter
        order by mapping.mode = 'live' desc, mapping.mode = 'shadow' desc, mapping.created_at desc, mapping.id
        limit 1
    ) as aggregation,
    merged.meter,
    merged.event_count,
    merged.quantity_sum,
    merged.quantity_min,
    merged.quantity_max,
    merged.quantity_last,
    merged.adjusted,
    merged.pending,
    (
        exists (
            select from meters
            where meters.tenant_id = %(tenant_id)s
        )
        or exists (
            select from billing_phases as phase
            where
                phase.tenant_id = %(tenant_id)s
                and phase.customer_ref = (select own.customer_ref from own)
        )
        or exists (
            select from price_mappings as lasting
            where
                lasting.tenant_id = %(tenant_id)s
                and lasting.aggregation = 'last'
                and (%(metric)s::text is null or lasting.meter = %(metric)s::text)
        )
    ) as has_rules,
    merged.oldest_at,
    case
        when merged.oldest_at is not null then (
            select min(own_window.window_seconds)
            from lateness_windows as own_window
            where own_window.tenant_id = %(tenant_id)s
        )
    end as window_seconds
from (select 1) as once
left join merged on true
order by merged.meter collate "C";

-- name: load_usage_history
-- As load_current_usage, one row per bucket (UTC day or month, by its first day) of one metric, sorted by bucket.
with cursor as materialized (
    select
        folded_below,
        advanced_at,
        system_identifier
    from fold_cursors
    where name = 'counters'
),

own as materialized (
    select
        coalesce(
            (
                select a.customer_ref
                from customer_aliases as a
                where a.tenant_id = %(tenant_id)s and a.alias_ref = %(customer_ref)s::text
            ),
            %(customer_ref)s::text
        ) as customer_ref
),

known as materialized (
    select own.customer_ref as ref from own
    union all
    select a.alias_ref as ref
    from customer_aliases as a
    where a.tenant_id = %(tenant_id)s and a.customer_ref = (select own.customer_ref from own)
),

part as (
    select
        date_trunc(%(step)s, day::timestamp)::date as bucket,
        event_count,
        quantity_sum,
        quantity_min,
        quantity_max,
        quantity_last,
        last_ts,
        last_seq,
        0 as pending,
        null::timestamptz as oldest_at,
        null::numeric as delta
    from counters
    where
        tenant_id = %(tenant_id)s
        and customer_ref = (select own.customer_ref from own)
        and meter = %(metric)s
        and day between %(first_on)s::date and %(last_on)s::date
    union all
    select
        date_trunc(%(step)s, ts at time zone 'UTC')::date as bucket,
        1 as event_count,
        quantity as quantity_sum,
        quantity as quantity_min,
        quantity as quantity_max,
        quantity as quantity_last,
        ts as last_ts,
        seq as last_seq,
        1 as pending,
        case when source not in ('import', 'etl') and backfill_id is null then ts end as oldest_at,
        null::numeric as delta
    from events
    where
        xid >= coalesce((select folded_below from cursor), '0'::xid8)
        and hashtextextended(customer_ref, 0) = any(array(select hashtextextended(known.ref, 0) from known))
        and tenant_id = %(tenant_id)s
        and customer_ref = any(array(select known.ref from known))
        and metric = %(metric)s
        and ts >= %(first_on)s::date::timestamp at time zone 'UTC'
        and ts < (%(last_on)s::date + 1)::timestamp at time zone 'UTC'
        and not exists (
            select from event_voids as void
            where void.seq = events.seq
        )
    union all
    select
        date_trunc(%(step)s, day::timestamp)::date as bucket,
        0 as event_count,
        null::numeric as quantity_sum,
        null::numeric as quantity_min,
        null::numeric as quantity_max,
        null::numeric as quantity_last,
        null::timestamptz as last_ts,
        null::bigint as last_seq,
        0 as pending,
        null::timestamptz as oldest_at,
        delta
    from adjustments
    where
        tenant_id = %(tenant_id)s
        and customer_ref = any(array(select known.ref from known))
        and metric = %(metric)s
        and day between %(first_on)s::date and %(last_on)s::date
        and reason <> 'late_event'
        and status = 'approved'
),

merged as (
    select
        bucket,
        sum(event_count)::bigint as event_count,
        coalesce(sum(quantity_sum), 0) as quantity_sum,
        min(quantity_min) as quantity_min,
        max(quantity_max) as quantity_max,
        (array_agg(quantity_last order by last_ts desc nulls last, last_seq desc))[1] as quantity_last,
        sum(pending)::bigint as pending,
        min(oldest_at) as oldest_at,
        coalesce(sum(delta), 0) as adjusted
    from part
    group by bucket
)

select
    (select advanced_at from cursor) as advanced_at,
    coalesce(
        (select system_identifier from cursor) <> (select system_identifier from pg_control_system()), false
    ) as is_foreign,
    (
        select coalesce(sum(waiting.last_day - waiting.next_day + 1), 0)::bigint
        from slice_recounts as waiting
        where waiting.tenant_id = %(tenant_id)s
    ) as recount_days,
    (select own.customer_ref from own) as customer_ref,
    (
        select mapping.aggregation
        from price_mappings as mapping
        where mapping.tenant_id = %(tenant_id)s and mapping.meter = %(metric)s
        order by mapping.mode = 'live' desc, mapping.mode = 'shadow' desc, mapping.created_at desc, mapping.id
        limit 1
    ) as aggregation,
    merged.bucket,
    merged.event_count,
    merged.quantity_sum,
    merged.quantity_min,
    merged.quantity_max,
    merged.quantity_last,
    merged.adjusted,
    merged.pending,
    exists(
        select from meters
        where meters.tenant_id = %(tenant_id)s and meters.name = %(metric)s
    ) as has_rules,
    merged.oldest_at,
    case
        when merged.oldest_at is not null then (
            select min(own_window.window_seconds)
            from lateness_windows as own_window
            where own_window.tenant_id = %(tenant_id)s
        )
    end as window_seconds
from (select 1) as once
left join merged on true
order by merged.bucket;
