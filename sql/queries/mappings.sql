-- Price mappings and customer bindings: which Stripe meter and customer ours feed.

-- name: insert_mapping
-- A new mapping; refused by a unique index when its meter or its event name is already mapped.
insert into price_mappings (
    id, tenant_id, meter, aggregation, stripe_account_id, stripe_event_name, stripe_meter_id, mode, created_at,
    billing_account_id, price_id, subscription_item_id, currency, is_shadow, shadow_account_id, shadow_price_id,
    shadow_subscription_item_id, late_policy
)
values (
    %(id)s, %(tenant_id)s, %(meter)s, %(aggregation)s, %(stripe_account_id)s, %(stripe_event_name)s,
    %(stripe_meter_id)s, %(mode)s, %(created_at)s, %(billing_account_id)s, %(price_id)s, %(subscription_item_id)s,
    %(currency)s, %(is_shadow)s, %(shadow_account_id)s, %(shadow_price_id)s, %(shadow_subscription_item_id)s,
    %(late_policy)s
);

-- name: replace_mapping
-- Everything of a mapping but whose it is and since when.
update price_mappings
set
    meter = %(meter)s,
    aggregation = %(aggregation)s,
    stripe_account_id = %(stripe_account_id)s,
    stripe_event_name = %(stripe_event_name)s,
    stripe_meter_id = %(stripe_meter_id)s,
    mode = %(mode)s,
    billing_account_id = %(billing_account_id)s,
    price_id = %(price_id)s,
    subscription_item_id = %(subscription_item_id)s,
    currency = %(currency)s,
    is_shadow = %(is_shadow)s,
    shadow_account_id = %(shadow_account_id)s,
    shadow_price_id = %(shadow_price_id)s,
    shadow_subscription_item_id = %(shadow_subscription_item_id)s,
    late_policy = %(late_policy)s,
    updated_at = %(updated_at)s
where tenant_id = %(tenant_id)s and id = %(id)s;

-- name: delete_mapping
-- The mapping is gone; refused by its foreign keys once something was sent or compared for it.
delete from price_mappings
where tenant_id = %(tenant_id)s and id = %(id)s;

-- name: lock_mapping
-- One mapping by its id, of the tenant when given, held until the transaction ends.
select
    id, tenant_id, meter, aggregation, stripe_account_id, stripe_event_name, stripe_meter_id, mode, created_at,
    coalesce(billing_account_id, stripe_account_id), price_id, subscription_item_id, currency, is_shadow,
    shadow_account_id, shadow_price_id, shadow_subscription_item_id, late_policy, updated_at
from price_mappings
where id = %(id)s and (%(tenant_id)s::text is null or tenant_id = %(tenant_id)s)
for update;

-- name: list_page
-- A tenant's mappings, oldest first, beyond a key where one is given.
select
    id, tenant_id, meter, aggregation, stripe_account_id, stripe_event_name, stripe_meter_id, mode, created_at,
    coalesce(billing_account_id, stripe_account_id), price_id, subscription_item_id, currency, is_shadow,
    shadow_account_id, shadow_price_id, shadow_subscription_item_id, late_policy, updated_at
from price_mappings
where
    tenant_id = %(tenant_id)s
    and (%(meter)s::text is null or meter = %(meter)s)
    and (%(is_active)s::boolean is null or (mode <> 'off') = %(is_active)s)
    and (
        %(after_created_at)s::timestamptz is null
        or (created_at, id) > (%(after_created_at)s, %(after_id)s::uuid)
    )
order by created_at, id
limit %(limit)s;

-- name: find_active_mapping
-- The mapping of a meter to an account that is not off.
select
    id, tenant_id, meter, aggregation, stripe_account_id, stripe_event_name, stripe_meter_id, mode, created_at,
    coalesce(billing_account_id, stripe_account_id), price_id, subscription_item_id, currency, is_shadow,
    shadow_account_id, shadow_price_id, shadow_subscription_item_id, late_policy, updated_at
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
select
    id, tenant_id, meter, aggregation, stripe_account_id, stripe_event_name, stripe_meter_id, mode, created_at,
    coalesce(billing_account_id, stripe_account_id), price_id, subscription_item_id, currency, is_shadow,
    shadow_account_id, shadow_price_id, shadow_subscription_item_id, late_policy, updated_at
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
