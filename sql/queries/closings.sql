-- Closing: which invoices bill our usage, how far each is, and what we hold of its windows.

-- name: load_poll
-- Up to when an account's invoices are known.
select polled_at
from invoice_polls
where stripe_account_id = %(stripe_account_id)s;

-- name: save_poll
-- They are known up to here.
insert into invoice_polls as p (stripe_account_id, polled_at)
values (%(stripe_account_id)s, %(polled_at)s)
on conflict (stripe_account_id) do update
    set polled_at = greatest(p.polled_at, excluded.polled_at);

-- name: load_owners
-- Whose Stripe customers these are.
select
    stripe_customer_id,
    tenant_id,
    customer_ref
from customer_bindings
where stripe_account_id = %(stripe_account_id)s and stripe_customer_id = any(%(stripe_customer_ids)s::text[]);

-- name: load_mapped
-- Which of our meters feed an account's meters.
select
    tenant_id,
    stripe_meter_id,
    id,
    meter
from price_mappings
where stripe_account_id = %(stripe_account_id)s and mode = %(mode)s;

-- name: insert_closing
-- An invoice that bills our usage, once.
insert into invoice_closings (
    stripe_account_id, invoice_id, mode, tenant_id, customer_ref, stripe_customer_id, control, state, created_at,
    found_at, finalizes_at, settles_at, is_grace_short
)
values (
    %(stripe_account_id)s, %(invoice_id)s, %(mode)s, %(tenant_id)s, %(customer_ref)s, %(stripe_customer_id)s,
    'observe', 'found', %(created_at)s, %(found_at)s, %(finalizes_at)s, %(settles_at)s, %(is_grace_short)s
)
on conflict (stripe_account_id, invoice_id) do nothing;

-- name: insert_window
-- What it bills.
insert into invoice_windows (
    stripe_account_id, invoice_id, stripe_item_id, price_id, starts_at, ends_at, mapping_id, meter
)
values (
    %(stripe_account_id)s, %(invoice_id)s, %(stripe_item_id)s, %(price_id)s, %(starts_at)s, %(ends_at)s,
    %(mapping_id)s, %(meter)s
)
on conflict (stripe_account_id, invoice_id, stripe_item_id, price_id, starts_at, ends_at) do nothing;

-- name: load_known
-- Which of these invoices have a row.
select invoice_id
from invoice_closings
where stripe_account_id = %(stripe_account_id)s and invoice_id = any(%(invoice_ids)s::text[]);

-- name: take_control
-- From here on we finalize it: written before Stripe is told to wait. Only a draft that nobody holds is taken.
update invoice_closings
set control = 'control'
where
    stripe_account_id = %(stripe_account_id)s
    and invoice_id = %(invoice_id)s
    and control = 'observe'
    and state = 'found';

-- name: list_due
-- Invoices with something to do now: to be held, final by now (what comes then is late), or settled; the oldest first.
select
    stripe_account_id, invoice_id, mode, tenant_id, customer_ref, stripe_customer_id, control, state, created_at,
    found_at, finalizes_at, settles_at, is_grace_short, finalize_key_no, finalized_at, closed_at, checked_at, message,
    released_at, released_by, release_reason
from invoice_closings
where
    stripe_account_id = %(stripe_account_id)s
    and mode = %(mode)s
    and closed_at is null
    and (
        settles_at <= %(now)s
        or (state = 'found' and (control = 'control' or finalizes_at <= %(now)s))
        or released_at is not null
    )
    and coalesce(lease_until, '-infinity') <= %(now)s
order by settles_at, invoice_id;

-- name: list_closings
-- Every invoice of an account or tenant, or those not closed or failed and not released; newest first.
select
    stripe_account_id, invoice_id, mode, tenant_id, customer_ref, stripe_customer_id, control, state, created_at,
    found_at, finalizes_at, settles_at, is_grace_short, finalize_key_no, finalized_at, closed_at, checked_at, message,
    released_at, released_by, release_reason
from invoice_closings
where
    (%(tenant_id)s::text is null or tenant_id = %(tenant_id)s)
    and (%(invoice_id)s::text is null or invoice_id = %(invoice_id)s)
    and (not %(is_open)s or closed_at is null or (state = 'failed' and released_at is null))
    and (
        %(after_created_at)s::timestamptz is null
        or (created_at, invoice_id) < (%(after_created_at)s, %(after_invoice_id)s)
    )
order by created_at desc, invoice_id desc
limit %(limit)s;

-- name: load_closing
-- One invoice.
select
    stripe_account_id, invoice_id, mode, tenant_id, customer_ref, stripe_customer_id, control, state, created_at,
    found_at, finalizes_at, settles_at, is_grace_short, finalize_key_no, finalized_at, closed_at, checked_at, message,
    released_at, released_by, release_reason
from invoice_closings
where stripe_account_id = %(stripe_account_id)s and invoice_id = %(invoice_id)s;

-- name: list_short_graces
-- Invoices that Stripe finalizes, or did lately, before what is late can be on them; newest first.
select
    stripe_account_id, invoice_id, mode, tenant_id, customer_ref, stripe_customer_id, control, state, created_at,
    found_at, finalizes_at, settles_at, is_grace_short, finalize_key_no, finalized_at, closed_at, checked_at, message,
    released_at, released_by, release_reason
from invoice_closings
where is_grace_short and control = 'observe' and state <> 'dropped' and created_at >= %(created_from)s
order by created_at desc, invoice_id
limit %(limit)s;

-- name: claim
-- The invoice is ours to work on until the lease ends; nothing when somebody else has it or it is closed.
update invoice_closings
set lease_until = %(lease_until)s
where
    stripe_account_id = %(stripe_account_id)s
    and invoice_id = %(invoice_id)s
    and closed_at is null
    and coalesce(lease_until, '-infinity') <= %(now)s
returning
    stripe_account_id, invoice_id, mode, tenant_id, customer_ref, stripe_customer_id, control, state, created_at,
    found_at, finalizes_at, settles_at, is_grace_short, finalize_key_no, finalized_at, closed_at, checked_at, message,
    released_at, released_by, release_reason;

-- name: move
-- The next state, unless somebody moved it meanwhile.
update invoice_closings
set
    state = %(state)s,
    message = %(message)s,
    settles_at = coalesce(%(settles_at)s, settles_at),
    finalized_at = coalesce(%(finalized_at)s, finalized_at),
    closed_at = %(closed_at)s,
    checked_at = %(now)s
where
    stripe_account_id = %(stripe_account_id)s
    and invoice_id = %(invoice_id)s
    and state = %(from_state)s
    and closed_at is null;

-- name: let_go
-- Somebody else may work on it at once.
update invoice_closings
set lease_until = null
where stripe_account_id = %(stripe_account_id)s and invoice_id = %(invoice_id)s;

-- name: bump_key
-- Stripe would repeat a 5xx under the old key.
update invoice_closings
set finalize_key_no = finalize_key_no + 1
where
    stripe_account_id = %(stripe_account_id)s
    and invoice_id = %(invoice_id)s
    and finalize_key_no = %(finalize_key_no)s;

-- name: release
-- A person takes the difference upon themselves, once.
update invoice_closings
set
    released_at = %(now)s,
    released_by = %(actor)s,
    release_reason = %(reason)s
where
    invoice_id = %(invoice_id)s
    and state = 'failed'
    and released_at is null;

-- name: load_windows
-- What an invoice bills of our usage.
select
    w.stripe_item_id,
    w.price_id,
    w.starts_at,
    w.ends_at,
    w.mapping_id,
    w.meter,
    m.mode,
    m.stripe_event_name,
    m.stripe_meter_id
from invoice_windows as w
inner join price_mappings as m on w.mapping_id = m.id
where w.stripe_account_id = %(stripe_account_id)s and w.invoice_id = %(invoice_id)s
order by w.meter, w.starts_at, w.stripe_item_id, w.price_id;

-- name: load_days
-- What we counted and sent on the days of a window.
select
    segment_start,
    day,
    counted,
    planned,
    accepted,
    last_accepted_at
from push_days
where
    tenant_id = %(tenant_id)s
    and mapping_id = %(mapping_id)s
    and customer_ref = %(customer_ref)s
    and day >= %(first_day)s
    and day <= %(last_day)s
order by day, segment_start;

-- name: has_unfolded
-- Whether an event of the customer in the window waits for the fold.
select exists(
    select 1
    from events
    where
        tenant_id = %(tenant_id)s
        and xid >= %(folded_below)s::xid8
        and customer_ref = any(%(customer_refs)s::text[])
        and ts >= %(starts_at)s
        and ts < %(ends_at)s
);

-- name: load_sent
-- What Stripe acknowledged of a window's days, in the order it was stamped.
select
    segment_start,
    day,
    identifier,
    delta,
    stamped_at,
    settled_at
from push_entries
where
    stripe_account_id = %(stripe_account_id)s
    and stripe_event_name = %(stripe_event_name)s
    and stripe_customer_id = %(stripe_customer_id)s
    and day >= %(first_day)s
    and day <= %(last_day)s
    and state in ('accepted', 'confirmed')
order by stamped_at;
