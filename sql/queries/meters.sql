-- Meters: every version of what a tenant counts.

-- name: load_meter_versions
-- Every version, of these tenants or of all when none are named.
select
    tenant_id,
    name,
    version,
    effective_on,
    is_active,
    definition::text,
    actor,
    created_at
from meters
where %(tenants)s::text[] is null or tenant_id = any(%(tenants)s::text[])
order by tenant_id, name, version;

-- name: find_meter
-- Every version of one meter.
select
    tenant_id,
    name,
    version,
    effective_on,
    is_active,
    definition::text,
    actor,
    created_at
from meters
where tenant_id = %(tenant_id)s and name = %(name)s
order by version;

-- name: count_meters
-- How many meters a tenant has or had.
select count(*)
from meters
where tenant_id = %(tenant_id)s and version = 1;

-- name: append_meter_version
-- One more version.
insert into meters (tenant_id, name, version, effective_on, is_active, definition, actor, created_at)
values (
    %(tenant_id)s, %(name)s, %(version)s, %(effective_on)s, %(is_active)s, %(definition)s::jsonb, %(actor)s, %(now)s
);

-- name: load_counted_ranges
-- Unbroken ranges of days from one on, on each of which the tenant has counters of one of these meters.
with counted as (
    select
        day,
        day - row_number() over (order by day)::integer as island
    from counters
    where tenant_id = %(tenant_id)s and meter = any(%(meters)s::text[]) and day >= %(first_day)s
    group by day
)

select
    min(day),
    max(day)
from counted
group by island
order by min(day);
