-- migrate:up
-- What Stripe tells by itself, kept before it is answered; and rows it acknowledged and may not have counted.

create table stripe_events (
    id text primary key check (length(id) between 1 and 255),
    type text not null check (length(type) between 1 and 255),
    stripe_account_id text,
    is_live boolean not null,
    is_thin boolean not null,
    created_at timestamptz not null,
    received_at timestamptz not null,
    payload jsonb not null,
    processed_at timestamptz,
    outcome text check (outcome in ('done', 'ignored', 'failed')),
    error_message text,
    constraint stripe_events_processed check ((processed_at is null) = (outcome is null))
);
comment on table stripe_events is 'The inbox: every event of Stripe''s with a good signature, once, however often it is delivered.';
comment on column stripe_events.stripe_account_id is 'The account the event says it is of; null: the account the webhook belongs to.';
comment on column stripe_events.is_thin is 'A notification without the object: what it tells is asked for by id.';
comment on column stripe_events.created_at is 'By Stripe''s clock. Deliveries are in no order; this is.';
comment on column stripe_events.outcome is 'ignored: nobody here wants its type; failed: it never can be processed.';
comment on column stripe_events.error_message is 'Why it failed, or why it still waits.';
create index stripe_events_waiting on stripe_events (created_at, id) where processed_at is null;
create index stripe_events_old on stripe_events (processed_at) where processed_at is not null;

create table push_doubts (
    entry_id uuid primary key references push_entries (id),
    origin text not null check (origin in ('report', 'operator')),
    stripe_event_id text,
    error_code text,
    error_message text not null,
    actor text,
    raised_at timestamptz not null,
    next_reading_at timestamptz,
    read_at timestamptz,
    read_quantity numeric,
    settled_at timestamptz,
    verdict text check (verdict in ('present', 'absent', 'otherwise')),
    constraint push_doubts_origin check ((origin = 'report') = (actor is null)),
    constraint push_doubts_read check ((read_at is null) = (read_quantity is null)),
    constraint push_doubts_settled check ((settled_at is null) = (verdict is null)),
    constraint push_doubts_waiting check ((settled_at is null) = (next_reading_at is not null))
);
comment on table push_doubts is 'Rows that Stripe acknowledged and may not have counted, until their minute is read back.';
comment on column push_doubts.error_message is 'What Stripe reported, or why an operator doubts.';
comment on column push_doubts.actor is 'Who lets an absent row be sent again at once; null: its customer waits for an operator.';
comment on column push_doubts.read_quantity is 'What the row''s minute held when it was last read; absent only when read twice.';
comment on column push_doubts.verdict is 'otherwise: the minute holds neither the delta nor nothing; the row stays as it was.';
create index push_doubts_waiting on push_doubts (next_reading_at) where settled_at is null;

-- The customer of a row that Stripe dropped afterwards waits like one of a refused row.
-- squawk-ignore require-concurrent-index-deletion
drop index push_entries_blocking;
-- squawk-ignore require-concurrent-index-creation
create index push_entries_blocking
on push_entries (stripe_account_id, stripe_event_name, stripe_customer_id)
where state in ('rejected', 'rejected_async', 'quarantined') and released_at is null;

-- migrate:down
drop index push_entries_blocking;
create index push_entries_blocking
on push_entries (stripe_account_id, stripe_event_name, stripe_customer_id)
where state in ('rejected', 'quarantined') and released_at is null;
drop table push_doubts;
drop table stripe_events;
