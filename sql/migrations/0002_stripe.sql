-- migrate:up
-- Stripe: which meter feeds what, which customer is whom, what was sent, and what Stripe holds.

create table price_mappings (
    id uuid primary key,
    tenant_id text not null,
    meter text not null,
    aggregation text not null check (aggregation in ('sum', 'count', 'min', 'max', 'last')),
    stripe_account_id text not null,
    stripe_event_name text not null check (length(stripe_event_name) between 1 and 100),
    stripe_meter_id text not null,
    mode text not null check (mode in ('off', 'shadow', 'live')),
    created_at timestamptz not null,
    -- The deltas of a day add up only where the quantities of a day do.
    constraint price_mappings_additive check (mode = 'off' or aggregation in ('sum', 'count'))
);
comment on table price_mappings is 'Which Stripe meter a meter of a tenant feeds.';
comment on column price_mappings.aggregation is 'Which column of the counter is the quantity of a day.';
comment on column price_mappings.mode is 'off: nothing is sent; shadow: to a test account; live: to the account that bills.';
create unique index price_mappings_one_per_meter
on price_mappings (tenant_id, meter, stripe_account_id) where mode <> 'off';
-- Two meters on one event name would add up to a number that is neither.
create unique index price_mappings_one_per_event
on price_mappings (tenant_id, stripe_account_id, stripe_event_name) where mode <> 'off';

create table customer_bindings (
    tenant_id text not null,
    customer_ref text not null,
    stripe_account_id text not null,
    stripe_customer_id text not null,
    created_at timestamptz not null,
    primary key (tenant_id, customer_ref, stripe_account_id),
    constraint customer_bindings_one_owner unique (stripe_account_id, stripe_customer_id)
);
comment on table customer_bindings is 'Which Stripe customer a customer is.';

create table push_entries (
    id uuid primary key,
    mapping_id uuid not null references price_mappings (id),
    tenant_id text not null,
    meter text not null,
    customer_ref text not null,
    stripe_account_id text not null,
    stripe_event_name text not null,
    stripe_customer_id text not null,
    segment_start timestamptz not null,
    day date not null,
    seq integer not null check (seq > 0),
    delta numeric not null check (delta <> 0),
    total_before numeric not null,
    total_after numeric not null,
    stamped_at timestamptz not null,
    identifier text not null unique check (length(identifier) <= 100),
    planned_at timestamptz not null,
    state text not null check (
        state in (
            'planned', 'sending', 'accepted', 'confirmed', 'rejected', 'rejected_async', 'quarantined', 'cancelled'
        )
    ),
    is_already_accepted boolean not null default false,
    attempt integer not null default 0 check (attempt >= 0),
    key_no integer not null default 0 check (key_no >= 0),
    first_attempt_at timestamptz,
    last_attempt_at timestamptz,
    lease_until timestamptz,
    next_attempt_at timestamptz,
    probed_at timestamptz,
    probed_quantity numeric,
    settled_at timestamptz,
    released_at timestamptz,
    http_status integer,
    error_code text,
    error_message text,
    request_id text,
    constraint push_entries_add_up check (total_after = total_before + delta),
    constraint push_entries_whole_minute check (extract(epoch from stamped_at)::bigint % 60 = 0),
    constraint push_entries_minute_in_day
    check (stamped_at >= segment_start and (stamped_at at time zone 'UTC')::date = day),
    constraint push_entries_seq
    unique (stripe_account_id, stripe_event_name, stripe_customer_id, segment_start, day, seq),
    -- One row per minute: a one-minute summary at Stripe answers whether this very row arrived.
    constraint push_entries_minute unique (stripe_account_id, stripe_event_name, stripe_customer_id, stamped_at)
) with (fillfactor = 70);
comment on table push_entries is 'The outbox: one row per delta, written before anything is sent, never deleted.';
comment on column push_entries.total_before is 'What Stripe was (or was about to be) told for the day before this row.';
comment on column push_entries.stamped_at is 'The timestamp Stripe gets: a minute of the day and segment that is this row''s alone.';
comment on column push_entries.identifier is 'Hash of the content: every attempt carries it, Stripe refuses the second.';
comment on column push_entries.key_no is 'Part of the Idempotency-Key; grows after a 5xx, whose answer Stripe would repeat.';
comment on column push_entries.lease_until is 'Until when the pusher that claimed the row has it for itself.';
comment on column push_entries.probed_quantity is 'What the row''s minute held when it was last read back.';
comment on column push_entries.released_at is 'When an operator let the customer go on after a rejection.';
create unique index push_entries_in_flight
on push_entries (stripe_account_id, stripe_event_name, stripe_customer_id) where state in ('planned', 'sending');
create index push_entries_blocking
on push_entries (stripe_account_id, stripe_event_name, stripe_customer_id)
where state in ('rejected', 'quarantined') and released_at is null;
create index push_entries_unconfirmed
on push_entries (stripe_account_id, stripe_event_name, stripe_customer_id, segment_start, day)
where state = 'accepted';

create table push_totals (
    stripe_account_id text not null,
    stripe_event_name text not null,
    stripe_customer_id text not null,
    segment_start timestamptz not null,
    day date not null,
    planned_total numeric not null default 0,
    accepted_total numeric not null default 0,
    entry_count integer not null default 0,
    last_accepted_at timestamptz,
    primary key (stripe_account_id, stripe_event_name, stripe_customer_id, segment_start, day)
) with (fillfactor = 70);
comment on table push_totals is 'Sums over push_entries, kept by its trigger, so that finding what changed reads one row per day.';
comment on column push_totals.planned_total is 'Everything that is or may be at Stripe: planned, sending, accepted, confirmed, quarantined.';
comment on column push_totals.accepted_total is 'What Stripe has acknowledged: accepted, confirmed.';

create function keep_push_entry() returns trigger
language plpgsql
as $$
begin
    if tg_op = 'DELETE' then
        raise exception 'push_entries are never deleted' using errcode = 'restrict_violation';
    end if;
    if (old.id, old.mapping_id, old.tenant_id, old.meter, old.customer_ref, old.stripe_account_id,
        old.stripe_event_name, old.stripe_customer_id, old.segment_start, old.day, old.seq, old.delta,
        old.total_before, old.total_after, old.stamped_at, old.identifier, old.planned_at)
       is distinct from
       (new.id, new.mapping_id, new.tenant_id, new.meter, new.customer_ref, new.stripe_account_id,
        new.stripe_event_name, new.stripe_customer_id, new.segment_start, new.day, new.seq, new.delta,
        new.total_before, new.total_after, new.stamped_at, new.identifier, new.planned_at) then
        raise exception 'push entry %: only its state may change', old.id using errcode = 'restrict_violation';
    end if;
    if old.state <> new.state and (old.state, new.state) not in (
        ('planned', 'sending'), ('planned', 'cancelled'),
        ('sending', 'planned'), ('sending', 'accepted'), ('sending', 'rejected'),
        ('sending', 'quarantined'), ('sending', 'cancelled'),
        ('accepted', 'confirmed'), ('accepted', 'rejected_async'),
        ('rejected', 'accepted'), ('quarantined', 'accepted'), ('quarantined', 'cancelled')
    ) then
        raise exception 'push entry %: from % to %', old.id, old.state, new.state using errcode = 'restrict_violation';
    end if;
    return new;
end;
$$;
comment on function keep_push_entry() is 'What was sent stays as it was sent; states move one way.';
create trigger push_entries_keep before update or delete on push_entries
for each row execute function keep_push_entry();

create function total_push_entry() returns trigger
language plpgsql
as $$
declare
    was_planned numeric := 0;
    was_accepted numeric := 0;
    is_planned numeric := 0;
    is_accepted numeric := 0;
begin
    if tg_op = 'UPDATE' and old.state in ('planned', 'sending', 'accepted', 'confirmed', 'quarantined') then
        was_planned := old.delta;
    end if;
    if tg_op = 'UPDATE' and old.state in ('accepted', 'confirmed') then
        was_accepted := old.delta;
    end if;
    if new.state in ('planned', 'sending', 'accepted', 'confirmed', 'quarantined') then
        is_planned := new.delta;
    end if;
    if new.state in ('accepted', 'confirmed') then
        is_accepted := new.delta;
    end if;
    insert into push_totals as t (
        stripe_account_id, stripe_event_name, stripe_customer_id, segment_start, day,
        planned_total, accepted_total, entry_count, last_accepted_at
    )
    values (
        new.stripe_account_id, new.stripe_event_name, new.stripe_customer_id, new.segment_start, new.day,
        is_planned - was_planned, is_accepted - was_accepted,
        case when tg_op = 'INSERT' then 1 else 0 end,
        case when new.state = 'accepted' then new.settled_at end
    )
    on conflict (stripe_account_id, stripe_event_name, stripe_customer_id, segment_start, day) do update
    set planned_total = t.planned_total + excluded.planned_total,
        accepted_total = t.accepted_total + excluded.accepted_total,
        entry_count = t.entry_count + excluded.entry_count,
        last_accepted_at = greatest(t.last_accepted_at, excluded.last_accepted_at);
    return null;
end;
$$;
comment on function total_push_entry() is 'Keeps push_totals equal to the sums over push_entries.';
create trigger push_entries_insert_total after insert on push_entries
for each row execute function total_push_entry();
create trigger push_entries_update_total after update on push_entries
for each row when (old.state is distinct from new.state) execute function total_push_entry();

create view push_days as
select
    m.id as mapping_id,
    m.mode,
    m.tenant_id,
    m.meter,
    b.customer_ref,
    m.stripe_account_id,
    m.stripe_event_name,
    m.stripe_meter_id,
    b.stripe_customer_id,
    c.segment_start,
    c.day,
    case m.aggregation when 'sum' then c.quantity_sum when 'count' then c.event_count::numeric end as counted,
    coalesce(t.planned_total, 0) as planned,
    coalesce(t.accepted_total, 0) as accepted,
    coalesce(t.entry_count, 0) as entry_count,
    t.last_accepted_at
from price_mappings as m
inner join customer_bindings as b on m.tenant_id = b.tenant_id and m.stripe_account_id = b.stripe_account_id
inner join counters as c on m.tenant_id = c.tenant_id and b.customer_ref = c.customer_ref and m.meter = c.meter
left join push_totals as t
    on
        m.stripe_account_id = t.stripe_account_id
        and m.stripe_event_name = t.stripe_event_name
        and b.stripe_customer_id = t.stripe_customer_id
        and c.segment_start = t.segment_start
        and c.day = t.day
where m.mode <> 'off'
union all
select
    m.id as mapping_id,
    m.mode,
    m.tenant_id,
    m.meter,
    b.customer_ref,
    m.stripe_account_id,
    m.stripe_event_name,
    m.stripe_meter_id,
    b.stripe_customer_id,
    t.segment_start,
    t.day,
    0 as counted,
    t.planned_total as planned,
    t.accepted_total as accepted,
    t.entry_count,
    t.last_accepted_at
from price_mappings as m
inner join customer_bindings as b on m.tenant_id = b.tenant_id and m.stripe_account_id = b.stripe_account_id
inner join push_totals as t
    on
        m.stripe_account_id = t.stripe_account_id
        and m.stripe_event_name = t.stripe_event_name
        and b.stripe_customer_id = t.stripe_customer_id
where
    m.mode <> 'off'
    and not exists (
        select 1
        from counters as c
        where
            c.tenant_id = m.tenant_id
            and c.customer_ref = b.customer_ref
            and c.meter = m.meter
            and c.day = t.day
            and c.segment_start = t.segment_start
    );
comment on view push_days is
'One row per mapped meter, bound customer, segment and day: what we counted (0 when the counter is gone) and what the outbox holds.';

create table reconciliations (
    mapping_id uuid not null references price_mappings (id),
    customer_ref text not null,
    segment_start timestamptz not null,
    day date not null,
    tenant_id text not null,
    meter text not null,
    status text not null check (status in ('ok', 'within_epsilon', 'drift', 'unknown')),
    cause text check (cause in ('unsent', 'in_flight', 'rejected', 'foreign_writer', 'unreachable', 'unknown')),
    local_quantity numeric not null,
    pushed_quantity numeric not null,
    stripe_quantity numeric,
    drift numeric generated always as (local_quantity - stripe_quantity) stored,
    checked_at timestamptz not null,
    primary key (mapping_id, customer_ref, segment_start, day),
    constraint reconciliations_known check ((status = 'unknown') = (stripe_quantity is null)),
    constraint reconciliations_exact check (status <> 'ok' or (local_quantity = stripe_quantity and cause is null))
);
comment on table reconciliations is 'The latest comparison of each day with Stripe. drift = ours minus theirs.';
create index reconciliations_by_status on reconciliations (status, day) where status <> 'ok';

create table reconciliation_history (
    id bigint generated always as identity primary key,
    mapping_id uuid not null references price_mappings (id),
    customer_ref text not null,
    segment_start timestamptz not null,
    day date not null,
    status text not null,
    cause text,
    local_quantity numeric not null,
    pushed_quantity numeric not null,
    stripe_quantity numeric,
    checked_at timestamptz not null
);
comment on table reconciliation_history is 'Every change of a verdict, for reading; never summed. An unchanged verdict adds nothing.';
create index reconciliation_history_by_day on reconciliation_history (mapping_id, customer_ref, day, id);

create function remember_reconciliation() returns trigger
language plpgsql
as $$
begin
    if tg_op = 'UPDATE' and (old.status, old.cause, old.local_quantity, old.pushed_quantity, old.stripe_quantity)
       is not distinct from (new.status, new.cause, new.local_quantity, new.pushed_quantity, new.stripe_quantity) then
        return null;
    end if;
    insert into reconciliation_history (
        mapping_id, customer_ref, segment_start, day, status, cause,
        local_quantity, pushed_quantity, stripe_quantity, checked_at
    )
    values (
        new.mapping_id, new.customer_ref, new.segment_start, new.day, new.status, new.cause,
        new.local_quantity, new.pushed_quantity, new.stripe_quantity, new.checked_at
    );
    return null;
end;
$$;
create trigger reconciliations_remember after insert or update on reconciliations
for each row execute function remember_reconciliation();

-- migrate:down
drop table reconciliation_history;
drop table reconciliations;
drop function remember_reconciliation();
drop view push_days;
drop table push_entries;
drop table push_totals;
drop function total_push_entry();
drop function keep_push_entry();
drop table customer_bindings;
drop table price_mappings;
