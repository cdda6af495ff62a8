-- Counters: merging what the fold adds, replacing what a recount finds, and the state of each day.

-- name: lock_day
-- One writer of a day's counters at a time; released with the transaction.
select pg_advisory_xact_lock(1, (%(day)s::date - '2000-01-01'::date));

-- name: drop_incoming
-- Makes room for another frame in the same transaction.
drop table if exists pg_temp.incoming_counters;

-- name: create_incoming
-- Where a frame of counters lands before it is merged; gone with the transaction.
create temporary table incoming_counters (
    tenant_id text not null,
    customer_ref text not null,
    meter text not null,
    day date not null,
    segment_start timestamptz not null,
    event_count bigint not null,
    sum_whole numeric not null,
    sum_fraction numeric(38, 12) not null,
    quantity_min numeric(38, 12) not null,
    quantity_max numeric(38, 12) not null,
    quantity_last numeric(38, 12) not null,
    last_ts timestamptz not null,
    last_seq bigint not null
) on commit drop;

-- name: copy_incoming
-- Fills it.
copy incoming_counters from stdin;

-- name: analyze_incoming
-- Tells the planner how many there are; one column is enough for that, and a tenth of the work.
analyze incoming_counters (day);

-- name: merge_incoming
-- Adds the incoming states to the counters. The same rules as `metering.aggregation`, column by column.
insert into counters as c (
    tenant_id, customer_ref, meter, day, segment_start, event_count,
    quantity_sum, quantity_min, quantity_max, quantity_last, last_ts, last_seq
)
select
    tenant_id,
    customer_ref,
    meter,
    day,
    segment_start,
    event_count,
    sum_whole + sum_fraction,
    quantity_min,
    quantity_max,
    quantity_last,
    last_ts,
    last_seq
from incoming_counters
on conflict (tenant_id, customer_ref, meter, day, segment_start) do update
    set
        event_count = c.event_count + excluded.event_count,
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
        last_ts = greatest(c.last_ts, excluded.last_ts);

-- name: compare_day
-- Counters of a day that differ from the incoming ones, either way round; the state of each side as text.
select
    coalesce(c.tenant_id, i.tenant_id) as tenant_id,
    coalesce(c.customer_ref, i.customer_ref) as customer_ref,
    coalesce(c.meter, i.meter) as meter,
    coalesce(c.segment_start, i.segment_start) as segment_start,
    concat_ws(
        ' ', c.event_count, c.quantity_sum, c.quantity_min, c.quantity_max, c.quantity_last, c.last_ts, c.last_seq
    ) as counted,
    concat_ws(
        ' ',
        i.event_count,
        i.sum_whole + i.sum_fraction,
        i.quantity_min,
        i.quantity_max,
        i.quantity_last,
        i.last_ts,
        i.last_seq
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
where
    (
        c.event_count, c.quantity_sum, c.quantity_min, c.quantity_max, c.quantity_last, c.last_ts, c.last_seq
    ) is distinct from (
        i.event_count,
        i.sum_whole + i.sum_fraction,
        i.quantity_min,
        i.quantity_max,
        i.quantity_last,
        i.last_ts,
        i.last_seq
    )
order by tenant_id, customer_ref, meter, segment_start;

-- name: delete_surplus
-- Removes counters of a day that its events do not make.
delete from counters as c
where
    c.day = %(day)s
    and not exists (
        select 1
        from incoming_counters as i
        where
            i.tenant_id = c.tenant_id
            and i.customer_ref = c.customer_ref
            and i.meter = c.meter
            and i.day = c.day
            and i.segment_start = c.segment_start
    );

-- name: replace_day
-- Writes the incoming counters that differ over those of the day. Equal rows are left out by the join: `on conflict`
-- would lock, and so write, each of them.
insert into counters as c (
    tenant_id, customer_ref, meter, day, segment_start, event_count,
    quantity_sum, quantity_min, quantity_max, quantity_last, last_ts, last_seq
)
select
    i.tenant_id,
    i.customer_ref,
    i.meter,
    i.day,
    i.segment_start,
    i.event_count,
    i.sum_whole + i.sum_fraction,
    i.quantity_min,
    i.quantity_max,
    i.quantity_last,
    i.last_ts,
    i.last_seq
from incoming_counters as i
left join counters as o
    on
        i.tenant_id = o.tenant_id
        and i.customer_ref = o.customer_ref
        and i.meter = o.meter
        and i.segment_start = o.segment_start
        and o.day = %(day)s
where
    (
        o.event_count, o.quantity_sum, o.quantity_min, o.quantity_max, o.quantity_last, o.last_ts, o.last_seq
    ) is distinct from (
        i.event_count,
        i.sum_whole + i.sum_fraction,
        i.quantity_min,
        i.quantity_max,
        i.quantity_last,
        i.last_ts,
        i.last_seq
    )
on conflict (tenant_id, customer_ref, meter, day, segment_start) do update
    set
        event_count = excluded.event_count,
        quantity_sum = excluded.quantity_sum,
        quantity_min = excluded.quantity_min,
        quantity_max = excluded.quantity_max,
        quantity_last = excluded.quantity_last,
        last_ts = excluded.last_ts,
        last_seq = excluded.last_seq;

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

-- name: read_one_snapshot
-- Every statement of this transaction sees the same state.
set transaction isolation level repeatable read; -- noqa: PRS

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
with tallied as (
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
        sum(event_count)::bigint as events
    from counters
    group by tenant_id
),

waiting as (
    select
        tenant_id,
        count(*) as events
    from events
    where xid >= coalesce((select folded_below from fold_cursors where name = 'counters'), '0'::xid8)
    group by tenant_id
),

quarantined as (
    select
        tenant_id,
        sum(times_received)::bigint as events
    from event_conflicts
    group by tenant_id
)

select
    coalesce(tallied.tenant_id, counted.tenant_id, waiting.tenant_id, quarantined.tenant_id) as tenant_id,
    coalesce(tallied.received, 0) as received,
    coalesce(tallied.accepted, 0) as accepted,
    coalesce(tallied.duplicates, 0) as duplicates,
    coalesce(tallied.conflicts, 0) as conflicts,
    coalesce(tallied.rejected, 0) as rejected,
    coalesce(counted.events, 0) as counted,
    coalesce(waiting.events, 0) as pending,
    coalesce(quarantined.events, 0) as quarantined
from tallied
full outer join counted on tallied.tenant_id = counted.tenant_id
full outer join waiting on coalesce(tallied.tenant_id, counted.tenant_id) = waiting.tenant_id
full outer join quarantined
    on coalesce(tallied.tenant_id, counted.tenant_id, waiting.tenant_id) = quarantined.tenant_id
order by tenant_id;
