-- What tenants decided about counting; each query of these tenants, or of all when none are named.

-- name: load_windows
-- Lateness windows.
select
    tenant_id,
    metric,
    window_seconds
from lateness_windows
where %(tenants)s::text[] is null or tenant_id = any(%(tenants)s::text[]);

-- name: load_policies
-- Policies.
select
    tenant_id,
    late_approval,
    close_after_seconds,
    is_four_eyes
from tenant_policies
where %(tenants)s::text[] is null or tenant_id = any(%(tenants)s::text[]);
