-- Days of one tenant or customer that wait to be counted again, because a rule they were counted by has changed.

-- name: add_slice_recount
-- Asks for a range of days.
insert into slice_recounts (tenant_id, customer_ref, next_day, last_day, reason, created_at)
values (%(tenant_id)s, %(customer_ref)s, %(first)s, %(last)s, %(reason)s, %(now)s);

-- name: count_pending_days
-- How many days wait, of one tenant when given.
select coalesce(sum(last_day - next_day + 1), 0)::bigint
from slice_recounts
where %(tenant_id)s::text is null or tenant_id = %(tenant_id)s::text;

-- name: take_slice
-- The oldest range nobody works on, locked until the transaction ends; none that failed too often.
select
    id,
    tenant_id,
    customer_ref,
    next_day,
    last_day
from slice_recounts
where
    (%(tenant_id)s::text is null or tenant_id = %(tenant_id)s::text)
    and failed_count < %(max_failures)s
order by id
limit 1
for update skip locked;

-- name: load_stuck_slices
-- Ranges whose next day failed too often: nobody tries them by itself.
select
    tenant_id,
    coalesce(customer_ref, '') as customer_ref,
    next_day,
    last_day,
    reason,
    failed_count,
    coalesce(last_failure, '') as last_failure
from slice_recounts
where failed_count >= %(max_failures)s
order by id;

-- name: retry_slices
-- Ranges that failed on a day are tried again; those somebody works on right now are passed over, who has the row and
-- wants the day.
update slice_recounts
set
    failed_count = 0,
    last_failure = null
where id in (
    select failed.id
    from slice_recounts as failed
    where
        failed.next_day = %(day)s
        and failed.failed_count > 0
    for update skip locked
);

-- name: advance_slice
-- The range's next day is done.
update slice_recounts
set
    next_day = next_day + 1,
    failed_count = 0,
    last_failure = null
where
    id = %(id)s
    and next_day < last_day;

-- name: delete_slice
-- The range's last day is done.
delete from slice_recounts
where
    id = %(id)s
    and next_day = last_day;

-- name: record_slice_failure
-- The range's next day could not be counted again; too many in a row and nobody tries by itself.
update slice_recounts
set
    failed_count = failed_count + 1,
    last_failure = %(message)s
where id = %(id)s;
