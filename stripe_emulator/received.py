"""A request as it came in: whose it is, what it carries, and what an idempotency key compares.

Belongs here: API keys, accounts, session tokens, bodies, fingerprints. Does not: carrying it out (`app`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass

from fastapi import Request

from stripe_emulator import sessions
from stripe_emulator.state import State
from stripe_emulator.wire import Answer, Json, StripeError, decode_form


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One request as it came in. `text` is its body, or its query when it has none."""

    method: str
    path: str
    text: str
    parameters: Json
    account: str
    idempotency_key: str | None
    request_id: str

    @property
    def is_v2(self) -> bool:
        """Whether it is v2: JSON, and other rules of idempotency."""
        return self.path.startswith("/v2/")

    @property
    def identifier(self) -> str:
        """The identifiers of the meter events it carries, one a line."""
        events = self.parameters.get("events")
        carriers = events if isinstance(events, list) else [self.parameters]
        found = [carrier.get("identifier") for carrier in carriers if isinstance(carrier, dict)]
        return "\n".join(identifier for identifier in found if isinstance(identifier, str))

    @property
    def fingerprint(self) -> str:
        """What an idempotency key must be used with again."""
        return hashlib.sha256(f"{self.method} {self.path}\n{self.text}".encode()).hexdigest()


CONNECTED = "connected_account"


def account_of(key: str) -> str:
    """The account id an API key stands for: each key has its own account."""
    return f"acct_{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def receive(request: Request, text: str, request_id: str, state: State) -> Received:
    """The request with the account its key or its session token stands for.

    Raises:
        StripeError: Stripe's 401, or a body that is no JSON.
    """
    path = request.url.path
    credentials = _credentials(request)
    if path == sessions.STREAM_PATH:
        account = sessions.account_of_token(state, credentials)
    else:
        account = _acting_for(state, account_of(_checked_key(credentials)), request.headers.get("stripe-account"))
    is_json = path.startswith("/v2/") and request.method == "POST"
    return Received(
        method=request.method,
        path=path,
        text=text,
        parameters=_decode_json(text) if is_json else decode_form(text),
        account=account,
        idempotency_key=request.headers.get("idempotency-key"),
        request_id=request_id,
    )


def connect(state: State, platform: str, account: str) -> None:
    """Let the keys of a platform act for another account."""
    if state.find_object(platform, CONNECTED, account) is None:
        state.insert_object(platform, CONNECTED, {"id": account, "object": CONNECTED})


def _acting_for(state: State, platform: str, wanted: str | None) -> str:
    if wanted is None or wanted == platform:
        return platform
    if state.find_object(platform, CONNECTED, wanted) is None:
        raise StripeError(
            403,
            f"The provided key does not have access to account '{wanted}' (or that account does not exist). "
            "Application access may have been revoked.",
            code="account_invalid",
        )
    return wanted


def _decode_json(text: str) -> Json:
    if not text:
        return {}
    try:
        decoded = json.loads(text)
    except json.JSONDecodeError as error:
        raise StripeError(400, f"The request body is not JSON: {error.msg} at {error.pos}.") from error
    if not isinstance(decoded, dict):
        raise StripeError(400, "The request body must be a JSON object.")
    return decoded


def _credentials(request: Request) -> str:
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(credentials).decode().split(":", 1)[0]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""


def _checked_key(key: str) -> str:
    if not key:
        raise _unauthorized("You did not provide an API key.")
    if key.startswith(("sk_live_", "rk_live_")):
        raise _unauthorized("This is an emulator: it refuses live keys. Use one that starts with sk_test_.")
    if not key.startswith(("sk_test_", "rk_test_")):
        raise _unauthorized(f"Invalid API Key provided: {key[:8]}***")
    return key


def _unauthorized(message: str) -> StripeError:
    error = StripeError(401, message)
    error.answer = Answer(
        status=401,
        body=error.answer.body,
        headers={**error.answer.headers, "WWW-Authenticate": 'Basic realm="Stripe"'},
        is_saved=False,
    )
    return error
