-- migrate:up
-- A row that is claimed, or armed again, is planned before and after: its sums are not written anew.

drop trigger push_entries_update_total on push_entries;
create trigger push_entries_update_total after update on push_entries
for each row when (
    old.state is distinct from new.state
    and not (old.state in ('planned', 'sending') and new.state in ('planned', 'sending'))
)
execute function total_push_entry();

-- migrate:down
drop trigger push_entries_update_total on push_entries;
create trigger push_entries_update_total after update on push_entries
for each row when (old.state is distinct from new.state) execute function total_push_entry();
