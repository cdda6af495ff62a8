"""What operators read: facts of the core as Dagster metadata.

Belongs here: tables, wording, units of display. Does not: deciding anything; a verdict comes in as a fact.
Quantities are shown as text: Dagster's numbers are floats.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import dagster as dg
import pandera.polars as pa

from stripemeter.pipeline.archive import FailedArchive, LakeProof
from stripemeter.pipeline.fold import FoldReport
from stripemeter.pipeline.push import PushReport
from stripemeter.pipeline.reconcile import ReconciliationReport
from stripemeter.pipeline.reconciliation_report import plot_drift
from stripemeter.pipeline.recount import RecountedDay
from stripemeter.pipeline.recount_days import FailedDay
from stripemeter.store.archived_days import ArchivedDay
from stripemeter.store.closings import Closing
from stripemeter.store.counters import CounterMismatch
from stripemeter.store.freshness import FoldState
from stripemeter.store.reconciliation_runs import ReconciliationRun
from stripemeter_assets.verdicts import ClosingVerdicts, StripeVerdicts

TABLE_ROWS = 100
"""Most rows of one table: the event log stores them with every event."""

Metadata = Mapping[str, Any]


def table_metadata(name: str, schema: pa.DataFrameSchema | None = None) -> dict[str, Any]:
    """The table an asset is, and the columns of its frame."""
    columns = {} if schema is None else {"dagster/column_schema": column_schema(schema)}
    return {"dagster/table_name": name, **columns}


def column_schema(schema: pa.DataFrameSchema) -> dg.TableSchema:
    """A pandera schema as Dagster shows it."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(name, str(column.dtype), constraints=dg.TableColumnConstraints(nullable=column.nullable))
            for name, column in schema.columns.items()
        ]
    )


def facts(report: Any) -> dict[str, Any]:  # noqa: ANN401 - any dataclass of the core
    """Every field of a report under its own name; a tuple of dataclasses becomes a table."""
    return {field.name: _value(getattr(report, field.name)) for field in dataclasses.fields(report)}


def records(rows: Iterable[Any]) -> dg.TableMetadataValue:
    """Dataclasses of one type as a table, the first TABLE_ROWS of them."""
    shown = [_record(row) for row in list(rows)[:TABLE_ROWS]]
    columns = [dg.TableColumn(name, _type_name(value)) for name, value in (shown[0].items() if shown else ())]
    return dg.MetadataValue.table([dg.TableRecord(row) for row in shown], schema=dg.TableSchema(columns))


def markdown(rows: Iterable[Any]) -> dg.MarkdownMetadataValue:
    """Dataclasses of one type as a Markdown table, which the asset's page shows in place."""
    shown = [_record(row) for row in list(rows)[:TABLE_ROWS]]
    if not shown:
        return dg.MetadataValue.md("none")
    lines = [list(shown[0]), ["---"] * len(shown[0]), *([_cell(value) for value in row.values()] for row in shown)]
    return dg.MetadataValue.md("\n".join(f"| {' | '.join(line)} |" for line in lines))


def check_result(
    *,
    passed: bool,
    description: str,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
    offenders: Sequence[Any] = (),
    metadata: Metadata | None = None,
) -> dg.AssetCheckResult:
    """A verdict with its offenders: how many, and the first of them as a table."""
    return dg.AssetCheckResult(
        passed=passed,
        severity=severity,
        description=description,
        metadata={"offenders": len(offenders), "worst": records(offenders), **(metadata or {})},
    )


def recounted(day: RecountedDay) -> dict[str, Any]:
    """What an operator sees of a recounted day; `changed` above zero says the running count was wrong."""
    return {
        "events": day.events,
        "counters": day.counters,
        "changed": day.changed,
        "absorbed": day.absorbed,
        "top_meters": markdown(day.meters),
        "dagster/partition_row_count": day.counters,
    }


def recounted_materialization(day: RecountedDay) -> dg.AssetMaterialization:
    """The same as an event of its own, for a day of a run that failed on another."""
    return dg.AssetMaterialization("counters", partition=day.day.isoformat(), metadata=recounted(day))


def folded_materializations(report: FoldReport) -> list[dg.AssetMaterialization]:
    """One event for the ledger and one per day the fold touched in time.

    A day with late events is dirty, so a recount of it follows and reports it in full; reporting it here too would
    cost the daemon 40 ms per day and tick, and an import touches hundreds of days in every tick.
    """
    arrived = dg.AssetMaterialization("events", metadata={"events": report.events, "has_more": report.has_more})
    touched = [
        dg.AssetMaterialization("counters", partition=folded.day.isoformat(), metadata=facts(folded))
        for folded in report.days
        if folded.late_events == 0
    ]
    return [arrived, *touched]


def progress(outcome: RecountedDay | FailedDay) -> str:
    """One line per day for a run's log; `stripemeter counters recount` shows it too."""
    match outcome:
        case RecountedDay():
            absorbed = f", {outcome.absorbed} late events absorbed" if outcome.absorbed else ""
            counted = f"{outcome.events} events, {outcome.counters} counters, {outcome.changed} changed"
            return f"{outcome.day}: {counted}{absorbed}"
        case FailedDay():
            return f"{outcome.day}: FAILED, {outcome.message}"


def failed_days(days: Sequence[date], outcomes: Sequence[RecountedDay | FailedDay]) -> str:
    """Names the failed days with their reasons, and says what became of the others."""
    failed = [outcome for outcome in outcomes if isinstance(outcome, FailedDay)]
    lines = "\n".join(f"- {outcome.day}: {outcome.message}" for outcome in failed)
    return (
        f"{len(failed)} of {len(days)} days failed; {len(outcomes) - len(failed)} were recounted and are committed, "
        f"{len(days) - len(outcomes)} were not attempted\n{lines}"
    )


def archived(day: ArchivedDay) -> dict[str, Any]:
    """What an operator sees of an archived day; equal hashes say that nothing changed since the last time."""
    return {
        "events": day.events,
        "counters": day.counters,
        "counter_items": day.items,
        "events_sha256": day.events_sha256,
        "counters_sha256": day.counters_sha256,
        "items_sha256": day.items_sha256,
        "rules_sha256": day.rules_sha256,
        "dagster/partition_row_count": day.events,
    }


def archived_materialization(day: ArchivedDay) -> dg.AssetMaterialization:
    """The same as an event of its own, for a day of a run that failed on another."""
    return dg.AssetMaterialization("event_archive", partition=day.day.isoformat(), metadata=archived(day))


def archive_progress(outcome: ArchivedDay | FailedArchive) -> str:
    """One line per day for a run's log."""
    match outcome:
        case ArchivedDay():
            return f"{outcome.day}: {outcome.events} events, {outcome.counters} counters archived"
        case FailedArchive():
            return f"{outcome.day}: FAILED, {outcome.message}"


def failed_archives(days: Sequence[date], outcomes: Sequence[ArchivedDay | FailedArchive]) -> str:
    """Names the days that are not archived, with their reasons."""
    failed = [outcome for outcome in outcomes if isinstance(outcome, FailedArchive)]
    lines = "\n".join(f"- {outcome.day}: {outcome.message}" for outcome in failed)
    return (
        f"{len(failed)} of {len(days)} days failed; {len(outcomes) - len(failed)} were archived, "
        f"{len(days) - len(outcomes)} were not attempted\n{lines}"
    )


def lake_verdict(proof: LakeProof) -> str:
    """How many days are proven, stale or wrong, in one line."""
    return (
        f"archived days equal to Postgres: {len(proof.proven)}; changed since, to be archived again: "
        f"{len(proof.stale)}; wrong: {len(proof.mismatches)}"
    )


def counters_verdict(days: Sequence[date], mismatches: Sequence[CounterMismatch]) -> str:
    """Which days differ, in one line."""
    wrong = sorted({mismatch.day for mismatch in mismatches})
    if not wrong:
        return f"all counters of {len(days)} days are equal to their ledger"
    return f"{len(mismatches)} counters differ, on {_text(tuple(wrong))}: materialise these days"


def fold_verdict(state: FoldState) -> str:
    """The backlog and the age of the cut, in one line."""
    waiting = f"{state.pending_count} events wait for the fold, the oldest for {state.lag}"
    return f"{waiting}; its cut is {state.cut_age} old"


def stripe_verdict(verdicts: StripeVerdicts) -> str:
    """How many open days differ and why, in one line."""
    return (
        f"days somebody must look at: {len(verdicts.unexplained)}; days Stripe did not answer for: "
        f"{len(verdicts.unknown)}; days that settle by themselves: {len(verdicts.on_its_way)}"
    )


def closing_verdict(verdicts: ClosingVerdicts, short: Sequence[Closing]) -> str:
    """How many invoices somebody must look at and why, in one line."""
    return (
        f"invoices that failed: {len(verdicts.failed)}; that wait too long: {len(verdicts.overdue)}; that Stripe "
        f"finalizes before late usage has come: {len(short)}"
    )


def by_account(reports: Mapping[str, Any]) -> dict[str, Any]:
    """Each account's report under its name: `live/accepted`, `shadow/accepted`, `live/acct_.../accepted`."""
    return {f"{mode}/{name}": value for mode, report in reports.items() for name, value in facts(report).items()}


def differences(reports: Mapping[str, ReconciliationReport]) -> dict[str, Any]:
    """Each account's worst days with what repairs them, in place on the asset's page."""
    return {f"{mode}/differences": markdown(report.rows) for mode, report in reports.items()}


def drift_plots(runs: Mapping[str, Sequence[ReconciliationRun]]) -> dict[str, Any]:
    """Each account's drift over its latest runs, as an image."""
    images = {mode: base64.b64encode(plot_drift(points).encode()).decode() for mode, points in runs.items()}
    return {
        f"{mode}/drift_over_time": dg.MetadataValue.md(f"![drift over time](data:image/svg+xml;base64,{image})")
        for mode, image in images.items()
    }


def stopped_pushes(reports: Mapping[str, PushReport]) -> str:
    """Why pushes ended early; what Stripe had taken by then is recorded."""
    return "; ".join(f"{mode}: {report.stopped}" for mode, report in reports.items() if report.stopped)


def _record(row: Any) -> dict[str, str | int | bool]:  # noqa: ANN401
    return {
        field.name: value if isinstance(value := getattr(row, field.name), int) else _text(value)
        for field in dataclasses.fields(row)
    }


def _value(value: Any) -> Any:  # noqa: ANN401
    match value:
        case bool() | int() | str():
            return value
        case tuple() | list() if value and all(dataclasses.is_dataclass(item) for item in value):
            return records(value)
        case _:
            return _text(value)


def _text(value: object) -> str:
    match value:
        case None:
            return "none"
        case Decimal():
            return f"{value:f}"
        case datetime():
            return value.isoformat(timespec="seconds")
        case date():
            return value.isoformat()
        case tuple() | list() | set() | frozenset():
            return ", ".join(_text(item) for item in value) or "none"
        case _:
            return str(value)


def _type_name(value: object) -> str:
    match value:
        case bool():
            return "bool"
        case int():
            return "int"
        case _:
            return "string"


def _cell(value: object) -> str:
    # Names come from customers: a pipe or a tag in one must stay text.
    text = str(value).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
    return " ".join(text.split()) or " "
