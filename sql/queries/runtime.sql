-- What the supervisor and `stripemeter doctor` ask of the database.

-- name: create_dagster_schema
-- Dagster's own tables live beside ours, never among them.
create schema if not exists dagster;

-- name: has_daemon_heartbeats
-- Whether Dagster has created its tables yet.
select to_regclass('dagster.daemon_heartbeats') is not null;

-- name: load_daemon_heartbeat_age
-- Seconds since the newest heartbeat of any daemon; null before the first. Dagster writes UTC without a zone.
select extract(epoch from (now() at time zone 'UTC') - max("timestamp")) from dagster.daemon_heartbeats;

-- name: load_server_settings
-- The settings durability and the fold depend on.
select
    current_setting('server_version_num')::integer as server_version_num,
    current_setting('synchronous_commit') as synchronous_commit,
    current_setting('fsync') as fsync,
    current_setting('full_page_writes') as full_page_writes,
    current_setting('max_connections')::integer as max_connections,
    extract(epoch from clock_timestamp())::float8 as clock_epoch;

-- name: load_fold_cursor_epochs
-- Per cursor: whether its xids belong to this cluster. False after a restore into another one.
select
    cursors.name,
    cursors.system_identifier = control.system_identifier as is_ours
from fold_cursors as cursors
cross join pg_control_system() as control
order by cursors.name;

-- name: has_fold_cursors
-- Whether the ledger's migrations have run.
select to_regclass('fold_cursors') is not null;

-- name: has_push_fence
-- Whether the push's migrations have run, on a server that is written to: a replica pushes nothing.
select to_regclass('push_fence') is not null and not pg_is_in_recovery();

-- name: load_data_directory
-- Which directory the answering server serves: another one's is left alone.
select current_setting('data_directory');

-- name: has_our_database
-- Whether the embedded server's first start is behind it.
select count(*) = 1
from pg_database
where datname = 'stripemeter';

-- name: create_our_database
-- Outside a transaction, once.
create database stripemeter;
