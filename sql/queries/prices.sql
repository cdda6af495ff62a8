-- Prices: what a unit costs, version by version.

-- name: lock_price
-- Nobody else writes a version of this price until the transaction ends.
select pg_advisory_xact_lock(hashtextextended(concat_ws('|', 'prices', %(owner)s::text, %(price_id)s::text), 0));

-- name: find_newest
-- The newest version of a price.
select
    version,
    effective_from
from prices
where
    stripe_account_id is not distinct from %(stripe_account_id)s::text
    and tenant_id is not distinct from %(tenant_id)s::text
    and price_id = %(price_id)s
order by effective_from desc
limit 1;

-- name: insert_price
-- A version of a price.
insert into prices (stripe_account_id, tenant_id, price_id, version, document, effective_from, created_at)
values (
    %(stripe_account_id)s, %(tenant_id)s, %(price_id)s, %(version)s, %(document)s::jsonb, %(effective_from)s,
    %(created_at)s
);

-- name: list_versions
-- Every version of these Stripe Prices (an account and an id each) and of a tenant's own prices, oldest first.
select
    stripe_account_id,
    tenant_id,
    price_id,
    version,
    document::text,
    effective_from,
    created_at
from prices
where
    tenant_id = %(tenant_id)s
    or (
        tenant_id is null
        and (stripe_account_id, price_id) in (
            select
                account_id,
                named
            from unnest(%(accounts)s::text[], %(price_ids)s::text[]) as asked (account_id, named)
        )
    )
order by stripe_account_id, price_id, effective_from;
