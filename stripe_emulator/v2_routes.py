"""The table of contents of v2, and the shapes of what goes in and out.

Belongs here: which handler answers which path; the members of requests and answers as the official SDK types them
(Stripe's document in `openapi/` has no v2 paths, so these are the only judge there is). Does not: behaviour.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stripe_emulator import adjustments, destinations, events, sessions, v2_meter_events
from stripe_emulator.calls import Call
from stripe_emulator.contract import ContractViolation, unrecognized
from stripe_emulator.wire import Json, StripeError


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


Name = Annotated[str, Field(max_length=100)]
Text = Annotated[str, Field(max_length=5_000)]


class NoParameters(_Shape):
    """Nothing."""


class EventParameters(_Shape):
    """One meter event."""

    event_name: Name
    payload: dict[str, str]
    identifier: Name | None = None
    timestamp: Text | None = None


class StreamParameters(_Shape):
    """Up to 100 meter events."""

    events: Annotated[list[EventParameters], Field(min_length=1, max_length=100)]


class Cancel(_Shape):
    """Which event."""

    identifier: Name


class AdjustmentParameters(_Shape):
    """A cancel."""

    cancel: Cancel
    event_name: Name
    type: Literal["cancel"]


class DestinationUrl(_Shape):
    """Where to."""

    url: Text


class DestinationParameters(_Shape):
    """A webhook endpoint for thin events or snapshots."""

    enabled_events: Annotated[list[Text], Field(min_length=1)]
    event_payload: Literal["snapshot", "thin"]
    name: Text
    type: Literal["webhook_endpoint"]
    webhook_endpoint: DestinationUrl
    description: Text = ""
    include: list[Literal["webhook_endpoint.signing_secret", "webhook_endpoint.url"]] = []
    metadata: dict[str, str] = {}


class _Object(_Shape):
    id: str
    created: str
    livemode: Literal[False]


class MeterEvent(_Shape):
    """An accepted event."""

    object: Literal["v2.billing.meter_event"]
    created: str
    event_name: str
    identifier: str
    livemode: Literal[False]
    payload: dict[str, str]
    timestamp: str


class Session(_Object):
    """A session of the stream."""

    object: Literal["v2.billing.meter_event_session"]
    authentication_token: str
    expires_at: str


class Adjustment(_Object):
    """A cancel and how far it is."""

    object: Literal["v2.billing.meter_event_adjustment"]
    cancel: Cancel
    event_name: str
    status: Literal["complete", "pending"]
    type: Literal["cancel"]


class RelatedObject(_Shape):
    """What an event is about."""

    id: str
    type: str
    url: str


class ThinEvent(_Object):
    """An event with what it has to tell."""

    object: Literal["v2.core.event"]
    type: str
    context: None
    reason: None
    changes: None
    snapshot_event: None
    data: dict[str, Any]
    related_object: RelatedObject | None = None


class DestinationTarget(_Shape):
    """Told only when asked for."""

    signing_secret: str | None
    url: str | None


class Destination(_Object):
    """Where events go."""

    object: Literal["v2.core.event_destination"]
    description: str
    enabled_events: list[str]
    event_payload: Literal["snapshot", "thin"]
    events_from: list[str]
    metadata: dict[str, str]
    name: str
    snapshot_api_version: str | None
    status: Literal["disabled", "enabled"]
    status_details: None
    type: Literal["webhook_endpoint"]
    updated: str
    webhook_endpoint: DestinationTarget | None


class Deleted(_Shape):
    """What is gone."""

    id: str
    object: str


class ThinEvents(_Shape):
    """A page."""

    data: list[ThinEvent]
    next_page_url: None
    previous_page_url: None


class Destinations(_Shape):
    """A page."""

    data: list[Destination]
    next_page_url: None
    previous_page_url: None


class PageParameters(BaseModel):
    """Of a list: from the query, so in text."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=100, ge=1, le=100)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method of one path."""

    method: str
    path: str
    handler: Callable[[Call], Json]
    parameters: type[BaseModel]
    answer: type[BaseModel]


_ROUTES = (
    Route(
        method="POST",
        path="/v2/billing/meter_events",
        handler=v2_meter_events.create,
        parameters=EventParameters,
        answer=MeterEvent,
    ),
    Route(
        method="POST",
        path=sessions.STREAM_PATH,
        handler=v2_meter_events.stream,
        parameters=StreamParameters,
        answer=NoParameters,
    ),
    Route(
        method="POST",
        path="/v2/billing/meter_event_session",
        handler=sessions.create,
        parameters=NoParameters,
        answer=Session,
    ),
    Route(
        method="POST",
        path="/v2/billing/meter_event_adjustments",
        handler=adjustments.create_v2,
        parameters=AdjustmentParameters,
        answer=Adjustment,
    ),
    Route(
        method="GET",
        path="/v2/core/events",
        handler=events.list_thin,
        parameters=PageParameters,
        answer=ThinEvents,
    ),
    Route(
        method="GET",
        path="/v2/core/events/{id}",
        handler=events.retrieve_thin,
        parameters=NoParameters,
        answer=ThinEvent,
    ),
    Route(
        method="POST",
        path="/v2/core/event_destinations",
        handler=destinations.create_v2,
        parameters=DestinationParameters,
        answer=Destination,
    ),
    Route(
        method="GET",
        path="/v2/core/event_destinations",
        handler=destinations.list_v2,
        parameters=PageParameters,
        answer=Destinations,
    ),
    Route(
        method="GET",
        path="/v2/core/event_destinations/{id}",
        handler=destinations.retrieve_v2,
        parameters=NoParameters,
        answer=Destination,
    ),
    Route(
        method="DELETE",
        path="/v2/core/event_destinations/{id}",
        handler=destinations.delete_v2,
        parameters=NoParameters,
        answer=Deleted,
    ),
)
_PATTERNS = [(re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", route.path)), route) for route in _ROUTES]


def find_route(method: str, path: str) -> tuple[Route, dict[str, str]]:
    """The route of a request and its path parameters.

    Raises:
        StripeError: Stripe's 404.
    """
    for pattern, route in _PATTERNS:
        matched = pattern.fullmatch(path)
        if matched is not None and route.method == method:
            return route, matched.groupdict()
    raise unrecognized(method, path)


def check_v2_parameters(route: Route, raw: Json) -> Json:
    """The parameters a request gave, with defaults.

    Raises:
        StripeError: 400, naming the first parameter that is wrong.
    """
    try:
        return route.parameters.model_validate(raw).model_dump(exclude_none=True)
    except ValidationError as error:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"])
        raise StripeError(400, f"Invalid {param}: {first['msg']}", code="invalid_fields", param=param) from error


def check_v2_answer(route: Route, body: Json) -> None:
    """Nothing, when the SDK's types allow this answer.

    Raises:
        ContractViolation: they do not.
    """
    try:
        route.answer.model_validate(body)
    except ValidationError as error:
        raise ContractViolation(f"{route.method} {route.path}: {error}") from error
