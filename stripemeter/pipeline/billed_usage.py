"""Billed usage: every billing period of a tenant's customers that begins in some months, and what was used in it.

Belongs here: which periods are billed, which number each metric makes of each, what cannot be told. Does not: where
days are read (`store.period_states`), prices (`current_plans`), amounts (`stripemeter.pricing`).

A period belongs to the month it begins in and is whole: of a customer that is cut otherwise than by months, days after
the last month are read, too. The quantity is what `usage` answers of the period: the aggregation that holds on its last
day, approved adjustments included, the value in force where the last value counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import polars as pl

from stripemeter.errors import InvalidInput, Unavailable
from stripemeter.metering.countings import counting_of
from stripemeter.metering.days import day_bounds, day_of, days_between, next_month
from stripemeter.metering.frames import INSTANT, QUANTITY
from stripemeter.metering.period_usage import BILLABLE, count_items, finish_states, merge_states
from stripemeter.metering.rulebook import Rulebook, TenantRules
from stripemeter.metering.segments import BEGINNING, Segment, segment_at, segment_starts
from stripemeter.store.lake import LocalLake
from stripemeter.store.metered_usage import Head, load_adjustments, load_head, load_levels, load_mapped
from stripemeter.store.period_states import (
    StoredDay,
    list_days,
    list_subscribed,
    load_archived_aggregations,
    read_months,
)
from stripemeter.store.postgres import Tx
from stripemeter.store.rulebook import load_rulebook

_TICK = timedelta(microseconds=1)
PERIOD_SCHEMA: dict[str, Any] = {"customer_ref": pl.String(), "period_start": INSTANT, "period_end": INSTANT}
USAGE_SCHEMA: dict[str, Any] = {**PERIOD_SCHEMA, "meter": pl.String(), "quantity": QUANTITY}
_COUNTED: dict[str, Any] = {**USAGE_SCHEMA, "aggregation": pl.String()}
_PRESENT = [*PERIOD_SCHEMA, "meter"]
Watch = Callable[[date], None]
"""Told each month that has been read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadMonth:
    """How many days of a month were read where; the others have no usage."""

    month: date
    lake_days: int
    postgres_days: int
    idle_days: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BilledUsage:
    """What is billed of some months.

    Args:
        periods: one row per customer and period that is billed, PERIOD_SCHEMA, sorted.
        usage: one row per period and metric that was used, USAGE_SCHEMA, sorted; also of metrics apart.
        apart: customers' metrics whose time is cut by themselves; `customer_ref`, `meter`.
        uncounted: metrics without a number a price could bill, and why.
        unfinished: periods that begin in these months and are not over, which are in neither frame.
        days: what was read, month by month.
    """

    periods: pl.DataFrame
    usage: pl.DataFrame
    apart: pl.DataFrame
    uncounted: Mapping[str, str]
    unfinished: int
    days: tuple[ReadMonth, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Span:
    """The months, and how far their periods reach."""

    first_at: datetime
    until_at: datetime
    last_on: date
    now: datetime

    def begins_in(self, at: datetime) -> bool:
        return self.first_at <= at < self.until_at


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rules:
    tenant_id: str
    rulebook: Rulebook
    mapped: Mapping[str, str]
    head: Head

    @property
    def own(self) -> TenantRules:
        return self.rulebook.of(self.tenant_id)


def load_billed_usage(
    tx: Tx, lake: LocalLake, *, tenant_id: str, first: date, last: date, now: datetime, watch: Watch
) -> BilledUsage:
    """What is billed of the months from first to last (their first days), both included.

    Args:
        tx: one snapshot: days, counters and rules are of one instant.
        lake: where archived days lie.
        tenant_id: whose.
        first: first day of the first month.
        last: first day of the last month.
        now: the last month must have ended before it.
        watch: told of each month.

    Raises:
        InvalidInput: the months are none, or have not ended.
        InvariantBroken: the lake's files of a day are not those archived; names the day.
        Unavailable: days wait to be counted again, or were archived by other rules than hold now.
    """
    rules = _Rules(
        tenant_id=tenant_id,
        rulebook=load_rulebook(tx, [tenant_id]),
        mapped=load_mapped(tx, tenant_id),
        head=load_head(tx, tenant_id, refs=None, metrics=None, now=now),
    )
    if rules.head.recount_days:
        raise Unavailable(
            f"{rules.head.recount_days} days of {tenant_id} wait to be counted again: try again after that"
        )
    span = _span(rules.own, first, last, now)
    days = list_days(tx, first, span.last_on)
    _require_same_rules(rules.own, load_archived_aggregations(lake, days, tenant_id=tenant_id))
    unique = _kept_items(rules, span)
    states, items = [], []
    for month, month_states, month_items in read_months(tx, lake, days, tenant_id=tenant_id, unique_meters=unique):
        states.append(merge_states([month_states]))
        items.append(month_items)
        watch(month)
    merged = _with_periods(rules.own, merge_states(states), span)
    counted, uncounted = _aggregated(rules, merged, unique, span)
    finished = finish_states(counted, count_items(items)).rename({"segment_start": "period_start"})
    in_force = _in_force(tx, rules, finished, span)
    usage = _adjusted(tx, rules, pl.concat([finished.select(list(_COUNTED)), in_force]), uncounted, span)
    counters = merged.rename({"segment_start": "period_start"}).select(_PRESENT)
    periods = _billed_periods(tx, rules, pl.concat([usage.select(_PRESENT), counters]).unique(), span)
    return BilledUsage(
        periods=periods.filter(_is_over(span)).sort(list(PERIOD_SCHEMA)),
        usage=usage.select(list(USAGE_SCHEMA)).filter(_is_over(span)).sort([*PERIOD_SCHEMA, "meter"]),
        apart=_apart(rules),
        uncounted=uncounted,
        unfinished=periods.filter(~_is_over(span)).height,
        days=_read(days, first, span),
    )


def parse_months(first: str, last: str) -> tuple[date, date]:
    """The first days of two months written `YYYY-MM`, the first no later than the last.

    Raises:
        InvalidInput: they are not.
    """
    months = []
    for name, text in (("--from", first), ("--to", last)):
        try:
            month = date.fromisoformat(f"{text}-01")
        except ValueError as error:
            raise InvalidInput(f"{name} must be a month like 2025-01, not {text!r}", field=name) from error
        if f"{month:%Y-%m}" != text:
            raise InvalidInput(f"{name} must be a month like 2025-01, not {text!r}", field=name)
        months.append(month)
    if months[0] > months[1]:
        raise InvalidInput(f"--from must be no later than --to, not {first} and {last}", field="--from")
    return months[0], months[1]


def _span(rules: TenantRules, first: date, last: date, now: datetime) -> _Span:
    first_at, until_at = day_bounds(first)[0], day_bounds(next_month(last))[0]
    if until_at > now:
        raise InvalidInput(f"{last:%Y-%m} has not ended: a month is priced as a whole, and days are UTC", field="--to")
    ends = (segment_at(phases, until_at - _TICK).end for phases in rules.phases.values())
    latest = min(max([until_at, *ends]), now)
    return _Span(first_at=first_at, until_at=until_at, last_on=day_of(latest - _TICK), now=now)


def _require_same_rules(rules: TenantRules, archived: Mapping[date, Mapping[str, str]]) -> None:
    """An archived day was counted as its own rules say: its number must be that of the rules in force."""
    for day, meters in archived.items():
        for name, aggregation in meters.items():
            definition = rules.meter_on(name, day)
            if definition is None or definition.aggregation != aggregation:
                now = "the implicit meter" if definition is None else definition.aggregation
                raise Unavailable(
                    f"{day} was archived when {name} counted by {aggregation}, and now it counts by {now}:"
                    f" run `stripemeter lake archive {day}`"
                )


def _kept_items(rules: _Rules, span: _Span) -> set[str]:
    """Meters that counted distinct values on every day of the span: only those kept them."""
    days = days_between(day_of(span.first_at), span.last_on)
    found = set()
    for name in rules.own.meters:
        definitions = [rules.own.meter_on(name, day) for day in days]
        if all(definition is not None and definition.aggregation == "unique" for definition in definitions):
            found.add(name)
    return found


def _with_periods(rules: TenantRules, states: pl.DataFrame, span: _Span) -> pl.DataFrame:
    """The states of periods that begin in the span, with `period_end`."""
    inside = states.filter(
        pl.col("segment_start") >= pl.lit(span.first_at), pl.col("segment_start") < pl.lit(span.until_at)
    )
    cut = sorted({customer for customer, _ in rules.phases})
    monthly = inside.filter(~pl.col("customer_ref").is_in(cut)).with_columns(
        period_end=pl.col("segment_start").dt.offset_by("1mo")
    )
    others = inside.filter(pl.col("customer_ref").is_in(cut))
    ends = []
    for customer, meter, start in others.select("customer_ref", "meter", "segment_start").iter_rows():
        segment = rules.segment_of(customer, meter, start)
        if segment.start != start:
            raise Unavailable(
                f"{meter} of {customer} is counted by earlier billing phases: try again after the recount"
            )
        ends.append(segment.end)
    return pl.concat([monthly, others.with_columns(period_end=pl.Series("period_end", ends, INSTANT))])


def _aggregated(
    rules: _Rules, states: pl.DataFrame, unique: set[str], span: _Span
) -> tuple[pl.DataFrame, dict[str, str]]:
    """The states whose aggregation has a number to bill, with `aggregation`; the other meters, and why."""
    rows, uncounted = [], {}
    for meter, end in states.select("meter", "period_end").unique().sort("meter", "period_end").iter_rows():
        how = counting_of(rules.own, rules.mapped, meter, day_of(end - _TICK), span.now).aggregation
        rows.append((meter, end, how))
        if how not in BILLABLE:
            uncounted[meter] = f"it counts by {how}, which no price bills"
        elif how == "unique" and meter not in unique:
            uncounted[meter] = "it did not count distinct values on every day of these months"
    schema = pl.Schema({"meter": pl.String(), "period_end": INSTANT, "aggregation": pl.String()})
    known = pl.DataFrame(rows, schema=schema, orient="row")
    counted = states.join(known, on=["meter", "period_end"]).filter(~pl.col("meter").is_in(sorted(uncounted)))
    return counted, uncounted


def _in_force(tx: Tx, rules: _Rules, finished: pl.DataFrame, span: _Span) -> pl.DataFrame:
    """Columns of _COUNTED: where the last value counts, a period without events has the last one reported before it."""
    defined = {
        name
        for name, versions in rules.own.meters.items()
        if any(each.definition.aggregation == "last" for each in versions)
    }
    meters = sorted(defined | {meter for meter, how in rules.mapped.items() if how == "last"})
    rows = [row for meter in meters for row in _values_in_force(tx, rules, finished, meter, span)]
    return pl.DataFrame(rows, schema=_COUNTED, orient="row")


def _values_in_force(
    tx: Tx, rules: _Rules, finished: pl.DataFrame, meter: str, span: _Span
) -> Iterator[tuple[str, datetime, datetime, str, Decimal, str]]:
    levels = load_levels(
        tx,
        rules.rulebook,
        rules.head,
        tenant_id=rules.tenant_id,
        customers=None,
        meter=meter,
        before=day_of(span.first_at),
    )
    newest = {
        part.customer_ref: part.quantity_last for part in sorted(levels, key=lambda part: (part.last_ts, part.last_seq))
    }
    own = finished.filter(pl.col("meter") == meter).select("customer_ref", "period_start", "quantity_last")
    reported = {(row[0], row[1]): row[2] for row in own.iter_rows()}
    for customer in sorted({*newest, *(customer for customer, _ in reported)}):
        value = newest.get(customer, Decimal(0))
        for start in segment_starts(rules.own.phases_of(customer, meter), span.first_at, span.until_at - _TICK):
            segment = rules.own.segment_of(customer, meter, start)
            how = counting_of(rules.own, rules.mapped, meter, day_of(segment.end - _TICK), span.now).aggregation
            if (customer, start) in reported:
                value = reported[customer, start]
            elif value and how == "last" and span.begins_in(start):
                yield customer, segment.start, segment.end, meter, value, how


def _adjusted(tx: Tx, rules: _Rules, counted: pl.DataFrame, uncounted: Mapping[str, str], span: _Span) -> pl.DataFrame:
    """USAGE_SCHEMA: what was counted (_COUNTED), approved manual adjustments added."""
    reach = Segment(start=span.first_at, end=day_bounds(span.last_on)[1])
    rows = []
    for each in load_adjustments(tx, rules.own, tenant_id=rules.tenant_id, customers=None, meters=None, span=reach):
        segment = rules.own.segment_of(each.customer_ref, each.meter, each.effective_at)
        how = counting_of(rules.own, rules.mapped, each.meter, day_of(segment.end - _TICK), span.now).aggregation
        if span.begins_in(segment.start) and how in BILLABLE and each.meter not in uncounted:
            rows.append((each.customer_ref, segment.start, segment.end, each.meter, each.delta, how))
    adjustments = pl.DataFrame(rows, schema=_COUNTED, orient="row")
    key = [name for name in USAGE_SCHEMA if name != "quantity"]
    return pl.concat([counted, adjustments]).group_by(key).agg(pl.col("quantity").sum())


def _billed_periods(tx: Tx, rules: _Rules, present: pl.DataFrame, span: _Span) -> pl.DataFrame:
    """PERIOD_SCHEMA, each once: where something was used (columns _PRESENT) or an item is subscribed to."""
    apart = _apart(rules)
    common = present.join(apart, on=["customer_ref", "meter"], how="anti").select(list(PERIOD_SCHEMA))
    others = [
        (customer, segment.start, segment.end)
        for customer, start in present.join(apart, on=["customer_ref", "meter"], how="semi")
        .select("customer_ref", "period_start")
        .unique()
        .iter_rows()
        for segment in [rules.own.segment_of(customer, "", start)]
        if span.begins_in(segment.start)
    ]
    rows = [*others, *_subscribed(tx, rules, span)]
    return pl.concat([common, pl.DataFrame(rows, schema=PERIOD_SCHEMA, orient="row")]).unique()


def _apart(rules: _Rules) -> pl.DataFrame:
    """Customers' metrics with billing phases of their own."""
    keys = sorted(key for key in rules.own.phases if key[1])
    return pl.DataFrame(keys, schema={"customer_ref": pl.String, "meter": pl.String}, orient="row")


def _is_over(span: _Span) -> pl.Expr:
    return pl.col("period_end") <= pl.lit(span.now)


def _subscribed(tx: Tx, rules: _Rules, span: _Span) -> Iterator[tuple[str, datetime, datetime]]:
    """Periods of customers with a subscription item: from the one on in which that was recorded or a phase began."""
    for customer, recorded_at in list_subscribed(tx, tenant_id=rules.tenant_id).items():
        phases = rules.own.phases_of(customer, "")
        since = min([recorded_at, *(phase.starts_at for phase in phases if phase.starts_at != BEGINNING)])
        for start in segment_starts(phases, span.first_at, span.until_at - _TICK):
            segment = segment_at(phases, start)
            if span.begins_in(segment.start) and segment.end > since:
                yield customer, segment.start, segment.end


def _read(days: Sequence[StoredDay], first: date, span: _Span) -> tuple[ReadMonth, ...]:
    months = []
    month = first
    while month <= span.last_on:
        following = next_month(month)
        inside = [day for day in days if month <= day.day < following]
        archived = sum(day.is_archived for day in inside)
        length = (min(following, span.last_on + timedelta(days=1)) - month).days
        months.append(
            ReadMonth(
                month=month,
                lake_days=archived,
                postgres_days=len(inside) - archived,
                idle_days=length - len(inside),
            )
        )
        month = following
    return tuple(months)
