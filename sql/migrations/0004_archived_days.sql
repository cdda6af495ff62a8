-- migrate:up
-- The lake's manifest: which days are archived, as which files, at which state of the fold.

create table archived_days (
    day date primary key,
    event_count bigint not null check (event_count >= 0),
    counter_count bigint not null check (counter_count >= 0),
    events_sha256 text not null check (events_sha256 ~ '^[0-9a-f]{64}$'),
    counters_sha256 text not null check (counters_sha256 ~ '^[0-9a-f]{64}$'),
    folded_below xid8 not null,
    folded_at timestamptz,
    archived_at timestamptz not null
);
comment on table archived_days is 'The manifest of the lake: one row per archived UTC day. Stale when the fold has written the day since.';
comment on column archived_days.folded_below is 'The fold''s cursor when the day was read: its events with a smaller xid are in the file, no others.';
comment on column archived_days.folded_at is 'counter_days.last_folded_at as it was then: another one there now means the day changed.';

-- migrate:down
drop table archived_days;
