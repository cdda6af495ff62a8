-- The push epoch: whether this is the database that pushed, and bringing the outbox to what Stripe holds when it is not.

-- name: load_fence
-- The epoch that holds, and how this database is not the one it was started in; nothing when there is none.
select epoch, state, started_at, reason, difference
from push_fence;

-- name: start_epoch
-- A new epoch, of this database, in which nothing is pushed yet.
insert into push_epochs (
    epoch, state, system_identifier, timeline, database_oid, table_oid, started_at, reason, actor
)
select
    -- The first is for databases whose rows were all written there: nothing was lost of what they sent.
    greatest((select max(e.epoch) from push_epochs as e), 1) + 1,
    'fenced',
    p.system_identifier,
    p.timeline,
    p.database_oid,
    p.table_oid,
    %(now)s,
    %(reason)s,
    %(actor)s
from push_place as p
returning epoch;

-- name: open_epoch
-- Pushing may go on.
update push_epochs
set state = 'open', opened_at = %(now)s
where epoch = %(epoch)s and state = 'fenced';

-- name: find_unsent
-- Identifiers something was sent under from here, that no row here was ever claimed for.
select w.identifier
from unnest(%(identifiers)s::text[]) as w (identifier)
where
    not exists (
        select 1 from push_entries as e
        where e.identifier = w.identifier and e.attempt > 0
    );

-- name: try_lock
-- Only one restore-fence at a time: the session's, until it ends.
select pg_try_advisory_lock(7236);

-- name: list_targets
-- Every mapped meter of an account with each of its bound customers.
select
    m.id as mapping_id,
    m.tenant_id,
    m.meter,
    b.customer_ref,
    m.stripe_account_id,
    m.stripe_event_name,
    m.stripe_meter_id,
    b.stripe_customer_id
from price_mappings as m
inner join customer_bindings as b on m.tenant_id = b.tenant_id and m.stripe_account_id = b.stripe_account_id
where m.stripe_account_id = %(stripe_account_id)s and m.mode = %(mode)s
order by m.tenant_id, m.meter, b.customer_ref;

-- name: find_unimported
-- The places of those that the outbox was not brought up to in this epoch.
select t.place
from
    unnest(%(stripe_account_ids)s::text[], %(stripe_event_names)s::text[], %(stripe_customer_ids)s::text[])
    with ordinality as t (stripe_account_id, stripe_event_name, stripe_customer_id, place)
left join push_imports as i
    on
        t.stripe_account_id = i.stripe_account_id
        and t.stripe_event_name = i.stripe_event_name
        and t.stripe_customer_id = i.stripe_customer_id
        and i.epoch = %(epoch)s
where i.epoch is null
order by t.place;

-- name: load_last_planned_at
-- When the newest row of an account from before an epoch was written: what the outbox lacks was sent after it.
select max(planned_at)
from push_entries
where stripe_account_id = %(stripe_account_id)s and (%(epoch)s::integer is null or epoch < %(epoch)s::integer);

-- name: load_rows
-- A target's rows from a day on.
select id, segment_start, day, stamped_at, delta, state, last_attempt_at
from push_entries
where
    stripe_account_id = %(stripe_account_id)s
    and stripe_event_name = %(stripe_event_name)s
    and stripe_customer_id = %(stripe_customer_id)s
    and day >= %(first_day)s
order by stamped_at;

-- name: load_corrections
-- What is known to be at Stripe beside the rows.
select segment_start, day, surplus
from stripe_corrections
where
    stripe_account_id = %(stripe_account_id)s
    and stripe_event_name = %(stripe_event_name)s
    and stripe_customer_id = %(stripe_customer_id)s
    and day >= %(first_day)s
    and status = 'approved'
order by decided_at, id;

-- name: insert_found
-- A row for a minute that Stripe holds something in and no row was of.
insert into push_entries (
    id, mapping_id, tenant_id, meter, customer_ref, stripe_account_id, stripe_event_name, stripe_customer_id,
    segment_start, day, seq, delta, total_before, total_after, stamped_at, identifier, planned_at, state,
    is_already_accepted, settled_at, origin
)
select
    gen_random_uuid(),
    %(mapping_id)s,
    %(tenant_id)s,
    %(meter)s,
    %(customer_ref)s,
    %(stripe_account_id)s,
    %(stripe_event_name)s,
    %(stripe_customer_id)s,
    %(segment_start)s,
    %(day)s,
    coalesce(t.entry_count, 0) + 1,
    %(delta)s::numeric,
    coalesce(t.planned_total, 0),
    coalesce(t.planned_total, 0) + %(delta)s::numeric,
    %(stamped_at)s,
    %(identifier)s,
    %(now)s,
    'accepted',
    true,
    %(now)s,
    'imported'
from (values (1)) as one
left join push_totals as t
    on
        t.stripe_account_id = %(stripe_account_id)s
        and t.stripe_event_name = %(stripe_event_name)s
        and t.stripe_customer_id = %(stripe_customer_id)s
        and t.segment_start = %(segment_start)s
        and t.day = %(day)s;

-- name: begin_sending
-- Rows planned here that were sent by the database that is gone: they pass through this state, as any that were sent.
update push_entries
set state = 'sending'
where id = any(%(ids)s) and state = 'planned';

-- name: settle_arrived
-- Their minute holds them.
update push_entries
set
    state = 'accepted',
    is_already_accepted = true,
    settled_at = %(now)s,
    lease_until = null,
    next_attempt_at = null,
    http_status = null,
    error_code = null,
    error_message = null
where id = any(%(ids)s) and state in ('sending', 'rejected');

-- name: settle_absent
-- Their minute holds nothing: their usage is planned anew.
update push_entries
set
    state = 'cancelled',
    settled_at = %(now)s,
    lease_until = null,
    next_attempt_at = null,
    error_message = 'absent at Stripe after a restore'
where id = any(%(ids)s) and state in ('planned', 'sending');

-- name: settle_dropped
-- Acknowledged, and not there: an operator must look.
update push_entries
set
    state = 'rejected_async',
    settled_at = %(now)s,
    error_message = 'absent at Stripe after a restore, on a day that holds something else'
where id = any(%(ids)s) and state = 'accepted';

-- name: settle_doubtful
-- Their minute holds something else: an operator must look.
update push_entries
set
    state = 'quarantined',
    settled_at = %(now)s,
    lease_until = null,
    next_attempt_at = null,
    error_message = 'after a restore its minute held something else at Stripe'
where id = any(%(ids)s) and state = 'sending';

-- name: record_import
-- The outbox says what Stripe holds of this target.
insert into push_imports (
    epoch, stripe_account_id, stripe_event_name, stripe_customer_id, imported_at, entry_count
)
values (
    %(epoch)s, %(stripe_account_id)s, %(stripe_event_name)s, %(stripe_customer_id)s, %(now)s, %(entry_count)s
)
on conflict (epoch, stripe_account_id, stripe_event_name, stripe_customer_id) do nothing;
