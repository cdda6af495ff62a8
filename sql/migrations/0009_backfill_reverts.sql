-- migrate:up
-- Reverting a whole backfill: that somebody asked for it, and why, before its last event is voided.

alter table backfills add column revert_reason text check (length(revert_reason) between 1 and 500);
comment on column backfills.revert_reason is 'Why its events are voided: set when asked for; reverted_at when all are.';

-- migrate:down
alter table backfills drop column revert_reason;
