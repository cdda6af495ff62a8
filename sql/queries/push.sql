-- The outbox: finding what Stripe lacks, planning it, and writing down what became of it.

-- name: find_targets
-- One row per (mapped meter, bound customer) with something to do: an open row whose time has come, or a day inside the
-- window that is not what was sent. A row that Stripe refused stops its customer; so does a row in flight. Of a segment
-- whose invoice is final nothing is sent here or anywhere below; `case` asks that of lacking days alone.
with lacking as (
    select distinct
        mapping_id,
        tenant_id,
        meter,
        customer_ref,
        stripe_account_id,
        stripe_event_name,
        stripe_meter_id,
        stripe_customer_id
    from push_days
    where
        stripe_account_id = %(stripe_account_id)s
        and mode = %(mode)s
        and day >= %(first_day)s
        and day <= %(today)s
        and case when counted <> planned then not is_segment_closed(mapping_id, customer_ref, segment_start) end
)

select
    l.mapping_id,
    l.tenant_id,
    l.meter,
    l.customer_ref,
    l.stripe_account_id,
    l.stripe_event_name,
    l.stripe_meter_id,
    l.stripe_customer_id
from lacking as l
where
    not exists (
        select 1 from push_entries as e
        where
            e.stripe_account_id = l.stripe_account_id
            and e.stripe_event_name = l.stripe_event_name
            and e.stripe_customer_id = l.stripe_customer_id
            and (
                e.state in ('planned', 'sending')
                or (e.state in ('rejected', 'rejected_async', 'quarantined') and e.released_at is null)
            )
    )
union
select
    e.mapping_id,
    e.tenant_id,
    e.meter,
    e.customer_ref,
    e.stripe_account_id,
    e.stripe_event_name,
    m.stripe_meter_id,
    e.stripe_customer_id
from push_entries as e
inner join price_mappings as m on e.mapping_id = m.id
where
    e.stripe_account_id = %(stripe_account_id)s
    and m.mode = %(mode)s
    and e.state in ('planned', 'sending')
    and coalesce(e.lease_until, '-infinity') <= %(now)s
    and coalesce(e.next_attempt_at, '-infinity') <= %(now)s
order by tenant_id, meter, customer_ref;

-- name: has_due_entry
-- Whether a row in flight is due, at any account.
select exists(
    select 1
    from push_entries as e
    inner join price_mappings as m on e.mapping_id = m.id
    where
        m.mode = any(%(modes)s)
        and e.state in ('planned', 'sending')
        and coalesce(e.lease_until, '-infinity') <= %(now)s
        and coalesce(e.next_attempt_at, '-infinity') <= %(now)s
) as has_due_entry;

-- name: scan_unpushed
-- Days a push would plan: as find_targets, for every account; of the open day only with its current minute free.
select d.tenant_id, d.customer_ref, d.meter, d.day, d.segment_start
from push_days as d
where
    d.mode = any(%(modes)s)
    and d.day >= %(first_day)s
    and d.day <= %(today)s
    and case when d.counted <> d.planned then not is_segment_closed(d.mapping_id, d.customer_ref, d.segment_start) end
    and not exists (
        select 1 from push_entries as e
        where
            e.stripe_account_id = d.stripe_account_id
            and e.stripe_event_name = d.stripe_event_name
            and e.stripe_customer_id = d.stripe_customer_id
            and (
                e.state in ('planned', 'sending')
                or (e.state in ('rejected', 'rejected_async', 'quarantined') and e.released_at is null)
            )
    )
    and (
        d.day < %(today)s
        or (
            d.segment_start <= %(minute)s
            and d.day = (%(minute)s at time zone 'UTC')::date
            and not exists (
                select 1 from push_entries as e
                where
                    e.stripe_account_id = d.stripe_account_id
                    and e.stripe_event_name = d.stripe_event_name
                    and e.stripe_customer_id = d.stripe_customer_id
                    and e.stamped_at = %(minute)s
            )
        )
    );

-- name: lock_targets
-- One planner per (account, event name, customer) until the transaction ends; all in one order, so none deadlocks.
select pg_advisory_xact_lock(2, k.hash)
from (
    select distinct hashtext(t.stripe_account_id || '/' || t.stripe_event_name || '/' || t.stripe_customer_id) as hash
    from
        unnest(%(stripe_account_ids)s::text[], %(stripe_event_names)s::text[], %(stripe_customer_ids)s::text[])
            as t (stripe_account_id, stripe_event_name, stripe_customer_id)
    order by hash
) as k;

-- name: load_lacking_days
-- Days of some targets inside the window that are not what was sent, oldest first. `place`: which target. `offset 0`
-- keeps the view from being read whole for all of them: a target is a few index entries.
select t.place, d.segment_start, d.day, d.counted, d.planned, d.entry_count
from
    unnest(%(tenant_ids)s::text[], %(mapping_ids)s::uuid[], %(customer_refs)s::text[])
    with ordinality as t (tenant_id, mapping_id, customer_ref, place)
cross join
    lateral (
        select
            segment_start,
            day,
            counted,
            planned,
            entry_count
        from push_days
        where
            tenant_id = t.tenant_id
            and mapping_id = t.mapping_id
            and customer_ref = t.customer_ref
            and day >= %(first_day)s
            and day <= %(today)s
            and case when counted <> planned then not is_segment_closed(mapping_id, customer_ref, segment_start) end
        offset 0
    ) as d
order by t.place, d.day, d.segment_start;

-- name: load_used_minutes
-- Minutes from `start` on that some row of the targets has. `place`: which target.
select t.place, e.stamped_at
from
    unnest(
        %(stripe_account_ids)s::text[],
        %(stripe_event_names)s::text[],
        %(stripe_customer_ids)s::text[],
        %(starts)s::timestamptz[],
        %(ends)s::timestamptz[]
    )
    with ordinality as t (stripe_account_id, stripe_event_name, stripe_customer_id, starts_at, ends_at, place)
inner join push_entries as e
    on
        t.stripe_account_id = e.stripe_account_id
        and t.stripe_event_name = e.stripe_event_name
        and t.stripe_customer_id = e.stripe_customer_id
        and t.starts_at <= e.stamped_at
        and t.ends_at > e.stamped_at;

-- name: load_open_entries
-- The rows of some targets that are planned or being sent: at most one of each. `place`: which target.
select
    t.place, e.id, e.mapping_id, e.tenant_id, e.meter, e.customer_ref, e.stripe_account_id, e.stripe_event_name,
    e.stripe_customer_id, e.segment_start, e.day, e.seq, e.delta, e.total_before, e.total_after, e.stamped_at,
    e.identifier, e.planned_at, e.state, e.attempt, e.key_no, e.first_attempt_at, e.last_attempt_at, e.lease_until,
    e.next_attempt_at, e.probed_at, e.probed_quantity
from
    unnest(%(stripe_account_ids)s::text[], %(stripe_event_names)s::text[], %(stripe_customer_ids)s::text[])
    with ordinality as t (stripe_account_id, stripe_event_name, stripe_customer_id, place)
inner join push_entries as e
    on
        t.stripe_account_id = e.stripe_account_id
        and t.stripe_event_name = e.stripe_event_name
        and t.stripe_customer_id = e.stripe_customer_id
where e.state in ('planned', 'sending');

-- name: find_blocked
-- Which of some targets wait for an operator, because of a refused or doubtful row. `place`: which target.
select distinct t.place
from
    unnest(%(stripe_account_ids)s::text[], %(stripe_event_names)s::text[], %(stripe_customer_ids)s::text[])
    with ordinality as t (stripe_account_id, stripe_event_name, stripe_customer_id, place)
inner join push_entries as e
    on
        t.stripe_account_id = e.stripe_account_id
        and t.stripe_event_name = e.stripe_event_name
        and t.stripe_customer_id = e.stripe_customer_id
where e.state in ('rejected', 'rejected_async', 'quarantined') and e.released_at is null;

-- name: insert_planned
-- A new row of the outbox, before anything is sent.
insert into push_entries (
    id, mapping_id, tenant_id, meter, customer_ref, stripe_account_id, stripe_event_name, stripe_customer_id,
    segment_start, day, seq, delta, total_before, total_after, stamped_at, identifier, planned_at, state
)
values (
    %(id)s, %(mapping_id)s, %(tenant_id)s, %(meter)s, %(customer_ref)s, %(stripe_account_id)s,
    %(stripe_event_name)s, %(stripe_customer_id)s, %(segment_start)s, %(day)s, %(seq)s, %(delta)s,
    %(total_before)s, %(total_after)s, %(stamped_at)s, %(identifier)s, %(planned_at)s, 'planned'
);

-- name: claim
-- The rows are ours to send until the lease ends; those that somebody else has or that are settled are left out.
with due as (
    select id
    from push_entries
    where
        id = any(%(ids)s)
        and state in ('planned', 'sending')
        and coalesce(lease_until, '-infinity') <= %(now)s
    order by id
    for update skip locked
)

update push_entries as e
set
    state = 'sending',
    attempt = e.attempt + 1,
    first_attempt_at = coalesce(e.first_attempt_at, %(now)s),
    last_attempt_at = %(now)s,
    lease_until = %(lease_until)s,
    next_attempt_at = null
from due
where e.id = due.id
returning e.id, e.attempt, e.key_no;

-- name: settle_accepted
-- Stripe has them. Also from rejected: of two attempts at once, the one that was acknowledged is right.
with answered as (
    select
        a.id,
        a.is_already_accepted,
        a.request_id
    from
        unnest(%(ids)s::uuid[], %(are_already_accepted)s::boolean[], %(request_ids)s::text[])
            as a (id, is_already_accepted, request_id)
    inner join push_entries as e on a.id = e.id
    where e.state in ('sending', 'rejected')
    order by a.id
    for update of e
)

update push_entries as e
set
    state = 'accepted',
    is_already_accepted = answered.is_already_accepted,
    settled_at = %(now)s,
    lease_until = null,
    next_attempt_at = null,
    request_id = answered.request_id,
    http_status = null,
    error_code = null,
    error_message = null
from answered
where e.id = answered.id;

-- name: settle_rejected
-- Stripe refused it: it is not there, and the customer waits for an operator.
update push_entries
set
    state = 'rejected',
    settled_at = %(now)s,
    lease_until = null,
    http_status = %(http_status)s,
    error_code = %(error_code)s,
    error_message = %(error_message)s,
    request_id = %(request_id)s
where id = %(id)s and state = 'sending';

-- name: settle_open
-- Nobody knows, or not now: the row stays in flight and is tried again after next_attempt_at.
update push_entries
set
    lease_until = null,
    next_attempt_at = %(next_attempt_at)s,
    key_no = key_no + %(key_steps)s,
    http_status = %(http_status)s,
    error_message = %(error_message)s
where id = %(id)s and state = 'sending';

-- name: settle_probe
-- The row's minute was read back; the second equal reading decides.
update push_entries
set probed_at = %(now)s, probed_quantity = %(quantity)s, lease_until = null, next_attempt_at = %(next_attempt_at)s
where id = %(id)s and state = 'sending';

-- name: hold_for_probe
-- Keeps others from probing the row at the same time.
update push_entries
set lease_until = %(lease_until)s
where id = %(id)s and state = 'sending' and coalesce(lease_until, '-infinity') <= %(now)s;

-- name: settle_rearmed
-- Proven absent: it is sent again under its identifier, as if for the first time.
update push_entries
set
    state = 'planned',
    key_no = key_no + 1,
    first_attempt_at = null,
    lease_until = null,
    next_attempt_at = null,
    probed_at = null,
    probed_quantity = null
where id = %(id)s and state = 'sending';

-- name: settle_cancelled
-- It is not at Stripe and never will be: its delta is lacking again.
update push_entries
set
    state = 'cancelled',
    settled_at = %(now)s,
    lease_until = null,
    next_attempt_at = null,
    error_message = %(error_message)s
where id = %(id)s and state in ('planned', 'sending');

-- name: settle_quarantined
-- Its minute holds something else: an operator must look.
update push_entries
set state = 'quarantined', settled_at = %(now)s, lease_until = null, error_message = %(error_message)s
where id = %(id)s and state = 'sending';

-- name: release
-- The customer of a rejected row may go on: its delta is planned again as a new row.
update push_entries
set released_at = %(now)s
where
    tenant_id = %(tenant_id)s
    and id = %(id)s
    and state in ('rejected', 'rejected_async')
    and released_at is null;

-- name: count_held
-- Days that Stripe no longer takes and that are not what was sent.
select count(*)
from push_days
where
    stripe_account_id = %(stripe_account_id)s
    and mode = %(mode)s
    and case
        when counted <> planned
            then day < %(first_day)s or is_segment_closed(mapping_id, customer_ref, segment_start)
    end;

-- name: list_held
-- The newest of them.
select tenant_id, meter, customer_ref, segment_start, day, counted - planned as lacking
from push_days
where
    stripe_account_id = %(stripe_account_id)s
    and mode = %(mode)s
    and case
        when counted <> planned
            then day < %(first_day)s or is_segment_closed(mapping_id, customer_ref, segment_start)
    end
order by day desc, tenant_id, meter, customer_ref
limit %(limit)s;

-- name: list_blocking
-- Rows that wait for an operator, newest first.
select
    id, mapping_id, tenant_id, meter, customer_ref, stripe_account_id, stripe_event_name, stripe_customer_id,
    segment_start, day, delta, state, http_status, error_code, error_message, settled_at
from push_entries
where
    state in ('rejected', 'rejected_async', 'quarantined')
    and released_at is null
    and (%(stripe_account_id)s::text is null or stripe_account_id = %(stripe_account_id)s)
order by settled_at desc, id
limit %(limit)s;

-- name: count_blocked
-- How many (Stripe meter, customer) of an account wait for an operator.
select count(*)
from (
    select distinct
        stripe_event_name,
        stripe_customer_id
    from push_entries
    where
        state in ('rejected', 'rejected_async', 'quarantined')
        and released_at is null
        and stripe_account_id = %(stripe_account_id)s
) as waiting;

-- name: count_states
-- How many rows of the outbox are in each state, and what they add up to.
select tenant_id, meter, state, count(*) as entries, sum(delta) as quantity
from push_entries
where %(tenant_id)s::text is null or tenant_id = %(tenant_id)s
group by tenant_id, meter, state
order by tenant_id, meter, state;
