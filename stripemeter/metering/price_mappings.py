"""What is said of a price mapping: reading it from a decoded document, and writing it as one.

Belongs here: members, prefixes and lengths, one complaint per member. Does not: asking Stripe
(`pipeline.price_mappings`), storing (`store.mappings`), files (`mapping_files`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from stripemeter.metering.parsing import invalid, members_of, parse_text, shown, within

MappingMode = Literal["off", "shadow", "live"]
LatePolicy = Literal["hold", "carry_forward", "invoice_item", "credit_note"]
"""What becomes of usage that Stripe no longer takes on its own day: kept and reported; owed on the current one; or,
once its invoice is final, more of it an item on the next invoice; by `credit_note` less of it a credit note, too."""
MappedAggregation = Literal["sum", "count", "min", "max", "last", "unique"]
"""What of a meter can be billed. Each makes one number of a segment that its events alone decide, so deltas can add up
to it; a time-weighted number grows while nothing happens, and averages and percentiles are no quantities."""
MAX_NAME = 100
"""Characters of a metric, and of a Stripe meter's event name."""
_CURRENCY = re.compile(r"[A-Za-z]{3}")
_PREFIXES = {
    "stripeAccount": "acct_",
    "priceId": "price_",
    "subscriptionItemId": "si_",
    "shadowStripeAccount": "acct_",
    "shadowPriceId": "price_",
    "shadowSubscriptionItemId": "si_",
}
MEMBERS = (
    "metric",
    "aggregation",
    "stripeAccount",
    "priceId",
    "eventName",
    "subscriptionItemId",
    "currency",
    "active",
    "shadow",
    "shadowStripeAccount",
    "shadowPriceId",
    "shadowSubscriptionItemId",
    "latePolicy",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MappingStatement:
    """What a mapping is to be.

    Args:
        metric: our meter.
        aggregation: what of it is billed.
        stripe_account_id: the account that bills.
        price_id: the price whose meter is fed; None: the meter is named by `event_name`.
        event_name: the Stripe meter's; None: it is the price's.
        subscription_item_id: one item that bills by this price, to be checked.
        currency: of the price, lower case, to be checked.
        is_active: whether anything is sent.
        is_shadow: whether it goes to a test account.
        shadow_account_id: the test account, where it is another.
        shadow_price_id: the price there.
        shadow_subscription_item_id: the item there.
        late_policy: what becomes of usage that Stripe no longer takes on its own day.
    """

    metric: str
    aggregation: MappedAggregation
    stripe_account_id: str
    price_id: str | None = None
    event_name: str | None = None
    subscription_item_id: str | None = None
    currency: str | None = None
    is_active: bool = True
    is_shadow: bool = False
    shadow_account_id: str | None = None
    shadow_price_id: str | None = None
    shadow_subscription_item_id: str | None = None
    late_policy: LatePolicy = "hold"

    @property
    def mode(self) -> MappingMode:
        """Where its usage goes."""
        if not self.is_active:
            return "off"
        return "shadow" if self.is_shadow else "live"

    @property
    def target_account_id(self) -> str:
        """The account its mode sends to."""
        return (self.is_shadow and self.shadow_account_id) or self.stripe_account_id

    @property
    def target_price(self) -> tuple[str | None, str]:
        """The price whose meter its mode feeds, and the member that names it."""
        if self.is_shadow and self.shadow_price_id is not None:
            return self.shadow_price_id, "shadowPriceId"
        return self.price_id, "priceId"

    @property
    def target_item(self) -> tuple[str | None, str]:
        """The item its mode bills on, and the member that names it; of another account's item nothing is said."""
        if self.is_shadow and (self.shadow_account_id or self.shadow_price_id or self.shadow_subscription_item_id):
            return self.shadow_subscription_item_id, "shadowSubscriptionItemId"
        return self.subscription_item_id, "subscriptionItemId"


def parse_statement(document: object, field: str = "") -> MappingStatement:
    """What a decoded document says; null is absent.

    Raises:
        InvalidInput: it says nothing sound; `field` names the member.
    """
    members = members_of(document, MEMBERS, field)
    for name in ("metric", "aggregation", "stripeAccount"):
        if name not in members:
            raise invalid("is required", within(field, name))
    if ("priceId" in members) == ("eventName" in members):
        raise invalid("say either priceId or eventName", within(field, "priceId"))
    ids = {name: _parse_id(members, name, field) for name in _PREFIXES}
    account = ids["stripeAccount"]
    assert account is not None  # required above
    return MappingStatement(
        metric=parse_text(members["metric"], within(field, "metric"), most=MAX_NAME),
        aggregation=parse_aggregation(members["aggregation"], within(field, "aggregation")),
        stripe_account_id=account,
        price_id=ids["priceId"],
        event_name=_parse_event_name(members, field),
        subscription_item_id=ids["subscriptionItemId"],
        currency=_parse_currency(members, field),
        is_active=_parse_flag(members, "active", field, default=True),
        is_shadow=_parse_flag(members, "shadow", field, default=False),
        shadow_account_id=ids["shadowStripeAccount"],
        shadow_price_id=ids["shadowPriceId"],
        shadow_subscription_item_id=ids["shadowSubscriptionItemId"],
        late_policy=_parse_late_policy(members, field),
    )


def statement_document(statement: MappingStatement) -> dict[str, Any]:
    """The document that says this, every member in it; reading it gives the statement again."""
    return {
        "metric": statement.metric,
        "aggregation": statement.aggregation,
        "stripeAccount": statement.stripe_account_id,
        "priceId": statement.price_id,
        "eventName": statement.event_name,
        "subscriptionItemId": statement.subscription_item_id,
        "currency": statement.currency,
        "active": statement.is_active,
        "shadow": statement.is_shadow,
        "shadowStripeAccount": statement.shadow_account_id,
        "shadowPriceId": statement.shadow_price_id,
        "shadowSubscriptionItemId": statement.shadow_subscription_item_id,
        "latePolicy": statement.late_policy,
    }


def parse_aggregation(document: object, field: str) -> MappedAggregation:
    """What of a meter is billed.

    Raises:
        InvalidInput: nothing that can be.
    """
    for known in get_args(MappedAggregation):
        if document == known:
            aggregation: MappedAggregation = known
            return aggregation
    raise invalid(f"must be one of {', '.join(get_args(MappedAggregation))}, not {shown(document)}", field)


def parse_stripe_id(document: object, field: str, *, prefix: str) -> str:
    """An id of Stripe's, by the prefix of its kind.

    Raises:
        InvalidInput: it is none.
    """
    text = parse_text(document, field)
    if not text.startswith(prefix) or text == prefix:
        raise invalid(f"must start with {prefix}, not be {shown(text)}", field)
    return text


def _parse_id(members: Mapping[str, Any], name: str, field: str) -> str | None:
    if name not in members:
        return None
    return parse_stripe_id(members[name], within(field, name), prefix=_PREFIXES[name])


def _parse_event_name(members: Mapping[str, Any], field: str) -> str | None:
    if "eventName" not in members:
        return None
    return parse_text(members["eventName"], within(field, "eventName"), most=MAX_NAME)


def _parse_late_policy(members: Mapping[str, Any], field: str) -> LatePolicy:
    found = members.get("latePolicy", "hold")
    for known in get_args(LatePolicy):
        if found == known:
            policy: LatePolicy = known
            return policy
    raise invalid(f"must be one of {', '.join(get_args(LatePolicy))}, not {shown(found)}", within(field, "latePolicy"))


def _parse_currency(members: Mapping[str, Any], field: str) -> str | None:
    if "currency" not in members:
        return None
    place = within(field, "currency")
    text = parse_text(members["currency"], place)
    if not _CURRENCY.fullmatch(text):
        raise invalid(f"must be three letters like usd, not {shown(text)}", place)
    return text.lower()


def _parse_flag(members: Mapping[str, Any], name: str, field: str, *, default: bool) -> bool:
    found = members.get(name, default)
    if not isinstance(found, bool):
        raise invalid(f"must be true or false, not {shown(found)}", within(field, name))
    return found
