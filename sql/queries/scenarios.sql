-- Scenarios somebody keeps (table simulation_scenarios).

-- name: insert_scenario
-- A new scenario, active.
insert into simulation_scenarios (
    tenant_id, id, name, description, version, tags, document, revision, is_active, created_at, updated_at
)
values (
    %(tenant_id)s, %(id)s, %(name)s, %(description)s, %(version)s, %(tags)s, %(document)s::json, 1, true,
    %(now)s, %(now)s
);

-- name: load_scenario
-- One scenario, of a tenant when one is given.
select
    tenant_id, id, name, description, version, tags, document::text as document, revision, is_active, created_at,
    updated_at
from simulation_scenarios
where (%(tenant_id)s::text is null or tenant_id = %(tenant_id)s) and id = %(id)s;

-- name: update_scenario
-- What a scenario is from now on; nothing when somebody changed it since it was read.
update simulation_scenarios
set
    name = %(name)s,
    description = %(description)s,
    version = %(version)s,
    tags = %(tags)s,
    document = %(document)s::json,
    revision = %(revision)s,
    is_active = %(is_active)s,
    updated_at = %(now)s
where tenant_id = %(tenant_id)s and id = %(id)s and revision = %(revision)s - 1
returning id;

-- name: deactivate_scenario
-- Out of use; nothing when it is already. A change under way finds that it was changed.
update simulation_scenarios
set
    is_active = false,
    revision = revision + 1,
    updated_at = %(now)s
where tenant_id = %(tenant_id)s and id = %(id)s and is_active;

-- name: list_scenarios
-- A page in the order asked for, equals by id; a filter that is null does not filter. Without the documents.
select
    tenant_id, id, name, description, version, tags, '' as document, revision, is_active, created_at, updated_at
from simulation_scenarios
where
    (%(tenant_id)s::text is null or tenant_id = %(tenant_id)s)
    and (%(is_active)s::boolean is null or is_active = %(is_active)s)
    and (%(tag)s::text is null or %(tag)s = any(tags))
order by
    case when %(sorting)s = 'name asc' then name end,
    case when %(sorting)s = 'name desc' then name end desc,
    case when %(sorting)s = 'createdAt asc' then created_at end,
    case when %(sorting)s = 'createdAt desc' then created_at end desc,
    case when %(sorting)s = 'updatedAt asc' then updated_at end,
    case when %(sorting)s = 'updatedAt desc' then updated_at end desc,
    id
limit %(most)s offset %(skipped)s;

-- name: count_scenarios
-- How many scenarios match.
select count(*)
from simulation_scenarios
where
    (%(tenant_id)s::text is null or tenant_id = %(tenant_id)s)
    and (%(is_active)s::boolean is null or is_active = %(is_active)s)
    and (%(tag)s::text is null or %(tag)s = any(tags));
