-- Price mappings and customer bindings: which Stripe meter and customer ours feed.

-- name: insert_mapping
-- A new mapping; refused by a unique index when its meter or its event name is already mapped.
insert into price_mappings (
    id, tenant_id, meter, aggregation, stripe_account_id, stripe_event_name, stripe_meter_id, mode, created_at
)
values (
    %(id)s, %(tenant_id)s, %(meter)s, %(aggregation)s, %(stripe_account_id)s, %(stripe_event_name)s,
    %(stripe_meter_id)s, %(mode)s, %(created_at)s
);

-- name: find_active_mapping
-- The mapping of a meter to an account that is not off.
select id, tenant_id, meter, aggregation, stripe_account_id, stripe_event_name, stripe_meter_id, mode, created_at
from price_mappings
where
    tenant_id = %(tenant_id)s
    and meter = %(meter)s
    and stripe_account_id = %(stripe_account_id)s
    and mode <> 'off';

-- name: has_open_entry
-- Whether a delta of a mapping is in flight.
select exists(
    select 1 from push_entries
    where mapping_id = %(mapping_id)s and state in ('planned', 'sending')
);

-- name: turn_off_mapping
-- Nothing is sent for it any more; what was sent stays known.
update price_mappings set mode = 'off'
where id = %(mapping_id)s;

-- name: list_mappings
-- Every mapping, of one tenant when given.
select id, tenant_id, meter, aggregation, stripe_account_id, stripe_event_name, stripe_meter_id, mode, created_at
from price_mappings
where %(tenant_id)s::text is null or tenant_id = %(tenant_id)s
order by tenant_id, meter, created_at;

-- name: insert_binding
-- A new binding; nothing when the customer is already bound at this account.
insert into customer_bindings (tenant_id, customer_ref, stripe_account_id, stripe_customer_id, created_at)
values (%(tenant_id)s, %(customer_ref)s, %(stripe_account_id)s, %(stripe_customer_id)s, %(created_at)s)
on conflict (tenant_id, customer_ref, stripe_account_id) do nothing;

-- name: find_binding
-- The Stripe customer a customer is.
select stripe_customer_id
from customer_bindings
where tenant_id = %(tenant_id)s and customer_ref = %(customer_ref)s and stripe_account_id = %(stripe_account_id)s;

-- name: list_bindings
-- Every binding, of one tenant when given.
select tenant_id, customer_ref, stripe_account_id, stripe_customer_id, created_at
from customer_bindings
where %(tenant_id)s::text is null or tenant_id = %(tenant_id)s
order by tenant_id, customer_ref, stripe_account_id;
