"""Traffic: the events of a scenario, written down one by one or generated, and when each arrives.

Belongs here: their documents, deliveries. Does not: what becomes of a delivered event (`ledger`).

    events: [{"metric": "calls", "quantity": 5, "ts": "2026-01-31T23:59:59Z", "idempotencyKey": "evt-1", "times": 2}]
    generate: {"metric": "api_calls", "count": 1000, "quantity": {"least": 1, "most": 5}, "until": "2026-02-01",
               "late": {"every": 10, "by": "PT36H"}, "duplicate": {"every": 4, "after": "PT5M"}}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

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
_GENERATE = ("metric", "customerRef", "count", "quantity", "from", "until", "pattern", "late", "duplicate", "meta")
_MICROSECOND = timedelta(microseconds=1)

_encode = msgspec.json.Encoder(decimal_format="number", enc_hook=str).encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """An event as somebody sends it: `document` is the JSON of the ingest contract."""

    at: datetime
    document: bytes


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
        pattern: evenly spaced, or anywhere.
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
    pattern: Literal["steady", "random"]
    late: Often | None
    duplicate: Often | None
    meta: Mapping[str, Any] | None

    def deliveries(self, seed: int, now: datetime) -> Iterator[Delivery]:
        """Every delivery, in no order; none before `now`."""
        draws = Draws(seed=seed, purpose=self.name)
        span = (self.until - self.start) // _MICROSECOND
        for number in range(self.count):
            offset = span * number // self.count if self.pattern == "steady" else draws.below(span, number, "ts")
            ts = self.start + offset * _MICROSECOND
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
            yield Delivery(at=arrival, document=document)
            if self.duplicate and (number + 1) % self.duplicate.every == 0:
                yield Delivery(at=arrival + self.duplicate.by, document=document)


def event_document(members: Mapping[str, Any], customer_ref: str) -> bytes:
    """The JSON of one event of the ingest contract."""
    given = {name: value for name, value in members.items() if value is not None}
    return _encode({"tenantId": TENANT, "customerRef": customer_ref, **given})


def parse_events(document: object, at: datetime, only: str | None, field: str) -> tuple[Delivery, ...]:
    """The deliveries of a list of events at an instant.

    Args:
        document: events; `ts` is `at` where it is absent, `times` says how often one is delivered.
        at: when they arrive.
        only: the customer of events that name none, when there is but one.
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
        ref = customer_of(members.pop("customerRef", None), only, place)
        ts = parse_instant(members.get("ts", at), within(place, "ts"))
        content = event_document({**members, "ts": instant_text(ts)}, ref)
        _try(content, at, place)
        deliveries += [Delivery(at=at, document=content)] * times
    return tuple(deliveries)


def parse_generator(document: object, at: datetime, only: str | None, field: str) -> Generator:
    """The generator of a document.

    Raises:
        InvalidInput: its events could not be ingested, or it makes none.
    """
    members = members_of(document, _GENERATE, field)
    count = parse_whole(required(members, "count", field), within(field, "count"))
    if not 1 <= count <= MOST_GENERATED:
        raise refused(f"must be 1 to {MOST_GENERATED}, not {count}", within(field, "count"))
    start = parse_instant(members.get("from", at), within(field, "from"))
    until = parse_instant(required(members, "until", field), within(field, "until"))
    if until <= start:
        raise refused(f"must be after the first instant, {instant_text(start)}", within(field, "until"))
    pattern = members.get("pattern", "random")
    if pattern not in ("steady", "random"):
        raise refused(f"must be steady or random, not {pattern!r:.40}", within(field, "pattern"))
    least, most, decimals = _parse_quantities(members.get("quantity", 1), within(field, "quantity"))
    generator = Generator(
        name=field,
        metric=required(members, "metric", field),
        customer_ref=customer_of(members.get("customerRef"), only, field),
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


def customer_of(document: object, only: str | None, field: str) -> str:
    """The customer a member names; where it is absent, the only one."""
    if document is None and only is not None:
        return only
    if not isinstance(document, str):
        raise refused("must name one of the scenario's customers", within(field, "customerRef"))
    return document


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
