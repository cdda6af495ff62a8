-- Stripe corrections: what Stripe holds beyond what we sent, suggested until a person decides.

-- name: suggest
-- One open suggestion per day of a Stripe meter and customer, however often it is seen; its surplus follows.
insert into stripe_corrections as c (
    id, stripe_account_id, stripe_event_name, stripe_customer_id, segment_start, day, tenant_id, meter, customer_ref,
    surplus, status, suggested_at, seen_at
)
values (
    %(id)s, %(stripe_account_id)s, %(stripe_event_name)s, %(stripe_customer_id)s, %(segment_start)s, %(day)s,
    %(tenant_id)s, %(meter)s, %(customer_ref)s, %(surplus)s, 'suggested', %(now)s, %(now)s
)
on conflict (stripe_account_id, stripe_event_name, stripe_customer_id, segment_start, day)
where status = 'suggested'
do update
    set
        surplus = excluded.surplus,
        seen_at = excluded.seen_at
    where c.seen_at <= excluded.seen_at;

-- name: resolve
-- The surpluses of some days are gone before anybody decided.
update stripe_corrections as c
set
    status = 'resolved',
    seen_at = %(now)s
from
    unnest(
        %(stripe_account_id)s::text[],
        %(stripe_event_name)s::text[],
        %(stripe_customer_id)s::text[],
        %(segment_start)s::timestamptz[],
        %(day)s::date[]
    )
        as d (stripe_account_id, stripe_event_name, stripe_customer_id, segment_start, day)
where
    c.stripe_account_id = d.stripe_account_id
    and c.stripe_event_name = d.stripe_event_name
    and c.stripe_customer_id = d.stripe_customer_id
    and c.segment_start = d.segment_start
    and c.day = d.day
    and c.status = 'suggested'
    and c.seen_at <= %(now)s;

-- name: lock_correction
-- One, nobody else's until the transaction ends; of one tenant when given.
select id, tenant_id, meter, customer_ref, segment_start, day, surplus, status, suggested_at, actor, reason
from stripe_corrections
where id = %(id)s and (%(tenant_id)s::text is null or tenant_id = %(tenant_id)s)
for update;

-- name: approve
-- A person lets it be taken back.
update stripe_corrections
set
    status = 'approved',
    decided_at = %(now)s,
    actor = %(actor)s,
    reason = %(reason)s
where id = %(id)s and status = 'suggested';

-- name: list_suggested
-- What awaits a decision, oldest day first, by tenant and days when given.
select id, tenant_id, meter, customer_ref, segment_start, day, surplus, status, suggested_at, actor, reason
from stripe_corrections
where
    status = 'suggested'
    and (%(tenant_id)s::text is null or tenant_id = %(tenant_id)s)
    and (%(first_on)s::date is null or day >= %(first_on)s)
    and (%(last_on)s::date is null or day <= %(last_on)s)
order by day, tenant_id, customer_ref, meter, id
limit %(limit)s;
