-- What a backtest needs of archived counters, by DuckDB alone: one row per customer, meter and segment.
create or replace temporary table grouped as
select
    customer_ref,
    meter,
    segment_start,
    sum(event_count) as event_count,
    sum(sum_whole) as sum_whole,
    sum(sum_fraction) as sum_fraction,
    min(quantity_min) as quantity_min,
    max(quantity_max) as quantity_max,
    arg_max(quantity_last, (last_ts, last_seq)) as quantity_last
from read_parquet($files)
where tenant_id = $tenant_id
group by customer_ref, meter, segment_start;
