-- migrate:up
-- What is pushed is what usage answers: every lane and dimension of the counters, and what people adjusted.

-- squawk-ignore require-concurrent-index-creation
create index adjustments_manual on adjustments (tenant_id, metric, customer_ref, day)
where reason <> 'late_event' and status = 'approved';

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

-- migrate:down
drop view push_days;
create view push_days as
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
    coalesce(t.planned_total, 0) as planned,
    coalesce(t.accepted_total, 0) as accepted,
    coalesce(t.entry_count, 0) as entry_count,
    t.last_accepted_at
from price_mappings as m
inner join customer_bindings as b on m.tenant_id = b.tenant_id and m.stripe_account_id = b.stripe_account_id
inner join counters as c on m.tenant_id = c.tenant_id and b.customer_ref = c.customer_ref and m.meter = c.meter
left join push_totals as t
    on
        m.stripe_account_id = t.stripe_account_id
        and m.stripe_event_name = t.stripe_event_name
        and b.stripe_customer_id = t.stripe_customer_id
        and c.segment_start = t.segment_start
        and c.day = t.day
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
    t.segment_start,
    t.day,
    0 as counted,
    t.planned_total as planned,
    t.accepted_total as accepted,
    t.entry_count,
    t.last_accepted_at
from price_mappings as m
inner join customer_bindings as b on m.tenant_id = b.tenant_id and m.stripe_account_id = b.stripe_account_id
inner join push_totals as t
    on
        m.stripe_account_id = t.stripe_account_id
        and m.stripe_event_name = t.stripe_event_name
        and b.stripe_customer_id = t.stripe_customer_id
where
    m.mode <> 'off'
    and not exists (
        select 1
        from counters as c
        where
            c.tenant_id = m.tenant_id
            and c.customer_ref = b.customer_ref
            and c.meter = m.meter
            and c.day = t.day
            and c.segment_start = t.segment_start
    );
comment on view push_days is
'One row per mapped meter, bound customer, segment and day: what we counted (0 when the counter is gone) and what the outbox holds.';
drop index adjustments_manual;
