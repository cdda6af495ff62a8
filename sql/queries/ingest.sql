-- The receiver's writes. Parameters are asyncpg's ($1): this path alone uses that driver.
-- sqlfluff:templater:placeholder:param_style:numeric_dollar

-- name: accept_events
-- Stores what is new of a batch, tallies all of it, answers the key hashes that were taken. Each column is one text,
-- its values joined by $13 and sorted by key_hash; no meta and no resource are '', a resource has '=' before it.
-- $18: the operation that brought the batch; null for what came over HTTP.
with batch as (
    -- The casts stand here, not at the inserts: data Postgres refuses fails the whole statement even where its key is
    -- taken, so `quarantine_conflicts`, which runs after this one has committed, never meets it.
    select
        b.key_hash::uuid as key_hash,
        b.payload_hash::bigint as payload_hash,
        b.tenant_id,
        b.metric,
        b.customer_ref,
        case when b.resource_id <> '' then substr(b.resource_id, 2) end as resource_id,
        b.quantity::numeric(38, 12) as quantity,
        b.ts::timestamptz as ts,
        nullif(b.meta, '')::jsonb as meta,
        b.idempotency_key,
        b.source,
        b.arrival::integer as arrival
    from
        unnest(
            string_to_array($1, $13), string_to_array($2, $13), string_to_array($3, $13), string_to_array($4, $13),
            string_to_array($5, $13), string_to_array($6, $13), string_to_array($7, $13), string_to_array($8, $13),
            string_to_array($9, $13), string_to_array($10, $13), string_to_array($11, $13), string_to_array($12, $13)
        ) as b (
            key_hash, payload_hash, tenant_id, metric, customer_ref, resource_id,
            quantity, ts, meta, idempotency_key, source, arrival
        )
),

fresh as (
    insert into event_keys (key_hash, payload_hash, ts)
    select
        key_hash,
        payload_hash,
        ts
    from batch
    on conflict (key_hash) do nothing
    returning key_hash
),

stored as (
    insert into events (
        ts, received_at, quantity, tenant_id, metric, customer_ref, idempotency_key, source, resource_id, meta,
        backfill_id
    )
    select
        batch.ts,
        now(),
        batch.quantity,
        batch.tenant_id,
        batch.metric,
        batch.customer_ref,
        batch.idempotency_key,
        batch.source,
        batch.resource_id,
        batch.meta,
        $18::uuid
    from batch
    inner join fresh on batch.key_hash = fresh.key_hash
    -- seq is the ledger order: within a request it follows the request, not the hashes.
    order by batch.arrival
    returning tenant_id
),

accepted as (
    select
        tenant_id,
        count(*) as events
    from stored
    group by tenant_id
),

tallied as (
    insert into ingest_tallies as t (tenant_id, received_on, writer, received, accepted, rejected)
    select
        arrived.tenant_id,
        $17::date,
        pg_backend_pid(),
        arrived.received,
        coalesce(accepted.events, 0),
        arrived.rejected
    from unnest($14::text[], $15::bigint[], $16::bigint[]) as arrived (tenant_id, received, rejected)
    left join accepted on arrived.tenant_id = accepted.tenant_id
    on conflict (tenant_id, received_on, writer) do update
        set
            received = t.received + excluded.received,
            accepted = t.accepted + excluded.accepted,
            rejected = t.rejected + excluded.rejected
)

select batch.key_hash
from batch
left join fresh on batch.key_hash = fresh.key_hash
where fresh.key_hash is null;

-- name: load_payload_hashes
-- What stands under keys that were taken: a statement of its own, because a concurrently committed row is invisible
-- to the statement that collided with it.
select
    key_hash,
    payload_hash
from event_keys
where key_hash = any($1::uuid[]);

-- name: quarantine_conflicts
-- Keeps events refused because their key stands for something else, and moves them from duplicate to conflict.
with batch as (
    select *
    from
        unnest(
            $1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[],
            $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::bigint[]
        ) as b (
            key_hash, payload_hash, tenant_id, metric, customer_ref, resource_id,
            quantity, ts, meta, idempotency_key, source, times
        )
),

quarantined as (
    insert into event_conflicts as c (
        key_hash, payload_hash, tenant_id, idempotency_key, metric, customer_ref, resource_id,
        quantity, ts, meta, source, first_received_at, last_received_at, times_received
    )
    select
        key_hash,
        payload_hash,
        tenant_id,
        idempotency_key,
        metric,
        customer_ref,
        resource_id,
        quantity::numeric,
        ts::timestamptz,
        meta::jsonb,
        source,
        now(),
        now(),
        times
    from batch
    on conflict (key_hash, payload_hash) do update
        set
            times_received = c.times_received + excluded.times_received,
            last_received_at = excluded.last_received_at
)

update ingest_tallies
set conflicts = ingest_tallies.conflicts + refused.events
from (
    select
        tenant_id,
        sum(times)::bigint as events
    from batch
    group by tenant_id
) as refused
where
    ingest_tallies.tenant_id = refused.tenant_id
    and ingest_tallies.received_on = $13::date
    and ingest_tallies.writer = pg_backend_pid();

-- name: ensure_events_month
-- Makes the ledger partition of a month (its first day) exist.
select ensure_events_month($1::date);
