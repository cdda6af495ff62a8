-- The migrations runner's own bookkeeping.

-- name: try_lock
-- Whether it is now this replica's turn to migrate.
select pg_try_advisory_lock(%(key)s);

-- name: unlock
-- Lets the next replica look.
select pg_advisory_unlock(%(key)s);

-- name: has_table
-- Whether this database was ever migrated.
select to_regclass('schema_migrations') is not null;

-- name: create_table
-- The record of what ran.
create table if not exists schema_migrations (
    version text primary key,
    name text not null,
    checksum text not null,
    applied_at timestamptz not null default now()
);

-- name: load_applied
-- One row per applied migration, oldest first.
select
    version,
    name,
    checksum
from schema_migrations
order by version;

-- name: record
-- Remembers one applied migration.
insert into schema_migrations (version, name, checksum)
values (%(version)s, %(name)s, %(checksum)s);

-- name: set_lock_timeout
-- Bounds how long one statement waits for a table.
select set_config('lock_timeout', %(timeout)s, false);
