-- sqlfluff:dialect:duckdb
-- The archived counters: one row per tenant, customer, meter, day and segment. A sum beyond 26 digits is an error, never
-- a rounded number: sum_whole and sum_fraction hold it exactly.
create view counters as
select
    day,
    month,
    tenant_id,
    customer_ref,
    meter,
    segment_start,
    dimensions,
    is_late,
    event_count,
    primary_count,
    sum_whole,
    sum_fraction,
    quantity_min,
    quantity_max,
    quantity_last,
    last_ts,
    last_seq,
    first_ts,
    unit_microseconds,
    sum_whole::decimal(38, 12) + sum_fraction as quantity_sum
from read_parquet(getvariable('lake') || '/counters/*/*/part.parquet', hive_partitioning = true);
