-- migrate:up
-- Dropping a month's storage partition once the lake has it, and where that lake is.

-- squawk-ignore adding-required-field
alter table dropped_months add column lake text not null;
comment on column dropped_months.lake is 'Location of the lake that has the month''s rows.';

create function drop_events_month(month_on date) returns void
language plpgsql
as $$
begin
    execute format('drop table %I', format('events_%s', to_char(month_on, 'YYYY_MM')));
end;
$$;
comment on function drop_events_month(date) is 'Drops the ledger partition of one month (its first day).';

-- migrate:down
drop function drop_events_month(date);
alter table dropped_months drop column lake;
