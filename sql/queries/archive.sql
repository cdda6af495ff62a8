-- The lake's manifest.

-- name: load_folded_at
-- When the fold last wrote the day; nothing when it never did.
select last_folded_at
from counter_days
where day = %(day)s;

-- name: replace_archived_day
-- What is valid of the day in the lake from now on.
insert into archived_days (
    day, event_count, counter_count, item_count, events_sha256, counters_sha256, items_sha256, rules_sha256,
    folded_below, folded_at, archived_at
)
values (
    %(day)s, %(event_count)s, %(counter_count)s, %(item_count)s, %(events_sha256)s, %(counters_sha256)s,
    %(items_sha256)s, %(rules_sha256)s, %(folded_below)s::xid8, %(folded_at)s, now()
)
on conflict (day) do update
    set
        event_count = excluded.event_count,
        counter_count = excluded.counter_count,
        item_count = excluded.item_count,
        events_sha256 = excluded.events_sha256,
        counters_sha256 = excluded.counters_sha256,
        items_sha256 = excluded.items_sha256,
        rules_sha256 = excluded.rules_sha256,
        folded_below = excluded.folded_below,
        folded_at = excluded.folded_at,
        archived_at = excluded.archived_at;

-- name: load_archived_day
-- The manifest of a day, and whether the fold has written the day since; nothing when it is not a.
select
    a.day,
    a.event_count,
    a.counter_count,
    a.item_count,
    a.events_sha256,
    a.counters_sha256,
    a.items_sha256,
    a.rules_sha256,
    a.archived_at,
    coalesce(a.folded_at, '-infinity') <> coalesce(c.last_folded_at, '-infinity') as is_stale
from archived_days as a
left join counter_days as c on a.day = c.day
where a.day = %(day)s;

-- name: list_archived_days
-- Days in the lake from one to another, both included.
select day
from archived_days
where day between %(first)s and %(last)s
order by day;

-- name: load_unarchived_days
-- Days with usage before %(before)s that the lake lacks, or holds in an older state or without items and rules; oldest
-- first.
select c.day
from counter_days as c
left join archived_days as a on c.day = a.day
where
    c.day < %(before)s
    and c.last_folded_at is not null
    and (
        a.day is null
        or a.folded_at is distinct from c.last_folded_at
        or a.items_sha256 is null
        or a.rules_sha256 is null
    )
order by c.day
limit %(limit)s;
