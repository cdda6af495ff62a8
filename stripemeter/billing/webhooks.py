"""Webhooks: is this body from Stripe?

Belongs here: the signature, by Stripe's own SDK. Does not: what the body says (`pipeline.stripe_events`).
"""

from __future__ import annotations

from collections.abc import Sequence

from stripemeter.errors import InvalidInput

HEADER = "Stripe-Signature"
TOLERANCE_SECONDS = 300
"""How old a signature may be. Source: Stripe's libraries, default tolerance: five minutes."""


def verify_signature(body: bytes, header: str | None, secrets: Sequence[str]) -> None:
    """Return when one of the secrets signed the body within TOLERANCE_SECONDS; several allow for rotation.

    Raises:
        InvalidInput: none did; names the header.
    """
    import stripe  # noqa: PLC0415 - the SDK takes half a second to import

    if not header:
        raise InvalidInput(f"{HEADER} is missing: only events that Stripe has signed are taken", field=HEADER)
    reason = "the body or the header is no text"
    # The SDK compares signatures with a function that takes ASCII alone, and decodes the body.
    if header.isascii() and _is_utf8(body):
        for secret in secrets:
            try:
                stripe.WebhookSignature.verify_header(body, header, secret, TOLERANCE_SECONDS)
            except stripe.SignatureVerificationError as error:
                reason = str(error.user_message or error)
            else:
                return
    raise InvalidInput(
        f"{HEADER} does not fit the body with any of {len(secrets)} secrets: {reason}. "
        "Is STRIPEMETER_STRIPE_WEBHOOK_SECRETS the secret of this endpoint, and the clock right?",
        field=HEADER,
    )


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True
