-- migrate:up
-- Prices: what a unit costs, as the account said or as a tenant said itself, every version kept.

create table prices (
    stripe_account_id text,
    tenant_id text,
    price_id text not null check (length(price_id) between 1 and 255),
    version text not null check (version ~ '^[0-9a-f]{64}$'),
    document jsonb not null check (jsonb_typeof(document) = 'object'),
    effective_from timestamptz not null,
    created_at timestamptz not null,
    constraint prices_one_owner check ((stripe_account_id is null) <> (tenant_id is null)),
    constraint prices_one_at_a_time unique nulls not distinct (stripe_account_id, tenant_id, price_id, effective_from)
);
comment on table prices is 'What a unit costs from effective_from on, until the next version: written once, never changed.';
comment on column prices.stripe_account_id is 'Whose Stripe Price it is; null: a tenant''s own.';
comment on column prices.tenant_id is 'Who said it; null: Stripe did.';
comment on column prices.price_id is 'Stripe''s id; of a tenant''s own price, the meter it prices.';
comment on column prices.version is 'SHA-256 over the members that say what is charged.';
comment on column prices.document is 'Stripe''s Price with its tiers as it was answered; of a tenant''s own, a priceConfig.';
comment on column prices.effective_from is 'Of the first version of a Stripe Price, when Stripe made it.';

create trigger prices_keep before update or delete on prices
for each row execute function refuse_change();

-- migrate:down
drop table prices;
