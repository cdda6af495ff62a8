-- migrate:up
-- How many rows a backfill's source has, where that is known before the last of them was read.

alter table backfills add column source_row_count bigint check (source_row_count >= 0);
comment on column backfills.source_row_count is 'Of what came along with the request, and of Parquet once it is opened; null: nobody has counted them.';

-- migrate:down
alter table backfills drop column source_row_count;
