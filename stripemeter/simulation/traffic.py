"""Traffic: the events of a scenario, written down one by one or generated, and when each arrives.

Belongs here: their documents, deliveries. Does not: what becomes of a delivered event (`ledger`).

    events: [{"metric": "calls", "quantity": 5, "ts": "2026-01-31T23:59:59Z", "idempotencyKey": "evt-1", "times": 2}]
    generate: {"metric": "calls", "rate": {"count": 30, "per": "PT1H"}, "until": "2026-02-01", "pattern": "peak",
               "quantity": {"least": 1, "most": 5}, "late": {"every": 10, "by": "PT36H"},
               "duplicate": {"every": 4, "after": "PT5M"}}

How many events there are, and when, never depends on what is drawn for another generator.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, get_args

import msgspec

from stripemeter.errors import InvalidInput
from stripemeter.metering.durations import before
from stripemeter.metering.events import IngestLimits, parse_event
from stripemeter.metering.segments import END
from stripemeter.pricing.reading import (
    elements_of,
    instant_text,
    members_of,
    parse_instant,
    parse_number,
    parse_whole,
    plain,
    refused,
    required,
    within,
)
from stripemeter.simulation.draws import Draws

TENANT = "simulation"
LIMITS = IngestLimits()
MOST_GENERATED = 1_000_000
MOST_TIMES = 1_000
_EVENT = ("metric", "quantity", "ts", "resourceId", "meta", "idempotencyKey", "source")
_GENERATE = (
    "metric",
    "customerRef",
    "count",
    "rate",
    "quantity",
    "from",
    "until",
    "pattern",
    "late",
    "duplicate",
    "meta",
)
_BURST = timedelta(hours=1)
_PEAK = timedelta(days=1)
_MICROSECOND = timedelta(microseconds=1)

Pattern = Literal["steady", "burst", "random", "peak"]

_encode = msgspec.json.Encoder(decimal_format="number", enc_hook=str).encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """An event as somebody sends it.

    Args:
        at: when it arrives.
        document: the JSON of the ingest contract.
        origin: where in the scenario it comes from.
    """

    at: datetime
    document: bytes
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Often:
    """What happens to each `every`-th event: so much later."""

    every: int
    by: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Generator:
    """Events to be made.

    Args:
        name: where it stands: its draws and keys are of this name.
        metric: of all.
        customer_ref: of all.
        count: how many.
        least: smallest quantity, in units of 10**-decimals.
        most: greatest, likewise.
        decimals: of the quantities.
        start: first instant, inclusive.
        until: last, exclusive.
        pattern: evenly spaced; those of each hour in its first six minutes; anywhere; or those of each 24 hours
            gathered about their middle.
        late: which arrive so much after they happened.
        duplicate: which are delivered again so much after their first delivery.
        meta: of all.
    """

    name: str
    metric: str
    customer_ref: str
    count: int
    least: int
    most: int
    decimals: int
    start: datetime
    until: datetime
    pattern: Pattern
    late: Often | None
    duplicate: Often | None
    meta: Mapping[str, Any] | None

    def deliveries(self, seed: int, now: datetime) -> Iterator[Delivery]:
        """Every delivery, in no order; none before `now`."""
        draws = Draws(seed=seed, purpose=self.name)
        for number in range(self.count):
            ts = self.start + self._offset(draws, number) * _MICROSECOND
            units = self.least + draws.below(self.most - self.least + 1, number, "quantity")
            members = {
                "metric": self.metric,
                "quantity": Decimal(units).scaleb(-self.decimals),
                "ts": instant_text(ts),
                "idempotencyKey": f"{self.name}:{number}",
                "meta": self.meta,
            }
            document = event_document(members, self.customer_ref)
            arrival = max(now, ts + self.late.by if self.late and (number + 1) % self.late.every == 0 else ts)
            yield Delivery(at=arrival, document=document, origin=self.name)
            if self.duplicate and (number + 1) % self.duplicate.every == 0:
                yield Delivery(at=arrival + self.duplicate.by, document=document, origin=self.name)

    def _offset(self, draws: Draws, number: int) -> int:
        """Microseconds after the start at which an event happens."""
        span = (self.until - self.start) // _MICROSECOND
        steady = span * number // self.count
        if self.pattern == "steady":
            return steady
        if self.pattern == "random":
            return draws.below(span, number, "ts")
        window = (_BURST if self.pattern == "burst" else _PEAK) // _MICROSECOND
        begin = steady // window * window
        length = min(window, span - begin)
        if self.pattern == "burst":
            return begin + (steady - begin) // 10
        return begin + (draws.below(length, number, "ts") + draws.below(length, number, "ts again")) // 2


def event_document(members: Mapping[str, Any], customer_ref: str) -> bytes:
    """The JSON of one event of the ingest contract."""
    given = {name: value for name, value in members.items() if value is not None}
    return _encode({"tenantId": TENANT, "customerRef": customer_ref, **given})


def parse_events(document: object, at: datetime, customers: Collection[str], field: str) -> tuple[Delivery, ...]:
    """The deliveries of a list of events at an instant.

    Args:
        document: events; `ts` is `at` where it is absent, `times` says how often one is delivered.
        at: when they arrive.
        customers: who may be named; where there is but one, it need not be.
        field: where the list stands.

    Raises:
        InvalidInput: an event that ingest would refuse.
    """
    deliveries: list[Delivery] = []
    for number, element in enumerate(elements_of(document, field, least=1)):
        place = within(field, number)
        members = dict(members_of(element, (*_EVENT, "customerRef", "times"), place))
        times = parse_whole(members.pop("times", 1), within(place, "times"))
        if not 1 <= times <= MOST_TIMES:
            raise refused(f"must be 1 to {MOST_TIMES}, not {times}", within(place, "times"))
        ref = customer_of(members.pop("customerRef", None), customers, place)
        ts = parse_instant(members.get("ts", at), within(place, "ts"))
        content = event_document({**members, "ts": instant_text(ts)}, ref)
        _try(content, at, place)
        deliveries += [Delivery(at=at, document=content, origin=place)] * times
    return tuple(deliveries)


def parse_generator(document: object, at: datetime, customers: Collection[str], field: str) -> Generator:
    """The generator of a document.

    Raises:
        InvalidInput: its events could not be ingested, or it makes none.
    """
    members = members_of(document, _GENERATE, field)
    start = parse_instant(members.get("from", at), within(field, "from"))
    until = parse_instant(required(members, "until", field), within(field, "until"))
    if until <= start:
        raise refused(f"must be after the first instant, {instant_text(start)}", within(field, "until"))
    count = _parse_count(members, until - start, field)
    pattern = members.get("pattern", "steady")
    if pattern not in get_args(Pattern):
        raise refused(f"must be one of {', '.join(get_args(Pattern))}, not {pattern!r:.40}", within(field, "pattern"))
    least, most, decimals = _parse_quantities(members.get("quantity", 1), within(field, "quantity"))
    generator = Generator(
        name=field,
        metric=required(members, "metric", field),
        customer_ref=customer_of(members.get("customerRef"), customers, field),
        count=count,
        least=least,
        most=most,
        decimals=decimals,
        start=start,
        until=until,
        pattern=pattern,
        late=_parse_often(members, "late", "by", field),
        duplicate=_parse_often(members, "duplicate", "after", field),
        meta=members.get("meta"),
    )
    trial = {"metric": generator.metric, "quantity": Decimal(most).scaleb(-decimals), "ts": instant_text(start)}
    _try(event_document({**trial, "meta": generator.meta}, generator.customer_ref), END, field)
    return generator


def parse_duration(document: object, field: str) -> timedelta:
    """A duration like P1DT12H: days, hours, minutes and seconds."""
    try:
        return END - before(f"-{document}", END)
    except ValueError as error:
        raise refused(f"must be a duration like P1DT12H, not {document!r:.40}", field) from error


def customer_of(document: object, customers: Collection[str], field: str) -> str:
    """The customer a member names; the only one where it is absent."""
    if document is None and len(customers) == 1:
        return next(iter(customers))
    if document not in customers or not isinstance(document, str):
        named = "must name" if document is None else f"{document!r:.40} is none"
        raise refused(f"{named} one of the customers {', '.join(customers)}", within(field, "customerRef"))
    return document


def _parse_count(members: Mapping[str, Any], span: timedelta, field: str) -> int:
    """How many events: said, or so many in so much time."""
    if ("count" in members) == ("rate" in members):
        raise refused("needs either count or rate", field)
    place = within(field, "count" if "count" in members else "rate")
    if "count" in members:
        count = parse_whole(members["count"], place)
    else:
        rate = members_of(members["rate"], ("count", "per"), place)
        per = parse_duration(required(rate, "per", place), within(place, "per"))
        if not per:
            raise refused("must take time", within(place, "per"))
        each = parse_whole(required(rate, "count", place), within(place, "count"))
        count = each * (span // _MICROSECOND) // (per // _MICROSECOND)
    if not 1 <= count <= MOST_GENERATED:
        raise refused(f"must make 1 to {MOST_GENERATED} events, not {count}", place)
    return count


def _parse_quantities(document: object, field: str) -> tuple[int, int, int]:
    if isinstance(document, Mapping):
        members = members_of(document, ("least", "most"), field)
        bounds = [parse_number(required(members, name, field), within(field, name)) for name in ("least", "most")]
    else:
        bounds = [parse_number(document, field)] * 2
    decimals = max((len(plain(bound).partition(".")[2]) for bound in bounds), default=0)
    least, most = (int(bound.scaleb(decimals)) for bound in bounds)
    if not 0 <= least <= most:
        raise refused("must be at least 0, the least not above the most", field)
    return least, most, decimals


def _parse_often(members: Mapping[str, Any], name: str, delay: str, field: str) -> Often | None:
    if name not in members:
        return None
    place = within(field, name)
    own = members_of(members[name], ("every", delay), place)
    every = parse_whole(required(own, "every", place), within(place, "every"))
    if every < 1:
        raise refused(f"must be at least 1, not {every}", within(place, "every"))
    return Often(every=every, by=parse_duration(required(own, delay, place), within(place, delay)))


def _try(document: bytes, now: datetime, field: str) -> None:
    """What ingest would say of the event, at the place it has here."""
    try:
        # An hour is added to it, and there is none after the last.
        parse_event(document, now=min(now, END - timedelta(hours=1)), limits=LIMITS)
    except InvalidInput as error:
        raise refused(str(error).removeprefix(f"{error.field}: "), within(field, error.field)) from error
