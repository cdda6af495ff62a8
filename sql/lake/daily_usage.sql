-- sqlfluff:dialect:duckdb
-- Usage per tenant, meter and day over all customers, every aggregation that can be merged.
create view daily_usage as
select
    tenant_id,
    meter,
    day,
    count(distinct customer_ref) as customers,
    sum(event_count)::bigint as event_count,
    sum(quantity_sum) as quantity_sum,
    min(quantity_min) as quantity_min,
    max(quantity_max) as quantity_max
from counters
where meter <> ''
group by tenant_id, meter, day;
