-- Imports of files and backfills (table backfills).

-- name: create_backfill
-- A new operation, pending.
insert into backfills (
    tenant_id, metric, customer_ref, period_start, period_end, reason, actor, source_type, source, source_version,
    source_format, column_map, payload, source_size, source_row_count, created_at, updated_at
)
values (
    %(tenant_id)s, %(metric)s, %(customer_ref)s, %(period_start)s, %(period_end)s, %(reason)s, %(actor)s,
    %(source_type)s, %(source)s, %(source_version)s, %(source_format)s, %(column_map)s::jsonb, %(payload)s,
    %(source_size)s, %(source_row_count)s, %(now)s, %(now)s
)
returning id;

-- name: load_backfill
-- One operation; the payload is read on its own.
select
    id, tenant_id, metric, customer_ref, period_start, period_end, reason, actor, source_type, source, source_version,
    source_format, column_map, status, source_position, source_size, row_count, accepted_count, duplicate_count,
    conflict_count, failed_count, skipped_count, report_bytes, error_message, created_at, started_at, completed_at,
    updated_at, voided_count, revert_reason, reverted_by, reverted_at, source_row_count
from backfills
where id = %(id)s;

-- name: list_backfills
-- Operations beyond the key (after_at, after_id), newest first; a filter that is null does not filter.
select
    id, tenant_id, metric, customer_ref, period_start, period_end, reason, actor, source_type, source, source_version,
    source_format, column_map, status, source_position, source_size, row_count, accepted_count, duplicate_count,
    conflict_count, failed_count, skipped_count, report_bytes, error_message, created_at, started_at, completed_at,
    updated_at, voided_count, revert_reason, reverted_by, reverted_at, source_row_count
from backfills
where
    (%(tenant_id)s::text is null or tenant_id = %(tenant_id)s)
    and (%(status)s::text is null or status = %(status)s)
    and (%(after_id)s::uuid is null or (created_at, id) < (%(after_at)s::timestamptz, %(after_id)s::uuid))
order by created_at desc, id desc
limit %(most)s offset %(skipped)s;

-- name: count_backfills
-- How many operations match.
select count(*)
from backfills
where
    (%(tenant_id)s::text is null or tenant_id = %(tenant_id)s)
    and (%(status)s::text is null or status = %(status)s);

-- name: load_payload
-- What an HTTP request brought along; null when it brought an address, or the operation has ended.
select payload
from backfills
where id = %(id)s;

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

-- name: release_backfill
-- Lets go of it; false when this session had not locked it.
select pg_advisory_unlock(hashtextextended('stripemeter.backfill:' || %(id)s::text, 0));

-- name: list_waiting
-- Operations that came over HTTP, oldest first, with work left (rows to store, events to void) that nobody is doing.
select id
from backfills
where
    (
        (source_type <> 'file' and status in ('pending', 'processing'))
        or (revert_reason is not null and reverted_at is null)
    )
    and not exists (
        -- The advisory lock of lock_backfill, as pg_locks shows its 64 bits: in two halves.
        select from pg_locks as held
        where
            held.locktype = 'advisory'
            and held.objsubid = 1
            and held.database = (
                select oid from pg_database
                where datname = current_database()
            )
            and (held.classid::bigint << 32) | held.objid::bigint
            = hashtextextended('stripemeter.backfill:' || backfills.id::text, 0)
    )
order by created_at, id
limit %(most)s;

-- name: pin_source
-- Which state of its source an operation reads: what was found when it first looked.
update backfills
set
    source_version = %(source_version)s,
    source_size = %(source_size)s,
    updated_at = %(now)s
where
    id = %(id)s
    and source_version = ''
    and status = 'processing';

-- name: note_row_count
-- How many rows the source has, found when it was opened.
update backfills
set
    source_row_count = %(source_row_count)s,
    updated_at = %(now)s
where
    id = %(id)s
    and source_row_count is null;

-- name: list_ended_before
-- Of these operations, those that ended before an instant and whose revert, if any, is done.
select id
from backfills
where
    id = any(%(ids)s::uuid[])
    and completed_at < %(before)s
    and (revert_reason is null or reverted_at is not null);

-- name: note_interruption
-- Why an operation does not go on for now.
update backfills
set
    error_message = %(error_message)s,
    updated_at = %(now)s
where
    id = %(id)s
    and status in ('pending', 'processing');

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

-- name: ask_revert
-- Somebody wants every event of an ended operation voided; the first to ask is who asked.
update backfills
set
    revert_reason = coalesce(revert_reason, %(reason)s),
    reverted_by = coalesce(reverted_by, %(actor)s),
    updated_at = case when revert_reason is null then %(now)s::timestamptz else updated_at end
where
    id = %(id)s
    and status in ('completed', 'failed', 'cancelled')
returning id;

-- name: count_stored
-- Events of an operation that Postgres has; those of dropped months are in the lake.
select count(*)
from events
where backfill_id = %(id)s;

-- name: scan_standing
-- Events of an operation that are not voided: by day and customer, so that each counter is counted again few times.
select
    event.seq,
    event.ts,
    event.tenant_id,
    event.metric,
    event.customer_ref,
    event.idempotency_key
from events as event
where
    event.backfill_id = %(id)s
    and not exists (
        select from event_voids as void
        where void.seq = event.seq
    )
order by (event.ts at time zone 'UTC')::date, event.customer_ref, event.seq;

-- name: count_voided
-- The checkpoint of a revert: runs in the transaction that voids.
update backfills
set
    voided_count = voided_count + %(voided)s,
    updated_at = %(now)s
where id = %(id)s;

-- name: finish_revert
-- Every event of the operation is voided.
update backfills
set
    reverted_at = %(now)s,
    updated_at = %(now)s
where
    id = %(id)s
    and revert_reason is not null
    and reverted_at is null;
