"""Segments tile time: every instant lies in exactly one, and boundaries are counted from the anchor."""

from __future__ import annotations

import calendar
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stripemeter.errors import InvalidInput
from stripemeter.metering.days import day_of, month_bounds
from stripemeter.metering.segments import (
    BEGINNING,
    DEFAULT_PHASES,
    END,
    BillingPhase,
    Cadence,
    Segment,
    day_segment,
    parse_boundary,
    parse_phase,
    segment_at,
    segment_starts,
)

TICK = timedelta(microseconds=1)
CADENCES: list[Cadence] = ["day", "week", "month", "quarter", "year"]
LOW, HIGH = datetime(2023, 1, 1), datetime(2029, 1, 1)  # noqa: DTZ001 - bounds of a strategy that adds the zone


def utc(text: str) -> datetime:
    """The instant, UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def phase(cadence: Cadence, anchor: str, *, count: int = 1, starts: str | None = None) -> BillingPhase:
    """A phase that always held, unless it says when it starts."""
    return BillingPhase(
        starts_at=BEGINNING if starts is None else utc(starts),
        cadence=cadence,
        cadence_count=count,
        anchor_at=utc(anchor),
    )


def starts(phases: Sequence[BillingPhase], first: str, last: str) -> list[str]:
    """The starts in short: midnight unsaid."""
    return [
        f"{start:%Y-%m-%dT%H:%M:%S}".removesuffix("T00:00:00")
        for start in segment_starts(phases, utc(first), utc(last))
    ]


instants = st.datetimes(LOW, HIGH, timezones=st.just(UTC))
seconds = instants.map(lambda at: at.replace(microsecond=0))
month_ends = st.sampled_from(["2024-01-31", "2024-02-29", "2023-02-28", "2024-08-30", "2026-12-31"]).map(utc)
anchors = st.one_of(seconds, month_ends)


@st.composite
def some_phases(draw: st.DrawFn) -> list[BillingPhase]:
    """Up to four phases, the first of which may have held for ever."""
    begins = sorted(draw(st.lists(anchors, max_size=4, unique=True)))
    has_first = draw(st.booleans())
    if begins and has_first:
        begins[0] = BEGINNING
    return [
        BillingPhase(
            starts_at=at,
            cadence=draw(st.sampled_from(CADENCES)),
            cadence_count=draw(st.integers(1, 5)),
            anchor_at=draw(anchors),
        )
        for at in begins
    ]


def naive_boundaries(cut: BillingPhase) -> list[datetime]:
    """Every boundary of a phase over the years of `instants`, and some before and after, one step at a time."""
    found = []
    for step in range(-4000, 4001):
        count = step * cut.cadence_count
        if cut.cadence in {"day", "week"}:
            boundary = cut.anchor_at + timedelta(days=count * (1 if cut.cadence == "day" else 7))
        else:
            months = count * {"month": 1, "quarter": 3, "year": 12}[cut.cadence]
            months += cut.anchor_at.year * 12 + cut.anchor_at.month - 1
            if not 1900 <= months // 12 <= 2200:
                continue
            day = cut.anchor_at.day
            while day > calendar.monthrange(months // 12, months % 12 + 1)[1]:
                day -= 1
            boundary = cut.anchor_at.replace(year=months // 12, month=months % 12 + 1, day=day)
        found.append(boundary)
    return found


def naive_segment(phases: Sequence[BillingPhase], at: datetime) -> Segment:
    """The oracle: every boundary of every phase written down, then the two around the instant."""
    edges = set()
    reigns = [*DEFAULT_PHASES, *phases] if not phases or phases[0].starts_at > BEGINNING else list(phases)
    for cut, following in zip(reigns, [*reigns[1:], None], strict=True):
        end = following.starts_at if following else END
        edges |= {edge for edge in _naive_edges(cut) if cut.starts_at <= edge < end} | {cut.starts_at, end}
    return Segment(start=max(edge for edge in edges if edge <= at), end=min(edge for edge in edges if edge > at))


def _naive_edges(cut: BillingPhase) -> list[datetime]:
    if cut is DEFAULT_PHASES[0]:
        return [datetime(year, month, 1, tzinfo=UTC) for year in range(1900, 2200) for month in range(1, 13)]
    return naive_boundaries(cut)


@given(phases=some_phases(), at=instants)
def test_a_segment_is_the_two_boundaries_around_an_instant(phases: list[BillingPhase], at: datetime) -> None:
    """Law: as if every boundary had been written down one by one and phase starts among them."""
    assert segment_at(phases, at) == naive_segment(phases, at)


@given(phases=some_phases(), at=instants)
def test_segments_tile_time(phases: list[BillingPhase], at: datetime) -> None:
    """Law: every instant of a segment answers that segment, and the next one begins where it ends."""
    segment = segment_at(phases, at)
    assert segment.start <= at < segment.end
    assert segment_at(phases, segment.start) == segment
    assert segment_at(phases, segment.end - TICK) == segment
    assert segment_at(phases, segment.end).start == segment.end
    assert segment_at(phases, segment.start - TICK).end == segment.start


@given(phases=some_phases(), at=instants)
def test_a_phase_start_is_a_boundary(phases: list[BillingPhase], at: datetime) -> None:
    """Law: no segment holds an instant before and one after a phase starts."""
    segment = segment_at(phases, at)
    assert not any(segment.start < cut.starts_at < segment.end for cut in phases)


@given(phases=some_phases(), first=instants, days=st.integers(0, 400))
def test_starts_are_those_of_the_segments_in_between(phases: list[BillingPhase], first: datetime, days: int) -> None:
    """Law: segment_starts names each segment of the range once, in order, and agrees with segment_at."""
    last = first + timedelta(days=days)
    found = segment_starts(phases, first, last)
    assert found[0] == segment_at(phases, first).start
    assert found[-1] == segment_at(phases, last).start
    assert all(segment_at(phases, start).end == following for start, following in pairwise(found))


@given(
    cadence=st.sampled_from(CADENCES),
    count=st.sampled_from([1, 2, 366]),
    anchor=st.datetimes(timezones=st.just(UTC)).map(lambda at: at.replace(microsecond=0)),
    at=st.datetimes(timezones=st.just(UTC)),
)
@example(cadence="year", count=366, anchor=END.replace(microsecond=0), at=END)
@example(cadence="week", count=366, anchor=END.replace(microsecond=0), at=BEGINNING)
@example(cadence="month", count=1, anchor=BEGINNING, at=END)
@example(cadence="month", count=1, anchor=BEGINNING + timedelta(days=30, seconds=1), at=BEGINNING)
def test_time_ends_with_the_calendar(cadence: Cadence, count: int, anchor: datetime, at: datetime) -> None:
    """Law: no anchor and no instant of the years 1 to 9999 is refused; the outermost segments are cut short."""
    phases = [BillingPhase(starts_at=BEGINNING, cadence=cadence, cadence_count=count, anchor_at=anchor)]
    segment = segment_at(phases, at)
    assert BEGINNING <= segment.start <= at <= segment.end <= END
    assert at < segment.end or at == END
    assert segment_starts(phases, at, at) == [segment.start]
    assert segment_at(phases, segment.start) == segment_at(phases, segment.end - TICK) == segment


@given(at=instants)
def test_without_phases_the_utc_month_applies(at: datetime) -> None:
    """The default is the calendar month, said by no phases and by DEFAULT_PHASES alike."""
    start, end = month_bounds(day_of(at))
    assert segment_at((), at) == segment_at(DEFAULT_PHASES, at) == Segment(start=start, end=end)


@given(cut=some_phases(), at=instants, hours=st.integers(-14, 14))
def test_no_clock_moves_a_segment(cut: list[BillingPhase], at: datetime, hours: int) -> None:
    """An instant written in another zone is the same instant, and so is an anchor: segments are UTC."""
    zone = timezone(timedelta(hours=hours))
    moved = [
        BillingPhase(
            starts_at=each.starts_at,
            cadence=each.cadence,
            cadence_count=each.cadence_count,
            anchor_at=each.anchor_at.astimezone(zone),
        )
        for each in cut
    ]
    assert segment_at(moved, at.astimezone(zone)) == segment_at(cut, at)
    assert segment_at(moved, at.astimezone(zone)).start.tzinfo is UTC


@pytest.mark.parametrize(
    ("cadence", "anchor", "first", "last", "expected"),
    [
        ("month", "2026-01-31", "2026-01-31", "2026-05-30", ["2026-01-31", "2026-02-28", "2026-03-31", "2026-04-30"]),
        ("month", "2026-01-30", "2028-01-30", "2028-03-30", ["2028-01-30", "2028-02-29", "2028-03-30"]),
        ("month", "2026-12-31", "2026-02-28", "2026-04-01", ["2026-02-28", "2026-03-31"]),
        ("year", "2024-02-29", "2023-02-28", "2028-02-29", [f"202{y}-02-2{8 + (y % 4 == 0)}" for y in range(3, 9)]),
        ("quarter", "2025-11-30", "2025-11-30", "2026-05-31", ["2025-11-30", "2026-02-28", "2026-05-30"]),
        ("quarter", "2026-01-01", "2026-05-17", "2026-07-01", ["2026-04-01", "2026-07-01"]),
        ("week", "2026-01-07", "2025-12-31", "2026-01-07", ["2025-12-31", "2026-01-07"]),
        ("day", "2026-02-28", "2028-02-28", "2028-03-01", ["2028-02-28", "2028-02-29", "2028-03-01"]),
        (
            "month",
            "2026-01-31T13:05:59",
            "2026-02-28T13:05:58",
            "2026-03-31T13:05:59",
            ["2026-01-31T13:05:59", "2026-02-28T13:05:59", "2026-03-31T13:05:59"],
        ),
    ],
)
def test_month_ends_clamp_from_the_anchor(
    cadence: Cadence, anchor: str, first: str, last: str, expected: list[str]
) -> None:
    """A month without the anchor's day has its last day as boundary, and the day comes back where it exists."""
    assert starts([phase(cadence, anchor)], first, last) == expected


def test_a_count_spans_several_cadences() -> None:
    """Every two weeks, and every five months, from the anchor both ways."""
    assert starts([phase("week", "2026-01-07", count=2)], "2025-12-30", "2026-01-21") == [
        "2025-12-24",
        "2026-01-07",
        "2026-01-21",
    ]
    assert starts([phase("month", "2026-01-31", count=5)], "2025-08-31", "2026-06-30") == [
        "2025-08-31",
        "2026-01-31",
        "2026-06-30",
    ]


def test_a_phase_cuts_the_segment_before_it() -> None:
    """A price change on the tenth: the month up to it, then from it on; the anchor goes on deciding the rest."""
    change = phase("month", "2026-01-01", starts="2026-03-10T12:00:00")
    assert starts([phase("month", "2026-01-01"), change], "2026-02-15", "2026-04-01") == [
        "2026-02-01",
        "2026-03-01",
        "2026-03-10T12:00:00",
        "2026-04-01",
    ]


def test_before_the_first_phase_the_utc_month_applies() -> None:
    """A customer that began to be billed weekly on a Wednesday was billed by the month before."""
    assert starts([phase("week", "2026-01-14", starts="2026-01-14")], "2025-12-31", "2026-01-21") == [
        "2025-12-01",
        "2026-01-01",
        "2026-01-14",
        "2026-01-21",
    ]


def test_a_part_of_a_day_finds_its_segment() -> None:
    """By the start it was counted under; under phases that have changed since it is the segment that holds it now."""
    phases = [phase("month", "2026-01-15T09:00:17")]
    day = utc("2026-03-15").date()
    assert day_segment(phases, day, utc("2026-02-15T09:00:17")) == segment_at(phases, utc("2026-03-15"))
    assert day_segment(phases, day, utc("2026-03-15T09:00:17")).end == utc("2026-04-15T09:00:17")
    assert day_segment(DEFAULT_PHASES, day, utc("2026-03-15T09:00:17")).start == utc("2026-03-01")
    assert day_segment(phases, utc("2026-03-20").date(), utc("2026-03-01")).start == utc("2026-03-15T09:00:17")


def test_no_range_no_starts() -> None:
    """A range that ends before it begins touches no segment."""
    assert segment_starts(DEFAULT_PHASES, utc("2026-01-02"), utc("2026-01-01")) == []


def test_a_phase_without_anchor_counts_from_its_start() -> None:
    """Without a start as well it is the calendar: months from the first, weeks from Monday, years from January."""
    calendar_week = parse_phase(cadence="week")
    assert segment_at([calendar_week], utc("2026-11-25")).start == utc("2026-11-23")
    assert segment_at([parse_phase(cadence="year")], utc("2026-11-25")).start == utc("2026-01-01")
    assert parse_phase(cadence="month", starts_at=utc("2026-01-31")).anchor_at == utc("2026-01-31")


def test_a_phase_is_kept_in_utc() -> None:
    """The zone somebody wrote an instant in does not matter later."""
    berlin = datetime.fromisoformat("2026-01-31T01:00:00+01:00")
    assert parse_phase(cadence="month", anchor_at=berlin).anchor_at.isoformat() == "2026-01-31T00:00:00+00:00"


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"cadence": "fortnight"}, "billing.cadence"),
        ({"count": 0}, "billing.count"),
        ({"count": 367}, "billing.count"),
        ({"anchor_at": datetime(2026, 1, 1)}, "billing.anchorAt"),  # noqa: DTZ001 - the point
        ({"anchor_at": datetime(2026, 1, 1, microsecond=1, tzinfo=UTC)}, "billing.anchorAt"),
        ({"starts_at": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1)))}, "billing.startsAt"),
    ],
)
def test_what_is_no_phase_is_refused_by_name(wrong: dict[str, object], field: str) -> None:
    """Each complaint names the member it is about."""
    with pytest.raises(InvalidInput) as refused:
        parse_phase(**{"cadence": "month", **wrong})  # type: ignore[arg-type]
    assert refused.value.field == field


def test_a_boundary_is_a_whole_second() -> None:
    """Stripe's periods are seconds; a boundary between two could not be billed."""
    assert parse_boundary(utc("2026-01-01T00:00:01"), field="at") == utc("2026-01-01T00:00:01")
    with pytest.raises(InvalidInput, match="whole second"):
        parse_boundary(utc("2026-01-01T00:00:00.5"), field="at")
