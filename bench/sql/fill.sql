-- Fills the ledger fast, in the receiver's own shape: both tables in one transaction, sorted by key hash.
create or replace procedure bench_fill(
    row_count bigint, batch integer, start_at timestamptz, span interval, customers integer, is_order_random boolean
)
language plpgsql
as $$
declare
    done bigint := 0;
begin
    while done < row_count loop
        with generated as materialized (
            select
                gen_random_uuid() as key_hash,
                (random() * 9e18)::bigint as payload_hash,
                start_at + span * case
                    when is_order_random then random()
                    else i::double precision / row_count
                end as ts,
                (1 + floor(random() * 100000) / 100)::numeric(38, 12) as quantity,
                'customer_' || lpad(floor(customers * power(random(), 3))::text, 8, '0') as customer_ref,
                (array['api_calls', 'storage_gb', 'seats'])[1 + floor(random() * 3)::integer] as metric
            from generate_series(done, least(done + batch, row_count) - 1) as i
        ),
        keyed as (
            insert into event_keys (key_hash, payload_hash, ts)
            select key_hash, payload_hash, ts from generated order by key_hash
        )
        insert into events (
            ts, received_at, quantity, tenant_id, metric, customer_ref, idempotency_key, source, resource_id, meta
        )
        select
            ts, ts + interval '1 second', quantity, 'bench', metric, customer_ref, key_hash::text, 'http', null,
            '{"region":"eu-west-1","plan":"pro"}'::jsonb
        from generated
        order by key_hash;
        commit;
        done := done + batch;
    end loop;
end;
$$;

-- Late events: `events` of them spread evenly over `counter_count` counters of the days [first_on, last_on].
create or replace procedure bench_add_late(
    event_count integer, counter_count integer, first_on date, last_on date
)
language plpgsql
as $$
declare
    done integer := 0;
    each integer := event_count / counter_count;
begin
    drop table if exists pg_temp.touched;
    create temporary table touched on commit preserve rows as
    select row_number() over () as n, tenant_id, customer_ref, meter, day
    from (
        select tenant_id, customer_ref, meter, day
        from counters
        where day between first_on and last_on
        order by random()
        limit counter_count
    ) as chosen;
    while done < event_count loop
        with generated as materialized (
            select
                gen_random_uuid() as key_hash,
                (random() * 9e18)::bigint as payload_hash,
                t.day::timestamp at time zone 'UTC' + random() * interval '1 day' as ts,
                t.tenant_id, t.customer_ref, t.meter,
                (1 + floor(random() * 100000) / 100)::numeric(38, 12) as quantity
            from generate_series(done, least(done + 2000, event_count) - 1) as i
            inner join touched as t on t.n = 1 + i / each
        ),
        keyed as (
            insert into event_keys (key_hash, payload_hash, ts)
            select key_hash, payload_hash, ts from generated order by key_hash
        )
        insert into events (
            ts, received_at, quantity, tenant_id, metric, customer_ref, idempotency_key, source, resource_id, meta
        )
        select
            ts, now(), quantity, tenant_id, meter, customer_ref, key_hash::text, 'http', null,
            '{"region":"eu-west-1","plan":"pro"}'::jsonb
        from generated
        order by key_hash;
        commit;
        done := done + 2000;
    end loop;
end;
$$;
