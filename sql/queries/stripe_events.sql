-- The inbox of Stripe's events: keeping each once, and working through them in order.

-- name: insert
-- An event with a good signature; a type that nobody awaits is kept as ignored. Another delivery of it changes nothing.
insert into stripe_events (
    id, type, stripe_account_id, is_live, is_thin, created_at, received_at, payload, processed_at, outcome
)
values (
    %(id)s, %(type)s, %(stripe_account_id)s, %(is_live)s, %(is_thin)s, %(created_at)s, %(received_at)s, %(payload)s,
    case when not %(is_awaited)s::boolean then %(received_at)s::timestamptz end,
    case when not %(is_awaited)s::boolean then 'ignored' end
)
on conflict (id) do nothing;

-- name: list_waiting
-- What nobody has processed of some types, in Stripe's order.
select
    id,
    type,
    stripe_account_id,
    is_live,
    is_thin,
    created_at,
    received_at,
    payload
from stripe_events
where processed_at is null and type = any(%(types)s) and is_live = %(is_live)s
order by created_at, id
limit %(limit)s;

-- name: mark_processed
-- Its wait ends, once.
update stripe_events
set processed_at = %(now)s, outcome = %(outcome)s, error_message = %(error_message)s
where id = %(id)s and processed_at is null;

-- name: note_trouble
-- Why it still waits.
update stripe_events
set error_message = %(error_message)s
where id = %(id)s and processed_at is null;

-- name: count_waiting
-- How many wait, and since when.
select
    count(*) as "count",
    min(received_at) as oldest_received_at
from stripe_events
where processed_at is null;

-- name: delete_processed
-- What was processed long ago; a delivery this late is past Stripe's own retries. What failed is kept for reading.
delete from stripe_events
where processed_at < %(before)s and outcome <> 'failed';
