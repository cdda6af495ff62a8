-- sqlfluff:dialect:duckdb
-- The archived ledger: one row per event. `day` and `month` (YYYY-MM) come from the folders: filter by them, and files
-- of other days are not opened.
create view events as
select
    day,
    month,
    tenant_id,
    metric,
    customer_ref,
    ts,
    seq,
    quantity,
    received_at,
    source,
    idempotency_key,
    resource_id,
    meta,
    backfill_id,
    state
from read_parquet(getvariable('lake') || '/events/*/*/part.parquet', hive_partitioning = true);
