"""Versions of prices: written from what Stripe or a tenant said, and read as terms that can be computed.

Belongs here: what makes two versions differ, which one holds for a window. Does not: the table (`store.prices`), asking
Stripe (`pipeline.prices`), what a price costs (`stripemeter.pricing`).

A Stripe Price holds from when Stripe made it: its amounts never change. Should its terms differ later all the same,
that is a version of its own, which holds from when it was seen. A window is priced by the version that holds at its
last instant.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

import msgspec

from stripemeter.billing.sink import StripePrice
from stripemeter.errors import InvalidInput
from stripemeter.metering.parsing import parse_text
from stripemeter.metering.price_mappings import MAX_NAME
from stripemeter.pricing import Price, parse_price_config, price_from_stripe, to_price_config
from stripemeter.store.prices import PriceVersion

_TICK = timedelta(microseconds=1)
_SHOWN = 12
"""Digits of a version that name it in a line."""
_TERMS = (
    "currency",
    "billing_scheme",
    "unit_amount",
    "unit_amount_decimal",
    "tiers_mode",
    "tiers",
    "transform_quantity",
)
"""Members of a Stripe Price that say what is charged. Source: Stripe API, Price."""
_encode = msgspec.json.Encoder(decimal_format="number", order="deterministic").encode


def stripe_price_version(price: StripePrice, *, stripe_account_id: str, now: datetime) -> PriceVersion:
    """What an account says a unit costs, also where it cannot be computed: who reads it is told why."""
    return PriceVersion(
        stripe_account_id=stripe_account_id,
        tenant_id=None,
        price_id=price.price_id,
        version=_hash({name: price.document.get(name) for name in _TERMS}),
        document=_encode(price.document).decode(),
        effective_from=price.created_at,
        created_at=now,
    )


def own_price_version(
    document: object, *, tenant_id: str, meter: str, effective_from: datetime, now: datetime
) -> PriceVersion:
    """What a tenant says a unit of a meter costs.

    Args:
        document: a `priceConfig`, or a Stripe Price with its tiers.
        tenant_id: who says so.
        meter: what is priced.
        effective_from: from when on.
        now: when it is said.

    Raises:
        InvalidInput: it cannot be right; `field` names the member.
    """
    parse_text(meter, "metric", most=MAX_NAME)
    is_stripes = isinstance(document, dict) and "model" not in document
    said = to_price_config(price_from_stripe(document) if is_stripes else parse_price_config(document))
    return PriceVersion(
        stripe_account_id=None,
        tenant_id=tenant_id,
        price_id=meter,
        version=_hash(said),
        document=_encode(said).decode(),
        effective_from=effective_from,
        created_at=now,
    )


def version_in_force(versions: Iterable[PriceVersion], end: datetime) -> PriceVersion | None:
    """Of one price's versions, oldest first, the one that prices a window which ends then; None: none held yet."""
    held = [version for version in versions if version.effective_from <= end - _TICK]
    return held[-1] if held else None


def terms_of(version: PriceVersion) -> Price:
    """What a version costs, named in its lines by price and version.

    Raises:
        InvalidInput: Stripe's document says nothing that can be computed.
    """
    document = json.loads(version.document, parse_float=Decimal)
    price = parse_price_config(document) if version.stripe_account_id is None else price_from_stripe(document)
    return replace(price, version=f"{version.price_id}@{version.version[:_SHOWN]}")


def describe_terms(version: PriceVersion) -> str:
    """A version's terms as one line of JSON, or why they cannot be computed."""
    try:
        return json.dumps(to_price_config(terms_of(version)))
    except InvalidInput as error:
        return f"cannot be computed: {error}"


def _hash(terms: object) -> str:
    return hashlib.sha256(_encode(terms)).hexdigest()
