-- migrate:up
-- Payments as Stripe tells of them: attempts to collect invoices, and the states of subscriptions; read for access.

create table payment_attempts (
    event_id text primary key,
    stripe_account_id text not null,
    stripe_customer_id text not null,
    is_live boolean not null,
    invoice_id text not null,
    outcome text not null check (outcome in ('failed', 'paid', 'voided')),
    number integer not null check (number >= 0),
    at timestamptz not null,
    next_attempt_at timestamptz,
    constraint payment_attempts_next check (next_attempt_at is null or outcome = 'failed')
);
comment on table payment_attempts is 'Every attempt to collect an invoice, and how it ended: one row per event of Stripe''s, whatever their order.';
comment on column payment_attempts.event_id is 'Of the inbox; a row stays when the inbox has forgotten it.';
comment on column payment_attempts.outcome is 'voided: nothing is owed any more, and nothing was paid.';
comment on column payment_attempts.at is 'When; of a failure on a test clock when the invoice was finalized, because no more is told in its time.';
comment on column payment_attempts.next_attempt_at is 'When Stripe tries again, as it said; null: it does not.';
create index payment_attempts_by_customer on payment_attempts (stripe_account_id, stripe_customer_id, is_live);
create index payment_attempts_by_invoice on payment_attempts (stripe_account_id, invoice_id);

create table subscription_states (
    event_id text primary key,
    stripe_account_id text not null,
    stripe_customer_id text not null,
    is_live boolean not null,
    subscription_id text not null,
    status text not null check (length(status) between 1 and 100),
    at timestamptz not null
);
comment on table subscription_states is 'What Stripe said a subscription''s status is: one row per event; the last by Stripe''s clock holds.';
comment on column subscription_states.status is 'Stripe''s word; unpaid: it has given up collecting.';
create index subscription_states_by_customer on subscription_states (stripe_account_id, stripe_customer_id, is_live);
create index subscription_states_by_subscription
on subscription_states (stripe_account_id, subscription_id, at);

-- migrate:down
drop table subscription_states;
drop table payment_attempts;
