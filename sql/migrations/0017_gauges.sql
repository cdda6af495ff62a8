-- migrate:up
-- Gauges are pushed: meters whose days do not add up, as the change that each day made to the segment's number.

-- squawk-ignore ban-drop-constraint
alter table price_mappings drop constraint price_mappings_additive;
-- squawk-ignore ban-drop-constraint
alter table price_mappings drop constraint price_mappings_aggregation_check;
-- squawk-ignore constraint-missing-not-valid
alter table price_mappings add constraint price_mappings_aggregation_check
check (aggregation in ('sum', 'count', 'min', 'max', 'last', 'unique'));

create table push_segments (
    tenant_id text not null,
    customer_ref text not null,
    meter text not null,
    segment_start timestamptz not null,
    segment_end timestamptz not null,
    pushes_from date not null,
    closes_on date not null,
    primary key (tenant_id, customer_ref, meter, segment_start),
    constraint push_segments_ordered check (segment_start < segment_end and pushes_from <= closes_on)
);
comment on table push_segments is 'Segments of gauges (meters whose days do not add up) that are pushed; a push opens each, whether anything happened in it or not.';
comment on column push_segments.pushes_from is 'The first day that takes deltas: it moves with what Stripe takes, and days before it stay as they were sent.';
comment on column push_segments.closes_on is 'The last day with a whole minute in the segment.';

-- A gauge's number from the segment's start to the end of a day, less the same of the day before, so that the days add up
-- to the segment's number. Days before pushes_from stay as they were sent and the first one that takes deltas is owed
-- what they lack; days after closes_on have no whole minute and are told with it.
create function gauge_changes(mapping price_mappings, binding customer_bindings, segment push_segments)
returns table (day date, counted numeric)
language sql
stable
as $$
    select
        level.day,
        coalesce(level.running, 0) - coalesce(lag(level.running) over (order by level.day), 0) as counted
    from (
        select
            held.day,
            case mapping.aggregation
                when 'max' then max(max(held.quantity_max)) over (order by held.day)
                when 'min' then min(min(held.quantity_min)) over (order by held.day)
                when 'last' then
                    (array_agg(held.quantity_last order by held.last_ts desc nulls last, held.last_seq desc))[1]
            end as running
        from (
            -- What a segment begins with: the last value before it is in force, wherever it was reported.
            select
                segment.pushes_from as day,
                null::numeric as quantity_min,
                null::numeric as quantity_max,
                (
                    select c.quantity_last
                    from counters as c
                    where
                        mapping.aggregation = 'last'
                        and c.tenant_id = mapping.tenant_id
                        and c.customer_ref = binding.customer_ref
                        and c.meter = mapping.meter
                        and c.day <= (segment.segment_start at time zone 'UTC')::date
                        and c.last_ts < segment.segment_start
                    order by c.day desc, c.last_ts desc, c.last_seq desc
                    limit 1
                ) as quantity_last,
                null::timestamptz as last_ts,
                null::bigint as last_seq
            union all
            select
                least(greatest(c.day, segment.pushes_from), segment.closes_on) as day,
                c.quantity_min,
                c.quantity_max,
                c.quantity_last,
                c.last_ts,
                c.last_seq
            from counters as c
            where
                c.tenant_id = mapping.tenant_id
                and c.customer_ref = binding.customer_ref
                and c.meter = mapping.meter
                and c.segment_start = segment.segment_start
                and c.day >= (segment.segment_start at time zone 'UTC')::date
                and c.day <= (segment.segment_end at time zone 'UTC')::date
        ) as held
        group by held.day
    ) as level
    where mapping.aggregation <> 'unique'
    union all
    -- A value is new on the first day of the segment that has it.
    select
        least(greatest(item.first_on, segment.pushes_from), segment.closes_on) as day,
        1::numeric as counted
    from (
        select
            i.item,
            min(i.day) as first_on
        from counter_items as i
        where
            i.tenant_id = mapping.tenant_id
            and i.customer_ref = binding.customer_ref
            and i.meter = mapping.meter
            and i.segment_start = segment.segment_start
            and i.day >= (segment.segment_start at time zone 'UTC')::date
            and i.day <= (segment.segment_end at time zone 'UTC')::date
        group by i.item
    ) as item
    where mapping.aggregation = 'unique'
    union all
    select
        least(greatest(a.day, segment.pushes_from), segment.closes_on) as day,
        a.delta::numeric as counted
    from adjustments as a
    left join customer_aliases as o on a.tenant_id = o.tenant_id and a.customer_ref = o.alias_ref
    where
        a.tenant_id = mapping.tenant_id
        and a.metric = mapping.meter
        and a.reason <> 'late_event'
        and a.status = 'approved'
        and binding.customer_ref = coalesce(o.customer_ref, a.customer_ref)
        and a.effective_at >= segment.segment_start
        and a.effective_at < segment.segment_end
    union all
    select
        segment.pushes_from as day,
        -t.planned_total as counted
    from push_totals as t
    where
        t.stripe_account_id = mapping.stripe_account_id
        and t.stripe_event_name = mapping.stripe_event_name
        and t.stripe_customer_id = binding.stripe_customer_id
        and t.segment_start = segment.segment_start
        and t.day < segment.pushes_from
$$;
comment on function gauge_changes(price_mappings, customer_bindings, push_segments) is
'By how much each day changed a gauge''s number of a segment; they add up to the number, less what was sent on days that take no more.';

-- squawk-ignore ban-drop-view
drop view push_days;
create view push_days as
select
    mapping_id,
    mode,
    tenant_id,
    meter,
    customer_ref,
    stripe_account_id,
    stripe_event_name,
    stripe_meter_id,
    stripe_customer_id,
    segment_start,
    day,
    sum(counted) as counted,
    sum(planned) as planned,
    sum(accepted) as accepted,
    sum(entry_count)::bigint as entry_count,
    max(last_accepted_at) as last_accepted_at
from (
    select
        m.id as mapping_id,
        m.mode,
        m.tenant_id,
        m.meter,
        b.customer_ref,
        m.stripe_account_id,
        m.stripe_event_name,
        m.stripe_meter_id,
        b.stripe_customer_id,
        c.segment_start,
        c.day,
        case m.aggregation when 'sum' then c.quantity_sum when 'count' then c.event_count::numeric end as counted,
        0::numeric as planned,
        0::numeric as accepted,
        0::bigint as entry_count,
        null::timestamptz as last_accepted_at
    from price_mappings as m
    inner join customer_bindings as b on m.tenant_id = b.tenant_id and m.stripe_account_id = b.stripe_account_id
    inner join counters as c on m.tenant_id = c.tenant_id and b.customer_ref = c.customer_ref and m.meter = c.meter
    where m.mode <> 'off' and m.aggregation in ('sum', 'count')
    union all
    select
        m.id as mapping_id,
        m.mode,
        m.tenant_id,
        m.meter,
        b.customer_ref,
        m.stripe_account_id,
        m.stripe_event_name,
        m.stripe_meter_id,
        b.stripe_customer_id,
        -- Its segment is that of the day's counters, or of what was sent, that begins last before it. Where there are
        -- neither it is the UTC month's, as SQL cannot cut billing phases: the day is right all the same, and once the
        -- day has counters of the true segment the adjustment moves to it.
        coalesce(
            (
                select max(c.segment_start)
                from counters as c
                where
                    c.tenant_id = m.tenant_id
                    and c.customer_ref = b.customer_ref
                    and c.meter = m.meter
                    and c.day = a.day
                    and c.segment_start <= a.effective_at
            ),
            (
                select max(t.segment_start)
                from push_totals as t
                where
                    t.stripe_account_id = m.stripe_account_id
                    and t.stripe_event_name = m.stripe_event_name
                    and t.stripe_customer_id = b.stripe_customer_id
                    and t.day = a.day
                    and t.segment_start <= a.effective_at
            ),
            date_trunc('month', a.effective_at at time zone 'UTC') at time zone 'UTC'
        ) as segment_start,
        a.day,
        a.delta::numeric as counted,
        0::numeric as planned,
        0::numeric as accepted,
        0::bigint as entry_count,
        null::timestamptz as last_accepted_at
    from price_mappings as m
    inner join customer_bindings as b on m.tenant_id = b.tenant_id and m.stripe_account_id = b.stripe_account_id
    inner join adjustments as a on m.tenant_id = a.tenant_id and m.meter = a.metric
    left join customer_aliases as o on a.tenant_id = o.tenant_id and a.customer_ref = o.alias_ref
    where
        m.mode <> 'off'
        and m.aggregation in ('sum', 'count')
        and a.reason <> 'late_event'
        and a.status = 'approved'
        and b.customer_ref = coalesce(o.customer_ref, a.customer_ref)
    union all
    select
        m.id as mapping_id,
        m.mode,
        m.tenant_id,
        m.meter,
        b.customer_ref,
        m.stripe_account_id,
        m.stripe_event_name,
        m.stripe_meter_id,
        b.stripe_customer_id,
        s.segment_start,
        change.day,
        change.counted,
        0::numeric as planned,
        0::numeric as accepted,
        0::bigint as entry_count,
        null::timestamptz as last_accepted_at
    from price_mappings as m
    inner join customer_bindings as b on m.tenant_id = b.tenant_id and m.stripe_account_id = b.stripe_account_id
    inner join push_segments as s
        on m.tenant_id = s.tenant_id and b.customer_ref = s.customer_ref and m.meter = s.meter
    cross join lateral gauge_changes(m, b, s) as change
    where m.mode <> 'off' and m.aggregation not in ('sum', 'count')
    union all
    select
        m.id as mapping_id,
        m.mode,
        m.tenant_id,
        m.meter,
        b.customer_ref,
        m.stripe_account_id,
        m.stripe_event_name,
        m.stripe_meter_id,
        b.stripe_customer_id,
        t.segment_start,
        t.day,
        case
            when
                m.aggregation not in ('sum', 'count')
                and t.day < (
                    select s.pushes_from
                    from push_segments as s
                    where
                        s.tenant_id = m.tenant_id
                        and s.customer_ref = b.customer_ref
                        and s.meter = m.meter
                        and s.segment_start = t.segment_start
                )
                then t.planned_total
            else 0::numeric
        end as counted,
        t.planned_total::numeric as planned,
        t.accepted_total::numeric as accepted,
        t.entry_count::bigint as entry_count,
        t.last_accepted_at
    from price_mappings as m
    inner join customer_bindings as b on m.tenant_id = b.tenant_id and m.stripe_account_id = b.stripe_account_id
    inner join push_totals as t
        on
            m.stripe_account_id = t.stripe_account_id
            and m.stripe_event_name = t.stripe_event_name
            and b.stripe_customer_id = t.stripe_customer_id
    where m.mode <> 'off'
) as part
group by
    mapping_id,
    mode,
    tenant_id,
    meter,
    customer_ref,
    stripe_account_id,
    stripe_event_name,
    stripe_meter_id,
    stripe_customer_id,
    segment_start,
    day;
comment on view push_days is
'One row per mapped meter, bound customer, segment and day: what we counted and people adjusted (0 when both are gone), of a gauge by how much that changed its number of the segment, and what the outbox holds.';

-- migrate:down
drop view push_days;
create view push_days as
select
    mapping_id,
    mode,
    tenant_id,
    meter,
    customer_ref,
    stripe_account_id,
    stripe_event_name,
    stripe_meter_id,
    stripe_customer_id,
    segment_start,
    day,
    sum(counted) as counted,
    sum(planned) as planned,
    sum(accepted) as accepted,
    sum(entry_count)::bigint as entry_count,
    max(last_accepted_at) as last_accepted_at
from (
    select
        m.id as mapping_id,
        m.mode,
        m.tenant_id,
        m.meter,
        b.customer_ref,
        m.stripe_account_id,
        m.stripe_event_name,
        m.stripe_meter_id,
        b.stripe_customer_id,
        c.segment_start,
        c.day,
        case m.aggregation when 'sum' then c.quantity_sum when 'count' then c.event_count::numeric end as counted,
        0::numeric as planned,
        0::numeric as accepted,
        0::bigint as entry_count,
        null::timestamptz as last_accepted_at
    from price_mappings as m
    inner join customer_bindings as b on m.tenant_id = b.tenant_id and m.stripe_account_id = b.stripe_account_id
    inner join counters as c on m.tenant_id = c.tenant_id and b.customer_ref = c.customer_ref and m.meter = c.meter
    where m.mode <> 'off'
    union all
    select
        m.id as mapping_id,
        m.mode,
        m.tenant_id,
        m.meter,
        b.customer_ref,
        m.stripe_account_id,
        m.stripe_event_name,
        m.stripe_meter_id,
        b.stripe_customer_id,
        -- Its segment is that of the day's counters, or of what was sent, that begins last before it. Where there are
        -- neither it is the UTC month's, as SQL cannot cut billing phases: the day is right all the same, and once the
        -- day has counters of the true segment the adjustment moves to it.
        coalesce(
            (
                select max(c.segment_start)
                from counters as c
                where
                    c.tenant_id = m.tenant_id
                    and c.customer_ref = b.customer_ref
                    and c.meter = m.meter
                    and c.day = a.day
                    and c.segment_start <= a.effective_at
            ),
            (
                select max(t.segment_start)
                from push_totals as t
                where
                    t.stripe_account_id = m.stripe_account_id
                    and t.stripe_event_name = m.stripe_event_name
                    and t.stripe_customer_id = b.stripe_customer_id
                    and t.day = a.day
                    and t.segment_start <= a.effective_at
            ),
            date_trunc('month', a.effective_at at time zone 'UTC') at time zone 'UTC'
        ) as segment_start,
        a.day,
        a.delta::numeric as counted,
        0::numeric as planned,
        0::numeric as accepted,
        0::bigint as entry_count,
        null::timestamptz as last_accepted_at
    from price_mappings as m
    inner join customer_bindings as b on m.tenant_id = b.tenant_id and m.stripe_account_id = b.stripe_account_id
    inner join adjustments as a on m.tenant_id = a.tenant_id and m.meter = a.metric
    left join customer_aliases as o on a.tenant_id = o.tenant_id and a.customer_ref = o.alias_ref
    where
        m.mode <> 'off'
        and a.reason <> 'late_event'
        and a.status = 'approved'
        and b.customer_ref = coalesce(o.customer_ref, a.customer_ref)
    union all
    select
        m.id as mapping_id,
        m.mode,
        m.tenant_id,
        m.meter,
        b.customer_ref,
        m.stripe_account_id,
        m.stripe_event_name,
        m.stripe_meter_id,
        b.stripe_customer_id,
        t.segment_start,
        t.day,
        0::numeric as counted,
        t.planned_total::numeric as planned,
        t.accepted_total::numeric as accepted,
        t.entry_count::bigint as entry_count,
        t.last_accepted_at
    from price_mappings as m
    inner join customer_bindings as b on m.tenant_id = b.tenant_id and m.stripe_account_id = b.stripe_account_id
    inner join push_totals as t
        on
            m.stripe_account_id = t.stripe_account_id
            and m.stripe_event_name = t.stripe_event_name
            and b.stripe_customer_id = t.stripe_customer_id
    where m.mode <> 'off'
) as part
group by
    mapping_id,
    mode,
    tenant_id,
    meter,
    customer_ref,
    stripe_account_id,
    stripe_event_name,
    stripe_meter_id,
    stripe_customer_id,
    segment_start,
    day;
comment on view push_days is
'One row per mapped meter, bound customer, segment and day: what we counted and people adjusted (0 when both are gone) and what the outbox holds.';
drop function gauge_changes;
drop table push_segments;
update price_mappings
set mode = 'off', aggregation = case aggregation when 'unique' then 'count' else aggregation end
where aggregation not in ('sum', 'count');
alter table price_mappings drop constraint price_mappings_aggregation_check;
alter table price_mappings add constraint price_mappings_aggregation_check
check (aggregation in ('sum', 'count', 'min', 'max', 'last'));
alter table price_mappings add constraint price_mappings_additive
check (mode = 'off' or aggregation in ('sum', 'count'));
