-- Dagster's event log, which lies in the schema `dagster` of our database: the part of its growth that is ours.

-- name: has_event_log
-- Whether Dagster has created its tables here.
select to_regclass('dagster.event_logs') is not null;

-- name: delete_superseded_reports
-- Run-less materialisations older than a while that have a newer one of the same asset and partition.
delete from dagster.event_logs as old
where
    old.run_id = ''
    and old.dagster_event_type = 'ASSET_MATERIALIZATION'
    and old."timestamp" < %(before)s::timestamptz at time zone 'UTC'
    and exists (
        select 1
        from dagster.event_logs as newer
        where
            newer.asset_key = old.asset_key
            and newer.partition is not distinct from old.partition
            and newer.dagster_event_type = old.dagster_event_type
            and newer.id > old.id
    );

-- name: delete_orphaned_tags
-- Tags of events that are gone.
delete from dagster.asset_event_tags as tags
where not exists (
    select 1 from dagster.event_logs as events
    where events.id = tags.event_id
);
