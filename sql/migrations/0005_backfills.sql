-- migrate:up
-- Imports of files and backfills: what was asked for, how far it has come, what every row came to.

create table backfills (
    id uuid primary key default gen_random_uuid(),
    tenant_id text not null,
    metric text,
    customer_ref text,
    period_start date,
    period_end date,
    reason text not null check (length(reason) between 1 and 500),
    actor text not null,
    source_type text not null check (source_type in ('file', 'url', 'csv', 'events')),
    source text not null,
    source_version text not null,
    source_format text not null check (source_format in ('csv', 'jsonl', 'parquet')),
    column_map jsonb not null default '{}',
    payload bytea,
    status text not null default 'pending'
    check (status in ('pending', 'processing', 'completed', 'failed', 'cancelled')),
    source_position bigint not null default 0 check (source_position >= 0),
    source_size bigint not null check (source_size >= 0),
    row_count bigint not null default 0,
    accepted_count bigint not null default 0 check (accepted_count >= 0),
    duplicate_count bigint not null default 0 check (duplicate_count >= 0),
    conflict_count bigint not null default 0 check (conflict_count >= 0),
    failed_count bigint not null default 0 check (failed_count >= 0),
    skipped_count bigint not null default 0 check (skipped_count >= 0),
    report_bytes bigint not null default 0 check (report_bytes >= 0),
    error_message text,
    created_at timestamptz not null,
    started_at timestamptz,
    completed_at timestamptz,
    updated_at timestamptz not null,
    constraint backfills_conserve
    check (row_count = accepted_count + duplicate_count + conflict_count + failed_count + skipped_count),
    constraint backfills_period check (period_end >= period_start),
    constraint backfills_finished
    check ((status in ('completed', 'failed', 'cancelled')) = (completed_at is not null))
) with (fillfactor = 70);
comment on table backfills is 'One row per import of a file and per backfill. Its counts and position move in the transaction that stores the rows.';
comment on column backfills.metric is 'Metric of rows that name none; rows of another metric are skipped. Null: every row names its own.';
comment on column backfills.period_end is 'Last UTC day, included; rows outside the period are skipped.';
comment on column backfills.source_version is 'Which state of the source was begun: a source that changed since is not resumed.';
comment on column backfills.payload is 'What an HTTP request brought along, until the backfill ends.';
comment on column backfills.source_position is 'Everything before it is committed: bytes of CSV and JSON Lines, rows of Parquet.';
comment on column backfills.report_bytes is 'Length of the error report file that belongs to source_position.';
create index backfills_by_tenant on backfills (tenant_id, created_at);
create index backfills_unfinished on backfills (created_at) where status in ('pending', 'processing');

-- migrate:down
drop table backfills;
