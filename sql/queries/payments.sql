-- Payments as Stripe tells of them: kept one row per event, read per customer.

-- name: insert_attempt
-- An attempt to collect an invoice, once.
insert into payment_attempts (
    event_id, stripe_account_id, stripe_customer_id, is_live, invoice_id, outcome, number, at, next_attempt_at
)
values (
    %(event_id)s, %(stripe_account_id)s, %(stripe_customer_id)s, %(is_live)s, %(invoice_id)s, %(outcome)s,
    %(number)s, %(at)s, %(next_attempt_at)s
)
on conflict (event_id) do nothing;

-- name: insert_state
-- What a subscription's status became, once.
insert into subscription_states (
    event_id, stripe_account_id, stripe_customer_id, is_live, subscription_id, status, at
)
values (
    %(event_id)s, %(stripe_account_id)s, %(stripe_customer_id)s, %(is_live)s, %(subscription_id)s, %(status)s, %(at)s
)
on conflict (event_id) do nothing;

-- name: list_attempts
-- Everything known of a customer's payments, at every account they are bound to.
select
    p.invoice_id,
    p.at,
    p.outcome,
    p.number,
    p.next_attempt_at
from customer_bindings as b
inner join payment_attempts as p
    on b.stripe_account_id = p.stripe_account_id and b.stripe_customer_id = p.stripe_customer_id
where b.tenant_id = %(tenant_id)s and b.customer_ref = %(customer_ref)s and p.is_live = %(is_live)s;

-- name: list_states
-- Every status of a customer's subscriptions, at every account they are bound to.
select
    s.stripe_account_id,
    s.subscription_id,
    s.status,
    s.at
from customer_bindings as b
inner join subscription_states as s
    on b.stripe_account_id = s.stripe_account_id and b.stripe_customer_id = s.stripe_customer_id
where b.tenant_id = %(tenant_id)s and b.customer_ref = %(customer_ref)s and s.is_live = %(is_live)s;

-- name: find_unread
-- Events about a customer's payments that wait still, and why.
select
    e.id,
    e.error_message
from stripe_events as e
where
    e.processed_at is null and e.type = any(%(types)s) and e.is_live = %(is_live)s
    and exists (
        select
        from customer_bindings as b
        where
            b.tenant_id = %(tenant_id)s and b.customer_ref = %(customer_ref)s
            and b.stripe_customer_id = coalesce(
                e.payload #>> '{data,object,customer,id}', e.payload #>> '{data,object,customer}'
            )
            and (e.stripe_account_id is null or e.stripe_account_id = b.stripe_account_id)
    )
order by e.created_at, e.id
limit 1;

-- name: delete_settled
-- Forget invoices whose last word is old and that were settled, all rows of each at once.
delete from payment_attempts as p
using (
    select
        stripe_account_id,
        invoice_id
    from payment_attempts
    group by stripe_account_id, invoice_id
    having max(at) < %(before)s and bool_or(outcome <> 'failed')
) as settled
where p.stripe_account_id = settled.stripe_account_id and p.invoice_id = settled.invoice_id;

-- name: delete_superseded
-- Forget old statuses that a later one has taken the place of.
delete from subscription_states as s
where
    s.at < %(before)s
    and exists (
        select
        from subscription_states as later
        where
            later.stripe_account_id = s.stripe_account_id and later.subscription_id = s.subscription_id
            and later.at > s.at
            and later.at < %(before)s
    );
