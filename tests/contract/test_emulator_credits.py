"""The emulator's billing credits: rules C of its RULES.md, through the official SDK over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import stripe

from tests.contract.test_emulator_billing import Shop
from tests.emulator import RunningEmulator

START = datetime(2026, 1, 1, tzinfo=UTC)
END = int(datetime(2026, 2, 1, tzinfo=UTC).timestamp())
DAY = 86_400
HOUR = 3_600
USED = 100
"""Units at 2 cents: 200 cents a month."""


class CreditShop(Shop):
    """A subscription that used 200 cents, and grants."""

    def __init__(self, emulator: RunningEmulator) -> None:
        super().__init__(emulator, START)
        self.grants = self.client.v1.billing.credit_grants
        self.metered = self.price()
        self.subscription = self.subscribe(self.metered, collection_method="send_invoice", days_until_due=30).id
        self.use(USED, int(START.timestamp()))

    def grant(self, value: int, **parameters: Any) -> str:  # noqa: ANN401 - any parameter
        """A grant in dollars on every metered price unless told otherwise."""
        given: Any = {
            "customer": self.customer,
            "amount": {"type": "monetary", "monetary": {"currency": "usd", "value": value}},
            "applicability_config": {"scope": {"price_type": "metered"}},
            **parameters,
        }
        return self.grants.create(given).id

    def at(self, moment: int) -> None:
        """Move the emulator's clock."""
        self.emulator.freeze(datetime.fromtimestamp(moment, UTC))

    def bill(self) -> stripe.Invoice:
        """The month's invoice, finalized."""
        self.at(END + HOUR)
        return self.invoices()[0]

    def left(self, grant: str) -> tuple[int, int]:
        """`(available, ledger)` of a grant."""
        summary = self.client.v1.billing.credit_balance_summary.retrieve(
            {"customer": self.customer, "filter": {"type": "credit_grant", "credit_grant": grant}}
        )
        (balance,) = summary.balances
        available, ledger = balance.available_balance.monetary, balance.ledger_balance.monetary
        assert available is not None
        assert ledger is not None
        return available.value, ledger.value

    def moves(self, grant: str) -> list[tuple[str, int]]:
        """Kind and amount of a grant's transactions, oldest first."""
        listed = self.client.v1.billing.credit_balance_transactions.list({"credit_grant": grant, "limit": 1})
        moves = []
        for transaction in listed.auto_paging_iter():
            side = transaction.credit or transaction.debit
            assert side is not None
            assert side.amount.monetary is not None
            moves.append((str(side.type), side.amount.monetary.value))
        return moves[::-1]


@pytest.fixture
def shop(emulator: RunningEmulator) -> CreditShop:
    """A shop with 200 cents to bill."""
    return CreditShop(emulator)


def credited(invoice: stripe.Invoice) -> list[list[int]]:
    """Credit amounts of each line."""
    return [[amount.amount for amount in line.pretax_credit_amounts or []] for line in invoice.lines.data]


def test_credits_are_taken_at_finalization(shop: CreditShop) -> None:
    """C1, C2: previews and drafts show credits without taking them; finalization takes them from lines and total."""
    grant = shop.grant(150)
    preview = shop.client.v1.invoices.create_preview({"subscription": shop.subscription})
    assert (preview.subtotal, preview.total, credited(preview)) == (200, 50, [[150]])
    shop.at(END)
    draft = shop.invoices()[0]
    assert (draft.status, draft.subtotal, draft.total) == ("draft", 200, 50)
    (shown,) = draft.lines.data[0].pretax_credit_amounts or []
    assert (shown.type, shown.credit_balance_transaction) == ("credit_balance_transaction", None)
    assert shop.left(grant) == (150, 150)
    final = shop.bill()
    assert (final.status, final.subtotal, final.total, final.amount_due, final.amount_remaining) == (
        "open",
        200,
        50,
        50,
        50,
    )
    line = final.lines.data[0]
    (taken,) = line.pretax_credit_amounts or []
    assert (line.amount, taken.amount) == (200, 150)
    assert [entry.to_dict() for entry in final.total_pretax_credit_amounts or []] == [taken.to_dict()]
    transaction = shop.client.v1.billing.credit_balance_transactions.retrieve(str(taken.credit_balance_transaction))
    assert transaction.debit is not None
    assert transaction.debit.credits_applied is not None
    assert (transaction.debit.type, transaction.debit.credits_applied.to_dict()) == (
        "credits_applied",
        {"invoice": final.id, "invoice_line_item": line.id},
    )
    assert shop.left(grant) == (0, 0)
    assert shop.moves(grant) == [("credits_granted", 150), ("credits_applied", 150)]


def test_what_is_covered_is_paid(shop: CreditShop) -> None:
    """C2, C12: a total of 0 is paid whatever the collection; the rest of the grant is there for the next month."""
    grant = shop.grant(500)
    assert (shop.bill().status, shop.left(grant)) == ("paid", (300, 300))
    shop.use(USED, END + HOUR)
    shop.at(END + 29 * DAY + HOUR)
    assert [invoice.total for invoice in shop.invoices()] == [0, 0]
    assert shop.left(grant) == (100, 100)
    assert shop.moves(grant) == [("credits_granted", 500), ("credits_applied", 200), ("credits_applied", 200)]


ORDERS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"priority": 10}, {"expires_at": END + DAY, "category": "promotional"}),
    ({"expires_at": END + DAY}, {"expires_at": END + 2 * DAY, "category": "promotional"}),
    ({"expires_at": END + DAY}, {"category": "promotional"}),
    ({"category": "promotional", "effective_at": END - DAY}, {"category": "paid"}),
    ({"effective_at": END - 2 * DAY}, {"effective_at": END - DAY}),
]


@pytest.mark.parametrize("is_better_created_first", [True, False])
@pytest.mark.parametrize(("better", "worse"), ORDERS)
def test_grants_are_used_in_order(
    shop: CreditShop, better: dict[str, Any], worse: dict[str, Any], *, is_better_created_first: bool
) -> None:
    """C3: priority, then earliest expiry, promotional before paid, earliest effective; creation decides last."""
    given = [better, worse] if is_better_created_first else [worse, better]
    made = [shop.grant(150, **parameters) for parameters in given]
    first, second = made if is_better_created_first else made[::-1]
    invoice = shop.bill()
    assert credited(invoice) == [[150, 50]]
    assert (shop.left(first)[1], shop.left(second)[1]) == (0, 100)


def test_the_older_of_equal_grants_is_used_first(shop: CreditShop) -> None:
    """C3: nothing else differs, so the earliest created."""
    effective_at = int(START.timestamp()) + DAY
    first = shop.grant(150, effective_at=effective_at)
    shop.at(int(START.timestamp()) + HOUR)
    second = shop.grant(150, effective_at=effective_at)
    shop.bill()
    assert (shop.left(first)[1], shop.left(second)[1]) == (0, 100)


def test_what_is_effective_earlier_is_used_before_what_is_older(shop: CreditShop) -> None:
    """C3: the order of creation comes last."""
    older = shop.grant(150, effective_at=END - DAY)
    shop.at(int(START.timestamp()) + HOUR)
    earlier = shop.grant(150, effective_at=END - 2 * DAY)
    shop.bill()
    assert (shop.left(earlier)[1], shop.left(older)[1]) == (0, 100)


@pytest.mark.parametrize(
    ("parameters", "is_used"),
    [
        ({"effective_at": END}, True),
        ({"effective_at": END + 1}, False),
        ({"expires_at": END + 1}, True),
        ({"expires_at": END}, False),
        ({"amount": {"type": "monetary", "monetary": {"currency": "eur", "value": 150}}}, False),
    ],
)
def test_a_grant_is_for_a_time_and_a_currency(shop: CreditShop, parameters: dict[str, Any], *, is_used: bool) -> None:
    """C4: the end of the invoice's period lies in `[effective_at, expires_at)`; currencies are not converted."""
    shop.grant(150, **parameters)
    assert credited(shop.bill()) == [[150] if is_used else []]


def test_a_grant_is_for_metered_prices_or_for_those_named(shop: CreditShop) -> None:
    """C5: licensed lines get nothing; a scope of prices is for those prices alone, line after line."""
    other = shop.price(unit_amount=1, recurring={"interval": "month", "usage_type": "metered", "meter": shop.meter})
    seats = shop.price(recurring={"interval": "month"}, unit_amount=1000)
    for price in (other, seats):
        shop.client.v1.subscription_items.create({"subscription": shop.subscription, "price": price})
    shop.use(10, int(START.timestamp()) + 1)
    shop.grant(30, applicability_config={"scope": {"prices": [{"id": other}]}})
    shop.grant(225, priority=60)
    invoice = shop.bill()
    assert [line.amount for line in invoice.lines.data] == [220, 110, 1000]
    assert credited(invoice) == [[220], [30, 5], []]
    with pytest.raises(stripe.InvalidRequestError, match="prices with a meter only"):
        shop.grant(1, applicability_config={"scope": {"prices": [{"id": seats}]}})


def test_a_voided_invoice_gives_back(shop: CreditShop) -> None:
    """C6: what was applied is reinstated and used again."""
    grant = shop.grant(150)
    invoice = shop.bill()
    assert invoice.id is not None
    shop.client.v1.invoices.void_invoice(invoice.id)
    assert shop.left(grant) == (150, 150)
    assert shop.moves(grant)[-1] == ("credits_application_invoice_voided", 150)
    (reinstated, *_) = shop.client.v1.billing.credit_balance_transactions.list({"customer": shop.customer}).data
    assert reinstated.credit is not None
    assert reinstated.credit.credits_application_invoice_voided is not None
    assert reinstated.credit.credits_application_invoice_voided.invoice == invoice.id


def test_grants_are_voided_unused_and_expired_at_any_time(shop: CreditShop) -> None:
    """C7: both take what is left; a used grant cannot be voided, an ended one neither."""
    unused, used = shop.grant(150), shop.grant(150, priority=1)
    shop.use(-USED + 50, int(START.timestamp()))
    assert shop.bill().total == 0
    assert (shop.left(unused), shop.left(used)) == ((150, 150), (50, 50))
    with pytest.raises(stripe.InvalidRequestError, match="have not been applied"):
        shop.grants.void_grant(used)
    assert shop.grants.void_grant(unused).voided_at == END + HOUR
    assert shop.grants.expire(used).expires_at == END + HOUR
    assert (shop.moves(unused)[-1], shop.moves(used)[-1]) == (("credits_voided", 150), ("credits_expired", 50))
    with pytest.raises(stripe.InvalidRequestError, match="has been voided"):
        shop.grants.void_grant(unused)
    with pytest.raises(stripe.InvalidRequestError, match="has expired"):
        shop.grants.update(used, {"expires_at": END + 2 * DAY})


def test_an_expired_grant_is_not_available_and_leaves_the_ledger_later(shop: CreditShop) -> None:
    """C8: expired between the period's end and finalization it is applied still; the debit is committed days after."""
    grant = shop.grant(500, expires_at=END + 60)
    shop.at(END + 60)
    assert shop.left(grant) == (0, 500)
    assert shop.bill().total == 0
    assert shop.left(grant) == (0, 300)
    shop.at(END + 60 + 3 * DAY)
    assert shop.left(grant) == (0, 0)
    assert shop.moves(grant)[-1] == ("credits_expired", 300)


def test_the_first_invoice_to_finalize_wins(shop: CreditShop) -> None:
    """C2: two drafts show the same credits; who finalizes first gets them."""
    shop.subscribe(shop.metered, collection_method="send_invoice", days_until_due=30)
    shop.grant(200)
    shop.at(END)
    first, second = shop.invoices()
    assert (credited(first), credited(second)) == ([[200]], [[200]])
    shop.client.v1.invoices.finalize_invoice(second.id or "")
    assert [invoice.total for invoice in shop.invoices()] == [0, 0]
    shop.bill()
    assert [invoice.total for invoice in shop.invoices()] == [200, 0]


def test_balances_are_told_by_currency_and_scope(shop: CreditShop) -> None:
    """C9: one balance a currency; a scope of prices takes in what applies to all; nothing before it is effective."""
    shop.grant(100)
    shop.grant(30, amount={"type": "monetary", "monetary": {"currency": "eur", "value": 30}})
    shop.grant(7, applicability_config={"scope": {"prices": [{"id": shop.metered}]}})
    shop.grant(1000, effective_at=END)

    def told(scope: Any) -> list[tuple[str, int]]:  # noqa: ANN401 - any JSON
        summary = shop.client.v1.billing.credit_balance_summary.retrieve(
            {"customer": shop.customer, "filter": {"type": "applicability_scope", "applicability_scope": scope}}
        )
        balances = [balance.available_balance.monetary for balance in summary.balances]
        return [(balance.currency, balance.value) for balance in balances if balance is not None]

    assert told({"price_type": "metered"}) == [("eur", 30), ("usd", 100)]
    assert told({"prices": [{"id": shop.metered}]}) == [("eur", 30), ("usd", 107)]


def test_what_credits_do_is_told(shop: CreditShop) -> None:
    """C11: a grant, its changes and every transaction are events."""
    shop.at(END - DAY)
    grant = shop.grant(150)
    shop.bill()
    shop.grants.expire(grant)
    told = [event.type for event in reversed(shop.client.v1.events.list({"type": "billing.*"}).data)]
    made = ["billing.credit_balance_transaction.created", "billing.credit_grant.created"]
    assert told == [*made, "billing.credit_balance_transaction.created", "billing.credit_grant.updated"]


def test_grants_are_checked(shop: CreditShop) -> None:
    """C10: a positive amount, one kind of scope, priority 0 to 100, an expiry ahead; at most 100 unused ones."""
    now = int(START.timestamp())
    both: Any = {"scope": {"price_type": "metered", "prices": [{"id": shop.metered}]}}
    for parameters, message in (
        ({"value": 0}, "positive integer"),
        ({"applicability_config": both}, "Exactly one"),
        ({"priority": 101}, "between 0 and 100"),
        ({"expires_at": now}, "in the future"),
        ({"expires_at": now + 5, "effective_at": now + 5}, "after effective_at"),
        ({"customer": "cus_nobody"}, "No such customer"),
    ):
        with pytest.raises(stripe.InvalidRequestError, match=message):
            shop.grant(**{"value": 1, **parameters})
    made = shop.grant(1, name="Welcome", metadata={"a": "b"})
    changed = shop.grants.update(made, {"metadata": {"c": "d"}, "expires_at": now + DAY})
    assert (changed.metadata.to_dict(), changed.expires_at, changed.priority) == ({"a": "b", "c": "d"}, now + DAY, 50)
    for _ in range(99):
        shop.grant(1)
    with pytest.raises(stripe.InvalidRequestError, match="at most 100 unused"):
        shop.grant(1)
    assert len(shop.grants.list({"customer": shop.customer, "limit": 100}).data) == 100
