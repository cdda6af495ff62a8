-- migrate:up
-- Reconciliation on demand, what every run found, and the suggestions to take a surplus at Stripe back.

create table reconciliation_requests (
    id uuid primary key,
    tenant_id text not null,
    status text not null check (status in ('queued', 'running', 'completed', 'failed')),
    requested_at timestamptz not null,
    started_at timestamptz,
    ended_at timestamptz,
    error_message text,
    constraint reconciliation_requests_ended check ((ended_at is not null) = (status in ('completed', 'failed')))
);
comment on table reconciliation_requests is 'Reconciliations somebody asked for over HTTP. One run answers all that wait.';
create index reconciliation_requests_waiting on reconciliation_requests (requested_at)
where status in ('queued', 'running');

create table reconciliation_runs (
    id bigint generated always as identity primary key,
    stripe_account_id text not null,
    mode text not null check (mode in ('shadow', 'live')),
    started_at timestamptz not null,
    ended_at timestamptz not null,
    day_count bigint not null,
    ok_count bigint not null,
    within_epsilon_count bigint not null,
    drift_count bigint not null,
    unknown_count bigint not null,
    unexplained_count bigint not null,
    drift_total numeric not null check (drift_total >= 0),
    runs_so_far bigint not null,
    seconds_so_far numeric not null
);
comment on table reconciliation_runs is 'What each comparison of an account found; old rows are deleted.';
comment on column reconciliation_runs.drift_total is 'Sum of the absolute drift of its days.';
comment on column reconciliation_runs.runs_so_far is 'Runs up to this one, those deleted since included.';
comment on column reconciliation_runs.seconds_so_far is 'What they took.';
create index reconciliation_runs_by_mode on reconciliation_runs (mode, id);

create table stripe_corrections (
    id uuid primary key,
    stripe_account_id text not null,
    stripe_event_name text not null,
    stripe_customer_id text not null,
    segment_start timestamptz not null,
    day date not null,
    tenant_id text not null,
    meter text not null,
    customer_ref text not null,
    surplus numeric not null check (surplus > 0),
    status text not null check (status in ('suggested', 'approved', 'resolved')),
    suggested_at timestamptz not null,
    seen_at timestamptz not null,
    decided_at timestamptz,
    actor text,
    reason text,
    constraint stripe_corrections_decided
    check ((status = 'approved') = (decided_at is not null and actor is not null and reason is not null))
);
comment on table stripe_corrections is 'What Stripe holds beyond what we sent, and whether a person let us take it back.';
comment on column stripe_corrections.surplus is 'Theirs minus ours; once approved it counts as at Stripe, so a push sends its negative.';
comment on column stripe_corrections.status is 'resolved: the surplus was gone before anybody decided.';
create unique index stripe_corrections_once on stripe_corrections (
    stripe_account_id, stripe_event_name, stripe_customer_id, segment_start, day
) where status = 'suggested';
create index stripe_corrections_by_tenant on stripe_corrections (tenant_id, day);

create function total_stripe_correction() returns trigger
language plpgsql
as $$
begin
    insert into push_totals as t (
        stripe_account_id, stripe_event_name, stripe_customer_id, segment_start, day,
        planned_total, accepted_total, entry_count
    )
    values (
        new.stripe_account_id, new.stripe_event_name, new.stripe_customer_id, new.segment_start, new.day,
        new.surplus, new.surplus, 0
    )
    on conflict (stripe_account_id, stripe_event_name, stripe_customer_id, segment_start, day) do update
    set planned_total = t.planned_total + excluded.planned_total,
        accepted_total = t.accepted_total + excluded.accepted_total;
    return null;
end;
$$;
comment on function total_stripe_correction() is 'An approved surplus is known to be at Stripe: push_totals holds it beside what we sent.';
create trigger stripe_corrections_total after update on stripe_corrections
for each row when (old.status = 'suggested' and new.status = 'approved') execute function total_stripe_correction();

-- migrate:down
drop table stripe_corrections;
drop function total_stripe_correction();
drop table reconciliation_runs;
drop table reconciliation_requests;
