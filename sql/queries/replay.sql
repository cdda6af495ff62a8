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
    quantity_sum,
    quantity_min,
    quantity_max,
    quantity_last,
    last_ts,
    last_seq,
    unit_microseconds
from counters
where tenant_id = %(tenant_id)s and day = %(day)s;

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
