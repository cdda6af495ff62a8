"""The documents of /v1/parity/comparisons, as OpenAPI shows them.

Belongs here: members, bounds and examples of the question and the answer. Does not: what a row must look like: one that
cannot be used is named and counted (`metering.parity_rows`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

from stripemeter.pricing import Rounding
from stripemeter_api.documents import Document
from stripemeter_api.parameters import MAX_TEXT, Instant, Text

MAX_METRICS = 100
# How many is a setting, so the bound in the document is the default's.
_Rows = Annotated[
    list[dict[str, Any]],
    WithJsonSchema({"type": "array", "items": {"type": "object"}, "maxItems": 5000}),
]
_Field = Literal[
    "tenant", "id", "customer", "metric", "price", "period", "start", "end", "quantity", "amount", "currency"
]
Status = Literal["ok", "within_epsilon", "drift", "unknown"]
_Number = Annotated[str, Field(examples=["1000.5"])]


class ParityQuestion(Document):
    """An export and how to read it. Of `rows`, `csvData` and `sourceUrl` exactly one."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")

    tenant_id: Annotated[Text, Field(min_length=1, max_length=MAX_TEXT, examples=["demo"])] = Field(
        description="Whose: a row that names another cannot be used."
    )
    kind: Literal["usage", "invoice"] = Field(default="usage", description="Quantities, or invoice lines with amounts.")
    period: Annotated[Text, Field(max_length=7, examples=["2026-10"])] | None = Field(
        default=None,
        description="A UTC month: of rows that name no period; rows that begin in another are left out and counted.",
    )
    metrics: list[Annotated[Text, Field(min_length=1, max_length=MAX_TEXT)]] | None = Field(
        default=None, max_length=MAX_METRICS, description="Only these of ours; rows of others are left out and counted."
    )
    as_of: Instant | None = Field(default=None, description="Compare with what was known at that instant.")
    amounts: Literal["major", "minor"] | None = Field(
        default=None, description="Unit of a column `amount`: 10.50 or 1050. Never guessed."
    )
    columns: dict[str, _Field] | None = Field(
        default=None,
        description="Field by column, where a column is named otherwise.",
        examples=[{"kunde": "customer"}],
    )
    rounding: Rounding = Field(default="half_up", description="Of our invoice lines.")
    rows: _Rows | None = Field(
        default=None,
        description="Rows as JSON objects; numbers keep every digit.",
        examples=[[{"customer": "cust_123", "metric": "api_calls", "period": "2026-10", "quantity": "1000"}]],
    )
    csv_data: Annotated[Text, Field(min_length=1)] | None = Field(
        default=None,
        description="Rows as CSV with a heading.",
        examples=["customer,metric,period,quantity\ncust_123,api_calls,2026-10,1000\n"],
    )
    source_url: Text | None = Field(
        default=None,
        min_length=1,
        max_length=2048,
        description="An object in S3: s3://BUCKET/KEY, ending .csv, .jsonl, .ndjson, .parquet or .pq, in a folder the "
        "operator named, and no larger than what may come along; otherwise 400.",
    )


class ParityWindow(Document):
    """`[start, end)`."""

    start: datetime
    end: datetime


class ParityRowCounts(Document):
    """Rows of the export: matched + differing + onlyThere + unusable + leftOut = total."""

    total: int
    matched: int
    differing: int
    only_there: int
    unusable: int
    left_out: int


class ParityItemCounts(Document):
    """Items, one per customer, metric and window: matched + differing + onlyThere + onlyHere = total."""

    total: int
    matched: int
    differing: int
    only_there: int
    only_here: int


class ParitySums(Document):
    """Both sides added up, and the differences without their signs: a surplus hides no loss."""

    ours: _Number
    theirs: _Number
    drift: _Number


class ParityAmounts(ParitySums):
    """Amounts of one currency in major units; currencies are never added."""

    currency: str


class ParityOverall(Document):
    """Everything; quantities of different metrics are not added."""

    items: ParityItemCounts
    causes: dict[str, int]
    amounts: list[ParityAmounts]


class ParityMetric(ParityOverall):
    """One metric."""

    metric: str
    quantity: ParitySums


class ParityNumbers(Document):
    """Ours, theirs, and ours minus theirs; a side that has nothing is null and counts as 0."""

    ours: _Number | None
    theirs: _Number | None
    difference: _Number | None


class ParityDifference(Document):
    """An item that is not `ok`. `lines` are the export's, the first twenty."""

    customer: str
    metric: str
    period: ParityWindow
    side: Literal["both", "only_there", "only_here"]
    status: Status
    quantity: ParityNumbers
    currency: str | None
    amount: ParityNumbers
    causes: list[str]
    lines: list[int]
    line_count: int
    detail: str


class ParityUnusable(Document):
    """A row that cannot be compared. `line` counts from 1, heading included; of `rows` and Parquet: the row."""

    line: int
    field: str
    code: str
    message: str


class ParityAnswer(Document):
    """What the comparison came to. `incomplete`: rows could not be used, or ours could not be told."""

    tenant_id: str
    kind: Literal["usage", "invoice"]
    verdict: Literal["equal", "within_epsilon", "different", "incomplete"]
    compared_at: datetime
    as_of: datetime | None
    period: ParityWindow | None
    rows: ParityRowCounts
    overall: ParityOverall
    per_metric: list[ParityMetric]
    differences: list[ParityDifference]
    unusable: list[ParityUnusable]
    not_billed: list[str] = Field(description="Metrics with usage that neither the export nor a price of ours bills.")
