-- Usage by rules: counters' states and the ledger rows that are not in them, for what only the rulebook can put together
-- (meters, billing phases). Several statements of one snapshot.

-- name: read_one_snapshot
-- The first statement of the transaction: all others see the same instant.
set local transaction_isolation = 'repeatable read';

-- name: is_meter
-- Whether a tenant ever defined a meter of this name.
select count(*) > 0 as is_meter
from meters
where tenant_id = %(tenant_id)s and name = %(name)s;

-- name: load_head
-- How far the fold is, and how many days of the tenant wait to be counted again.
select
    coalesce(cursor.folded_below, '0'::xid8)::text as folded_below,
    cursor.advanced_at,
    coalesce(cursor.system_identifier <> (select system_identifier from pg_control_system()), false) as is_foreign,
    (
        select coalesce(sum(waiting.last_day - waiting.next_day + 1), 0)::bigint
        from slice_recounts as waiting
        where waiting.tenant_id = %(tenant_id)s
    ) as recount_days
from (select 1) as once
left join fold_cursors as cursor on cursor.name = 'counters';

-- name: load_parts
-- Counters of the days [first_on, last_on]; of these customers and meters, or of all when none are named.
select
    customer_ref,
    meter,
    day,
    segment_start,
    dimensions,
    event_count,
    quantity_sum,
    quantity_min,
    quantity_max,
    quantity_last,
    last_ts,
    last_seq,
    first_ts,
    unit_microseconds,
    is_late
from counters
where
    tenant_id = %(tenant_id)s
    and (%(customers)s::text[] is null or customer_ref = any(%(customers)s::text[]))
    and (%(meters)s::text[] is null or meter = any(%(meters)s::text[]))
    and meter <> ''
    and day between %(first_on)s and %(last_on)s
limit %(most)s;

-- name: load_levels
-- As load_parts, the last counter before first_on of each customer, meter and dimensions.
select distinct on (customer_ref, meter, dimensions)
    customer_ref,
    meter,
    day,
    segment_start,
    dimensions,
    event_count,
    quantity_sum,
    quantity_min,
    quantity_max,
    quantity_last,
    last_ts,
    last_seq,
    first_ts,
    unit_microseconds,
    is_late
from counters
where
    tenant_id = %(tenant_id)s
    and (%(customers)s::text[] is null or customer_ref = any(%(customers)s::text[]))
    and meter = any(%(meters)s::text[])
    and day < %(first_on)s
order by customer_ref, meter, dimensions, day desc, last_ts desc, last_seq desc
limit %(most)s;

-- name: load_items
-- As load_parts, what unique and percentile meters saw.
select
    customer_ref,
    meter,
    day,
    segment_start,
    dimensions,
    is_late,
    item,
    item_count
from counter_items
where
    tenant_id = %(tenant_id)s
    and (%(customers)s::text[] is null or customer_ref = any(%(customers)s::text[]))
    and meter = any(%(meters)s::text[])
    and day between %(first_on)s and %(last_on)s
limit %(most)s;

-- name: load_events
-- Events of [from_ts, until_ts) that count, with an xid from since_xid on (0: all), received until known_at; of these
-- references and metrics, or of all when none are named, without those withheld; filtered as in usage_windows.sql.
-- Columns of LEDGER_EVENTS; quantity as text.
with gone as materialized (
    select void.seq
    from event_voids as void
    where
        void.tenant_id = %(tenant_id)s
        and void.ts >= %(from_ts)s::timestamptz
        and void.ts < %(until_ts)s::timestamptz
        and (%(known_at)s::timestamptz is null or void.voided_at <= %(known_at)s::timestamptz)
    union all
    select late.event_seq as seq
    from adjustments as late
    where
        late.reason = 'late_event'
        and late.tenant_id = %(tenant_id)s
        and late.effective_at >= %(from_ts)s::timestamptz
        and late.effective_at < %(until_ts)s::timestamptz
        and case
            when %(known_at)s::timestamptz is null then late.status
            else coalesce(
                (
                    select step.status_after
                    from adjustment_transitions as step
                    where step.adjustment_id = late.id and step.happened_at <= %(known_at)s::timestamptz
                    order by step.id desc
                    limit 1
                ),
                -- Not folded then: a read judged it as its fold did.
                (
                    select first.status_after
                    from adjustment_transitions as first
                    where first.adjustment_id = late.id
                    order by first.id
                    limit 1
                )
            )
        end in ('pending', 'rejected', 'reverted')
)

select
    event.tenant_id,
    event.customer_ref,
    event.metric,
    event.ts,
    event.seq,
    event.quantity::text as quantity,
    event.received_at,
    false as is_history,
    false as is_late,
    event.source,
    event.resource_id,
    event.meta::text as meta
from events as event
where
    event.xid >= %(since_xid)s::xid8
    and event.tenant_id = %(tenant_id)s
    and (
        %(refs)s::text[] is null
        or (
            hashtextextended(event.customer_ref, 0) = any(
                array(select hashtextextended(asked.ref, 0) from unnest(%(refs)s::text[]) as asked (ref))
            )
            and event.customer_ref = any(%(refs)s::text[])
        )
    )
    and (%(metrics)s::text[] is null or event.metric = any(%(metrics)s::text[]))
    and event.ts >= %(from_ts)s::timestamptz
    and event.ts < %(until_ts)s::timestamptz
    and (%(known_at)s::timestamptz is null or event.received_at <= %(known_at)s::timestamptz)
    and (%(source)s::text is null or event.source = %(source)s::text)
    and (%(resource_id)s::text is null or event.resource_id = %(resource_id)s::text)
    and (
        %(meta_filters)s::jsonb is null
        or not exists (
            select
            from jsonb_array_elements(%(meta_filters)s::jsonb) as asked (pair)
            where
                (event.meta #>> array(select jsonb_array_elements_text(asked.pair -> 0)))
                is distinct from (asked.pair ->> 1)
        )
    )
    and event.seq <> all(%(withheld)s::bigint[])
    and not exists (
        select from gone
        where gone.seq = event.seq
    )
limit %(most)s;

-- name: load_adjustments
-- Approved manual adjustments that take effect in [from_ts, until_ts); of these references and meters, or of all.
select
    customer_ref,
    metric as meter,
    day,
    effective_at,
    delta
from adjustments
where
    tenant_id = %(tenant_id)s
    and (%(refs)s::text[] is null or customer_ref = any(%(refs)s::text[]))
    and (%(meters)s::text[] is null or metric = any(%(meters)s::text[]))
    and effective_at >= %(from_ts)s::timestamptz
    and effective_at < %(until_ts)s::timestamptz
    and reason <> 'late_event'
    and case
        when %(known_at)s::timestamptz is null then status
        else (
            select step.status_after
            from adjustment_transitions as step
            where step.adjustment_id = adjustments.id and step.happened_at <= %(known_at)s::timestamptz
            order by step.id desc
            limit 1
        )
    end = 'approved';
