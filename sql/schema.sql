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
    xid xid8 not null default pg_current_xact_id()
) partition by range (ts);
comment on table events is 'The ledger: one immutable row per accepted event, partitioned by UTC month of ts.';
comment on column events.seq is 'Ledger order; assigned at insert, so order of arrival, not of commit.';
comment on column events.xid is 'The writing transaction: the fold reads a window of these, never of seq.';
comment on column events.ts is 'Event time, the producer''s.';
comment on column events.received_at is 'Arrival time, ours.';

-- One index serves the fold (a range of xid) and the live tail (the same range narrowed to one customer inside
-- the index). It grows at its right edge only: 100 random leaf writes per batch cost more than the range does.
create index events_tail on events (xid, hashtextextended(customer_ref, 0));
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
    if to_regclass(partition_name) is not null then
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
    primary key (tenant_id, customer_ref, meter, day, segment_start),
    constraint counters_ordered check (quantity_min <= quantity_last and quantity_last <= quantity_max)
) with (fillfactor = 70);
comment on table counters is 'Usage: one row per tenant, customer, meter, UTC day and segment. Mergeable state, not finished numbers.';
comment on column counters.segment_start is 'Start of the billing segment the events belong to; the UTC month while no subscription is known.';
comment on column counters.quantity_last is 'Quantity of the event with the greatest (ts, seq).';
create index counters_by_day on counters (day);

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


-- ── The record of what ran ──────────────────────────────────────────────────────────────────────────────────────────

create table schema_migrations (
    version text primary key,
    name text not null,
    checksum text not null,
    applied_at timestamptz not null default now()
);
