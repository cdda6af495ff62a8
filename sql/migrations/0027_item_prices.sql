-- migrate:up
-- Prices of customers' own subscription items: who pays another price than its mapping names is priced by that.

create table item_prices (
    tenant_id text not null,
    customer_ref text not null,
    meter text not null,
    stripe_account_id text not null,
    stripe_price_id text not null check (length(stripe_price_id) between 1 and 255),
    effective_from timestamptz not null,
    created_at timestamptz not null,
    primary key (tenant_id, customer_ref, meter, stripe_account_id, effective_from)
);
comment on table item_prices is 'Which Stripe Price a customer''s subscription item bills a meter by from effective_from on, until the next row.';
comment on column item_prices.effective_from is '-infinity''s stand-in, year 1, for the first price seen; later ones hold from when they were seen.';

create trigger item_prices_keep before update or delete on item_prices
for each row execute function refuse_change();

-- migrate:down
drop table item_prices;
