-- Item prices: which Stripe Price a customer's own subscription item bills by, row by row as it was seen.

-- name: lock_item
-- Nobody else writes a price of this item until the transaction ends.
select
    pg_advisory_xact_lock(
        hashtextextended(
            concat_ws(
                '|',
                'item_prices',
                %(stripe_account_id)s::text,
                %(tenant_id)s::text,
                %(customer_ref)s::text,
                %(meter)s::text
            ),
            0
        )
    );

-- name: list_item_prices
-- Every price of a customer's items, each item's oldest first.
select
    meter,
    stripe_account_id,
    stripe_price_id,
    effective_from,
    created_at
from item_prices
where tenant_id = %(tenant_id)s and customer_ref = %(customer_ref)s
order by meter, stripe_account_id, effective_from;

-- name: list_billed_items
-- The recorded subscription items of a tenant that a mapping in force bills a meter by, and its mode: live before shadow.
select distinct on (i.customer_ref, i.meter, i.stripe_account_id)
    i.customer_ref,
    i.meter,
    i.stripe_account_id,
    i.stripe_item_id,
    m.mode
from customer_items as i
inner join price_mappings as m
    on i.tenant_id = m.tenant_id and i.meter = m.meter and i.stripe_account_id = m.stripe_account_id and m.mode <> 'off'
where i.tenant_id = %(tenant_id)s
order by i.customer_ref, i.meter, i.stripe_account_id, m.mode;

-- name: list_item_price_ids
-- The Stripe Prices that a tenant's items are or were billed by.
select distinct
    stripe_account_id,
    stripe_price_id
from item_prices
where tenant_id = %(tenant_id)s
order by stripe_account_id, stripe_price_id;

-- name: insert_item_price
-- A price of an item.
insert into item_prices (
    tenant_id, customer_ref, meter, stripe_account_id, stripe_price_id, effective_from, created_at
)
values (
    %(tenant_id)s, %(customer_ref)s, %(meter)s, %(stripe_account_id)s, %(stripe_price_id)s, %(effective_from)s,
    %(created_at)s
);
