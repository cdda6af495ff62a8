"""The documents of /v1/mappings, as OpenAPI shows them.

Belongs here: members, bounds and examples of requests and answers. Does not: refusing what is not so:
`metering.price_mappings` reads the members as they were sent and names the one that is wrong.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import ConfigDict, Field, SkipValidation
from pydantic.alias_generators import to_camel

from stripemeter.metering.price_mappings import LatePolicy, MappedAggregation, MappingMode
from stripemeter_api.documents import Document
from stripemeter_api.parameters import MAX_TEXT, Text

_TenantId = Annotated[Text, Field(min_length=1, max_length=MAX_TEXT, examples=["demo"])]
_Metric = Annotated[str, Field(min_length=1, max_length=100, examples=["api_calls"])]
_Account = Annotated[str, Field(pattern="^acct_.", max_length=MAX_TEXT, examples=["acct_1"])]
_Price = Annotated[str, Field(pattern="^price_.", max_length=MAX_TEXT, examples=["price_1"])]
_Item = Annotated[str, Field(pattern="^si_.", max_length=MAX_TEXT, examples=["si_1"])]
_Currency = Annotated[str, Field(pattern="^[A-Za-z]{3}$", examples=["usd"])]
_ACTIVE = "False: nothing is sent and Stripe is not asked (mode off). Absent: true."
_BILLED = "What of the metric is billed; unique needs a meter that counts distinct values."
_LATE = (
    "Of usage that Stripe no longer takes on its own day (older than 34 days, or its invoice is final): hold keeps and "
    "reports it, carry_forward bills what is lacking in the current period; invoice_item bills what costs more than "
    "its final invoice as an item on the next one, credit_note also credits what costs less. Absent: hold."
)
_SHADOW = "True: usage goes to a test account only. False: to the account that bills."


class ChangedMapping(Document):
    """Members to change; null clears an optional one. Whose the mapping is cannot be changed."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")

    tenant_id: _TenantId | None = Field(None, description="Whose it is: 404 when it is another's.")
    metric: SkipValidation[_Metric | None] = None
    aggregation: SkipValidation[MappedAggregation | None] = Field(None, description=_BILLED)
    stripe_account: SkipValidation[_Account | None] = Field(None, description="The account that bills.")
    price_id: SkipValidation[_Price | None] = Field(None, description="Its meter is what usage is sent to.")
    subscription_item_id: SkipValidation[_Item | None] = Field(None, description="Checked to bill by the price.")
    currency: SkipValidation[_Currency | None] = Field(None, description="Checked to be the price's.")
    active: SkipValidation[bool | None] = Field(None, description=_ACTIVE)
    shadow: SkipValidation[bool | None] = Field(None, description=_SHADOW)
    shadow_stripe_account: SkipValidation[_Account | None] = Field(
        None, description="The test account; absent: stripeAccount in test mode."
    )
    shadow_price_id: SkipValidation[_Price | None] = Field(None, description="The price there; absent: priceId.")
    shadow_subscription_item_id: SkipValidation[_Item | None] = None
    late_policy: SkipValidation[LatePolicy | None] = Field(None, description=_LATE)


class NewMapping(ChangedMapping):
    """Which price bills a metric."""

    tenant_id: _TenantId
    metric: SkipValidation[_Metric]
    aggregation: SkipValidation[MappedAggregation] = Field(description=_BILLED)
    stripe_account: SkipValidation[_Account] = Field(description="The account that bills.")
    price_id: SkipValidation[_Price] = Field(description="Its meter is what usage is sent to.")


class MappingRow(Document):
    """A price mapping."""

    id: UUID
    tenant_id: str
    metric: str
    aggregation: MappedAggregation
    stripe_account: str
    price_id: str | None = Field(description="Null: mapped by an event name, with `stripemeter stripe map`.")
    subscription_item_id: str | None
    currency: str | None
    active: bool
    shadow: bool
    shadow_stripe_account: str | None
    shadow_price_id: str | None
    shadow_subscription_item_id: str | None
    late_policy: LatePolicy
    mode: MappingMode
    stripe_event_name: str | None = Field(description="Of the meter behind the price; null: Stripe was not asked yet.")
    stripe_meter_id: str | None
    created_at: datetime
    updated_at: datetime
