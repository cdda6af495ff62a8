-- migrate:up
-- Several workers may ask for the same new month at once: only the first creates it, the others find it.

create or replace function ensure_events_month(month_on date) returns void
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

-- migrate:down
create or replace function ensure_events_month(month_on date) returns void
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
