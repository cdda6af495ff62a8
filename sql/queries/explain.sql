-- Explaining: which events stand behind a counter, and what became of an event.

-- name: begin_snapshot
-- Every statement of the transaction sees one instant.
set local transaction_isolation = 'repeatable read';

-- name: limit_time
-- An explanation of very much is cut off instead of starving the others.
set local statement_timeout = '15s';

-- name: find_event
-- The event of an instant and a key, with what became of it.
with cursor as materialized (
    select folded_below from fold_cursors
    where name = 'counters'
)

select
    event.seq,
    event.idempotency_key,
    event.tenant_id,
    event.customer_ref,
    event.metric,
    event.ts,
    event.quantity,
    event.received_at,
    event.source,
    event.resource_id,
    event.meta::text as meta,
    event.backfill_id,
    event.xid::text as batch,
    event.xid < coalesce((select folded_below from cursor), '0'::xid8) as is_folded,
    late.id as adjustment_id,
    late.status as late_status,
    void.voided_at,
    void.reason as void_reason,
    void.actor as void_actor,
    void.request_id as void_request_id,
    void.replacement_key
from events as event
left join adjustments as late on event.seq = late.event_seq
left join event_voids as void on event.seq = void.seq
where
    event.tenant_id = %(tenant_id)s
    and event.ts = %(ts)s
    and event.idempotency_key = %(idempotency_key)s;

-- name: load_events
-- Events of some references of a customer and some metrics in [start_at, end_at) beyond the key (after_ts, after_seq),
-- oldest first, columns as find_event; no batch of a row that was brought from the lake.
with cursor as materialized (
    select folded_below from fold_cursors
    where name = 'counters'
),

page as (
    select *
    from events
    where
        tenant_id = %(tenant_id)s
        and ts >= %(start_at)s
        and ts < %(end_at)s
        and customer_ref = any(%(customer_refs)s::text[])
        and metric = any(%(metrics)s::text[])
        and (%(after_seq)s::bigint is null or (ts, seq) > (%(after_ts)s::timestamptz, %(after_seq)s::bigint))
    order by ts, seq
    limit %(most)s
)

select
    event.seq,
    event.idempotency_key,
    event.tenant_id,
    event.customer_ref,
    event.metric,
    event.ts,
    event.quantity,
    event.received_at,
    event.source,
    event.resource_id,
    event.meta::text as meta,
    event.backfill_id,
    nullif(event.xid::text, '0') as batch,
    event.xid < coalesce((select folded_below from cursor), '0'::xid8) as is_folded,
    late.id as adjustment_id,
    late.status as late_status,
    void.voided_at,
    void.reason as void_reason,
    void.actor as void_actor,
    void.request_id as void_request_id,
    void.replacement_key
from page as event
left join adjustments as late on event.seq = late.event_seq
left join event_voids as void on event.seq = void.seq
order by event.ts, event.seq;

-- name: load_counters
-- A customer's counters of a meter over some days, both included: every lane, segment and combination of dimensions.
select
    counter.day,
    counter.segment_start,
    counter.dimensions,
    counter.is_late,
    counter.event_count,
    counter.quantity_sum,
    counter.quantity_min,
    counter.quantity_max,
    counter.quantity_last,
    (
        select count(*) from counter_items as item
        where
            item.tenant_id = counter.tenant_id
            and item.customer_ref = counter.customer_ref
            and item.meter = counter.meter
            and item.day = counter.day
            and item.segment_start = counter.segment_start
            and item.dimensions = counter.dimensions
            and item.is_late = counter.is_late
    ) as distinct_count
from counters as counter
where
    counter.tenant_id = %(tenant_id)s
    and counter.customer_ref = %(customer_ref)s
    and counter.meter = %(meter)s
    and counter.day between %(first_on)s and %(last_on)s
order by counter.day, counter.segment_start, counter.dimensions, counter.is_late;

-- name: load_adjustments
-- What people adjusted of the meter on these days (of whole months: when one of them is in it), and late events of the
-- metrics it reads.
select
    id,
    reason,
    status,
    metric,
    customer_ref,
    period,
    day,
    delta,
    actor,
    note,
    event_key,
    created_at
from adjustments
where
    tenant_id = %(tenant_id)s
    and customer_ref = any(%(customer_refs)s::text[])
    and (
        (reason <> 'late_event' and metric = %(meter)s)
        or (reason = 'late_event' and metric = any(%(metrics)s::text[]))
    )
    and day <= %(last_on)s
    and (
        day >= %(first_on)s
        or (period = 'month' and day + interval '1 month' > %(first_on)s::date)
    )
order by created_at, id
limit %(most)s;

-- name: load_conflicts
-- Payloads that were refused because the key was taken, oldest first.
select
    metric,
    customer_ref,
    resource_id,
    quantity,
    ts,
    meta::text as meta,
    source,
    first_received_at,
    times_received,
    last_received_at
from event_conflicts
where key_hash = %(key_hash)s
order by first_received_at, payload_hash
limit %(most)s;

-- name: has_recount_pending
-- Whether a day of these waits to be counted again under other rules.
select exists(
    select from slice_recounts
    where
        tenant_id = %(tenant_id)s
        and next_day <= %(last_on)s
        and last_day >= %(first_on)s
);

-- name: load_fate
-- What became of a folded event whose row is in the lake alone: one row, nulls when nothing did.
select
    late.id as adjustment_id,
    late.status as late_status,
    void.voided_at,
    void.reason as void_reason,
    void.actor as void_actor,
    void.request_id as void_request_id,
    void.replacement_key
from (select %(seq)s::bigint as seq) as event
left join adjustments as late on event.seq = late.event_seq
left join event_voids as void on event.seq = void.seq;
