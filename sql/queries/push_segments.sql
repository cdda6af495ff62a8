-- Push segments: whose gauges are pushed, and on which days of which segments.

-- name: load_tracks
-- Every gauge that is pushed and every bound customer with anything of it: the first day of that, and where the
-- segments known of it begin.
with pushed as (
    select distinct
        m.tenant_id,
        m.meter,
        b.customer_ref
    from price_mappings as m
    inner join customer_bindings as b on m.tenant_id = b.tenant_id and m.stripe_account_id = b.stripe_account_id
    where m.mode <> 'off' and m.aggregation not in ('sum', 'count')
),

adjusted as (
    select
        a.tenant_id,
        a.metric as meter,
        coalesce(o.customer_ref, a.customer_ref) as customer_ref,
        min(a.day) as first_on
    from adjustments as a
    left join customer_aliases as o on a.tenant_id = o.tenant_id and a.customer_ref = o.alias_ref
    where
        a.reason <> 'late_event'
        and a.status = 'approved'
        and exists (
            select 1 from price_mappings as m
            where
                m.tenant_id = a.tenant_id
                and m.meter = a.metric
                and m.mode <> 'off'
                and m.aggregation not in ('sum', 'count')
        )
    group by a.tenant_id, a.metric, coalesce(o.customer_ref, a.customer_ref)
),

track as (
    select
        p.tenant_id,
        p.meter,
        p.customer_ref,
        least(
            (
                select min(c.day) from counters as c
                where c.tenant_id = p.tenant_id and c.customer_ref = p.customer_ref and c.meter = p.meter
            ),
            a.first_on
        ) as first_on,
        (
            select min(s.segment_start) from push_segments as s
            where s.tenant_id = p.tenant_id and s.customer_ref = p.customer_ref and s.meter = p.meter
        ) as known_from
    from pushed as p
    left join adjusted as a
        on p.tenant_id = a.tenant_id and p.meter = a.meter and p.customer_ref = a.customer_ref
)

select
    tenant_id,
    meter,
    customer_ref,
    first_on,
    known_from
from track
where first_on is not null
order by tenant_id, customer_ref, meter;

-- name: delete_moved
-- Segments of these tracks with days that Stripe takes and that their billing phases no longer make.
with wanted as materialized (
    select
        w.tenant_id,
        w.customer_ref,
        w.meter,
        w.segment_start
    from
        unnest(%(tenant_ids)s::text[], %(customer_refs)s::text[], %(meters)s::text[], %(segment_starts)s::timestamptz[])
            as w (tenant_id, customer_ref, meter, segment_start)
)

delete from push_segments as s
where
    s.closes_on >= %(first_day)s
    and exists (
        select 1 from wanted as w
        where w.tenant_id = s.tenant_id and w.customer_ref = s.customer_ref and w.meter = s.meter
    )
    and not exists (
        select 1 from wanted as w
        where
            w.tenant_id = s.tenant_id
            and w.customer_ref = s.customer_ref
            and w.meter = s.meter
            and w.segment_start = s.segment_start
    );

-- name: put_segments
-- These segments, as they are now; a row that says so already is not written.
insert into push_segments as s (
    tenant_id, customer_ref, meter, segment_start, segment_end, pushes_from, closes_on
)
select
    w.tenant_id,
    w.customer_ref,
    w.meter,
    w.segment_start,
    w.segment_end,
    w.pushes_from,
    w.closes_on
from
    unnest(
        %(tenant_ids)s::text[],
        %(customer_refs)s::text[],
        %(meters)s::text[],
        %(segment_starts)s::timestamptz[],
        %(segment_ends)s::timestamptz[],
        %(pushes_from)s::date[],
        %(closes_on)s::date[]
    ) as w (tenant_id, customer_ref, meter, segment_start, segment_end, pushes_from, closes_on)
where
    not exists (
        select 1 from push_segments as k
        where
            k.tenant_id = w.tenant_id
            and k.customer_ref = w.customer_ref
            and k.meter = w.meter
            and k.segment_start = w.segment_start
            and k.segment_end = w.segment_end
            and k.pushes_from = w.pushes_from
            and k.closes_on = w.closes_on
    )
order by w.tenant_id, w.customer_ref, w.meter, w.segment_start
on conflict (tenant_id, customer_ref, meter, segment_start) do update
    set
        segment_end = excluded.segment_end,
        pushes_from = excluded.pushes_from,
        closes_on = excluded.closes_on;

-- name: leave_days
-- Days that Stripe no longer takes stay as they were sent.
update push_segments
set pushes_from = least(%(first_day)s, closes_on)
where pushes_from < least(%(first_day)s, closes_on);
