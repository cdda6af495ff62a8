"""The documents of /v1/meters, as OpenAPI shows them.

Belongs here: members, bounds and examples of requests and answers. Does not: what a definition means, and refusing one
that means nothing: `metering.meters` reads the definition's members as they were sent and names the one that is wrong.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, SkipValidation, WithJsonSchema
from pydantic.alias_generators import to_camel

from stripemeter.errors import InvalidInput
from stripemeter.metering.days import parse_day
from stripemeter.metering.meters import Aggregation
from stripemeter_api.documents import Document
from stripemeter_api.parameters import MAX_TEXT, Text

MAX_VERSION = 2**31 - 1


def _parse_day(text: object) -> date:
    if not isinstance(text, str):
        raise ValueError("must be a UTC day, YYYY-MM-DD")  # noqa: TRY004 - what pydantic turns into a refusal
    try:
        return parse_day(text)
    except InvalidInput as error:
        raise ValueError(str(error)) from error


Day = Annotated[date, BeforeValidator(_parse_day), WithJsonSchema({"type": "string", "format": "date"})]
ExpectedVersion = Annotated[int, Field(ge=0, le=MAX_VERSION, strict=True)]
_Number = {"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]+)?$"}]}
_SCALAR: list[dict[str, Any]] = [{"type": "string"}, {"type": "number"}, {"type": "boolean"}]
_Operand = Annotated[
    Any,
    WithJsonSchema(
        {"anyOf": [*_SCALAR, {"type": "array", "items": {"anyOf": _SCALAR}, "minItems": 1, "maxItems": 100}]}
    ),
]
_Percentile = Annotated[Decimal, WithJsonSchema(_Number)]


class _Closed(Document):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")


class Condition(_Closed):
    """What an event must say. `eq` and `in` compare texts (1 and "1" are equal), the others but `exists` numbers."""

    field: str = Field(
        description="`metric`, `resourceId`, `source`, or `meta.` and at most 8 names joined by dots.",
        examples=["meta.plan.tier"],
    )
    op: Literal["eq", "in", "gt", "gte", "lt", "lte", "exists"]
    value: _Operand = Field(examples=["pro"])


class AllOf(_Closed):
    """Every part must match."""

    parts: list[AllOf | AnyOf | Condition] = Field(alias="and", min_length=1, max_length=20)


class AnyOf(_Closed):
    """At least one part must match."""

    parts: list[AllOf | AnyOf | Condition] = Field(alias="or", min_length=1, max_length=20)


MeterFilter = AllOf | AnyOf | Condition
_Name = Annotated[str, Field(min_length=1, max_length=100)]
_TenantId = Annotated[Text, Field(min_length=1, max_length=MAX_TEXT, examples=["demo"])]
_METRICS = "Events of these are looked at; absent: of the metric so named."
_VALUE = '`quantity`, a constant of at least 0 (a number or "0.5"), `resourceId`, or `meta.` and names joined by dots.'
_DIMENSIONS = "Paths whose values split the usage: `source`, `resourceId`, `meta.` and names joined by dots."
_MAX_GROUPS = (
    "Combinations of dimensions that keep rows of their own, per customer, day and segment; all others share one row."
)


class MeterStatement(_Closed):
    """What to count, for whom, from when on."""

    tenant_id: _TenantId
    name: SkipValidation[_Name | None] = Field(None, description="As in the path.")
    metrics: SkipValidation[Annotated[list[_Name], Field(min_length=1, max_length=20)] | None] = Field(
        None, description=_METRICS
    )
    filter: SkipValidation[MeterFilter | None] = Field(None, description="Which of them count; absent: all.")
    value: SkipValidation[Annotated[Any, WithJsonSchema({"type": ["string", "number", "null"]})]] = Field(
        None, description=_VALUE, examples=["meta.seats"]
    )
    aggregation: SkipValidation[Aggregation | None] = Field(None, description="Absent: sum.")
    percentile: SkipValidation[_Percentile | None] = Field(
        None, description="Above 0 and at most 100, with the aggregation percentile and only then."
    )
    dimensions: SkipValidation[Annotated[list[str], Field(max_length=5)] | None] = Field(None, description=_DIMENSIONS)
    max_groups: SkipValidation[Annotated[int, Field(ge=1, le=1000)] | None] = Field(None, description=_MAX_GROUPS)
    effective_from: Day | None = Field(
        None,
        description="First UTC day it counts; absent: a new meter counts all of history, a change counts from today.",
        examples=["2026-11-01"],
    )
    expected_version: ExpectedVersion | None = Field(
        None, description="The newest version this was decided on, 0 for none; 409 when it is another."
    )


class NewMeterStatement(MeterStatement):
    """What a meter that is not there yet counts."""

    name: SkipValidation[_Name] = Field(examples=["pro_calls"])


class MeterVersionDocument(Document):
    """One version of a meter. It counts a day when it is the greatest with `effectiveFrom` <= day."""

    name: str
    metrics: list[str]
    filter: MeterFilter | None
    value: str = Field(description=_VALUE)
    aggregation: Aggregation
    percentile: str | None = Field(description="Decimal string.")
    dimensions: list[str]
    max_groups: int
    version: int
    effective_from: date = Field(description="0001-01-01: all of history.")
    is_active: bool = Field(description="False: from then on nothing is counted by it.")
    actor: str
    created_at: datetime


class MeterAnswer(MeterVersionDocument):
    """The newest version, and all of them, ascending."""

    versions: list[MeterVersionDocument]


class RecountDocument(Document):
    """What a change left to do."""

    pending_days: int = Field(
        description="Days of the tenant that still wait to be counted by the new rules; within seconds it is 0."
    )


class ChangedMeterAnswer(MeterVersionDocument):
    """The newest version after a change; the same as before when nothing was to change."""

    recount: RecountDocument


class MeterList(Document):
    """The meters that count a day, by name. Metrics without a meter of their name count by themselves."""

    meters: list[MeterVersionDocument]
