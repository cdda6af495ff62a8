-- Unfolded events that their fold will withhold: what a read asks before it counts the tail.

-- name: load_old_tail
-- Unfolded events of a tenant (and of these references and metrics, or of all) that may be late: older than any
-- watermark's window reaches back, and not imported history.
select
    event.tenant_id,
    event.customer_ref,
    event.metric,
    event.ts,
    event.seq
from events as event
where
    event.xid >= %(since_xid)s::xid8
    and event.tenant_id = %(tenant_id)s
    and (
        %(refs)s::text[] is null
        or (
            hashtextextended(event.customer_ref, 0) = any(
                array(select hashtextextended(asked.ref, 0) from unnest(%(refs)s::text[]) as asked (ref))
            )
            and event.customer_ref = any(%(refs)s::text[])
        )
    )
    and (%(metrics)s::text[] is null or event.metric = any(%(metrics)s::text[]))
    and event.ts < %(latest)s::timestamptz - make_interval(
        secs => (
            select least(%(window_seconds)s::bigint, min(own.window_seconds))
            from lateness_windows as own
            where own.tenant_id = %(tenant_id)s
        )
    )
    and event.source not in ('import', 'etl')
    and event.backfill_id is null
limit %(most)s;
