-- Usage by window and group. Windows come as their edges, so days of any zone and minutes are one rule for both readers.
-- Both answer the same columns, one row per window and group with events; without any, one row whose window is null,
-- because how far the fold is (the first columns) is always answered. How a metric counts is said as in usage.sql.

-- name: limit_time
-- Work beyond the time allowed is cut off by the server; parameter: milliseconds as text.
select set_config('statement_timeout', %(timeout)s, true);

-- name: load_from_counters
-- From the counters of whole UTC days and the unfolded tail: every edge is a UTC midnight, groups are none or customers.
with cursor as materialized (
    select
        folded_below,
        advanced_at,
        system_identifier
    from fold_cursors
    where name = 'counters'
),

part as (
    select
        width_bucket(day::timestamp at time zone 'UTC', %(edges)s::timestamptz[]) as slot,
        case when %(group_by)s = 'customerRef' then customer_ref end as group_value,
        customer_ref,
        event_count,
        quantity_sum,
        quantity_min,
        quantity_max,
        quantity_last,
        last_ts,
        last_seq,
        0 as pending
    from counters
    where
        tenant_id = %(tenant_id)s
        and meter = %(metric)s
        and (%(customer_refs)s::text[] is null or customer_ref = any(%(customer_refs)s::text[]))
        and day >= (%(from_ts)s::timestamptz at time zone 'UTC')::date
        and day < (%(until_ts)s::timestamptz at time zone 'UTC')::date
    union all
    select
        width_bucket(ts, %(edges)s::timestamptz[]) as slot,
        case when %(group_by)s = 'customerRef' then customer_ref end as group_value,
        customer_ref,
        1 as event_count,
        quantity as quantity_sum,
        quantity as quantity_min,
        quantity as quantity_max,
        quantity as quantity_last,
        ts as last_ts,
        seq as last_seq,
        1 as pending
    from events
    where
        xid >= coalesce((select folded_below from cursor), '0'::xid8)
        and tenant_id = %(tenant_id)s
        and metric = %(metric)s
        and (
            %(customer_refs)s::text[] is null
            or (
                hashtextextended(customer_ref, 0) = any(
                    array(select hashtextextended(asked.ref, 0) from unnest(%(customer_refs)s::text[]) as asked (ref))
                )
                and customer_ref = any(%(customer_refs)s::text[])
            )
        )
        and ts >= %(from_ts)s::timestamptz
        and ts < %(until_ts)s::timestamptz
),

cell as (
    select
        slot,
        group_value,
        sum(event_count)::bigint as event_count,
        sum(quantity_sum) as quantity_sum,
        min(quantity_min) as quantity_min,
        max(quantity_max) as quantity_max,
        (array_agg(quantity_last order by last_ts desc, last_seq desc))[1] as quantity_last,
        case when %(unique_of)s = 'customerRef' then count(distinct customer_ref) end as unique_count,
        sum(pending)::bigint as pending
    from part
    group by slot, group_value
),

total as (
    select
        count(distinct group_value) + count(distinct case when group_value is null then 1 end) as group_count,
        sum(pending)::bigint as pending
    from cell
)

select
    (select advanced_at from cursor) as advanced_at,
    coalesce(
        (select system_identifier from cursor) <> (select system_identifier from pg_control_system()), false
    ) as is_foreign,
    (
        select mapping.aggregation
        from price_mappings as mapping
        where mapping.tenant_id = %(tenant_id)s and mapping.meter = %(metric)s
        order by mapping.mode = 'live' desc, mapping.mode = 'shadow' desc, mapping.created_at desc, mapping.id
        limit 1
    ) as aggregation,
    0 as read_count,
    (select group_count from total) as group_count,
    (select pending from total) as pending,
    cell.slot,
    cell.group_value,
    cell.event_count,
    cell.quantity_sum,
    cell.quantity_min,
    cell.quantity_max,
    cell.quantity_last,
    cell.unique_count
from (select 1) as once
left join cell on true
order by cell.slot, cell.group_value collate "C" nulls first
limit %(most_cells)s;

-- name: load_from_ledger
-- From the ledger's own rows: any edges, filters, groups and knowledge time; at most most_events of them are looked at.
with cursor as materialized (
    select
        folded_below,
        advanced_at,
        system_identifier
    from fold_cursors
    where name = 'counters'
),

matching as materialized (
    select
        width_bucket(ts, %(edges)s::timestamptz[]) as slot,
        case %(group_by)s
            when 'customerRef' then customer_ref
            when 'source' then source
            when 'resourceId' then resource_id
            when 'meta' then meta #>> %(group_path)s::text[]
        end as group_value,
        case %(unique_of)s when 'customerRef' then customer_ref when 'resourceId' then resource_id end as unique_value,
        quantity,
        ts,
        seq,
        xid
    from events
    where
        tenant_id = %(tenant_id)s
        and metric = %(metric)s
        and ts >= %(from_ts)s::timestamptz
        and ts < %(until_ts)s::timestamptz
        and (%(customer_refs)s::text[] is null or customer_ref = any(%(customer_refs)s::text[]))
        and (%(source)s::text is null or source = %(source)s::text)
        and (%(resource_id)s::text is null or resource_id = %(resource_id)s::text)
        and (%(known_at)s::timestamptz is null or received_at <= %(known_at)s::timestamptz)
        and (
            %(meta_filters)s::jsonb is null
            or not exists (
                select
                from jsonb_array_elements(%(meta_filters)s::jsonb) as asked (pair)
                where
                    (meta #>> array(select jsonb_array_elements_text(asked.pair -> 0)))
                    is distinct from (asked.pair ->> 1)
            )
        )
    limit %(most_events)s
),

-- Materialized: inlined, the join below would sort all matching rows once per cell.
newest as materialized (
    select distinct on (slot, group_value)
        slot,
        group_value,
        quantity as quantity_last
    from matching
    where %(is_last_asked)s
    order by slot, group_value, ts desc, seq desc
),

cell as materialized (
    select
        slot,
        group_value,
        count(*) as event_count,
        sum(quantity) as quantity_sum,
        min(quantity) as quantity_min,
        max(quantity) as quantity_max,
        case when %(unique_of)s <> 'none' then count(distinct unique_value) end as unique_count,
        count(*) filter (where xid >= coalesce((select folded_below from cursor), '0'::xid8)) as pending
    from matching
    group by slot, group_value
),

total as (
    select
        count(distinct group_value) + count(distinct case when group_value is null then 1 end) as group_count,
        sum(pending)::bigint as pending
    from cell
)

select
    (select advanced_at from cursor) as advanced_at,
    coalesce(
        (select system_identifier from cursor) <> (select system_identifier from pg_control_system()), false
    ) as is_foreign,
    (
        select mapping.aggregation
        from price_mappings as mapping
        where mapping.tenant_id = %(tenant_id)s and mapping.meter = %(metric)s
        order by mapping.mode = 'live' desc, mapping.mode = 'shadow' desc, mapping.created_at desc, mapping.id
        limit 1
    ) as aggregation,
    (select count(*) from matching) as read_count,
    (select group_count from total) as group_count,
    (select pending from total) as pending,
    cell.slot,
    cell.group_value,
    cell.event_count,
    cell.quantity_sum,
    cell.quantity_min,
    cell.quantity_max,
    newest.quantity_last,
    cell.unique_count
from (select 1) as once
left join cell on true
left join newest
    on
        cell.slot = newest.slot
        and coalesce(cell.group_value, '') = coalesce(newest.group_value, '')
        and (cell.group_value is null) = (newest.group_value is null)
order by cell.slot, cell.group_value collate "C" nulls first
limit %(most_cells)s;
