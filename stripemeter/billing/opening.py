"""Opening a sink: which key, which account, and what is refused.

Belongs here: the rules that keep test usage out of live accounts and the other way round. Does not: HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pydantic import SecretStr

from stripemeter.billing.sink import BillingSink, Mode, Transport
from stripemeter.errors import InvalidInput, NotAllowed

TEST_PREFIXES = ("sk_test_", "rk_test_")
LIVE_PREFIXES = ("sk_live_", "rk_live_")


class StripeSettings(Protocol):
    """The settings a sink is opened with; `runtime.settings.Settings` has them."""

    @property
    def stripe_secret_key(self) -> SecretStr | None:
        """The key of the account that bills."""

    @property
    def stripe_test_secret_key(self) -> SecretStr | None:
        """The key of the account for shadow pushes."""

    @property
    def stripe_api_base(self) -> str | None:
        """Where Stripe is; its own address when None."""

    @property
    def stripe_calls_per_second(self) -> float | None:  # allow-float: calls a second
        """The most requests of a second to one account; Stripe's own limit when None."""

    @property
    def stripe_transport(self) -> Transport:
        """Which way of Stripe's a single meter event takes."""

    @property
    def connected_accounts(self) -> Sequence[str]:
        """Accounts connected to the keys' own, reached with the same keys."""

    @property
    def allow_live(self) -> bool:
        """Whether usage may go to a live account."""


def open_sink(settings: StripeSettings, *, mode: Mode = "shadow", account: str | None = None) -> BillingSink:
    """An account that mappings of this mode push to: the key's own, or one connected to it. Nothing is sent yet.

    Args:
        settings: keys and accounts.
        mode: which key.
        account: the account wanted. Of those connected to the key's own, that one is opened; of any other, the key's
            own: the caller compares.

    Raises:
        NotAllowed: no key for this mode, or live without STRIPEMETER_ALLOW_LIVE.
        InvalidInput: a key of the wrong kind.
    """
    return _open(settings, mode, account if account in settings.connected_accounts else None)


def open_sinks(settings: StripeSettings) -> list[BillingSink]:
    """Every account the settings allow: shadow when there is a test key, live when it is switched on.

    Of each key its own account first, then those connected to it.
    """
    modes: list[Mode] = ["shadow"] if settings.stripe_test_secret_key is not None else []
    if settings.allow_live:
        modes.append("live")
    return [_open(settings, mode, account) for mode in modes for account in (None, *settings.connected_accounts)]


def _open(settings: StripeSettings, mode: Mode, connected_account: str | None) -> BillingSink:
    from stripemeter.billing.pace import STRIPE_CALLS_PER_SECOND  # noqa: PLC0415 - as below
    from stripemeter.billing.stripe_sink import StripeSink  # noqa: PLC0415 - the SDK takes half a second to import

    key = _shadow_key(settings) if mode == "shadow" else _live_key(settings)
    pace = settings.stripe_calls_per_second
    # The limits are Stripe's own; another address has none unless it is said.
    if pace is None and settings.stripe_api_base is None:
        pace = STRIPE_CALLS_PER_SECOND[mode]
    transport = settings.stripe_transport
    if transport == "v2_stream" and mode == "shadow" and settings.stripe_api_base is None:
        transport = "v2"  # Stripe has the stream for live accounts only
    return StripeSink(
        key=key,
        mode=mode,
        api_base=settings.stripe_api_base,
        calls_per_second=pace,
        transport=transport,
        connected_account=connected_account,
    )


def _shadow_key(settings: StripeSettings) -> str:
    if settings.stripe_test_secret_key is None:
        raise NotAllowed("shadow pushes need STRIPE_TEST_SECRET_KEY; without it Stripe is not called at all")
    key = settings.stripe_test_secret_key.get_secret_value()
    if not key.startswith(TEST_PREFIXES):
        raise InvalidInput(
            "STRIPE_TEST_SECRET_KEY must start with sk_test_ or rk_test_: shadow pushes never touch a live account",
            field="STRIPE_TEST_SECRET_KEY",
        )
    return key


def _live_key(settings: StripeSettings) -> str:
    if not settings.allow_live:
        raise NotAllowed("live pushes are off: set STRIPEMETER_ALLOW_LIVE=1 to send usage to the account that bills")
    if settings.stripe_secret_key is None:
        raise NotAllowed("live pushes need STRIPE_SECRET_KEY")
    key = settings.stripe_secret_key.get_secret_value()
    if not key.startswith(LIVE_PREFIXES):
        raise InvalidInput(
            "STRIPE_SECRET_KEY must start with sk_live_ or rk_live_ for live pushes; a test key belongs in "
            "STRIPE_TEST_SECRET_KEY",
            field="STRIPE_SECRET_KEY",
        )
    return key
