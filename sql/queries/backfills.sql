-- Imports of files and backfills (table backfills).

-- name: create_backfill
-- A new operation, pending.
insert into backfills (
    tenant_id, metric, customer_ref, period_start, period_end, reason, actor, source_type, source, source_version,
    source_format, column_map, payload, source_size, created_at, updated_at
)
values (
    %(tenant_id)s, %(metric)s, %(customer_ref)s, %(period_start)s, %(period_end)s, %(reason)s, %(actor)s,
    %(source_type)s, %(source)s, %(source_version)s, %(source_format)s, %(column_map)s::jsonb, %(payload)s,
    %(source_size)s, %(now)s, %(now)s
)
returning id;

-- name: load_backfill
-- One operation; the payload is read on its own.
select
    id, tenant_id, metric, customer_ref, period_start, period_end, reason, actor, source_type, source, source_version,
    source_format, column_map, status, source_position, source_size, row_count, accepted_count, duplicate_count,
    conflict_count, failed_count, skipped_count, report_bytes, error_message, created_at, started_at, completed_at,
    updated_at
from backfills
where id = %(id)s;

-- name: list_backfills
-- Operations, newest first; a filter that is null does not filter.
select
    id, tenant_id, metric, customer_ref, period_start, period_end, reason, actor, source_type, source, source_version,
    source_format, column_map, status, source_position, source_size, row_count, accepted_count, duplicate_count,
    conflict_count, failed_count, skipped_count, report_bytes, error_message, created_at, started_at, completed_at,
    updated_at
from backfills
where
    (%(tenant_id)s::text is null or tenant_id = %(tenant_id)s)
    and (%(status)s::text is null or status = %(status)s)
order by created_at desc, id desc
limit %(most)s;

-- name: find_unfinished
-- The newest operation on the same source for the same tenant that has not ended.
select id
from backfills
where
    tenant_id = %(tenant_id)s
    and source_type = 'file'
    and source = %(source)s
    and status in ('pending', 'processing')
order by created_at desc, id desc
limit 1;

-- name: lock_backfill
-- Makes this session the operation's only runner, until it ends or lets go; false when another is.
select pg_try_advisory_lock(hashtextextended('stripemeter.backfill:' || %(id)s::text, 0));

-- name: begin_backfill
-- An operation that has not ended is being run.
update backfills
set
    status = 'processing',
    started_at = coalesce(started_at, %(now)s),
    updated_at = %(now)s
where
    id = %(id)s
    and status in ('pending', 'processing')
returning id;

-- name: advance_backfill
-- The checkpoint: runs in the transaction that stores the rows it counts; nothing when the operation was cancelled.
update backfills
set
    source_position = %(source_position)s,
    row_count = row_count + %(rows)s,
    accepted_count = accepted_count + %(accepted)s,
    duplicate_count = duplicate_count + %(duplicates)s,
    conflict_count = conflict_count + %(conflicts)s,
    failed_count = failed_count + %(failed)s,
    skipped_count = skipped_count + %(skipped)s,
    report_bytes = %(report_bytes)s,
    updated_at = %(now)s
where
    id = %(id)s
    and status = 'processing'
    and row_count = %(rows_before)s
returning id;

-- name: finish_backfill
-- The operation ends: nothing changes it afterwards. Nothing when it has ended already.
update backfills
set
    status = %(status)s,
    error_message = %(error_message)s,
    payload = null,
    completed_at = %(now)s,
    updated_at = %(now)s
where
    id = %(id)s
    and status in ('pending', 'processing')
returning id;
