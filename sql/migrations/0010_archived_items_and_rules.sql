-- migrate:up
-- Two more files per archived day: what unique and percentile meters saw, and the rules the day was counted by.

alter table archived_days add column item_count bigint check (item_count >= 0);
alter table archived_days add column items_sha256 text check (items_sha256 ~ '^[0-9a-f]{64}$');
alter table archived_days add column rules_sha256 text check (rules_sha256 ~ '^[0-9a-f]{64}$');
comment on column archived_days.items_sha256 is 'Null: the day was archived without its counter_items, and is archived again by itself.';
comment on column archived_days.rules_sha256 is 'Null: the day was archived without its rules, and is archived again by itself.';

-- migrate:down
alter table archived_days drop column rules_sha256;
alter table archived_days drop column items_sha256;
alter table archived_days drop column item_count;
