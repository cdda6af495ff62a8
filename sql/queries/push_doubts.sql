-- Rows of the outbox that Stripe acknowledged and may not have counted, until their minute is read back.

-- name: raise_reported
-- Doubt the rows an error report names, those in flight included: sent again, they would only be "there already".
insert into push_doubts (
    entry_id, origin, stripe_event_id, error_code, error_message, raised_at, next_reading_at
)
select distinct on (e.id)
    e.id,
    'report',
    %(stripe_event_id)s,
    s.error_code,
    s.error_message,
    %(now)s::timestamptz,
    %(now)s::timestamptz
from
    unnest(%(identifiers)s::text[], %(error_codes)s::text[], %(error_messages)s::text[])
        as s (identifier, error_code, error_message)
inner join push_entries as e on s.identifier = e.identifier
where e.stripe_account_id = %(stripe_account_id)s and e.state in ('planned', 'sending', 'accepted')
order by e.id
on conflict (entry_id) do nothing;

-- name: raise_neighbours
-- Doubt what else was accepted, and not confirmed, of the customers and meters of these rows.
insert into push_doubts (
    entry_id, origin, stripe_event_id, error_code, error_message, raised_at, next_reading_at
)
select distinct on (e.id)
    e.id,
    'report',
    %(stripe_event_id)s,
    null::text,
    %(error_message)s,
    %(now)s::timestamptz,
    %(now)s::timestamptz
from push_entries as r
inner join push_entries as e
    on
        r.stripe_account_id = e.stripe_account_id
        and r.stripe_event_name = e.stripe_event_name
        and r.stripe_customer_id = e.stripe_customer_id
where
    r.stripe_account_id = %(stripe_account_id)s
    and r.identifier = any(%(identifiers)s)
    and e.state = 'accepted'
order by e.id
on conflict (entry_id) do nothing;

-- name: raise_unnamed
-- A report counts more errors than it names: doubt every row of the meter that was sent shortly before it.
insert into push_doubts (
    entry_id, origin, stripe_event_id, error_code, error_message, raised_at, next_reading_at
)
select
    e.id,
    'report',
    %(stripe_event_id)s,
    null::text,
    %(error_message)s,
    %(now)s::timestamptz,
    %(now)s::timestamptz
from price_mappings as m
inner join push_entries as e on m.id = e.mapping_id
where
    m.stripe_account_id = %(stripe_account_id)s
    and m.stripe_meter_id = %(stripe_meter_id)s
    and e.state = 'accepted'
    and e.last_attempt_at >= %(sent_from)s
    and e.last_attempt_at <= %(sent_until)s
on conflict (entry_id) do nothing;

-- name: raise_approved
-- An operator doubts a day's accepted rows, and lets those that are absent be sent again. Read afresh.
insert into push_doubts as d (
    entry_id, origin, error_message, actor, raised_at, next_reading_at
)
select
    e.id,
    'operator',
    %(reason)s,
    %(actor)s,
    %(now)s::timestamptz,
    %(now)s::timestamptz
from push_entries as e
where
    e.tenant_id = %(tenant_id)s
    and e.stripe_account_id = %(stripe_account_id)s
    and e.day = %(day)s
    and (%(meter)s::text is null or e.meter = %(meter)s)
    and (%(customer_ref)s::text is null or e.customer_ref = %(customer_ref)s)
    and e.state = 'accepted'
on conflict (entry_id) do update
    set
        origin = 'operator',
        error_message = excluded.error_message,
        actor = excluded.actor,
        raised_at = excluded.raised_at,
        next_reading_at = excluded.next_reading_at,
        read_at = null,
        read_quantity = null,
        settled_at = null,
        verdict = null
    where d.settled_at is not null or d.actor is null;

-- name: settle_known
-- What became of its row says it already: confirmed is there, rejected afterwards is not. Where the mapping leads to
-- another Stripe meter by now, an empty minute there would prove nothing.
update push_doubts as d
set
    settled_at = %(now)s,
    next_reading_at = null,
    verdict = case e.state when 'confirmed' then 'present' when 'rejected_async' then 'absent' else 'otherwise' end
from push_entries as e
inner join price_mappings as m on e.mapping_id = m.id
where
    d.settled_at is null
    and e.id = d.entry_id
    and e.stripe_account_id = %(stripe_account_id)s
    and (
        e.state in ('confirmed', 'rejected', 'rejected_async', 'quarantined', 'cancelled')
        or (
            e.state = 'accepted'
            and (m.stripe_account_id, m.stripe_event_name)
            is distinct from (e.stripe_account_id, e.stripe_event_name)
        )
    );

-- name: list_due
-- Doubts whose row was last sent long enough ago for its minute to be read, at an account, longest due first.
select
    d.entry_id,
    d.stripe_event_id,
    d.error_code,
    d.error_message,
    d.actor,
    d.read_at,
    d.read_quantity,
    e.tenant_id,
    e.meter,
    e.customer_ref,
    e.day,
    e.stripe_account_id,
    e.stripe_customer_id,
    m.stripe_meter_id,
    e.stamped_at,
    e.identifier,
    e.delta
from push_doubts as d
inner join push_entries as e on d.entry_id = e.id
inner join price_mappings as m on e.mapping_id = m.id
where
    d.settled_at is null
    and d.next_reading_at <= %(now)s
    and e.stripe_account_id = %(stripe_account_id)s
    and m.stripe_account_id = e.stripe_account_id
    and m.stripe_event_name = e.stripe_event_name
    and m.stripe_meter_id is not null
    and e.state = 'accepted'
    and coalesce(e.last_attempt_at, e.settled_at) <= %(sent_before)s
order by d.next_reading_at, d.entry_id
limit %(limit)s;

-- name: has_due
-- Whether a doubt can be read now, of mappings of some modes.
select exists(
    select 1
    from push_doubts as d
    inner join push_entries as e on d.entry_id = e.id
    inner join price_mappings as m on e.mapping_id = m.id
    where
        d.settled_at is null
        and m.mode = any(%(modes)s)
        and m.stripe_account_id = e.stripe_account_id
        and d.next_reading_at <= %(now)s
        and e.state not in ('planned', 'sending')
        and (e.state <> 'accepted' or coalesce(e.last_attempt_at, e.settled_at) <= %(sent_before)s)
);

-- name: count_open
-- How many rows are doubted, at an account or (null) any.
select count(*)
from push_doubts as d
inner join push_entries as e on d.entry_id = e.id
where
    d.settled_at is null
    and (%(stripe_account_id)s::text is null or e.stripe_account_id = %(stripe_account_id)s);

-- name: note_reading
-- What the minute held; it is read once more.
update push_doubts
set read_at = %(now)s, read_quantity = %(quantity)s, next_reading_at = %(next_reading_at)s
where entry_id = %(entry_id)s and settled_at is null;

-- name: postpone
-- The minute could not be read.
update push_doubts
set next_reading_at = %(next_reading_at)s
where entry_id = %(entry_id)s and settled_at is null;

-- name: settle
-- The doubt is over.
update push_doubts
set settled_at = %(now)s, next_reading_at = null, verdict = %(verdict)s
where entry_id = %(entry_id)s and settled_at is null;

-- name: reject_accepted
-- Acknowledged, and proven absent: its delta is lacking again. released_at: whether its customer may go on at once.
update push_entries
set
    state = 'rejected_async',
    settled_at = %(now)s,
    released_at = %(released_at)s,
    error_code = %(error_code)s,
    error_message = %(error_message)s
where id = %(entry_id)s and state = 'accepted';
