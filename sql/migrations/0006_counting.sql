-- migrate:up
-- Counting, whole: meters and customers as objects, lateness and adjustments, voids, a late lane and item sets beside
-- the counters, slices to recount, months that left for the lake.

create function refuse_change() returns trigger
language plpgsql
as $$
begin
    raise exception '%: rows are never changed or deleted', tg_table_name using errcode = 'restrict_violation';
end;
$$;
comment on function refuse_change() is 'For tables that are only ever added to.';


-- The ledger: which operation brought a row, and rows that no longer count.

alter table events add column backfill_id uuid;
comment on column events.backfill_id is 'The import or backfill that brought the event; null: it came over HTTP.';
-- squawk-ignore require-concurrent-index-creation
create index events_by_backfill on events (backfill_id, seq) where backfill_id is not null;

create table event_voids (
    seq bigint primary key,
    tenant_id text not null,
    metric text not null,
    customer_ref text not null,
    idempotency_key text not null,
    ts timestamptz not null,
    reason text not null check (length(reason) between 1 and 500),
    actor text not null,
    request_id text,
    replacement_key text,
    backfill_id uuid,
    voided_at timestamptz not null
);
comment on table event_voids is 'One row per voided event: it stays in the ledger and counts nowhere from then on.';
comment on column event_voids.seq is 'The event''s ledger order; with ts it finds the row.';
comment on column event_voids.replacement_key is 'Idempotency key of the event that was sent in its place, if any.';
comment on column event_voids.backfill_id is 'Set when a whole backfill was reverted.';
create index event_voids_by_tenant on event_voids (tenant_id, ts, seq);
create index event_voids_by_time on event_voids (ts);
create trigger event_voids_keep before update or delete on event_voids
for each row execute function refuse_change();

create table dropped_months (
    month_on date primary key check (extract(day from month_on) = 1),
    event_count bigint not null check (event_count >= 0),
    dropped_at timestamptz not null
);
comment on table dropped_months is 'Months whose ledger rows live in the lake alone; rows that came later are in Postgres.';


-- Meters: what to count.

create table meters (
    tenant_id text not null,
    name text not null check (length(name) between 1 and 100),
    version integer not null check (version > 0),
    effective_on date not null,
    is_active boolean not null,
    definition jsonb not null,
    actor text not null,
    created_at timestamptz not null,
    primary key (tenant_id, name, version)
);
comment on table meters is 'One row per version of a meter; the greatest version with effective_on <= day counts a day.';
comment on column meters.effective_on is 'First UTC day the version counts; 0001-01-01: all of history.';
comment on column meters.is_active is 'False: from effective_on on nothing is counted by it.';
create trigger meters_keep before update or delete on meters
for each row execute function refuse_change();


-- Customers: other names, display zone, billing windows, Stripe items.

create table customers (
    tenant_id text not null,
    customer_ref text not null,
    time_zone text not null default 'UTC',
    created_at timestamptz not null,
    updated_at timestamptz not null,
    primary key (tenant_id, customer_ref)
);
comment on table customers is 'Customers somebody said something about; a customer exists from its first event without a row here.';
comment on column customers.time_zone is 'IANA name; for display and calendar periods, never for segments.';

create table customer_aliases (
    tenant_id text not null,
    alias_ref text not null,
    customer_ref text not null,
    created_at timestamptz not null,
    primary key (tenant_id, alias_ref),
    constraint customer_aliases_other check (alias_ref <> customer_ref)
);
comment on table customer_aliases is 'Other references of one customer: events of alias_ref count for customer_ref.';
create index customer_aliases_by_customer on customer_aliases (tenant_id, customer_ref);

create table billing_phases (
    tenant_id text not null,
    customer_ref text not null,
    meter text not null default '',
    starts_at timestamptz not null,
    cadence text not null check (cadence in ('day', 'week', 'month', 'quarter', 'year')),
    cadence_count integer not null default 1 check (cadence_count between 1 and 366),
    anchor_at timestamptz not null,
    reason text not null,
    created_at timestamptz not null,
    primary key (tenant_id, customer_ref, meter, starts_at)
);
comment on table billing_phases is 'How a customer''s segments are cut from starts_at on, until the next phase. A start is always a boundary.';
comment on column billing_phases.meter is 'Empty: every meter without phases of its own.';
comment on column billing_phases.anchor_at is 'An instant segments are counted from, both ways; month ends clamp from its day.';

create table customer_items (
    tenant_id text not null,
    customer_ref text not null,
    meter text not null,
    stripe_account_id text not null,
    stripe_subscription_id text not null,
    stripe_item_id text not null,
    created_at timestamptz not null,
    primary key (tenant_id, customer_ref, meter, stripe_account_id)
);
comment on table customer_items is 'Which subscription item bills a meter of a customer.';


-- Lateness and adjustments.

create table tenant_policies (
    tenant_id text primary key,
    late_approval text not null default 'while_open' check (late_approval in ('while_open', 'always', 'never')),
    close_after_seconds bigint not null default 172800 check (close_after_seconds >= 0),
    is_four_eyes boolean not null default false,
    updated_at timestamptz not null
);
comment on table tenant_policies is 'What a tenant decided; no row is the defaults.';
comment on column tenant_policies.late_approval is 'When a late event counts without a person''s approval.';
comment on column tenant_policies.close_after_seconds is 'How long after its end a segment is open; 48 hours by default.';
comment on column tenant_policies.is_four_eyes is 'Whoever created an adjustment may not approve it.';

create table lateness_windows (
    tenant_id text not null,
    metric text not null,
    window_seconds bigint not null check (window_seconds >= 0),
    updated_at timestamptz not null,
    primary key (tenant_id, metric)
);
comment on table lateness_windows is 'How far behind the watermark an event of a metric may fold; 48 hours by default.';

create table adjustments (
    id uuid primary key,
    tenant_id text not null,
    metric text not null,
    customer_ref text not null,
    period text not null check (period in ('day', 'month')),
    day date not null,
    effective_at timestamptz not null,
    delta numeric(38, 12),
    reason text not null
    check (reason in ('backfill', 'correction', 'promo', 'credit', 'manual', 'late_event')),
    status text not null check (status in ('pending', 'approved', 'rejected', 'reverted', 'absorbed')),
    request_id text,
    note text,
    actor text not null,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    event_seq bigint,
    event_key text,
    constraint adjustments_once unique (tenant_id, request_id),
    constraint adjustments_late check ((reason = 'late_event') = (event_seq is not null)),
    constraint adjustments_absorbed check (status <> 'absorbed' or reason = 'late_event'),
    constraint adjustments_delta check (delta is not null or reason = 'late_event'),
    constraint adjustments_month check (period = 'day' or extract(day from day) = 1)
);
comment on table adjustments is 'Signed, attributed corrections. A late event''s is the event itself: while approved it counts in the late lane.';
comment on column adjustments.metric is 'The meter corrected; for a late event its metric.';
comment on column adjustments.day is 'UTC day whose usage changes; of a month its first.';
comment on column adjustments.effective_at is 'The instant that decides the segment: the start of the day, or the late event''s ts.';
comment on column adjustments.delta is 'What it changes; of a late event by its metric''s aggregation, null where that has no delta.';
comment on column adjustments.request_id is 'The creator''s key: a retry is the same row.';
comment on column adjustments.event_seq is 'The late event''s ledger order.';
create unique index adjustments_by_event on adjustments (event_seq) where event_seq is not null;
create index adjustments_by_customer on adjustments (tenant_id, customer_ref, metric, day);
create index adjustments_by_tenant on adjustments (tenant_id, created_at, id);
create index adjustments_late_by_day on adjustments (day) where reason = 'late_event';

create table adjustment_transitions (
    id bigint generated always as identity primary key,
    adjustment_id uuid not null references adjustments (id),
    tenant_id text not null,
    action text not null check (action in ('created', 'approved', 'rejected', 'reverted', 'absorbed')),
    status_before text,
    status_after text not null,
    actor text not null,
    request_id text,
    note text,
    happened_at timestamptz not null
);
comment on table adjustment_transitions is 'The audit: one row per change of an adjustment, never changed.';
create index adjustment_transitions_by_adjustment on adjustment_transitions (adjustment_id, id);
create trigger adjustment_transitions_keep before update or delete on adjustment_transitions
for each row execute function refuse_change();


-- Counters: dimensions, a lane for late events, what time-weighting and item sets need.

alter table counters
add column dimensions text not null default '',
add column is_late boolean not null default false,
add column primary_count bigint not null default 0 check (primary_count >= 0),
add column first_ts timestamptz,
add column unit_microseconds numeric;
update counters set primary_count = event_count;
-- squawk-ignore ban-drop-constraint
alter table counters drop constraint counters_pkey;
-- squawk-ignore constraint-missing-not-valid, adding-serial-primary-key-field
alter table counters add constraint counters_pkey
primary key (tenant_id, customer_ref, meter, day, segment_start, dimensions, is_late);
comment on column counters.meter is 'Name of the meter; empty: events that no meter counts.';
comment on column counters.dimensions is 'The meter''s group-by values as a JSON object with sorted names; empty without dimensions.';
comment on column counters.is_late is 'The late lane: events of approved late adjustments that no recount has absorbed yet.';
comment on column counters.primary_count is 'Events of which this is the first meter: they add up to the events counted.';
comment on column counters.unit_microseconds is 'Time-weighted meters: level times microseconds between first_ts and last_ts.';

create table counter_items (
    tenant_id text not null,
    customer_ref text not null,
    meter text not null,
    day date not null,
    segment_start timestamptz not null,
    dimensions text not null,
    is_late boolean not null,
    item text not null,
    item_count bigint not null check (item_count > 0),
    primary key (tenant_id, customer_ref, meter, day, segment_start, dimensions, is_late, item)
);
comment on table counter_items is 'What unique and percentile meters saw: each distinct value of a counter, and how often.';
create index counter_items_by_day on counter_items (day);

create table slice_recounts (
    id bigint generated always as identity primary key,
    tenant_id text not null,
    customer_ref text,
    next_day date not null,
    last_day date not null,
    reason text not null,
    failed_count integer not null default 0,
    last_failure text,
    created_at timestamptz not null,
    constraint slice_recounts_range check (next_day <= last_day)
);
comment on table slice_recounts is 'Counters that rules changed under: one tenant''s (or customer''s) days to count again. Gone when done.';
comment on column slice_recounts.next_day is 'Everything before it is done.';
create index slice_recounts_by_tenant on slice_recounts (tenant_id);

alter table backfills
add column reverted_at timestamptz,
add column reverted_by text,
add column voided_count bigint not null default 0 check (voided_count >= 0);
comment on column backfills.voided_count is 'Of its accepted events, how many its revert has voided so far.';

-- migrate:down
alter table backfills drop column reverted_at, drop column reverted_by, drop column voided_count;
drop table slice_recounts;
drop table counter_items;
delete from counters
where is_late or dimensions <> '' or meter = '';
alter table counters drop constraint counters_pkey;
alter table counters add constraint counters_pkey primary key (tenant_id, customer_ref, meter, day, segment_start);
alter table counters
drop column dimensions, drop column is_late, drop column primary_count, drop column first_ts,
drop column unit_microseconds;
drop table adjustment_transitions;
drop table adjustments;
drop table lateness_windows;
drop table tenant_policies;
drop table customer_items;
drop table billing_phases;
drop table customer_aliases;
drop table customers;
drop table meters;
drop table dropped_months;
drop table event_voids;
drop index events_by_backfill;
alter table events drop column backfill_id;
drop function refuse_change();
