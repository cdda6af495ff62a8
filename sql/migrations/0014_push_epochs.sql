-- migrate:up
-- The push epoch: which database the outbox was written in. One that was restored from a backup, or promoted, is told
-- apart from it; nothing is pushed from there before what Stripe holds by then was read into the outbox.

create table push_epochs (
    epoch integer primary key check (epoch > 0),
    state text not null check (state in ('open', 'fenced')),
    system_identifier bigint not null,
    timeline bigint not null,
    database_oid bigint not null,
    table_oid bigint not null,
    started_at timestamptz not null,
    opened_at timestamptz,
    reason text not null,
    actor text not null,
    constraint push_epochs_opened check ((state = 'open') = (opened_at is not null))
);
comment on table push_epochs is 'Which database the outbox was written in, since when; the highest epoch holds.';
comment on column push_epochs.state is 'fenced: nothing is pushed until it is opened.';
comment on column push_epochs.system_identifier is 'The PostgreSQL cluster it was started in.';
comment on column push_epochs.timeline is 'Its timeline: a recovery from a backup and a promoted replica start a new one.';
comment on column push_epochs.database_oid is 'The database: a copy of it has another.';
comment on column push_epochs.table_oid is 'This table: restoring a dump makes another.';

create view push_place as
select
    (pg_control_system()).system_identifier as system_identifier,
    -- The first eight digits of a WAL file's name are its timeline; the control file has it only since a checkpoint.
    ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint as timeline,
    (
        select oid::bigint
        from pg_database
        where datname = current_database()
    ) as database_oid,
    'push_epochs'::regclass::oid::bigint as table_oid;
comment on view push_place is 'Where the outbox is now, as push_epochs writes it down.';

insert into push_epochs (
    epoch, state, system_identifier, timeline, database_oid, table_oid, started_at, opened_at, reason, actor
)
select
    1, 'open', system_identifier, timeline, database_oid, table_oid, now(), now(), 'first', 'migration'
from push_place;

create view push_fence as
select
    e.epoch,
    e.state,
    e.started_at,
    e.reason,
    case
        when e.system_identifier <> p.system_identifier then 'another PostgreSQL cluster'
        when e.timeline <> p.timeline then 'another timeline of it (a recovery from a backup, or a promoted replica)'
        when e.database_oid <> p.database_oid then 'another database'
        when e.table_oid <> p.table_oid then 'tables made anew (the restore of a dump)'
    end as difference
from push_epochs as e
cross join push_place as p
where e.epoch = (select max(l.epoch) from push_epochs as l);
comment on view push_fence is 'The epoch that holds; difference: how the database is not the one it was started in, null when it is.';

create table push_imports (
    epoch integer not null references push_epochs (epoch),
    stripe_account_id text not null,
    stripe_event_name text not null,
    stripe_customer_id text not null,
    imported_at timestamptz not null,
    entry_count integer not null check (entry_count >= 0),
    primary key (epoch, stripe_account_id, stripe_event_name, stripe_customer_id)
);
comment on table push_imports is 'Of whom the outbox was brought to what Stripe held, after which restore.';
comment on column push_imports.entry_count is 'How many minutes Stripe held that no row explained.';

create function current_push_epoch() returns integer
language sql stable
as $$ select max(epoch) from push_epochs $$;
comment on function current_push_epoch() is 'The epoch new rows of the outbox are of.';

alter table push_entries add column epoch integer not null default 1;
alter table push_entries alter column epoch set default current_push_epoch();
-- squawk-ignore constraint-missing-not-valid
alter table push_entries add column origin text not null default 'planned' check (origin in ('planned', 'imported'));
comment on column push_entries.epoch is 'The push epoch it was written in.';
comment on column push_entries.origin is 'imported: found at Stripe after a restore; nobody knows under which identifier it was sent.';

create function keep_push_entry_origin() returns trigger
language plpgsql
as $$
begin
    raise exception 'push entry %: its epoch and origin stay', old.id using errcode = 'restrict_violation';
end;
$$;
comment on function keep_push_entry_origin() is 'In which epoch a row was written, and how, never changes.';
create trigger push_entries_keep_origin before update on push_entries
for each row when ((old.epoch, old.origin) is distinct from (new.epoch, new.origin))
execute function keep_push_entry_origin();

-- migrate:down
drop trigger push_entries_keep_origin on push_entries;
drop function keep_push_entry_origin();
alter table push_entries drop column origin;
alter table push_entries drop column epoch;
drop function current_push_epoch();
drop table push_imports;
drop view push_fence;
drop view push_place;
drop table push_epochs;
