-- What a recount computes of the lake's events, by DuckDB: one row per tenant, meter, customer and day.
create or replace temporary table counted as
select
    tenant_id,
    metric as meter,
    customer_ref,
    "day",
    count(*) as event_count,
    sum(quantity) as quantity_sum,
    min(quantity) as quantity_min,
    max(quantity) as quantity_max,
    arg_max(quantity, (ts, seq)) as quantity_last
from read_parquet($files, hive_partitioning = true, hive_types = {'day': date})
where state in ('counted', 'late')
group by tenant_id, metric, customer_ref, "day";
