-- migrate:up
-- Late usage: what Stripe no longer takes on its own day is kept and reported, or owed on the current one.

alter table price_mappings add column late_policy text not null default 'hold'
check (late_policy in ('hold', 'carry_forward'));
comment on column price_mappings.late_policy is 'What becomes of usage that Stripe no longer takes on its own day: kept and reported, or owed on the current one.';

create table push_carries (
    id uuid primary key,
    mapping_id uuid not null references price_mappings (id),
    tenant_id text not null,
    meter text not null,
    customer_ref text not null,
    from_segment_start timestamptz not null,
    from_day date not null,
    to_segment_start timestamptz not null,
    to_day date not null,
    quantity numeric not null check (quantity > 0),
    carried_at timestamptz not null,
    entry_id uuid references push_entries (id),
    constraint push_carries_forward check (
        from_segment_start <= to_segment_start
        and from_day <= to_day
        and (from_segment_start, from_day) <> (to_segment_start, to_day)
    )
);
comment on table push_carries is 'Late usage that Stripe no longer takes on its own day, owed on another: it counts there and no longer on its own.';
comment on column push_carries.entry_id is 'The row of the outbox that tells it to Stripe; null: none was planned yet.';
create index push_carries_from on push_carries (mapping_id, customer_ref, from_day);
create index push_carries_to on push_carries (mapping_id, customer_ref, to_day);

create function flag_carries() returns trigger
language plpgsql
as $$
begin
    update push_carries as k
    set entry_id = new.id
    where
        k.mapping_id = new.mapping_id
        and k.customer_ref = new.customer_ref
        and k.to_segment_start = new.segment_start
        and k.to_day = new.day
        and (
            k.entry_id is null
            or exists (
                select 1 from push_entries as e
                where e.id = k.entry_id and e.state in ('cancelled', 'rejected', 'rejected_async')
            )
        );
    return null;
end;
$$;
comment on function flag_carries() is 'Names the row of the outbox that tells late usage of another day; the next one, when that is not at Stripe.';
create trigger push_entries_flag_carries after insert on push_entries
for each row when (new.origin = 'planned') execute function flag_carries();

create view carry_changes as
select
    mapping_id,
    customer_ref,
    from_segment_start as segment_start,
    from_day as day,
    -quantity as quantity
from push_carries
union all
select
    mapping_id,
    customer_ref,
    to_segment_start as segment_start,
    to_day as day,
    quantity
from push_carries;
comment on view carry_changes is 'What carrying late usage changed: less on its own day, more on the day it is owed on.';

create function is_segment_closed(mapping uuid, customer text, start timestamptz) returns boolean
language sql
stable
cost 1000
as $$
    select exists (
        select 1
        from invoice_windows as w
        inner join invoice_closings as c on w.stripe_account_id = c.stripe_account_id and w.invoice_id = c.invoice_id
        where
            w.mapping_id = mapping
            and w.starts_at <= start
            and w.ends_at > start
            and c.customer_ref = customer
            and c.finalized_at is not null
    )
$$;
comment on function is_segment_closed(uuid, text, timestamptz) is
'Whether an invoice that bills a segment is final: what Stripe is told of it now is on no invoice.';
-- squawk-ignore require-concurrent-index-creation
create index invoice_windows_by_mapping on invoice_windows (mapping_id, starts_at);

create or replace function gauge_changes(mapping price_mappings, binding customer_bindings, segment push_segments)
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
        least(greatest(k.day, segment.pushes_from), segment.closes_on) as day,
        k.quantity as counted
    from carry_changes as k
    where
        k.mapping_id = mapping.id
        and k.customer_ref = binding.customer_ref
        and k.segment_start = segment.segment_start
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

create or replace view push_days as
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
        k.segment_start,
        k.day,
        k.quantity as counted,
        0::numeric as planned,
        0::numeric as accepted,
        0::bigint as entry_count,
        null::timestamptz as last_accepted_at
    from price_mappings as m
    inner join customer_bindings as b on m.tenant_id = b.tenant_id and m.stripe_account_id = b.stripe_account_id
    inner join carry_changes as k on m.id = k.mapping_id and b.customer_ref = k.customer_ref
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

-- migrate:down
create or replace view push_days as
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
create or replace function gauge_changes(mapping price_mappings, binding customer_bindings, segment push_segments)
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
drop index invoice_windows_by_mapping;
drop function is_segment_closed;
drop view carry_changes;
drop trigger push_entries_flag_carries on push_entries;
drop function flag_carries;
drop table push_carries;
alter table price_mappings drop column late_policy;
