-- Months whose ledger rows live in the lake alone.

-- name: load_dropped_month
-- A month (its first day) that was dropped; nothing when it was not.
select
    month_on,
    event_count,
    lake,
    dropped_at
from dropped_months
where month_on = %(month_on)s;

-- name: list_dropped_months
-- Every dropped month, ascending.
select month_on
from dropped_months
order by month_on;

-- name: has_partition
-- Whether the month has a ledger partition.
select exists(
    select 1
    from pg_inherits as i
    inner join pg_class as c on i.inhrelid = c.oid
    where
        i.inhparent = 'events'::regclass
        and c.relname = 'events_' || to_char(%(month_on)s::date, 'YYYY_MM')
);

-- name: has_unfolded
-- Whether a time range has a ledger row that the fold has not read.
select exists(
    select 1
    from events
    where
        xid >= %(below)s::xid8
        and ts >= %(start_at)s
        and ts < %(end_at)s
);

-- name: limit_waiting
-- Everybody who writes would wait behind us: better to give up.
set local lock_timeout = '5s';

-- name: lock_ledger_alone
-- Nobody reads or writes the ledger until the transaction ends; the parent first, as whoever inserts takes it first.
lock table only events in access exclusive mode;

-- name: drop_partition
-- The rows of a month go.
select drop_events_month(%(month_on)s::date);

-- name: record_dropped_month
-- What the lake alone has from now on.
insert into dropped_months (month_on, event_count, lake, dropped_at)
values (%(month_on)s, %(event_count)s, %(lake)s, %(dropped_at)s)
on conflict (month_on) do update
    set
        event_count = excluded.event_count,
        lake = excluded.lake,
        dropped_at = excluded.dropped_at;

-- name: load_states
-- Events of day %(day)s, the time range from %(start_at)s to %(end_at)s, that a void or a late adjustment decides on,
-- and how they count now; all others are counted.
select
    seq,
    'voided' as state
from event_voids
where
    ts >= %(start_at)s
    and ts < %(end_at)s
union all
select
    late.event_seq as seq,
    case late.status
        when 'approved' then 'late'
        when 'absorbed' then 'counted'
        else 'withheld'
    end as state
from adjustments as late
where
    late.reason = 'late_event'
    and late.day = %(day)s
    and not exists (
        select from event_voids as void
        where void.seq = late.event_seq
    );

-- name: list_partitions
-- First days of the months that have a ledger partition of their own and are before %(before)s, ascending.
select to_date(substr(c.relname, 8), 'YYYY_MM') as month_on
from pg_inherits as i
inner join pg_class as c on i.inhrelid = c.oid
where
    i.inhparent = 'events'::regclass
    and c.relname ~ '^events_\d{4,}_\d\d$'
    and to_date(substr(c.relname, 8), 'YYYY_MM') < %(before)s::date
order by month_on;

-- name: replace_lake
-- Where a dropped month is from now on.
update dropped_months
set lake = %(lake)s
where month_on = %(month_on)s;
