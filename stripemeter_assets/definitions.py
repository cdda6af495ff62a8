"""The code location: everything Dagster knows of us, in the order usage flows.

Belongs here: the table of contents. Does not: anything with a body.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from stripemeter_assets import backfills, closing, retention, simulations, stripe_events, triggers
from stripemeter_assets.assets import (
    archive,
    backtests,
    counters,
    events,
    invoice_closings,
    late_charges,
    pushes,
    reconciliations,
)
from stripemeter_assets.resources import LakeResource, PostgresResource, StripeResource


def build_definitions(resources: Mapping[str, Any] | None = None) -> dg.Definitions:
    """The code location, with the environment's resources or those given (`postgres`, `stripe`, `lake`)."""
    return dg.Definitions(
        assets=[
            events.events,
            counters.counters,
            archive.event_archive,
            pushes.pushes,
            reconciliations.reconciliations,
            late_charges.late_charges,
            invoice_closings.invoice_closings,
            backtests.backtests,
        ],
        asset_checks=[
            events.events_arrive,
            counters.counters_equal_ledger,
            counters.conservation,
            counters.late_days_settled,
            counters.rules_applied,
            counters.fold_is_current,
            counters.meters_report,
            archive.lake_equals_ledger,
            reconciliations.stripe_equals_local,
            late_charges.late_charges_arrive,
            invoice_closings.closed_invoices_prove_parity,
        ],
        jobs=[
            triggers.recount,
            triggers.push,
            triggers.reconcile,
            triggers.watch,
            triggers.prove,
            triggers.archive,
            triggers.housekeeping,
            retention.retention,
            backfills.backfill,
            simulations.simulations,
            closing.close,
            stripe_events.stripe_error_reports,
        ],
        sensors=[
            triggers.fold_events,
            triggers.late_days,
            triggers.unpushed_usage,
            triggers.requested_reconciliations,
            backfills.pending_backfills,
            simulations.pending_simulations,
            closing.told_invoices,
            stripe_events.reported_rows,
        ],
        schedules=[
            triggers.hourly_reconciliation,
            closing.frequent_closing,
            triggers.hourly_watch,
            triggers.nightly_proof,
            triggers.nightly_archive,
            retention.nightly_retention,
            triggers.daily_housekeeping,
        ],
        resources={
            "postgres": PostgresResource(database_url=dg.EnvVar("DATABASE_URL")),
            "stripe": StripeResource(),
            "lake": LakeResource(),
            **(resources or {}),
        },
        # Runs share the machine with the API, and Celery's prefork workers may not have children of their own.
        executor=dg.in_process_executor,
    )


defs = build_definitions()
