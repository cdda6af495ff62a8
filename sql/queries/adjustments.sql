-- Adjustments: what people decide about usage, and the audit of it. Policies beside them.

-- name: insert_adjustment
-- A new one, pending; nothing when the tenant has used its request id before.
insert into adjustments (
    id, tenant_id, metric, customer_ref, period, day, effective_at, delta, reason, status, request_id, note, actor,
    created_at, updated_at
)
values (
    gen_random_uuid(), %(tenant_id)s, %(metric)s, %(customer_ref)s, %(period)s, %(day)s, %(effective_at)s, %(delta)s,
    %(reason)s, 'pending', %(request_id)s, %(note)s, %(actor)s, %(now)s, %(now)s
)
on conflict (tenant_id, request_id) do nothing
returning
    id, tenant_id, metric, customer_ref, period, day, effective_at, delta, reason, status, request_id, note, actor,
    created_at, updated_at, event_seq, event_key;

-- name: find_by_request
-- The adjustment a request id made.
select
    id, tenant_id, metric, customer_ref, period, day, effective_at, delta, reason, status, request_id, note, actor,
    created_at, updated_at, event_seq, event_key
from adjustments
where tenant_id = %(tenant_id)s and request_id = %(request_id)s;

-- name: find_adjustment
-- One of a tenant's.
select
    id, tenant_id, metric, customer_ref, period, day, effective_at, delta, reason, status, request_id, note, actor,
    created_at, updated_at, event_seq, event_key
from adjustments
where tenant_id = %(tenant_id)s and id = %(id)s;

-- name: lock_adjustment
-- As find_adjustment, nobody else's until the transaction ends.
select
    id, tenant_id, metric, customer_ref, period, day, effective_at, delta, reason, status, request_id, note, actor,
    created_at, updated_at, event_seq, event_key
from adjustments
where tenant_id = %(tenant_id)s and id = %(id)s
for update;

-- name: list_adjustments
-- A tenant's, newest first, beyond a key; a filter that is null does not filter.
select
    id, tenant_id, metric, customer_ref, period, day, effective_at, delta, reason, status, request_id, note, actor,
    created_at, updated_at, event_seq, event_key
from adjustments
where
    tenant_id = %(tenant_id)s
    and (%(metric)s::text is null or metric = %(metric)s::text)
    and (%(customer_ref)s::text is null or customer_ref = %(customer_ref)s::text)
    and (%(first_on)s::date is null or day >= %(first_on)s::date)
    and (%(last_on)s::date is null or day <= %(last_on)s::date)
    and (%(status)s::text is null or status = %(status)s::text)
    and (%(reason)s::text is null or reason = %(reason)s::text)
    and (%(after_id)s::uuid is null or (created_at, id) < (%(after_at)s::timestamptz, %(after_id)s::uuid))
order by created_at desc, id desc
limit %(most)s;

-- name: set_status
-- The next state of a locked adjustment.
update adjustments
set
    status = %(status)s,
    updated_at = %(now)s
where id = %(id)s;

-- name: append_transition
-- The audit row of one change.
insert into adjustment_transitions (
    adjustment_id, tenant_id, action, status_before, status_after, actor, request_id, note, happened_at
)
values (
    %(adjustment_id)s, %(tenant_id)s, %(action)s, %(status_before)s, %(status_after)s, %(actor)s, %(request_id)s,
    %(note)s, %(now)s
);

-- name: list_transitions
-- The audit of an adjustment, oldest first.
select
    action, status_before, status_after, actor, request_id, note, happened_at
from adjustment_transitions
where adjustment_id = %(adjustment_id)s
order by id;

-- name: put_policy
-- What a tenant decides; a null leaves what stands, or the default.
insert into tenant_policies as p (tenant_id, late_approval, close_after_seconds, is_four_eyes, updated_at)
values (
    %(tenant_id)s,
    coalesce(%(late_approval)s::text, 'while_open'),
    coalesce(%(close_after_seconds)s::bigint, 172800),
    coalesce(%(is_four_eyes)s::boolean, false),
    %(now)s
)
on conflict (tenant_id) do update
    set
        late_approval = coalesce(%(late_approval)s::text, p.late_approval),
        close_after_seconds = coalesce(%(close_after_seconds)s::bigint, p.close_after_seconds),
        is_four_eyes = coalesce(%(is_four_eyes)s::boolean, p.is_four_eyes),
        updated_at = excluded.updated_at;

-- name: put_window
-- How far behind its watermark an event of a metric may fold.
insert into lateness_windows (tenant_id, metric, window_seconds, updated_at)
values (%(tenant_id)s, %(metric)s, %(window_seconds)s, %(now)s)
on conflict (tenant_id, metric) do update
    set
        window_seconds = excluded.window_seconds,
        updated_at = excluded.updated_at;

-- name: delete_window
-- The metric has the default window again.
delete from lateness_windows
where tenant_id = %(tenant_id)s and metric = %(metric)s;
