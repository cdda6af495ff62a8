-- What archived counters add up to per customer, meter and segment, by DuckDB over files that are named one by one.
-- sqlfluff:dialect:duckdb

-- name: read_states
-- Counters of a tenant added up. The sum stays whole units and the rest: together they may have too many digits.
select
    customer_ref,
    meter,
    segment_start,
    sum(event_count)::bigint as event_count,
    sum(sum_whole)::decimal(38, 0) as sum_whole,
    sum(sum_fraction)::decimal(38, 12) as sum_fraction,
    min(quantity_min) as quantity_min,
    max(quantity_max) as quantity_max,
    arg_max(quantity_last, (last_ts, last_seq)) as quantity_last,
    max(last_ts) as last_ts,
    arg_max(last_seq, (last_ts, last_seq)) as last_seq
from read_parquet($1)
where
    tenant_id = $2
    and meter <> ''
group by customer_ref, meter, segment_start;

-- name: read_items
-- The distinct values that these unique meters of a tenant saw.
select distinct
    customer_ref,
    meter,
    segment_start,
    item
from read_parquet($1)
where
    tenant_id = $2
    and list_contains($3, meter);
