"""The documents of /v1/simulations, as OpenAPI shows them.

Belongs here: members, bounds and examples of requests and answers. Does not: what a scenario may say: the simulator
reads the members as they were sent and names the path of the one that is wrong (`stripemeter.simulation`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from stripemeter.store.simulations import Driver, RunStatus, RunType
from stripemeter_api.documents import Document, Problem, ProblemItem, Quantity
from stripemeter_api.parameters import MAX_TEXT, Text

MAX_DESCRIPTION = 2000
MAX_BATCH = 100
MAX_SEED = 2**63 - 1

_Tenant = Annotated[Text, Field(min_length=1, max_length=MAX_TEXT, examples=["demo"])]
_Name = Annotated[Text, Field(min_length=1, max_length=MAX_TEXT, examples=["three tiers"])]
_Description = Annotated[Text, Field(max_length=MAX_DESCRIPTION)]
_Brief = Annotated[Text, Field(max_length=MAX_TEXT)]
_Version = Annotated[Text, Field(min_length=1, max_length=MAX_TEXT, examples=["1"])]
_Tags = Annotated[list[Annotated[Text, Field(max_length=MAX_TEXT)]], Field(examples=[["pricing"]])]
_INPUTS: dict[str, Any] = {
    "customerId": "c1",
    "periodStart": "2026-01-01",
    "periodEnd": "2026-02-01",
    "usageItems": [
        {"metric": "calls", "quantity": 3, "priceConfig": {"model": "flat", "currency": "USD", "unitPrice": 2}}
    ],
}
_FROM = "Whose; absent: the tenant `default`."
_DRIVER = (
    "`pure`: computed here, Stripe is not asked. `stripe`: also played on test clocks (of the sandbox whose key is "
    "set, else of the emulator), each invoice compared with ours; a story that no test clock can play is 400."
)
_OWN = "Whose: 404 when it is another's."


class _Closed(Document):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")


class ScenarioChange(Document):
    """Members to change; null takes an optional one away. Those of a story with a clock go here too."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow")

    tenant_id: _Tenant | None = Field(default=None, description=_OWN)
    name: _Name | None = None
    description: _Brief | None = Field(default=None, description="What it shows.")
    version: _Version | None = Field(default=None, description='Its author\'s; absent: "1".')
    tags: _Tags | None = None
    model: Annotated[Text, Field(max_length=MAX_TEXT)] | None = Field(
        default=None, description="For readers: what is priced by says each `priceConfig`.", examples=["tiered"]
    )
    inputs: dict[str, Any] | None = Field(
        default=None, description="Of one invoice; instead of a `timeline`.", examples=[_INPUTS]
    )
    expected: dict[str, Any] | None = Field(
        default=None,
        description="What should come; absent: there is a result, and no verdict on it.",
        examples=[{"total": 6}],
    )
    tolerances: dict[str, Any] | None = Field(
        default=None,
        description="`absolute` and `relative`: an amount must keep to both. Absent: exact.",
        examples=[{"absolute": "0.01"}],
    )
    active: bool | None = Field(default=None, description="False: it is kept, and not run. Absent: as before.")


class ScenarioStatement(ScenarioChange):
    """A scenario: one invoice's `inputs`, or a story with a clock (`start`, `plans`, `timeline`, ...)."""

    tenant_id: _Tenant | None = Field(default=None, description=_FROM)
    name: _Name
    active: Literal[True] | None = Field(default=None, description="A new scenario is in use.")


class ScenarioCreated(Document):
    """Kept: it has been run once without effect, unless it is a long story."""

    id: UUID
    name: str
    created_at: datetime


class ScenarioChanged(Document):
    """Kept as changed; runs asked for before keep what they were asked with."""

    id: UUID
    name: str
    updated_at: datetime


class ScenarioRow(Document):
    """A scenario in a list."""

    id: UUID
    tenant_id: str
    name: str
    description: str | None
    version: str
    tags: list[str]
    active: bool
    revision: int = Field(description="Grows with each change.")
    created_at: datetime
    updated_at: datetime


class ScenarioPage(Document):
    """A page; `total` counts all that match."""

    scenarios: list[ScenarioRow]
    total: int
    limit: int
    offset: int


class ScenarioAnswer(ScenarioRow):
    """A scenario, digit by digit as it was sent; the members of a story with a clock stand beside these."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow")

    model: str | None
    inputs: dict[str, Any] | None
    expected: dict[str, Any] | None
    tolerances: dict[str, Any] | None


class SimulationStatement(_Closed):
    """What to run: either `scenarioId` or `scenario`."""

    tenant_id: _Tenant | None = Field(default=None, description=f"{_FROM} With `scenarioId`: {_OWN}")
    scenario_id: UUID | None = Field(default=None, description="A scenario that is kept; it is run as it is now.")
    scenario: dict[str, Any] | None = Field(
        default=None,
        description="A scenario as it is kept, or a whole document with its `metadata`.",
        examples=[{"name": "flat", "inputs": _INPUTS, "expected": {"total": 6}}],
    )
    name: _Name | None = None
    description: _Description | None = None
    metadata: dict[str, Any] | None = Field(
        default=None, description="Kept as it is.", examples=[{"commit": "6b2be85"}]
    )
    run_type: RunType = Field(default="manual", description="Who asks.")
    driver: Driver = Field(default="pure", description=_DRIVER)
    seed: int | None = Field(
        default=None, ge=0, le=MAX_SEED, description="Of what is drawn; absent: the scenario's own."
    )


class SimulationAccepted(Document):
    """Durable: it is carried out even if this process dies now."""

    run_id: UUID
    status: Literal["pending"]
    message: str


class BatchRun(Document):
    """A run of a batch."""

    id: UUID
    status: RunStatus
    scenario_id: UUID
    passed: bool | None
    error: str | None


class SimulationRow(Document):
    """A run in a list. `status` says whether it was carried out, `passed` whether all came as expected."""

    id: UUID
    tenant_id: str
    scenario_id: UUID | None = Field(description="Null: the scenario came with the request.")
    scenario_name: str
    scenario_version: str
    scenario_revision: int | None = Field(description="Of the scenario that was copied.")
    batch_id: UUID | None
    run_type: RunType
    driver: Driver = Field(description=_DRIVER)
    name: str | None
    description: str | None
    metadata: dict[str, Any]
    seed: int | None = Field(description="Null: the scenario's own.")
    status: RunStatus
    passed: bool | None = Field(description="Null: it is not completed, or nothing is expected.")
    attempts: int = Field(description="More than 1: its process was killed, and it was begun again.")
    error: str | None = Field(description="Why it failed: it could not be run.")
    duration_ms: Quantity | None = Field(alias="duration_ms")
    stripe_calls: int
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None


class SimulationPage(Document):
    """A page, newest first; `total` counts all that match."""

    runs: list[SimulationRow]
    total: int
    limit: int
    offset: int


class Difference(Document):
    """An expected value that did not come. Numbers are decimal strings."""

    path: str
    instant: datetime | None = Field(description="On the scenario's clock; null: of an invoice without one.")
    actual: str | None
    expected: str | None
    diff: str | None = Field(description="Actual less expected, of two numbers.")


class RunAssertion(Difference):
    """An expected value and what came."""

    passed: bool


class Comparison(Document):
    """Whether all came as expected, and what did not."""

    passed: bool
    differences: list[Difference]


class SimulationAnswer(SimulationRow):
    """A run as it stands."""

    scenario: dict[str, Any] = Field(description="The document that is run: no later change reaches it.")
    result: dict[str, Any] | None = Field(description="Invoices and what was seen; null: it is not completed.")
    comparison: Comparison | None = Field(description="Null: it is not completed, or nothing is expected.")
    assertions: list[RunAssertion] = Field(description="Each expected value, in the scenario's order.")


class BatchStatement(_Closed):
    """One run of each of these scenarios, as they are now: of all or of none."""

    tenant_id: _Tenant | None = Field(default=None, description="Whose scenarios; absent: those of the first's tenant.")
    name: _Name
    description: _Description | None = None
    scenario_ids: list[UUID] = Field(min_length=1, max_length=MAX_BATCH)
    run_type: RunType = Field(default="manual", description="Who asks.")
    driver: Driver = Field(default="pure", description=_DRIVER)


class BatchAccepted(Document):
    """Durable: its runs are carried out even if this process dies now."""

    batch_id: UUID
    total_runs: int
    message: str


class BatchAnswer(Document):
    """A batch: it is completed when every run has ended, however."""

    id: UUID
    tenant_id: str
    name: str
    description: str | None
    status: Literal["pending", "running", "completed"]
    passed: bool | None = Field(
        description="True: all passed; false: one did not, failed or was cancelled; null: not all have ended, or one "
        "expects nothing."
    )
    total_runs: int
    ended_runs: int
    passed_runs: int
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    runs: list[BatchRun] = Field(description="In the order asked for.")


class SimulationProblem(Problem):
    """As everywhere, and the original's `details`: what is wrong where."""

    details: list[ProblemItem] | None = None
