-- sqlfluff:dialect:duckdb
-- What unique and percentile meters saw: one row per distinct value of a counter, and how often it came. Over several
-- days, customers or segments: count(distinct item), and a quantile of item weighted by item_count.
create view counter_items as
select
    day,
    month,
    tenant_id,
    customer_ref,
    meter,
    segment_start,
    dimensions,
    is_late,
    item,
    item_count
from read_parquet(getvariable('lake') || '/counter_items/*/*/part.parquet', hive_partitioning = true);
