-- The schema as it is, for reading: what the files of sql/migrations add up to.
--
-- Change it together with a new migration; tests/store/test_migrations_schema.py builds a database from each and
-- compares the two. The order is that of an event's life: arrive, be counted, be pushed. Nothing runs this file in
-- production, and `schema_migrations` (the runner's own record) stands last.


-- ── The ledger ──────────────────────────────────────────────────────────────────────────────────────────────────────
-- One immutable row per accepted event. Partitioned by month because it grows for ever and old months leave for the
-- lake whole; a partition is created by whoever first needs it, so there is no calendar to maintain.

create sequence event_seq;
comment on sequence event_seq is 'Ledger order: breaks ties between events of the same instant.';

create table events (
    -- who and what
    tenant_id text not null,
    metric text not null,
    customer_ref text not null,
    resource_id text,
    quantity numeric(38, 12) not null check (quantity >= 0),
    idempotency_key text not null,
    source text not null check (source in ('sdk', 'http', 'etl', 'import', 'system')),
    meta jsonb,
    -- when it happened (the producer's clock), when it came (ours)
    ts timestamptz not null,
    received_at timestamptz not null,
    -- where it stands in the ledger
    seq bigint not null default nextval('event_seq'),
    xid xid8 not null default pg_current_xact_id(),
    backfill_id uuid
) partition by range (ts);
comment on table events is 'The ledger: one immutable row per accepted event, partitioned by UTC month of ts.';
comment on column events.seq is 'Ledger order; assigned at insert, so order of arrival, not of commit.';
comment on column events.xid is 'The writing transaction: the fold reads a window of these, never of seq.';
comment on column events.ts is 'Event time, the producer''s.';
comment on column events.received_at is 'Arrival time, ours.';
comment on column events.backfill_id is 'The import or backfill that brought the event; null: it came over HTTP.';

-- One index serves the fold (a range of xid) and the live tail (the same range narrowed to one customer inside
-- the index). It grows at its right edge only: 100 random leaf writes per batch cost more than the range does.
create index events_tail on events (xid, hashtextextended(customer_ref, 0));
create index events_by_backfill on events (backfill_id, seq) where backfill_id is not null;
create index events_by_time on events using brin (ts) with (pages_per_range = 32, autosummarize = on);

-- No lower bound on ts: whatever is older than any calendar of ours has a place.
create table events_before_2000 partition of events for values from (minvalue) to ('2000-01-01 00:00:00+00');

create function ensure_events_month(month_on date) returns void
language plpgsql
as $$
declare
    partition_name text := format('events_%s', to_char(month_on, 'YYYY_MM'));
begin
    if to_regclass(partition_name) is not null then
        return;
    end if;
    perform pg_advisory_xact_lock(hashtextextended('stripemeter.ensure_events_month', 0));
    -- Asked of the catalog's rows, not by to_regclass: this session may have cached that the name is unknown before it
    -- waited for the lock, and to_regclass would answer from that cache.
    if exists (
        select 1
        from pg_inherits as i
        inner join pg_class as c on i.inhrelid = c.oid
        where
            i.inhparent = 'events'::regclass
            and c.relname = partition_name
    ) then
        return;
    end if;
    -- Built beside the parent and attached: attaching takes no lock that a reader or an insert waits for.
    execute format('create table %I (like events including defaults including constraints)', partition_name);
    execute format(
        'alter table events attach partition %I for values from (%L) to (%L)',
        partition_name,
        month_on::timestamp at time zone 'UTC',
        (month_on + interval '1 month')::timestamp at time zone 'UTC'
    );
end;
$$;
comment on function ensure_events_month(date) is 'Creates the ledger partition of one month (its first day) if absent.';


-- ── Once: the keys, and what was refused ────────────────────────────────────────────────────────────────────────────
-- Uniqueness lives outside the partitioned ledger, or a retry in the next month would count twice.

create table event_keys (
    key_hash uuid primary key,
    payload_hash bigint not null,
    ts timestamptz not null
);
comment on table event_keys is 'One row per (tenant, idempotency key) ever accepted; outlives the partitions.';
comment on column event_keys.key_hash is 'First 128 bits of blake2b over (tenant, key).';
comment on column event_keys.payload_hash is 'First 64 bits of blake2b over every billable field: tells a retry from a conflict.';
comment on column event_keys.ts is 'Event time of the accepted event: finds its partition and day.';

create function refuse_change() returns trigger
language plpgsql
as $$
begin
    raise exception '%: rows are never changed or deleted', tg_table_name using errcode = 'restrict_violation';
end;
$$;
comment on function refuse_change() is 'For tables that are only ever added to.';

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

create table event_conflicts (
    key_hash uuid not null,
    payload_hash bigint not null,
    tenant_id text not null,
    idempotency_key text not null,
    metric text not null,
    customer_ref text not null,
    resource_id text,
    quantity numeric(38, 12) not null,
    ts timestamptz not null,
    meta jsonb,
    source text not null,
    first_received_at timestamptz not null,
    last_received_at timestamptz not null,
    times_received bigint not null default 1 check (times_received > 0),
    primary key (key_hash, payload_hash)
);
comment on table event_conflicts is 'Quarantine: events whose key was already taken by a different payload. Never counted.';
create index event_conflicts_by_tenant on event_conflicts (tenant_id, first_received_at, key_hash, payload_hash);

create table ingest_tallies (
    tenant_id text not null,
    received_on date not null,
    writer integer not null,
    received bigint not null default 0,
    accepted bigint not null default 0,
    duplicates bigint not null generated always as (received - accepted - conflicts - rejected) stored,
    conflicts bigint not null default 0,
    rejected bigint not null default 0,
    primary key (tenant_id, received_on, writer),
    constraint ingest_tallies_conserve
    check (received >= 0 and accepted >= 0 and conflicts >= 0 and rejected >= 0 and duplicates >= 0)
) with (fillfactor = 70);
comment on table ingest_tallies is 'What every event came to, per tenant and UTC day of arrival: received = accepted + duplicates + conflicts + rejected.';
comment on column ingest_tallies.writer is 'Backend that wrote: each worker updates its own row, so workers never wait for each other.';


-- ── Counting ────────────────────────────────────────────────────────────────────────────────────────────────────────
-- The cursor moves in the transaction that writes the counters: an event is folded once, whoever crashes when.

create table fold_cursors (
    name text primary key,
    folded_below xid8 not null,
    system_identifier bigint not null,
    advanced_at timestamptz not null
);
comment on table fold_cursors is 'How far the fold has read: every ledger row with xid < folded_below is in the counters, no other is.';
comment on column fold_cursors.system_identifier is 'The cluster these xids belong to: after a restore into another one they mean nothing.';

create table counters (
    tenant_id text not null,
    customer_ref text not null,
    meter text not null,
    day date not null,
    segment_start timestamptz not null,
    event_count bigint not null check (event_count > 0),
    quantity_sum numeric not null,
    quantity_min numeric(38, 12) not null,
    quantity_max numeric(38, 12) not null,
    quantity_last numeric(38, 12) not null,
    last_ts timestamptz not null,
    last_seq bigint not null,
    dimensions text not null default '',
    is_late boolean not null default false,
    primary_count bigint not null default 0 check (primary_count >= 0),
    first_ts timestamptz,
    unit_microseconds numeric,
    primary key (tenant_id, customer_ref, meter, day, segment_start, dimensions, is_late),
    constraint counters_ordered check (quantity_min <= quantity_last and quantity_last <= quantity_max)
) with (fillfactor = 70);
comment on table counters is 'Usage: one row per tenant, customer, meter, UTC day and segment. Mergeable state, not finished numbers.';
comment on column counters.segment_start is 'Start of the billing segment the events belong to; the UTC month while no subscription is known.';
comment on column counters.quantity_last is 'Quantity of the event with the greatest (ts, seq).';
comment on column counters.meter is 'Name of the meter; empty: events that no meter counts.';
comment on column counters.dimensions is 'The meter''s group-by values as a JSON object with sorted names; empty without dimensions.';
comment on column counters.is_late is 'The late lane: events of approved late adjustments that no recount has absorbed yet.';
comment on column counters.primary_count is 'Events of which this is the first meter: they add up to the events counted.';
comment on column counters.unit_microseconds is 'Time-weighted meters: level times microseconds between first_ts and last_ts.';
create index counters_by_day on counters (day);

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

create table counter_days (
    day date primary key,
    dirty_version bigint not null default 0,
    recounted_version bigint not null default 0,
    last_folded_at timestamptz,
    last_recounted_at timestamptz,
    failed_recounts integer not null default 0,
    last_failure text,
    constraint counter_days_versions check (recounted_version <= dirty_version)
);
comment on table counter_days is 'One row per UTC day with counters; a day is dirty while recounted_version < dirty_version.';
comment on column counter_days.dirty_version is 'Bumped by the fold, in its own transaction, when late events touch the day.';

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


-- ── Meters and customers: what to count, and in which windows ────────────────────────────────────────────────────────

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


-- ── Lateness and adjustments ─────────────────────────────────────────────────────────────────────────────────────────

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
create index adjustments_manual on adjustments (tenant_id, metric, customer_ref, day)
where reason <> 'late_event' and status = 'approved';

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


-- ── Stripe: which meter feeds what, which customer is whom ──────────────────────────────────────────────────────────
-- Stated by an operator; without a mapping and a binding nothing of a customer is sent.

create table price_mappings (
    id uuid primary key,
    tenant_id text not null,
    meter text not null,
    aggregation text not null check (aggregation in ('sum', 'count', 'min', 'max', 'last', 'unique')),
    stripe_account_id text not null,
    billing_account_id text,
    price_id text,
    subscription_item_id text,
    currency text check (currency ~ '^[a-z]{3}$'),
    is_shadow boolean not null default false,
    shadow_account_id text,
    shadow_price_id text,
    shadow_subscription_item_id text,
    stripe_event_name text check (length(stripe_event_name) between 1 and 100),
    stripe_meter_id text,
    mode text not null check (mode in ('off', 'shadow', 'live')),
    created_at timestamptz not null,
    late_policy text not null default 'hold' check (
        late_policy in ('hold', 'carry_forward', 'invoice_item', 'credit_note')
    ),
    updated_at timestamptz,
    constraint price_mappings_resolved
    check (mode = 'off' or (stripe_event_name is not null and stripe_meter_id is not null))
);
comment on table price_mappings is 'Which Stripe meter a meter of a tenant feeds.';
comment on column price_mappings.aggregation is 'Which column of the counter is the quantity of a day.';
comment on column price_mappings.stripe_account_id is 'Where its mode sends: the shadow account where there is one, else the account that bills.';
comment on column price_mappings.stripe_event_name is 'Null: off, and Stripe was not asked.';
comment on column price_mappings.billing_account_id is 'The account that bills, as it was said; null: stripe_account_id.';
comment on column price_mappings.price_id is 'The price it was mapped by; null: it was mapped by an event name.';
comment on column price_mappings.is_shadow is 'Which mode switching it on would give.';
comment on column price_mappings.late_policy is 'What becomes of usage that Stripe no longer takes on its own day: kept and reported, owed on the current one, or billed as money.';
comment on column price_mappings.updated_at is 'Null: never changed.';
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


-- ── The push ────────────────────────────────────────────────────────────────────────────────────────────────────────
-- The row is written before anything is sent, so a crash at any point leaves a question that can be asked, never a guess.

create table push_epochs (
    epoch integer primary key check (epoch > 0),
    state text not null check (state in ('open', 'fenced')),
    system_identifier bigint not null,
    timeline bigint not null,
    database_oid bigint not null,
    table_oid bigint not null,
    started_at timestamptz not null,
    opened_at timestamptz,
    reason text not null,
    actor text not null,
    constraint push_epochs_opened check ((state = 'open') = (opened_at is not null))
);
comment on table push_epochs is 'Which database the outbox was written in, since when; the highest epoch holds.';
comment on column push_epochs.state is 'fenced: nothing is pushed until it is opened.';
comment on column push_epochs.system_identifier is 'The PostgreSQL cluster it was started in.';
comment on column push_epochs.timeline is 'Its timeline: a recovery from a backup and a promoted replica start a new one.';
comment on column push_epochs.database_oid is 'The database: a copy of it has another.';
comment on column push_epochs.table_oid is 'This table: restoring a dump makes another.';

create view push_place as
select
    (pg_control_system()).system_identifier as system_identifier,
    -- The first eight digits of a WAL file's name are its timeline; the control file has it only since a checkpoint.
    ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint as timeline,
    (
        select oid::bigint
        from pg_database
        where datname = current_database()
    ) as database_oid,
    'push_epochs'::regclass::oid::bigint as table_oid;
comment on view push_place is 'Where the outbox is now, as push_epochs writes it down.';

create view push_fence as
select
    e.epoch,
    e.state,
    e.started_at,
    e.reason,
    case
        when e.system_identifier <> p.system_identifier then 'another PostgreSQL cluster'
        when e.timeline <> p.timeline then 'another timeline of it (a recovery from a backup, or a promoted replica)'
        when e.database_oid <> p.database_oid then 'another database'
        when e.table_oid <> p.table_oid then 'tables made anew (the restore of a dump)'
    end as difference
from push_epochs as e
cross join push_place as p
where e.epoch = (select max(l.epoch) from push_epochs as l);
comment on view push_fence is 'The epoch that holds; difference: how the database is not the one it was started in, null when it is.';

create table push_imports (
    epoch integer not null references push_epochs (epoch),
    stripe_account_id text not null,
    stripe_event_name text not null,
    stripe_customer_id text not null,
    imported_at timestamptz not null,
    entry_count integer not null check (entry_count >= 0),
    primary key (epoch, stripe_account_id, stripe_event_name, stripe_customer_id)
);
comment on table push_imports is 'Of whom the outbox was brought to what Stripe held, after which restore.';
comment on column push_imports.entry_count is 'How many minutes Stripe held that no row explained.';

create function current_push_epoch() returns integer
language sql stable
as $$ select max(epoch) from push_epochs $$;
comment on function current_push_epoch() is 'The epoch new rows of the outbox are of.';

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
    epoch integer not null default current_push_epoch(),
    origin text not null default 'planned' check (origin in ('planned', 'imported')),
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
comment on column push_entries.epoch is 'The push epoch it was written in.';
comment on column push_entries.origin is 'imported: found at Stripe after a restore; nobody knows under which identifier it was sent.';
create unique index push_entries_in_flight
on push_entries (stripe_account_id, stripe_event_name, stripe_customer_id) where state in ('planned', 'sending');
create index push_entries_blocking
on push_entries (stripe_account_id, stripe_event_name, stripe_customer_id)
where state in ('rejected', 'rejected_async', 'quarantined') and released_at is null;
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

create function keep_push_entry_origin() returns trigger
language plpgsql
as $$
begin
    raise exception 'push entry %: its epoch and origin stay', old.id using errcode = 'restrict_violation';
end;
$$;
comment on function keep_push_entry_origin() is 'In which epoch a row was written, and how, never changes.';
create trigger push_entries_keep_origin before update on push_entries
for each row when ((old.epoch, old.origin) is distinct from (new.epoch, new.origin))
execute function keep_push_entry_origin();

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
for each row when (
    old.state is distinct from new.state
    and not (old.state in ('planned', 'sending') and new.state in ('planned', 'sending'))
)
execute function total_push_entry();

create table push_segments (
    tenant_id text not null,
    customer_ref text not null,
    meter text not null,
    segment_start timestamptz not null,
    segment_end timestamptz not null,
    pushes_from date not null,
    closes_on date not null,
    primary key (tenant_id, customer_ref, meter, segment_start),
    constraint push_segments_ordered check (segment_start < segment_end and pushes_from <= closes_on)
);
comment on table push_segments is 'Segments of gauges (meters whose days do not add up) that are pushed; a push opens each, whether anything happened in it or not.';
comment on column push_segments.pushes_from is 'The first day that takes deltas: it moves with what Stripe takes, and days before it stay as they were sent.';
comment on column push_segments.closes_on is 'The last day with a whole minute in the segment.';

create table push_carries (
    id uuid primary key,
    mapping_id uuid not null references price_mappings (id),
    tenant_id text not null,
    meter text not null,
    customer_ref text not null,
    from_segment_start timestamptz not null,
    from_day date not null,
    to_segment_start timestamptz not null,
    to_day date not null,
    quantity numeric not null check (quantity > 0),
    carried_at timestamptz not null,
    entry_id uuid references push_entries (id),
    constraint push_carries_forward check (
        from_segment_start <= to_segment_start
        and from_day <= to_day
        and (from_segment_start, from_day) <> (to_segment_start, to_day)
    )
);
comment on table push_carries is 'Late usage that Stripe no longer takes on its own day, owed on another: it counts there and no longer on its own.';
comment on column push_carries.entry_id is 'The row of the outbox that tells it to Stripe; null: none was planned yet.';
create index push_carries_from on push_carries (mapping_id, customer_ref, from_day);
create index push_carries_to on push_carries (mapping_id, customer_ref, to_day);

create function flag_carries() returns trigger
language plpgsql
as $$
begin
    update push_carries as k
    set entry_id = new.id
    where
        k.mapping_id = new.mapping_id
        and k.customer_ref = new.customer_ref
        and k.to_segment_start = new.segment_start
        and k.to_day = new.day
        and (
            k.entry_id is null
            or exists (
                select 1 from push_entries as e
                where e.id = k.entry_id and e.state in ('cancelled', 'rejected', 'rejected_async')
            )
        );
    return null;
end;
$$;
comment on function flag_carries() is 'Names the row of the outbox that tells late usage of another day; the next one, when that is not at Stripe.';
create trigger push_entries_flag_carries after insert on push_entries
for each row when (new.origin = 'planned') execute function flag_carries();

create table late_charges (
    id uuid primary key,
    identity text not null unique check (identity ~ '^um1_late_[0-9a-f]{40}$'),
    kind text not null check (kind in ('invoice_item', 'credit_note', 'nothing')),
    mode text not null check (mode in ('shadow', 'live')),
    mapping_id uuid not null references price_mappings (id),
    tenant_id text not null,
    meter text not null,
    customer_ref text not null,
    stripe_account_id text not null,
    stripe_customer_id text not null,
    invoice_id text not null,
    stripe_item_id text not null,
    price_id text not null,
    starts_at timestamptz not null,
    ends_at timestamptz not null,
    seq integer not null check (seq > 0),
    quantity_before numeric not null,
    quantity_after numeric not null,
    amount_minor bigint not null check (amount_minor >= 0),
    currency text not null check (currency ~ '^[A-Z]{3}$'),
    derivation text not null,
    derivation_sha256 text not null,
    state text not null check (state in ('planned', 'sending', 'accepted', 'rejected')),
    planned_at timestamptz not null,
    attempt integer not null default 0 check (attempt >= 0),
    key_no integer not null default 0 check (key_no >= 0),
    lease_until timestamptz,
    next_attempt_at timestamptz,
    settled_at timestamptz,
    stripe_object_id text,
    http_status integer,
    error_message text not null default '',
    released_at timestamptz,
    constraint late_charges_window unique (
        stripe_account_id, invoice_id, stripe_item_id, price_id, starts_at, ends_at, seq
    ),
    constraint late_charges_ordered check (starts_at < ends_at),
    constraint late_charges_late check (quantity_before <> quantity_after),
    constraint late_charges_nothing check ((kind = 'nothing') = (amount_minor = 0)),
    constraint late_charges_derivation
    check (derivation_sha256 = encode(sha256(convert_to(derivation, 'UTF8')), 'hex')),
    constraint late_charges_settled check ((state in ('accepted', 'rejected')) = (settled_at is not null)),
    constraint late_charges_at_stripe
    check ((state = 'accepted' and kind <> 'nothing') = (stripe_object_id is not null)),
    constraint late_charges_released check (released_at is null or state = 'rejected')
);
comment on table late_charges is 'Late usage of a window whose invoice is final, as money: written before Stripe is told, never deleted.';
comment on column late_charges.identity is 'A hash over what is charged: Idempotency-Key at Stripe, and in the metadata of what it became.';
comment on column late_charges.kind is 'nothing: more or less of it costs the same.';
comment on column late_charges.seq is 'Which charge of its window.';
comment on column late_charges.quantity_before is 'What the invoice and the charges before this one bill.';
comment on column late_charges.amount_minor is 'The price of quantity_after less that of quantity_before, without its sign.';
comment on column late_charges.derivation is 'Both quotes with their price, as JSON that computes again.';
comment on column late_charges.key_no is 'Part of the Idempotency-Key; grows after an error that Stripe would repeat.';
comment on column late_charges.stripe_object_id is 'ii_... or cn_...';
comment on column late_charges.released_at is 'When a person let its usage be charged anew.';
create index late_charges_open on late_charges (stripe_account_id, mode) where state in ('planned', 'sending');
create index late_charges_by_tenant on late_charges (tenant_id, planned_at);

create table late_charge_days (
    charge_id uuid not null references late_charges (id),
    mapping_id uuid not null references price_mappings (id),
    customer_ref text not null,
    segment_start timestamptz not null,
    day date not null,
    quantity numeric not null check (quantity <> 0),
    primary key (charge_id, segment_start, day)
);
comment on table late_charge_days is 'The days whose usage a charge bills: it counts there no more, unless Stripe refused the charge.';
create index late_charge_days_by_day on late_charge_days (mapping_id, customer_ref, day);

create view carry_changes as
select
    mapping_id,
    customer_ref,
    from_segment_start as segment_start,
    from_day as day,
    -quantity as quantity
from push_carries
union all
select
    mapping_id,
    customer_ref,
    to_segment_start as segment_start,
    to_day as day,
    quantity
from push_carries
union all
select
    d.mapping_id,
    d.customer_ref,
    d.segment_start,
    d.day,
    -d.quantity as quantity
from late_charge_days as d
inner join late_charges as c on d.charge_id = c.id
where c.state <> 'rejected';
comment on view carry_changes is 'What billing late usage elsewhere changed: less on its own day, more on the day it is owed on, if any.';

-- A gauge's number from the segment's start to the end of a day, less the same of the day before, so that the days add up
-- to the segment's number. Days before pushes_from stay as they were sent and the first one that takes deltas is owed
-- what they lack; days after closes_on have no whole minute and are told with it.
create function gauge_changes(mapping price_mappings, binding customer_bindings, segment push_segments)
returns table (day date, counted numeric)
language sql
stable
as $$
    select
        level.day,
        coalesce(level.running, 0) - coalesce(lag(level.running) over (order by level.day), 0) as counted
    from (
        select
            held.day,
            case mapping.aggregation
                when 'max' then max(max(held.quantity_max)) over (order by held.day)
                when 'min' then min(min(held.quantity_min)) over (order by held.day)
                when 'last' then
                    (array_agg(held.quantity_last order by held.last_ts desc nulls last, held.last_seq desc))[1]
            end as running
        from (
            -- What a segment begins with: the last value before it is in force, wherever it was reported.
            select
                segment.pushes_from as day,
                null::numeric as quantity_min,
                null::numeric as quantity_max,
                (
                    select c.quantity_last
                    from counters as c
                    where
                        mapping.aggregation = 'last'
                        and c.tenant_id = mapping.tenant_id
                        and c.customer_ref = binding.customer_ref
                        and c.meter = mapping.meter
                        and c.day <= (segment.segment_start at time zone 'UTC')::date
                        and c.last_ts < segment.segment_start
                    order by c.day desc, c.last_ts desc, c.last_seq desc
                    limit 1
                ) as quantity_last,
                null::timestamptz as last_ts,
                null::bigint as last_seq
            union all
            select
                least(greatest(c.day, segment.pushes_from), segment.closes_on) as day,
                c.quantity_min,
                c.quantity_max,
                c.quantity_last,
                c.last_ts,
                c.last_seq
            from counters as c
            where
                c.tenant_id = mapping.tenant_id
                and c.customer_ref = binding.customer_ref
                and c.meter = mapping.meter
                and c.segment_start = segment.segment_start
                and c.day >= (segment.segment_start at time zone 'UTC')::date
                and c.day <= (segment.segment_end at time zone 'UTC')::date
        ) as held
        group by held.day
    ) as level
    where mapping.aggregation <> 'unique'
    union all
    -- A value is new on the first day of the segment that has it.
    select
        least(greatest(item.first_on, segment.pushes_from), segment.closes_on) as day,
        1::numeric as counted
    from (
        select
            i.item,
            min(i.day) as first_on
        from counter_items as i
        where
            i.tenant_id = mapping.tenant_id
            and i.customer_ref = binding.customer_ref
            and i.meter = mapping.meter
            and i.segment_start = segment.segment_start
            and i.day >= (segment.segment_start at time zone 'UTC')::date
            and i.day <= (segment.segment_end at time zone 'UTC')::date
        group by i.item
    ) as item
    where mapping.aggregation = 'unique'
    union all
    select
        least(greatest(a.day, segment.pushes_from), segment.closes_on) as day,
        a.delta::numeric as counted
    from adjustments as a
    left join customer_aliases as o on a.tenant_id = o.tenant_id and a.customer_ref = o.alias_ref
    where
        a.tenant_id = mapping.tenant_id
        and a.metric = mapping.meter
        and a.reason <> 'late_event'
        and a.status = 'approved'
        and binding.customer_ref = coalesce(o.customer_ref, a.customer_ref)
        and a.effective_at >= segment.segment_start
        and a.effective_at < segment.segment_end
    union all
    select
        least(greatest(k.day, segment.pushes_from), segment.closes_on) as day,
        k.quantity as counted
    from carry_changes as k
    where
        k.mapping_id = mapping.id
        and k.customer_ref = binding.customer_ref
        and k.segment_start = segment.segment_start
    union all
    select
        segment.pushes_from as day,
        -t.planned_total as counted
    from push_totals as t
    where
        t.stripe_account_id = mapping.stripe_account_id
        and t.stripe_event_name = mapping.stripe_event_name
        and t.stripe_customer_id = binding.stripe_customer_id
        and t.segment_start = segment.segment_start
        and t.day < segment.pushes_from
$$;
comment on function gauge_changes(price_mappings, customer_bindings, push_segments) is
'By how much each day changed a gauge''s number of a segment; they add up to the number, less what was sent on days that take no more.';

create view push_days as
select
    mapping_id,
    mode,
    tenant_id,
    meter,
    customer_ref,
    stripe_account_id,
    stripe_event_name,
    stripe_meter_id,
    stripe_customer_id,
    segment_start,
    day,
    sum(counted) as counted,
    sum(planned) as planned,
    sum(accepted) as accepted,
    sum(entry_count)::bigint as entry_count,
    max(last_accepted_at) as last_accepted_at
from (
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
        0::numeric as planned,
        0::numeric as accepted,
        0::bigint as entry_count,
        null::timestamptz as last_accepted_at
    from price_mappings as m
    inner join customer_bindings as b on m.tenant_id = b.tenant_id and m.stripe_account_id = b.stripe_account_id
    inner join counters as c on m.tenant_id = c.tenant_id and b.customer_ref = c.customer_ref and m.meter = c.meter
    where m.mode <> 'off' and m.aggregation in ('sum', 'count')
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
        -- Its segment is that of the day's counters, or of what was sent, that begins last before it. Where there are
        -- neither it is the UTC month's, as SQL cannot cut billing phases: the day is right all the same, and once the
        -- day has counters of the true segment the adjustment moves to it.
        coalesce(
            (
                select max(c.segment_start)
                from counters as c
                where
                    c.tenant_id = m.tenant_id
                    and c.customer_ref = b.customer_ref
                    and c.meter = m.meter
                    and c.day = a.day
                    and c.segment_start <= a.effective_at
            ),
            (
                select max(t.segment_start)
                from push_totals as t
                where
                    t.stripe_account_id = m.stripe_account_id
                    and t.stripe_event_name = m.stripe_event_name
                    and t.stripe_customer_id = b.stripe_customer_id
                    and t.day = a.day
                    and t.segment_start <= a.effective_at
            ),
            date_trunc('month', a.effective_at at time zone 'UTC') at time zone 'UTC'
        ) as segment_start,
        a.day,
        a.delta::numeric as counted,
        0::numeric as planned,
        0::numeric as accepted,
        0::bigint as entry_count,
        null::timestamptz as last_accepted_at
    from price_mappings as m
    inner join customer_bindings as b on m.tenant_id = b.tenant_id and m.stripe_account_id = b.stripe_account_id
    inner join adjustments as a on m.tenant_id = a.tenant_id and m.meter = a.metric
    left join customer_aliases as o on a.tenant_id = o.tenant_id and a.customer_ref = o.alias_ref
    where
        m.mode <> 'off'
        and m.aggregation in ('sum', 'count')
        and a.reason <> 'late_event'
        and a.status = 'approved'
        and b.customer_ref = coalesce(o.customer_ref, a.customer_ref)
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
        k.segment_start,
        k.day,
        k.quantity as counted,
        0::numeric as planned,
        0::numeric as accepted,
        0::bigint as entry_count,
        null::timestamptz as last_accepted_at
    from price_mappings as m
    inner join customer_bindings as b on m.tenant_id = b.tenant_id and m.stripe_account_id = b.stripe_account_id
    inner join carry_changes as k on m.id = k.mapping_id and b.customer_ref = k.customer_ref
    where m.mode <> 'off' and m.aggregation in ('sum', 'count')
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
        s.segment_start,
        change.day,
        change.counted,
        0::numeric as planned,
        0::numeric as accepted,
        0::bigint as entry_count,
        null::timestamptz as last_accepted_at
    from price_mappings as m
    inner join customer_bindings as b on m.tenant_id = b.tenant_id and m.stripe_account_id = b.stripe_account_id
    inner join push_segments as s
        on m.tenant_id = s.tenant_id and b.customer_ref = s.customer_ref and m.meter = s.meter
    cross join lateral gauge_changes(m, b, s) as change
    where m.mode <> 'off' and m.aggregation not in ('sum', 'count')
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
        case
            when
                m.aggregation not in ('sum', 'count')
                and t.day < (
                    select s.pushes_from
                    from push_segments as s
                    where
                        s.tenant_id = m.tenant_id
                        and s.customer_ref = b.customer_ref
                        and s.meter = m.meter
                        and s.segment_start = t.segment_start
                )
                then t.planned_total
            else 0::numeric
        end as counted,
        t.planned_total::numeric as planned,
        t.accepted_total::numeric as accepted,
        t.entry_count::bigint as entry_count,
        t.last_accepted_at
    from price_mappings as m
    inner join customer_bindings as b on m.tenant_id = b.tenant_id and m.stripe_account_id = b.stripe_account_id
    inner join push_totals as t
        on
            m.stripe_account_id = t.stripe_account_id
            and m.stripe_event_name = t.stripe_event_name
            and b.stripe_customer_id = t.stripe_customer_id
    where m.mode <> 'off'
) as part
group by
    mapping_id,
    mode,
    tenant_id,
    meter,
    customer_ref,
    stripe_account_id,
    stripe_event_name,
    stripe_meter_id,
    stripe_customer_id,
    segment_start,
    day;
comment on view push_days is
'One row per mapped meter, bound customer, segment and day: what we counted and people adjusted (0 when both are gone), of a gauge by how much that changed its number of the segment, and what the outbox holds.';


-- ── Reconciliation ──────────────────────────────────────────────────────────────────────────────────────────────────
-- One row per comparison is the state; the history beside it is for reading and is never summed.

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

create table reconciliation_requests (
    id uuid primary key,
    tenant_id text not null,
    status text not null check (status in ('queued', 'running', 'completed', 'failed')),
    requested_at timestamptz not null,
    started_at timestamptz,
    ended_at timestamptz,
    error_message text,
    constraint reconciliation_requests_ended check ((ended_at is not null) = (status in ('completed', 'failed')))
);
comment on table reconciliation_requests is 'Reconciliations somebody asked for over HTTP. One run answers all that wait.';
create index reconciliation_requests_waiting on reconciliation_requests (requested_at)
where status in ('queued', 'running');

create table reconciliation_runs (
    id bigint generated always as identity primary key,
    stripe_account_id text not null,
    mode text not null check (mode in ('shadow', 'live')),
    started_at timestamptz not null,
    ended_at timestamptz not null,
    day_count bigint not null,
    ok_count bigint not null,
    within_epsilon_count bigint not null,
    drift_count bigint not null,
    unknown_count bigint not null,
    unexplained_count bigint not null,
    drift_total numeric not null check (drift_total >= 0),
    runs_so_far bigint not null,
    seconds_so_far numeric not null
);
comment on table reconciliation_runs is 'What each comparison of an account found; old rows are deleted.';
comment on column reconciliation_runs.drift_total is 'Sum of the absolute drift of its days.';
comment on column reconciliation_runs.runs_so_far is 'Runs up to this one, those deleted since included.';
comment on column reconciliation_runs.seconds_so_far is 'What they took.';
create index reconciliation_runs_by_mode on reconciliation_runs (mode, id);

create table stripe_corrections (
    id uuid primary key,
    stripe_account_id text not null,
    stripe_event_name text not null,
    stripe_customer_id text not null,
    segment_start timestamptz not null,
    day date not null,
    tenant_id text not null,
    meter text not null,
    customer_ref text not null,
    surplus numeric not null check (surplus > 0),
    status text not null check (status in ('suggested', 'approved', 'resolved')),
    suggested_at timestamptz not null,
    seen_at timestamptz not null,
    decided_at timestamptz,
    actor text,
    reason text,
    constraint stripe_corrections_decided
    check ((status = 'approved') = (decided_at is not null and actor is not null and reason is not null))
);
comment on table stripe_corrections is 'What Stripe holds beyond what we sent, and whether a person let us take it back.';
comment on column stripe_corrections.surplus is 'Theirs minus ours; once approved it counts as at Stripe, so a push sends its negative.';
comment on column stripe_corrections.status is 'resolved: the surplus was gone before anybody decided.';
create unique index stripe_corrections_once on stripe_corrections (
    stripe_account_id, stripe_event_name, stripe_customer_id, segment_start, day
) where status = 'suggested';
create index stripe_corrections_by_tenant on stripe_corrections (tenant_id, day);

create function total_stripe_correction() returns trigger
language plpgsql
as $$
begin
    insert into push_totals as t (
        stripe_account_id, stripe_event_name, stripe_customer_id, segment_start, day,
        planned_total, accepted_total, entry_count
    )
    values (
        new.stripe_account_id, new.stripe_event_name, new.stripe_customer_id, new.segment_start, new.day,
        new.surplus, new.surplus, 0
    )
    on conflict (stripe_account_id, stripe_event_name, stripe_customer_id, segment_start, day) do update
    set planned_total = t.planned_total + excluded.planned_total,
        accepted_total = t.accepted_total + excluded.accepted_total;
    return null;
end;
$$;
comment on function total_stripe_correction() is 'An approved surplus is known to be at Stripe: push_totals holds it beside what we sent.';
create trigger stripe_corrections_total after update on stripe_corrections
for each row when (old.status = 'suggested' and new.status = 'approved') execute function total_stripe_correction();

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


-- ── The lake ────────────────────────────────────────────────────────────────────────────────────────────────────────
-- Closed days as Parquet files; this table says which files are valid.

create table archived_days (
    day date primary key,
    event_count bigint not null check (event_count >= 0),
    counter_count bigint not null check (counter_count >= 0),
    events_sha256 text not null check (events_sha256 ~ '^[0-9a-f]{64}$'),
    counters_sha256 text not null check (counters_sha256 ~ '^[0-9a-f]{64}$'),
    folded_below xid8 not null,
    folded_at timestamptz,
    archived_at timestamptz not null,
    item_count bigint check (item_count >= 0),
    items_sha256 text check (items_sha256 ~ '^[0-9a-f]{64}$'),
    rules_sha256 text check (rules_sha256 ~ '^[0-9a-f]{64}$')
);
comment on table archived_days is 'The manifest of the lake: one row per archived UTC day. Stale when the fold has written the day since.';
comment on column archived_days.folded_below is 'The fold''s cursor when the day was read: its events with a smaller xid are in the file, no others.';
comment on column archived_days.folded_at is 'counter_days.last_folded_at as it was then: another one there now means the day changed.';
comment on column archived_days.items_sha256 is 'Null: the day was archived without its counter_items, and is archived again by itself.';
comment on column archived_days.rules_sha256 is 'Null: the day was archived without its rules, and is archived again by itself.';

create table dropped_months (
    month_on date primary key check (extract(day from month_on) = 1),
    event_count bigint not null check (event_count >= 0),
    lake text not null,
    dropped_at timestamptz not null
);
comment on table dropped_months is 'Months whose ledger rows live in the lake alone; rows that came later are in Postgres.';
comment on column dropped_months.lake is 'Location of the lake that has the month''s rows.';

create function drop_events_month(month_on date) returns void
language plpgsql
as $$
begin
    execute format('drop table %I', format('events_%s', to_char(month_on, 'YYYY_MM')));
end;
$$;
comment on function drop_events_month(date) is 'Drops the ledger partition of one month (its first day).';


-- ── Backfills ────────────────────────────────────────────────────────────────────────────────────────────────────────

create table backfills (
    id uuid primary key default gen_random_uuid(),
    tenant_id text not null,
    metric text,
    customer_ref text,
    period_start date,
    period_end date,
    reason text not null check (length(reason) between 1 and 500),
    actor text not null,
    source_type text not null check (source_type in ('file', 'url', 'csv', 'events')),
    source text not null,
    source_version text not null,
    source_format text not null check (source_format in ('csv', 'jsonl', 'parquet')),
    column_map jsonb not null default '{}',
    payload bytea,
    status text not null default 'pending'
    check (status in ('pending', 'processing', 'completed', 'failed', 'cancelled')),
    source_position bigint not null default 0 check (source_position >= 0),
    source_size bigint not null check (source_size >= 0),
    row_count bigint not null default 0,
    accepted_count bigint not null default 0 check (accepted_count >= 0),
    duplicate_count bigint not null default 0 check (duplicate_count >= 0),
    conflict_count bigint not null default 0 check (conflict_count >= 0),
    failed_count bigint not null default 0 check (failed_count >= 0),
    skipped_count bigint not null default 0 check (skipped_count >= 0),
    report_bytes bigint not null default 0 check (report_bytes >= 0),
    error_message text,
    created_at timestamptz not null,
    started_at timestamptz,
    completed_at timestamptz,
    updated_at timestamptz not null,
    reverted_at timestamptz,
    reverted_by text,
    voided_count bigint not null default 0 check (voided_count >= 0),
    revert_reason text check (length(revert_reason) between 1 and 500),
    source_row_count bigint check (source_row_count >= 0),
    constraint backfills_conserve
    check (row_count = accepted_count + duplicate_count + conflict_count + failed_count + skipped_count),
    constraint backfills_period check (period_end >= period_start),
    constraint backfills_finished
    check ((status in ('completed', 'failed', 'cancelled')) = (completed_at is not null))
) with (fillfactor = 70);
comment on table backfills is 'One row per import of a file and per backfill. Its counts and position move in the transaction that stores the rows.';
comment on column backfills.metric is 'Metric of rows that name none; rows of another metric are skipped. Null: every row names its own.';
comment on column backfills.period_end is 'Last UTC day, included; rows outside the period are skipped.';
comment on column backfills.source_version is 'Which state of the source was begun: a source that changed since is not resumed.';
comment on column backfills.payload is 'What an HTTP request brought along, until the backfill ends.';
comment on column backfills.source_position is 'Everything before it is committed: bytes of CSV and JSON Lines, rows of Parquet.';
comment on column backfills.voided_count is 'Of its accepted events, how many its revert has voided so far.';
comment on column backfills.revert_reason is 'Why its events are voided: set when asked for; reverted_at when all are.';
comment on column backfills.source_row_count is 'Of what came along with the request, and of Parquet once it is opened; null: nobody has counted them.';
comment on column backfills.report_bytes is 'Length of the error report file that belongs to source_position.';
create index backfills_by_tenant on backfills (tenant_id, created_at);
create index backfills_unfinished on backfills (created_at) where status in ('pending', 'processing');


-- ── The record of what ran ──────────────────────────────────────────────────────────────────────────────────────────

create table schema_migrations (
    version text primary key,
    name text not null,
    checksum text not null,
    applied_at timestamptz not null default now()
);


-- ── Closing ──────────────────────────────────────────────────────────────────────────────────────────────────────────
-- Each invoice with our usage on it, how far its closing is, and the proof that it bills what we counted.

create table invoice_polls (
    stripe_account_id text primary key,
    polled_at timestamptz not null
);
comment on table invoice_polls is 'Up to when an account''s invoices are known.';

create table invoice_closings (
    stripe_account_id text not null,
    invoice_id text not null,
    mode text not null check (mode in ('shadow', 'live')),
    tenant_id text not null,
    customer_ref text not null,
    stripe_customer_id text not null,
    control text not null check (control in ('observe', 'control')),
    state text not null check (
        state in ('found', 'controlled', 'drained', 'reconciled', 'finalized', 'verified', 'failed', 'dropped')
    ),
    created_at timestamptz not null,
    found_at timestamptz not null,
    finalizes_at timestamptz,
    settles_at timestamptz not null,
    is_grace_short boolean not null,
    finalize_key_no integer not null default 0 check (finalize_key_no >= 0),
    finalized_at timestamptz,
    closed_at timestamptz,
    checked_at timestamptz,
    lease_until timestamptz,
    message text not null default '',
    released_at timestamptz,
    released_by text,
    release_reason text,
    primary key (stripe_account_id, invoice_id),
    constraint invoice_closings_closed
    check ((state in ('verified', 'dropped')) <= (closed_at is not null)),
    constraint invoice_closings_released
    check ((released_at is null) = (released_by is null) and (released_at is null) = (release_reason is null))
);
alter table late_charges add foreign key (stripe_account_id, invoice_id)
references invoice_closings (stripe_account_id, invoice_id);
comment on table invoice_closings is 'How each invoice with our usage on it is closed: one row per invoice of an account.';
comment on column invoice_closings.control is 'control: we keep the draft from advancing and finalize it; written before Stripe is told.';
comment on column invoice_closings.created_at is 'When Stripe made the draft.';
comment on column invoice_closings.finalizes_at is 'When Stripe said it would finalize it, as first seen; null: it would not.';
comment on column invoice_closings.settles_at is 'From when on no usage of its windows joins them by itself.';
comment on column invoice_closings.is_grace_short is 'Stripe finalizes before what is late may have arrived and been sent.';
comment on column invoice_closings.finalize_key_no is 'Part of the Idempotency-Key; grows after a 5xx, whose answer Stripe would repeat.';
comment on column invoice_closings.finalized_at is 'When it was finalized, as Stripe says.';
comment on column invoice_closings.closed_at is 'When nothing was left to do; its proof is stored, or it is not billed at all.';
comment on column invoice_closings.message is 'What it waits for, or why it failed.';
comment on column invoice_closings.released_at is 'When a person took its difference upon themselves.';
create index invoice_closings_open on invoice_closings (stripe_account_id, mode, settles_at) where closed_at is null;
create index invoice_closings_by_tenant on invoice_closings (tenant_id, created_at);
create index invoice_closings_final on invoice_closings (customer_ref) where finalized_at is not null;

create table invoice_windows (
    stripe_account_id text not null,
    invoice_id text not null,
    stripe_item_id text not null,
    price_id text not null,
    starts_at timestamptz not null,
    ends_at timestamptz not null,
    mapping_id uuid not null references price_mappings (id),
    meter text not null,
    primary key (stripe_account_id, invoice_id, stripe_item_id, price_id, starts_at, ends_at),
    foreign key (stripe_account_id, invoice_id) references invoice_closings (stripe_account_id, invoice_id),
    constraint invoice_windows_ordered check (starts_at < ends_at)
);
comment on table invoice_windows is 'What an invoice bills of our usage: an item at a price over [starts_at, ends_at), whatever lines it has.';

create function is_segment_closed(mapping uuid, customer text, start timestamptz) returns boolean
language sql
stable
cost 1000
as $$
    select exists (
        select 1
        from invoice_windows as w
        inner join invoice_closings as c on w.stripe_account_id = c.stripe_account_id and w.invoice_id = c.invoice_id
        where
            w.mapping_id = mapping
            and w.starts_at <= start
            and w.ends_at > start
            and c.customer_ref = customer
            and c.finalized_at is not null
    )
$$;
comment on function is_segment_closed(uuid, text, timestamptz) is
'Whether an invoice that bills a segment is final: what Stripe is told of it now is on no invoice.';

create table parity_proofs (
    stripe_account_id text not null,
    invoice_id text not null,
    mode text not null check (mode in ('shadow', 'live')),
    tenant_id text not null,
    customer_ref text not null,
    control text not null check (control in ('observe', 'control')),
    finalized_at timestamptz not null,
    is_equal boolean not null,
    evidence text not null,
    evidence_sha256 text not null check (evidence_sha256 ~ '^[0-9a-f]{64}$'),
    proven_at timestamptz not null,
    primary key (stripe_account_id, invoice_id),
    constraint parity_proofs_hash check (evidence_sha256 = encode(sha256(convert_to(evidence, 'UTF8')), 'hex'))
);
comment on table parity_proofs is 'What a closed invoice bills against what we counted: written once, never changed.';
comment on column parity_proofs.is_equal is 'Whether every line bills exactly what we counted.';
comment on column parity_proofs.evidence is 'What was compared, as JSON: Stripe''s lines, our days, a hash over the events sent.';
create index parity_proofs_by_tenant on parity_proofs (tenant_id, finalized_at);

create table parity_proof_lines (
    stripe_account_id text not null,
    invoice_id text not null,
    stripe_item_id text not null,
    price_id text not null,
    starts_at timestamptz not null,
    ends_at timestamptz not null,
    meter text not null,
    counted numeric,
    pushed numeric,
    billed numeric not null,
    difference numeric generated always as (counted - billed) stored,
    pushed_late numeric not null,
    late_identifiers text[] not null,
    primary key (stripe_account_id, invoice_id, stripe_item_id, price_id, starts_at, ends_at),
    foreign key (stripe_account_id, invoice_id) references parity_proofs (stripe_account_id, invoice_id),
    constraint parity_proof_lines_known check ((counted is null) = (pushed is null))
);
comment on table parity_proof_lines is 'A proof''s lines: one per item, price and window.';
comment on column parity_proof_lines.counted is 'Null: our billing windows are not Stripe''s, so nobody can say.';
comment on column parity_proof_lines.billed is 'The quantity on the final invoice, its tiers added up.';
comment on column parity_proof_lines.pushed_late is 'Where they differ: of what Stripe acknowledged, what it got after the invoice was final.';
comment on column parity_proof_lines.late_identifiers is 'The first of those events, by what Stripe knows them by.';

create trigger parity_proofs_keep before update or delete on parity_proofs
for each row execute function refuse_change();
create trigger parity_proof_lines_keep before update or delete on parity_proof_lines
for each row execute function refuse_change();


-- ── Prices ───────────────────────────────────────────────────────────────────────────────────────────────────────────
-- What a unit costs, as the account said or as a tenant said itself, every version kept.

create table prices (
    stripe_account_id text,
    tenant_id text,
    price_id text not null check (length(price_id) between 1 and 255),
    version text not null check (version ~ '^[0-9a-f]{64}$'),
    document jsonb not null check (jsonb_typeof(document) = 'object'),
    effective_from timestamptz not null,
    created_at timestamptz not null,
    constraint prices_one_owner check ((stripe_account_id is null) <> (tenant_id is null)),
    constraint prices_one_at_a_time unique nulls not distinct (stripe_account_id, tenant_id, price_id, effective_from)
);
comment on table prices is 'What a unit costs from effective_from on, until the next version: written once, never changed.';
comment on column prices.stripe_account_id is 'Whose Stripe Price it is; null: a tenant''s own.';
comment on column prices.tenant_id is 'Who said it; null: Stripe did.';
comment on column prices.price_id is 'Stripe''s id; of a tenant''s own price, the meter it prices.';
comment on column prices.version is 'SHA-256 over the members that say what is charged.';
comment on column prices.document is 'Stripe''s Price with its tiers as it was answered; of a tenant''s own, a priceConfig.';
comment on column prices.effective_from is 'Of the first version of a Stripe Price, when Stripe made it.';

create trigger prices_keep before update or delete on prices
for each row execute function refuse_change();

create table item_prices (
    tenant_id text not null,
    customer_ref text not null,
    meter text not null,
    stripe_account_id text not null,
    stripe_price_id text not null check (length(stripe_price_id) between 1 and 255),
    effective_from timestamptz not null,
    created_at timestamptz not null,
    primary key (tenant_id, customer_ref, meter, stripe_account_id, effective_from)
);
comment on table item_prices is 'Which Stripe Price a customer''s subscription item bills a meter by from effective_from on, until the next row.';
comment on column item_prices.effective_from is '-infinity''s stand-in, year 1, for the first price seen; later ones hold from when they were seen.';

create trigger item_prices_keep before update or delete on item_prices
for each row execute function refuse_change();


-- ── Payments ─────────────────────────────────────────────────────────────────────────────────────────────────────────
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

create table simulation_scenarios (
    tenant_id text not null check (length(tenant_id) between 1 and 255),
    id uuid not null,
    name text not null check (length(name) between 1 and 255),
    description text not null,
    version text not null check (length(version) between 1 and 255),
    tags text[] not null,
    document json not null,
    revision integer not null check (revision > 0),
    is_active boolean not null,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    primary key (tenant_id, id),
    constraint simulation_scenarios_id unique (id)
);
comment on table simulation_scenarios is 'Scenarios somebody keeps, as they are now; each run keeps its own copy.';
comment on column simulation_scenarios.version is 'Its author''s.';
comment on column simulation_scenarios.document is 'What the simulator reads, digit by digit as it was sent.';
comment on column simulation_scenarios.revision is 'Grows with each change.';
comment on column simulation_scenarios.is_active is 'False: deactivated; it can be read, and not be run.';
create index simulation_scenarios_by_age on simulation_scenarios (tenant_id, created_at, id);

create table simulation_batches (
    tenant_id text not null check (length(tenant_id) between 1 and 255),
    id uuid not null,
    name text not null check (length(name) between 1 and 255),
    description text,
    created_at timestamptz not null,
    primary key (tenant_id, id),
    constraint simulation_batches_id unique (id)
);
comment on table simulation_batches is 'Runs asked for together. A batch has ended when all of them have.';
create trigger simulation_batches_keep before update or delete on simulation_batches
for each row execute function refuse_change();

create table simulation_runs (
    tenant_id text not null check (length(tenant_id) between 1 and 255),
    id uuid not null,
    scenario_id uuid,
    scenario_revision integer,
    batch_id uuid,
    batch_position integer,
    run_type text not null check (run_type in ('manual', 'scheduled', 'ci')),
    driver text not null check (driver in ('pure', 'stripe')),
    name text check (length(name) between 1 and 255),
    description text,
    metadata json not null,
    scenario_name text not null,
    scenario_version text not null,
    scenario json not null,
    seed bigint,
    status text not null default 'pending'
    check (status in ('pending', 'running', 'completed', 'failed', 'cancelled')),
    attempt_count integer not null default 0 check (attempt_count >= 0),
    passed boolean,
    result json,
    error_message text,
    duration_ms numeric check (duration_ms >= 0),
    stripe_calls bigint not null default 0 check (stripe_calls >= 0),
    created_at timestamptz not null,
    started_at timestamptz,
    completed_at timestamptz,
    primary key (tenant_id, id),
    foreign key (tenant_id, scenario_id) references simulation_scenarios (tenant_id, id),
    foreign key (tenant_id, batch_id) references simulation_batches (tenant_id, id),
    constraint simulation_runs_id unique (id),
    constraint simulation_runs_of_batch unique (tenant_id, batch_id, batch_position),
    constraint simulation_runs_scenario check ((scenario_id is null) = (scenario_revision is null)),
    constraint simulation_runs_batch check ((batch_id is null) = (batch_position is null)),
    constraint simulation_runs_begun check ((started_at is not null) = (attempt_count > 0)),
    constraint simulation_runs_ended
    check ((completed_at is not null) = (status in ('completed', 'failed', 'cancelled'))),
    constraint simulation_runs_result check ((result is not null) = (status = 'completed')),
    constraint simulation_runs_verdict check (passed is null or status = 'completed'),
    constraint simulation_runs_failure check (status <> 'failed' or error_message is not null)
);
comment on table simulation_runs is 'Every run of a scenario that was asked for; never deleted, and never changed once it has ended.';
comment on column simulation_runs.scenario_id is 'Null: the scenario came with the request.';
comment on column simulation_runs.scenario is 'What is run: the scenario as it was when the run was asked for.';
comment on column simulation_runs.seed is 'Null: the scenario''s own.';
comment on column simulation_runs.attempt_count is 'How often it was begun: more than once when a process that ran it was killed.';
comment on column simulation_runs.passed is 'Whether everything came as expected; null: not completed, or nothing is expected.';
comment on column simulation_runs.stripe_calls is 'Requests to Stripe; a pure run makes none.';
create index simulation_runs_by_age on simulation_runs (tenant_id, created_at, id);
create index simulation_runs_of_scenario on simulation_runs (tenant_id, scenario_id, created_at, id);
create index simulation_runs_waiting on simulation_runs (created_at, id) where status in ('pending', 'running');
create trigger simulation_runs_keep before update or delete on simulation_runs
for each row when (old.completed_at is not null) execute function refuse_change();
create trigger simulation_runs_stay before delete on simulation_runs
for each row execute function refuse_change();

create table simulation_assertions (
    tenant_id text not null,
    run_id uuid not null,
    position integer not null check (position >= 0),
    path text not null,
    instant timestamptz,
    expected text,
    actual text,
    difference numeric,
    passed boolean not null,
    primary key (tenant_id, run_id, position),
    foreign key (tenant_id, run_id) references simulation_runs (tenant_id, id)
);
comment on table simulation_assertions is 'Each expected value of a completed run against what came: written once, never changed.';
comment on column simulation_assertions.instant is 'When it is expected, on the scenario''s clock; null: of an invoice without one.';
comment on column simulation_assertions.difference is 'Actual less expected, of two numbers.';
create trigger simulation_assertions_keep before update or delete on simulation_assertions
for each row execute function refuse_change();

create table simulation_totals (
    driver text not null check (driver in ('pure', 'stripe')),
    outcome text not null check (outcome in ('passed', 'unmet', 'unjudged', 'failed', 'cancelled')),
    delta_cents_bound numeric not null,
    run_count bigint not null,
    seconds numeric not null,
    met_count bigint not null,
    unmet_count bigint not null,
    delta_cents numeric not null,
    stripe_calls bigint not null,
    primary key (driver, outcome, delta_cents_bound)
);
comment on table simulation_totals is 'What ended runs came to so far: one row per driver, outcome and band of differences.';
comment on column simulation_totals.outcome is 'unmet: completed, something is not as expected; unjudged: nothing is expected.';
comment on column simulation_totals.delta_cents_bound is 'The band''s upper bound; infinity: above every bound; -1: no invoice total is expected.';
comment on column simulation_totals.delta_cents is 'Sum over the runs of the greatest difference of an invoice total, in hundredths.';
