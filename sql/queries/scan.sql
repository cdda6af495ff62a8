-- Ledger rows for counting, read as Arrow. Parameters are ADBC's ($1).
-- sqlfluff:templater:placeholder:param_style:numeric_dollar

-- name: scan_window
-- The events of the xid window [$1, $2), any order; quantity as text, because Arrow has no unbounded decimal.
select
    tenant_id,
    customer_ref,
    metric as meter,
    ts,
    seq,
    quantity::text as quantity,
    received_at
from events
where
    xid >= $1::xid8
    and xid < $2::xid8;

-- name: scan_day
-- The events of the time range [$1, $2) that the fold has read (xid below $3), any order.
select
    tenant_id,
    customer_ref,
    metric as meter,
    ts,
    seq,
    quantity::text as quantity,
    received_at
from events
where
    ts >= $1
    and ts < $2
    and xid < $3::xid8;

-- name: scan_counters
-- The counters of day $1, shape COUNTERS but for the sum: whole units and fraction of the stored one, as text.
select
    tenant_id,
    customer_ref,
    meter,
    day,
    segment_start,
    event_count,
    trunc(quantity_sum)::text as sum_whole,
    (quantity_sum - trunc(quantity_sum))::text as sum_fraction,
    quantity_min::text as quantity_min,
    quantity_max::text as quantity_max,
    quantity_last::text as quantity_last,
    last_ts,
    last_seq
from counters
where day = $1;

-- name: scan_archive_day
-- As scan_day, every column that means something outside this cluster (xid does not).
select
    tenant_id,
    metric,
    customer_ref,
    ts,
    seq,
    quantity::text as quantity,
    received_at,
    source,
    idempotency_key,
    resource_id,
    meta::text as meta
from events
where
    ts >= $1
    and ts < $2
    and xid < $3::xid8;
