-- Replaying days of one tenant.

-- name: load_tenant_counters
-- The tenant's counters of a day: key, then state.
select
    customer_ref,
    meter,
    segment_start,
    dimensions,
    is_late,
    event_count,
    primary_count,
    quantity_sum,
    quantity_min,
    quantity_max,
    quantity_last,
    last_ts,
    last_seq,
    first_ts,
    unit_microseconds
from counters
where tenant_id = %(tenant_id)s and day = %(day)s;

-- name: load_tenant_items
-- The tenant's counter items of a day: the counter's key, the item, how often.
select
    customer_ref,
    meter,
    segment_start,
    dimensions,
    is_late,
    item,
    item_count
from counter_items
where tenant_id = %(tenant_id)s and day = %(day)s;

-- name: count_withheld_late
-- Late events of a day inside a window that count nowhere, and how many of them wait for a decision.
select
    count(*),
    count(*) filter (where late.status = 'pending')
from adjustments as late
where
    late.tenant_id = %(tenant_id)s
    and late.reason = 'late_event'
    and late.status in ('pending', 'rejected', 'reverted')
    and late.day = %(day)s
    and late.effective_at >= %(since)s
    and late.effective_at < %(until)s
    and not exists (
        select from event_voids as void
        where void.seq = late.event_seq
    );

-- name: absorb_tenant_day
-- The tenant's approved late adjustments of a day become part of its counters, with their audit.
with absorbed as (
    update adjustments
    set
        status = 'absorbed',
        updated_at = %(now)s
    where
        tenant_id = %(tenant_id)s
        and reason = 'late_event'
        and status = 'approved'
        and day = %(day)s
    returning id
)

insert into adjustment_transitions (
    adjustment_id, tenant_id, action, status_before, status_after, actor, happened_at
)
select
    id,
    %(tenant_id)s,
    'absorbed',
    'approved',
    'absorbed',
    %(actor)s,
    %(now)s
from absorbed;
