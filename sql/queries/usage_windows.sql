-- Usage by window and group. Windows come as their edges, so days of any zone and minutes are one rule for both readers.
-- Both answer the same columns, one row per window and group with events; without any, one row whose window is null,
-- because how far the fold is (the first columns) is always answered. How a metric counts is said as in usage.sql, where
-- other names of customers, voids and adjustments are explained as well. A manual adjustment lies at its effective_at;
-- it is of a customer and metric alone, so finer groups and filters leave it out.

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

alias as materialized (
    select
        alias_ref,
        customer_ref
    from customer_aliases
    where tenant_id = %(tenant_id)s
),

own as materialized (
    select distinct coalesce(alias.customer_ref, asked.ref) as ref
    from unnest(%(customer_refs)s::text[]) as asked (ref)
    left join alias on asked.ref = alias.alias_ref
),

known as materialized (
    select own.ref from own
    union all
    select alias.alias_ref as ref
    from alias
    inner join own on alias.customer_ref = own.ref
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
        0 as pending,
        null::numeric as delta
    from counters
    where
        tenant_id = %(tenant_id)s
        and meter = %(metric)s
        and (%(customer_refs)s::text[] is null or customer_ref = any(array(select own.ref from own)))
        and day >= (%(from_ts)s::timestamptz at time zone 'UTC')::date
        and day < (%(until_ts)s::timestamptz at time zone 'UTC')::date
    union all
    select
        width_bucket(event.ts, %(edges)s::timestamptz[]) as slot,
        case when %(group_by)s = 'customerRef' then coalesce(alias.customer_ref, event.customer_ref) end as group_value,
        coalesce(alias.customer_ref, event.customer_ref) as customer_ref,
        1 as event_count,
        event.quantity as quantity_sum,
        event.quantity as quantity_min,
        event.quantity as quantity_max,
        event.quantity as quantity_last,
        event.ts as last_ts,
        event.seq as last_seq,
        1 as pending,
        null::numeric as delta
    from events as event
    left join alias on event.customer_ref = alias.alias_ref
    where
        event.xid >= coalesce((select folded_below from cursor), '0'::xid8)
        and event.tenant_id = %(tenant_id)s
        and event.metric = %(metric)s
        and (
            %(customer_refs)s::text[] is null
            or (
                hashtextextended(event.customer_ref, 0) = any(array(select hashtextextended(known.ref, 0) from known))
                and event.customer_ref = any(array(select known.ref from known))
            )
        )
        and event.ts >= %(from_ts)s::timestamptz
        and event.ts < %(until_ts)s::timestamptz
        and event.seq <> all(%(withheld)s::bigint[])
        and not exists (
            select from event_voids as void
            where void.seq = event.seq
        )
    union all
    select
        width_bucket(adjustment.effective_at, %(edges)s::timestamptz[]) as slot,
        case
            when %(group_by)s = 'customerRef' then coalesce(alias.customer_ref, adjustment.customer_ref)
        end as group_value,
        coalesce(alias.customer_ref, adjustment.customer_ref) as customer_ref,
        0 as event_count,
        null::numeric as quantity_sum,
        null::numeric as quantity_min,
        null::numeric as quantity_max,
        null::numeric as quantity_last,
        null::timestamptz as last_ts,
        null::bigint as last_seq,
        0 as pending,
        adjustment.delta
    from adjustments as adjustment
    left join alias on adjustment.customer_ref = alias.alias_ref
    where
        adjustment.tenant_id = %(tenant_id)s
        and adjustment.metric = %(metric)s
        and (%(customer_refs)s::text[] is null or adjustment.customer_ref = any(array(select known.ref from known)))
        and adjustment.effective_at >= %(from_ts)s::timestamptz
        and adjustment.effective_at < %(until_ts)s::timestamptz
        and adjustment.reason <> 'late_event'
        and adjustment.status = 'approved'
        and %(unique_of)s = 'none'
),

cell as (
    select
        slot,
        group_value,
        sum(event_count)::bigint as event_count,
        coalesce(sum(quantity_sum), 0) as quantity_sum,
        min(quantity_min) as quantity_min,
        max(quantity_max) as quantity_max,
        (array_agg(quantity_last order by last_ts desc nulls last, last_seq desc))[1] as quantity_last,
        case when %(unique_of)s = 'customerRef' then count(distinct customer_ref) end as unique_count,
        coalesce(sum(delta), 0) as adjusted,
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
    (
        select coalesce(sum(waiting.last_day - waiting.next_day + 1), 0)::bigint
        from slice_recounts as waiting
        where waiting.tenant_id = %(tenant_id)s
    ) as recount_days,
    cell.slot,
    cell.group_value,
    cell.event_count,
    cell.quantity_sum,
    cell.quantity_min,
    cell.quantity_max,
    cell.quantity_last,
    cell.unique_count,
    cell.adjusted
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

alias as materialized (
    select
        alias_ref,
        customer_ref
    from customer_aliases
    where tenant_id = %(tenant_id)s
),

own as materialized (
    select distinct coalesce(alias.customer_ref, asked.ref) as ref
    from unnest(%(customer_refs)s::text[]) as asked (ref)
    left join alias on asked.ref = alias.alias_ref
),

known as materialized (
    select own.ref from own
    union all
    select alias.alias_ref as ref
    from alias
    inner join own on alias.customer_ref = own.ref
),

-- Events that do not count: voided, or late and not approved; as they were at the knowledge time.
gone as materialized (
    select void.seq
    from event_voids as void
    where
        void.tenant_id = %(tenant_id)s
        and void.ts >= %(from_ts)s::timestamptz
        and void.ts < %(until_ts)s::timestamptz
        and (%(known_at)s::timestamptz is null or void.voided_at <= %(known_at)s::timestamptz)
    union all
    select late.event_seq as seq
    from adjustments as late
    where
        late.reason = 'late_event'
        and late.tenant_id = %(tenant_id)s
        and late.metric = %(metric)s
        and late.effective_at >= %(from_ts)s::timestamptz
        and late.effective_at < %(until_ts)s::timestamptz
        and case
            when %(known_at)s::timestamptz is null then late.status
            else coalesce(
                (
                    select step.status_after
                    from adjustment_transitions as step
                    where step.adjustment_id = late.id and step.happened_at <= %(known_at)s::timestamptz
                    order by step.id desc
                    limit 1
                ),
                -- Not folded then: a read judged it as its fold did.
                (
                    select first.status_after
                    from adjustment_transitions as first
                    where first.adjustment_id = late.id
                    order by first.id
                    limit 1
                )
            )
        end in ('pending', 'rejected', 'reverted')
),

matching as materialized (
    select
        width_bucket(event.ts, %(edges)s::timestamptz[]) as slot,
        case %(group_by)s
            when 'customerRef' then coalesce(alias.customer_ref, event.customer_ref)
            when 'source' then event.source
            when 'resourceId' then event.resource_id
            when 'meta' then event.meta #>> %(group_path)s::text[]
        end as group_value,
        case %(unique_of)s
            when 'customerRef' then coalesce(alias.customer_ref, event.customer_ref)
            when 'resourceId' then event.resource_id
        end as unique_value,
        event.quantity,
        event.ts,
        event.seq,
        event.xid
    from events as event
    left join alias on event.customer_ref = alias.alias_ref
    where
        event.tenant_id = %(tenant_id)s
        and event.metric = %(metric)s
        and event.ts >= %(from_ts)s::timestamptz
        and event.ts < %(until_ts)s::timestamptz
        and (%(customer_refs)s::text[] is null or event.customer_ref = any(array(select known.ref from known)))
        and (%(source)s::text is null or event.source = %(source)s::text)
        and (%(resource_id)s::text is null or event.resource_id = %(resource_id)s::text)
        and (%(known_at)s::timestamptz is null or event.received_at <= %(known_at)s::timestamptz)
        and (
            %(meta_filters)s::jsonb is null
            or not exists (
                select
                from jsonb_array_elements(%(meta_filters)s::jsonb) as asked (pair)
                where
                    (event.meta #>> array(select jsonb_array_elements_text(asked.pair -> 0)))
                    is distinct from (asked.pair ->> 1)
            )
        )
        and event.seq <> all(%(withheld)s::bigint[])
        and not exists (
            select from gone
            where gone.seq = event.seq
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

counted as materialized (
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

adjusted as materialized (
    select
        width_bucket(adjustment.effective_at, %(edges)s::timestamptz[]) as slot,
        case
            when %(group_by)s = 'customerRef' then coalesce(alias.customer_ref, adjustment.customer_ref)
        end as group_value,
        sum(adjustment.delta) as delta
    from adjustments as adjustment
    left join alias on adjustment.customer_ref = alias.alias_ref
    where
        adjustment.tenant_id = %(tenant_id)s
        and adjustment.metric = %(metric)s
        and (%(customer_refs)s::text[] is null or adjustment.customer_ref = any(array(select known.ref from known)))
        and adjustment.effective_at >= %(from_ts)s::timestamptz
        and adjustment.effective_at < %(until_ts)s::timestamptz
        and adjustment.reason <> 'late_event'
        and case
            when %(known_at)s::timestamptz is null then adjustment.status
            else (
                select step.status_after
                from adjustment_transitions as step
                where step.adjustment_id = adjustment.id and step.happened_at <= %(known_at)s::timestamptz
                order by step.id desc
                limit 1
            )
        end = 'approved'
        and %(unique_of)s = 'none'
        and %(group_by)s in ('none', 'customerRef')
        and %(source)s::text is null
        and %(resource_id)s::text is null
        and %(meta_filters)s::jsonb is null
    group by slot, group_value
),

cell as materialized (
    select
        coalesce(counted.slot, adjusted.slot) as slot,
        coalesce(counted.group_value, adjusted.group_value) as group_value,
        coalesce(counted.event_count, 0) as event_count,
        coalesce(counted.quantity_sum, 0) as quantity_sum,
        counted.quantity_min,
        counted.quantity_max,
        counted.unique_count,
        coalesce(adjusted.delta, 0) as adjusted,
        coalesce(counted.pending, 0) as pending
    from counted
    full join adjusted
        on
            counted.slot = adjusted.slot
            and coalesce(counted.group_value, '') = coalesce(adjusted.group_value, '')
            and (counted.group_value is null) = (adjusted.group_value is null)
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
    (
        select coalesce(sum(waiting.last_day - waiting.next_day + 1), 0)::bigint
        from slice_recounts as waiting
        where waiting.tenant_id = %(tenant_id)s
    ) as recount_days,
    cell.slot,
    cell.group_value,
    cell.event_count,
    cell.quantity_sum,
    cell.quantity_min,
    cell.quantity_max,
    newest.quantity_last,
    cell.unique_count,
    cell.adjusted
from (select 1) as once
left join cell on true
left join newest
    on
        cell.slot = newest.slot
        and coalesce(cell.group_value, '') = coalesce(newest.group_value, '')
        and (cell.group_value is null) = (newest.group_value is null)
order by cell.slot, cell.group_value collate "C" nulls first
limit %(most_cells)s;
