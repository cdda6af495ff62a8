-- Counters: merging what the fold adds, replacing what a recount finds, and the state of each day.

-- name: lock_day
-- One writer of a day's counters at a time; released with the transaction.
select pg_advisory_xact_lock(1, (%(day)s::date - '2000-01-01'::date));

-- name: drop_incoming
-- Makes room for another frame in the same transaction.
drop table if exists pg_temp.incoming_counters, pg_temp.incoming_items;

-- name: create_incoming
-- Where a frame of counters lands before it is merged; gone with the transaction.
create temporary table incoming_counters (
    tenant_id text not null,
    customer_ref text not null,
    meter text not null,
    day date not null,
    segment_start timestamptz not null,
    dimensions text not null,
    is_late boolean not null,
    event_count bigint not null,
    primary_count bigint not null,
    sum_whole numeric not null,
    sum_fraction numeric(38, 12) not null,
    quantity_min numeric(38, 12) not null,
    quantity_max numeric(38, 12) not null,
    quantity_last numeric(38, 12) not null,
    last_ts timestamptz not null,
    last_seq bigint not null,
    first_ts timestamptz,
    unit_microseconds numeric
) on commit drop;

-- name: create_incoming_items
-- As create_incoming, for counter items.
create temporary table incoming_items (
    tenant_id text not null,
    customer_ref text not null,
    meter text not null,
    day date not null,
    segment_start timestamptz not null,
    dimensions text not null,
    is_late boolean not null,
    item text not null,
    item_count bigint not null
) on commit drop;

-- name: copy_incoming
-- Fills it.
copy incoming_counters from stdin;

-- name: copy_incoming_items
-- Fills it.
copy incoming_items from stdin;

-- name: analyze_incoming
-- Tells the planner how many there are; one column is enough for that, and a tenth of the work.
analyze incoming_counters (day);

-- name: load_overlapping
-- Customers' days whose incoming time-weighted readings lie between known ones: asked before they are merged, which
-- would make them wrong, for they have to be counted again afterwards.
select distinct
    i.tenant_id,
    i.customer_ref,
    i.day
from incoming_counters as i
inner join counters as c
    on
        i.tenant_id = c.tenant_id
        and i.customer_ref = c.customer_ref
        and i.meter = c.meter
        and i.day = c.day
        and i.segment_start = c.segment_start
        and i.dimensions = c.dimensions
        and i.is_late = c.is_late
where
    i.unit_microseconds is not null
    and (c.unit_microseconds is null or (i.first_ts < c.last_ts and i.last_ts > c.first_ts));

-- name: load_overfull
-- Customers' days whose merged counters passed the bound of their meter's dimensions, or had done so before: which
-- combinations keep a row is decided by counting them again.
with bounded as (
    select
        b.tenant_id,
        b.meter,
        b.max_groups
    from unnest(%(tenants)s::text[], %(meters)s::text[], %(bounds)s::integer[]) as b (tenant_id, meter, max_groups)
),

touched as (
    select distinct
        i.tenant_id,
        i.customer_ref,
        i.meter,
        i.day,
        i.segment_start,
        i.is_late,
        bounded.max_groups
    from incoming_counters as i
    inner join bounded on i.tenant_id = bounded.tenant_id and i.meter = bounded.meter
)

select
    touched.tenant_id,
    touched.customer_ref,
    touched.day
from touched
inner join counters as c
    on
        touched.tenant_id = c.tenant_id
        and touched.customer_ref = c.customer_ref
        and touched.meter = c.meter
        and touched.day = c.day
        and touched.segment_start = c.segment_start
        and touched.is_late = c.is_late
group by
    touched.tenant_id, touched.customer_ref, touched.meter, touched.day, touched.segment_start, touched.is_late,
    touched.max_groups
having count(*) > touched.max_groups or bool_or(c.dimensions = %(other)s);

-- name: merge_incoming
-- Adds the incoming states to the counters. The same rules as `metering.aggregation`, column by column.
insert into counters as c (
    tenant_id, customer_ref, meter, day, segment_start, dimensions, is_late, event_count, primary_count,
    quantity_sum, quantity_min, quantity_max, quantity_last, last_ts, last_seq, first_ts, unit_microseconds
)
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
    sum_whole + sum_fraction,
    quantity_min,
    quantity_max,
    quantity_last,
    last_ts,
    last_seq,
    first_ts,
    unit_microseconds
from incoming_counters
on conflict (tenant_id, customer_ref, meter, day, segment_start, dimensions, is_late) do update
    set
        event_count = c.event_count + excluded.event_count,
        primary_count = c.primary_count + excluded.primary_count,
        quantity_sum = c.quantity_sum + excluded.quantity_sum,
        quantity_min = least(c.quantity_min, excluded.quantity_min),
        quantity_max = greatest(c.quantity_max, excluded.quantity_max),
        quantity_last = case
            when (excluded.last_ts, excluded.last_seq) > (c.last_ts, c.last_seq) then excluded.quantity_last
            else c.quantity_last
        end,
        last_seq = case
            when (excluded.last_ts, excluded.last_seq) > (c.last_ts, c.last_seq) then excluded.last_seq
            else c.last_seq
        end,
        last_ts = greatest(c.last_ts, excluded.last_ts),
        first_ts = least(c.first_ts, excluded.first_ts),
        -- A level holds until the next reading. States that overlap are not added but counted again
        -- (load_overlapping).
        unit_microseconds = case
            when excluded.first_ts >= c.last_ts
                then
                    c.unit_microseconds
                    + c.quantity_last * (1000000 * extract(epoch from excluded.first_ts - c.last_ts))
                    + excluded.unit_microseconds
            else
                excluded.unit_microseconds
                + excluded.quantity_last * (1000000 * extract(epoch from c.first_ts - excluded.last_ts))
                + c.unit_microseconds
        end;

-- name: merge_incoming_items
-- Adds the incoming items.
insert into counter_items as c (
    tenant_id, customer_ref, meter, day, segment_start, dimensions, is_late, item, item_count
)
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
from incoming_items
on conflict (tenant_id, customer_ref, meter, day, segment_start, dimensions, is_late, item) do update
    set item_count = c.item_count + excluded.item_count;

-- name: compare_day
-- Counters of a day that differ from the incoming ones, either way round; the state of each side as text. Tenants
-- whose day is about to be counted again under new rules are left out.
select
    coalesce(c.tenant_id, i.tenant_id) as tenant_id,
    coalesce(c.customer_ref, i.customer_ref) as customer_ref,
    coalesce(c.meter, i.meter) as meter,
    coalesce(c.segment_start, i.segment_start) as segment_start,
    concat_ws(
        ' ', c.dimensions, c.is_late,
        c.event_count, c.primary_count, c.quantity_sum, c.quantity_min, c.quantity_max, c.quantity_last, c.last_ts,
        c.last_seq, c.first_ts, c.unit_microseconds
    ) as counted,
    concat_ws(
        ' ', i.dimensions, i.is_late,
        i.event_count, i.primary_count, i.sum_whole + i.sum_fraction, i.quantity_min, i.quantity_max, i.quantity_last,
        i.last_ts, i.last_seq, i.first_ts, i.unit_microseconds
    ) as ledger
from (
    select * from counters
    where counters.day = %(day)s
) as c
full outer join (
    select * from incoming_counters
    where incoming_counters.day = %(day)s
) as i
    on
        c.tenant_id = i.tenant_id
        and c.customer_ref = i.customer_ref
        and c.meter = i.meter
        and c.segment_start = i.segment_start
        and c.dimensions = i.dimensions
        and c.is_late = i.is_late
where
    (
        c.event_count, c.primary_count, c.quantity_sum, c.quantity_min, c.quantity_max, c.quantity_last, c.last_ts,
        c.last_seq, c.first_ts, c.unit_microseconds
    ) is distinct from (
        i.event_count, i.primary_count, i.sum_whole + i.sum_fraction, i.quantity_min, i.quantity_max, i.quantity_last,
        i.last_ts, i.last_seq, i.first_ts, i.unit_microseconds
    )
    and not exists (
        select from slice_recounts as waiting
        where
            waiting.tenant_id = coalesce(c.tenant_id, i.tenant_id)
            and %(day)s between waiting.next_day and waiting.last_day
    )
order by tenant_id, customer_ref, meter, segment_start;

-- name: compare_items
-- As compare_day, for counter items.
select
    coalesce(c.tenant_id, i.tenant_id) as tenant_id,
    coalesce(c.customer_ref, i.customer_ref) as customer_ref,
    coalesce(c.meter, i.meter) as meter,
    coalesce(c.segment_start, i.segment_start) as segment_start,
    concat_ws(' ', c.dimensions, c.is_late, c.item, c.item_count) as counted,
    concat_ws(' ', i.dimensions, i.is_late, i.item, i.item_count) as ledger
from (
    select * from counter_items
    where counter_items.day = %(day)s
) as c
full outer join (
    select * from incoming_items
    where incoming_items.day = %(day)s
) as i
    on
        c.tenant_id = i.tenant_id
        and c.customer_ref = i.customer_ref
        and c.meter = i.meter
        and c.segment_start = i.segment_start
        and c.dimensions = i.dimensions
        and c.is_late = i.is_late
        and c.item = i.item
where
    c.item_count is distinct from i.item_count
    and not exists (
        select from slice_recounts as waiting
        where
            waiting.tenant_id = coalesce(c.tenant_id, i.tenant_id)
            and %(day)s between waiting.next_day and waiting.last_day
    )
order by tenant_id, customer_ref, meter, segment_start;

-- name: delete_surplus
-- Removes counters of a day that its events do not make; of one tenant's customers when they are given.
delete from counters as c
where
    c.day = %(day)s
    and (%(tenant_id)s::text is null or c.tenant_id = %(tenant_id)s::text)
    and (%(customer_refs)s::text[] is null or c.customer_ref = any(%(customer_refs)s::text[]))
    and not exists (
        select 1
        from incoming_counters as i
        where
            i.tenant_id = c.tenant_id
            and i.customer_ref = c.customer_ref
            and i.meter = c.meter
            and i.day = c.day
            and i.segment_start = c.segment_start
            and i.dimensions = c.dimensions
            and i.is_late = c.is_late
    );

-- name: delete_surplus_items
-- As delete_surplus, for counter items.
delete from counter_items as c
where
    c.day = %(day)s
    and (%(tenant_id)s::text is null or c.tenant_id = %(tenant_id)s::text)
    and (%(customer_refs)s::text[] is null or c.customer_ref = any(%(customer_refs)s::text[]))
    and not exists (
        select 1
        from incoming_items as i
        where
            i.tenant_id = c.tenant_id
            and i.customer_ref = c.customer_ref
            and i.meter = c.meter
            and i.day = c.day
            and i.segment_start = c.segment_start
            and i.dimensions = c.dimensions
            and i.is_late = c.is_late
            and i.item = c.item
    );

-- name: replace_day
-- Writes the incoming counters that differ over those of the day. Equal rows are left out by the join: `on conflict`
-- would lock, and so write, each of them.
insert into counters as c (
    tenant_id, customer_ref, meter, day, segment_start, dimensions, is_late, event_count, primary_count,
    quantity_sum, quantity_min, quantity_max, quantity_last, last_ts, last_seq, first_ts, unit_microseconds
)
select
    i.tenant_id,
    i.customer_ref,
    i.meter,
    i.day,
    i.segment_start,
    i.dimensions,
    i.is_late,
    i.event_count,
    i.primary_count,
    i.sum_whole + i.sum_fraction,
    i.quantity_min,
    i.quantity_max,
    i.quantity_last,
    i.last_ts,
    i.last_seq,
    i.first_ts,
    i.unit_microseconds
from incoming_counters as i
left join counters as o
    on
        i.tenant_id = o.tenant_id
        and i.customer_ref = o.customer_ref
        and i.meter = o.meter
        and i.segment_start = o.segment_start
        and i.dimensions = o.dimensions
        and i.is_late = o.is_late
        and o.day = %(day)s
where
    (
        o.event_count, o.primary_count, o.quantity_sum, o.quantity_min, o.quantity_max, o.quantity_last, o.last_ts,
        o.last_seq, o.first_ts, o.unit_microseconds
    ) is distinct from (
        i.event_count, i.primary_count, i.sum_whole + i.sum_fraction, i.quantity_min, i.quantity_max, i.quantity_last,
        i.last_ts, i.last_seq, i.first_ts, i.unit_microseconds
    )
on conflict (tenant_id, customer_ref, meter, day, segment_start, dimensions, is_late) do update
    set
        event_count = excluded.event_count,
        primary_count = excluded.primary_count,
        quantity_sum = excluded.quantity_sum,
        quantity_min = excluded.quantity_min,
        quantity_max = excluded.quantity_max,
        quantity_last = excluded.quantity_last,
        last_ts = excluded.last_ts,
        last_seq = excluded.last_seq,
        first_ts = excluded.first_ts,
        unit_microseconds = excluded.unit_microseconds;

-- name: replace_items
-- As replace_day, for counter items.
insert into counter_items as c (
    tenant_id, customer_ref, meter, day, segment_start, dimensions, is_late, item, item_count
)
select
    i.tenant_id,
    i.customer_ref,
    i.meter,
    i.day,
    i.segment_start,
    i.dimensions,
    i.is_late,
    i.item,
    i.item_count
from incoming_items as i
left join counter_items as o
    on
        i.tenant_id = o.tenant_id
        and i.customer_ref = o.customer_ref
        and i.meter = o.meter
        and i.day = o.day
        and i.segment_start = o.segment_start
        and i.dimensions = o.dimensions
        and i.is_late = o.is_late
        and i.item = o.item
where i.item_count is distinct from o.item_count
on conflict (tenant_id, customer_ref, meter, day, segment_start, dimensions, is_late, item) do update
    set item_count = excluded.item_count;

-- name: touch_days
-- Remembers that the fold wrote days; late events make a day dirty.
insert into counter_days as d (day, last_folded_at, dirty_version)
select
    day,
    now(),
    is_late::integer
from unnest(%(days)s::date[], %(late)s::boolean[]) as t (day, is_late)
order by day
on conflict (day) do update
    set
        last_folded_at = excluded.last_folded_at,
        dirty_version = d.dirty_version + excluded.dirty_version;

-- name: load_dirty_version
-- The version a recount of the day settles; read before its events are.
select dirty_version
from counter_days
where day = %(day)s;

-- name: settle_day
-- A recount of the day succeeded at this version.
insert into counter_days as d (day, last_recounted_at)
values (%(day)s, now())
on conflict (day) do update
    set
        recounted_version = greatest(d.recounted_version, %(version)s),
        last_recounted_at = excluded.last_recounted_at,
        failed_recounts = 0,
        last_failure = null;

-- name: record_failed_recount
-- A recount of the day failed; too many in a row and nobody retries it by itself.
insert into counter_days as d (day, failed_recounts, last_failure)
values (%(day)s, 1, %(message)s)
on conflict (day) do update
    set
        failed_recounts = d.failed_recounts + 1,
        last_failure = excluded.last_failure;

-- name: load_dirty_days
-- Days touched by late events since their last recount, quiet for a while, not given up on; oldest first.
select day
from counter_days
where
    recounted_version < dirty_version
    and failed_recounts < %(max_failures)s
    and last_folded_at <= now() - make_interval(secs => %(quiet_seconds)s)
order by day
limit %(limit)s;

-- name: load_stuck_days
-- Days nobody retries any more.
select
    day,
    failed_recounts,
    last_failure
from counter_days
where failed_recounts >= %(max_failures)s
order by day;

-- name: load_day_totals
-- Counted quantity per meter of a day, largest number of events first.
select
    meter,
    sum(event_count)::bigint as events,
    count(*)::bigint as counters,
    sum(quantity_sum) as quantity
from counters
where day = %(day)s
group by meter
order by events desc, meter;

-- name: load_conservation
-- Per tenant and in one snapshot: what arrived, what became of it, what is counted and what still waits.
with cursor as materialized (
    select folded_below from fold_cursors
    where name = 'counters'
),

tallied as (
    select
        tenant_id,
        sum(received)::bigint as received,
        sum(accepted)::bigint as accepted,
        sum(duplicates)::bigint as duplicates,
        sum(conflicts)::bigint as conflicts,
        sum(rejected)::bigint as rejected
    from ingest_tallies
    group by tenant_id
),

counted as (
    select
        tenant_id,
        sum(primary_count)::bigint as events,
        coalesce(sum(event_count) filter (where meter = ''), 0)::bigint as unmatched
    from counters
    group by tenant_id
),

waiting as (
    select
        event.tenant_id,
        count(*) as events
    from events as event
    where
        event.xid >= coalesce((select folded_below from cursor), '0'::xid8)
        and not exists (
            select from event_voids as void
            where void.seq = event.seq
        )
    group by event.tenant_id
),

withheld as (
    select
        late.tenant_id,
        count(*) as events
    from adjustments as late
    where
        late.reason = 'late_event'
        and late.status in ('pending', 'rejected', 'reverted')
        and not exists (
            select from event_voids as void
            where void.seq = late.event_seq
        )
    group by late.tenant_id
),

voided as (
    select
        tenant_id,
        count(*) as events
    from event_voids
    group by tenant_id
),

quarantined as (
    select
        tenant_id,
        sum(times_received)::bigint as events
    from event_conflicts
    group by tenant_id
),

tenant as (
    select tenant_id from tallied
    union
    select tenant_id from counted
    union
    select tenant_id from waiting
    union
    select tenant_id from voided
    union
    select tenant_id from quarantined
)

select
    tenant.tenant_id,
    coalesce(tallied.received, 0) as received,
    coalesce(tallied.accepted, 0) as accepted,
    coalesce(tallied.duplicates, 0) as duplicates,
    coalesce(tallied.conflicts, 0) as conflicts,
    coalesce(tallied.rejected, 0) as rejected,
    coalesce(counted.events, 0) as counted,
    coalesce(waiting.events, 0) as pending,
    coalesce(withheld.events, 0) as withheld,
    coalesce(counted.unmatched, 0) as unmatched,
    coalesce(voided.events, 0) as voided,
    coalesce(quarantined.events, 0) as quarantined
from tenant
left join tallied on tenant.tenant_id = tallied.tenant_id
left join counted on tenant.tenant_id = counted.tenant_id
left join waiting on tenant.tenant_id = waiting.tenant_id
left join withheld on tenant.tenant_id = withheld.tenant_id
left join voided on tenant.tenant_id = voided.tenant_id
left join quarantined on tenant.tenant_id = quarantined.tenant_id
order by tenant.tenant_id;
