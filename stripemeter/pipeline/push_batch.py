"""Pushing many rows in one request, where the way to Stripe has such requests.

Belongs here: what a batch's one answer means for each of its rows. Does not: planning and claiming
(`pipeline.push_rows`), one row by itself (`pipeline.push_row`).

A batch is checked afterwards: acknowledged, each of its rows is `accepted` and the reconciliation or an error report
says the rest. Without an answer any part of it may have arrived, so every row stays in flight and is sent again under
its identifier, in whatever batch: what is there already is ignored. A refused batch held something Stripe cannot read:
its rows are sent one by one, and each learns its own verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stripemeter.errors import OutcomeUnknown, StripeRejected, Unavailable
from stripemeter.pipeline.push_row import Claim, Delivered, PushRun, deliver, leave, meter_event, settle_trouble
from stripemeter.store.push_entries import Arrival, PushEntry, PushTarget


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedRow:
    """A row that is ours to send."""

    target: PushTarget
    entry: PushEntry
    claim: Claim


def deliver_batch(run: PushRun, rows: Sequence[ClaimedRow]) -> list[Delivered]:
    """Send claimed rows in one request; what became of each, in their order."""
    if run.is_late(min(row.claim.lease_until for row in rows)):
        return [leave(run, row.target, row.entry) for row in rows]
    try:
        run.sink.send_meter_events([meter_event(row.entry, row.claim.key_no) for row in rows])
    except StripeRejected as refused:
        if refused.status in (401, 403):
            run.stop(f"Stripe refuses the key ({refused.status}): {refused}")
            return [leave(run, row.target, row.entry) for row in rows]
        return [deliver(run, row.target, row.entry, row.claim) for row in rows]
    except (Unavailable, OutcomeUnknown) as trouble:
        run.heard_nothing(str(trouble))
        return [settle_trouble(run, row.target, row.entry, trouble, row.claim.attempt) for row in rows]
    run.heard()
    return [Arrival(entry_id=row.entry.id, is_already_accepted=False, request_id=None) for row in rows]
