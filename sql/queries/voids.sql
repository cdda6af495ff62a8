-- Voids: events that stay in the ledger and count nowhere.

-- name: find_key
-- When the event under a key happened; nothing when the key is free.
select ts
from event_keys
where key_hash = %(key_hash)s;

-- name: find_event
-- The ledger row of a key, by the exact instant its key remembers.
select
    event.seq,
    event.ts,
    event.tenant_id,
    event.metric,
    event.customer_ref,
    event.idempotency_key
from events as event
where
    event.ts = %(ts)s
    and event.tenant_id = %(tenant_id)s
    and event.idempotency_key = %(idempotency_key)s;

-- name: insert_voids
-- Voids events; one that is voided already is left as it is. Answers what was new.
insert into event_voids (
    seq, tenant_id, metric, customer_ref, idempotency_key, ts, reason, actor, request_id, replacement_key, backfill_id,
    voided_at
)
select
    v.seq,
    %(tenant_id)s,
    v.metric,
    v.customer_ref,
    v.idempotency_key,
    v.ts,
    %(reason)s,
    %(actor)s,
    %(request_id)s,
    %(replacement_key)s,
    %(backfill_id)s,
    %(now)s
from
    unnest(
        %(seqs)s::bigint[], %(metrics)s::text[], %(customers)s::text[], %(keys)s::text[], %(instants)s::timestamptz[]
    ) as v (seq, metric, customer_ref, idempotency_key, ts)
order by v.seq
on conflict (seq) do nothing
returning seq;

-- name: load_void
-- The void of an event; nothing while it counts.
select
    reason,
    actor,
    request_id,
    replacement_key,
    voided_at
from event_voids
where seq = %(seq)s;
