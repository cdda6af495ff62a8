-- migrate:up
-- What the HTTP contract says of a price mapping: its price, items and shadow side. An off mapping may name a price that
-- nobody has asked Stripe about yet, so only what is pushed must know its Stripe meter.

alter table price_mappings add column billing_account_id text;
alter table price_mappings add column price_id text;
alter table price_mappings add column subscription_item_id text;
alter table price_mappings add column currency text check (currency ~ '^[a-z]{3}$');
alter table price_mappings add column is_shadow boolean not null default false;
alter table price_mappings add column shadow_account_id text;
alter table price_mappings add column shadow_price_id text;
alter table price_mappings add column shadow_subscription_item_id text;
alter table price_mappings add column updated_at timestamptz;
update price_mappings set is_shadow = true
where mode = 'shadow';
-- squawk-ignore ban-drop-not-null
alter table price_mappings alter column stripe_event_name drop not null;
-- squawk-ignore ban-drop-not-null
alter table price_mappings alter column stripe_meter_id drop not null;
-- squawk-ignore constraint-missing-not-valid
alter table price_mappings add constraint price_mappings_resolved
check (mode = 'off' or (stripe_event_name is not null and stripe_meter_id is not null));
comment on column price_mappings.stripe_account_id is 'Where its mode sends: the shadow account where there is one, else the account that bills.';
comment on column price_mappings.stripe_event_name is 'Null: off, and Stripe was not asked.';
comment on column price_mappings.billing_account_id is 'The account that bills, as it was said; null: stripe_account_id.';
comment on column price_mappings.price_id is 'The price it was mapped by; null: it was mapped by an event name.';
comment on column price_mappings.is_shadow is 'Which mode switching it on would give.';
comment on column price_mappings.updated_at is 'Null: never changed.';

-- migrate:down
delete from price_mappings
where stripe_event_name is null or stripe_meter_id is null;
alter table price_mappings drop constraint price_mappings_resolved;
alter table price_mappings alter column stripe_meter_id set not null;
alter table price_mappings alter column stripe_event_name set not null;
alter table price_mappings drop column updated_at;
alter table price_mappings drop column shadow_subscription_item_id;
alter table price_mappings drop column shadow_price_id;
alter table price_mappings drop column shadow_account_id;
alter table price_mappings drop column is_shadow;
alter table price_mappings drop column currency;
alter table price_mappings drop column subscription_item_id;
alter table price_mappings drop column price_id;
alter table price_mappings drop column billing_account_id;
comment on column price_mappings.stripe_event_name is null;
comment on column price_mappings.stripe_account_id is null;
