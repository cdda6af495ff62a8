-- Meters: every version ever stated.

-- name: load_meter_versions
-- Versions by tenant and name, ascending; of these tenants, or of all when none are named.
select
    tenant_id,
    name,
    version,
    effective_on,
    is_active,
    definition
from meters
where %(tenants)s::text[] is null or tenant_id = any(%(tenants)s::text[])
order by tenant_id, name, version;
