"""Meter event sessions: the short-lived tokens that open the stream of meter events.

Belongs here: `POST /v2/billing/meter_event_session` and whose a token is. Does not: the stream (`v2_meter_events`).
"""

from __future__ import annotations

import hashlib
import secrets

from stripe_emulator.calls import Call, new_id
from stripe_emulator.state import State
from stripe_emulator.wire import Answer, Json, StripeError, instant

KIND = "v2.billing.meter_event_session"
STREAM_PATH = "/v2/billing/meter_event_stream"
LIFETIME_SECONDS = 15 * 60
_EVERYBODY = "sessions"
"""Tokens are looked up before their account is known."""


def create(call: Call) -> Json:
    """`POST /v2/billing/meter_event_session`: valid for 15 minutes."""
    token = f"mes_test_{secrets.token_urlsafe(32)}"
    expires_at = call.now + LIFETIME_SECONDS
    session: Json = {"id": _key(token), "account": call.account, "expires_at": expires_at}
    call.state.insert_object(_EVERYBODY, KIND, session)
    return {
        "id": new_id("mes"),
        "object": KIND,
        "authentication_token": token,
        "created": instant(call.now),
        "expires_at": instant(expires_at),
        "livemode": False,
    }


def account_of_token(state: State, token: str) -> str:
    """The account that opened a session.

    Raises:
        StripeError: 401, of the type `temporary_session_expired` when the session was once valid.
    """
    session = state.find_object(_EVERYBODY, KIND, _key(token))
    if session is None:
        raise StripeError(401, "The stream needs the authentication token of a meter event session.")
    if session.body["expires_at"] <= state.now():
        error = StripeError(
            401,
            "The session has expired: create a new one.",
            code="billing_meter_event_session_expired",
            kind="temporary_session_expired",
        )
        error.answer = Answer(status=401, body=error.answer.body, is_saved=False)
        raise error
    account: str = session.body["account"]
    return account


def _key(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
