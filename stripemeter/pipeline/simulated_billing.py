"""What a play on Stripe's test clocks adds to a simulation run: each thing both said, as an assertion.

Belongs here: the assertions, in major units as the simulator's own. Does not: playing (`pipeline.billing_plays`),
storing (`pipeline.simulations`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal

import msgspec

from stripemeter.pipeline.billing_plays import BillingRun, Compared
from stripemeter.pricing.currencies import to_major
from stripemeter.pricing.reading import plain
from stripemeter.store.simulations import StoredAssertion

AMOUNTS = frozenset({"subtotal", "credits", "total"})
_encode = msgspec.json.Encoder(decimal_format="number").encode


def billing_assertions(run: BillingRun) -> Sequence[StoredAssertion]:
    """One for each member of each invoice and standing: ours is what is expected, Stripe's what came."""
    return [assertion for each in (*run.invoices, *run.standings) for assertion in _assertions(each)]


def _assertions(compared: Compared) -> Iterator[StoredAssertion]:
    currency = str(compared.ours.get("currency") or compared.theirs.get("currency") or "").upper()
    for name in sorted({*compared.ours, *compared.theirs}):
        ours, theirs = compared.ours.get(name), compared.theirs.get(name)
        if name in AMOUNTS:
            ours, theirs = (None if minor is None else to_major(minor, currency) for minor in (ours, theirs))
        difference = theirs - ours if isinstance(ours, Decimal) and isinstance(theirs, Decimal) else None
        yield StoredAssertion(
            path=f"stripe.{compared.customer_ref}.{compared.what}.{name}",
            instant=None,
            expected=_text(ours),
            actual=_text(theirs),
            difference=difference,
            passed=ours == theirs,
        )


def _text(value: object) -> str | None:
    match value:
        case None | str():
            return value
        case Decimal():
            return plain(value)
        case _:
            return _encode(value).decode()
