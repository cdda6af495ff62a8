"""The application: what happens to a request between the socket and its handler.

Belongs here: keys and accounts, idempotency, carrying out faults, the contract check, the journal. Does not: what an
endpoint does (`customers`, `meters`, ...), the control plane's routes (`control`).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fastapi import FastAPI, Request, Response

from stripe_emulator import (
    TITLE,
    billing,
    customers,
    invoices,
    meter_events,
    meters,
    prices,
    products,
    subscription_items,
    subscriptions,
    summaries,
)
from stripe_emulator.calls import Call, new_id
from stripe_emulator.contract import (
    ContractViolation,
    Operation,
    check_parameters,
    check_response,
    find_operation,
    unrecognized,
)
from stripe_emulator.control import ControlPlane
from stripe_emulator.faults import Do, FaultScript
from stripe_emulator.state import State
from stripe_emulator.transport import break_connection
from stripe_emulator.wire import Answer, Json, StripeError, decode_form, encode_json

HANDLERS: Mapping[str, Callable[[Call], Json]] = {
    "GET /v1/account": customers.retrieve_account,
    "POST /v1/billing/meter_events": meter_events.create,
    "GET /v1/billing/meters": meters.list_all,
    "POST /v1/billing/meters": meters.create,
    "GET /v1/billing/meters/{id}": meters.retrieve,
    "POST /v1/billing/meters/{id}": meters.update,
    "POST /v1/billing/meters/{id}/deactivate": meters.deactivate,
    "GET /v1/billing/meters/{id}/event_summaries": summaries.list_all,
    "POST /v1/billing/meters/{id}/reactivate": meters.reactivate,
    "GET /v1/customers": customers.list_all,
    "POST /v1/customers": customers.create,
    "GET /v1/customers/{customer}": customers.retrieve,
    "POST /v1/customers/{customer}": customers.update,
    "DELETE /v1/customers/{customer}": customers.delete,
    "GET /v1/invoices": invoices.list_all,
    "POST /v1/invoices/create_preview": invoices.create_preview,
    "GET /v1/invoices/{invoice}": invoices.retrieve,
    "POST /v1/invoices/{invoice}": invoices.update,
    "POST /v1/invoices/{invoice}/finalize": invoices.finalize,
    "GET /v1/invoices/{invoice}/lines": invoices.list_lines,
    "POST /v1/invoices/{invoice}/void": invoices.void,
    "GET /v1/prices": prices.list_all,
    "POST /v1/prices": prices.create,
    "GET /v1/prices/{price}": prices.retrieve,
    "POST /v1/prices/{price}": prices.update,
    "GET /v1/products": products.list_all,
    "POST /v1/products": products.create,
    "GET /v1/products/{id}": products.retrieve,
    "POST /v1/products/{id}": products.update,
    "DELETE /v1/products/{id}": products.delete,
    "GET /v1/subscription_items": subscription_items.list_all,
    "POST /v1/subscription_items": subscription_items.create,
    "GET /v1/subscription_items/{item}": subscription_items.retrieve,
    "POST /v1/subscription_items/{item}": subscription_items.update,
    "DELETE /v1/subscription_items/{item}": subscription_items.delete,
    "GET /v1/subscriptions": subscriptions.list_all,
    "POST /v1/subscriptions": subscriptions.create,
    "GET /v1/subscriptions/{subscription_exposed_id}": subscriptions.retrieve,
    "POST /v1/subscriptions/{subscription_exposed_id}": subscriptions.update,
    "DELETE /v1/subscriptions/{subscription_exposed_id}": subscriptions.cancel,
}
IDEMPOTENCY_SECONDS = 24 * 3_600
JOURNAL_LENGTH = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One request as it came in."""

    method: str
    path: str
    form: str
    account: str
    idempotency_key: str | None
    request_id: str
    identifier: str

    @property
    def fingerprint(self) -> str:
        """What an idempotency key must be used with again."""
        return hashlib.sha256(f"{self.method} {self.path}\n{self.form}".encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What leaves for one request."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Emulator:
    """State, faults and journal of one running emulator."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.faults = FaultScript()
        self.journal: deque[Json] = deque(maxlen=JOURNAL_LENGTH)

    async def answer(self, request: Request) -> Response:
        """Everything under `/v1`."""
        request_id = new_id("req")
        form = (await request.body()).decode() if request.method == "POST" else request.url.query
        entry: Json = {
            "at": self.state.now(),
            "method": request.method,
            "path": request.url.path,
            "form": form,
            "request_id": request_id,
            "idempotency_key": request.headers.get("idempotency-key"),
            "stripe_version": request.headers.get("stripe-version"),
            "fault": None,
        }
        self.journal.append(entry)
        try:
            received = _receive(request, form, request_id)
        except StripeError as error:
            return _respond(request, request_id, _encode(error.answer), entry)
        entry |= {"account": received.account, "identifier": received.identifier}
        fault = self.faults.take(
            method=received.method,
            path=received.path,
            identifier=received.identifier,
            account=received.account,
        )
        entry["fault"] = fault.kind if fault else None
        if fault is not None and fault.kind == "reset_before_commit":
            return await break_connection(request, b"")
        if fault is not None and fault.kind == "delay_request":
            await asyncio.sleep(fault.seconds)
        sent = self._execute(received, fault)
        if fault is not None and fault.kind == "commit_then_reset":
            return await break_connection(request, b"")
        if fault is not None and fault.kind == "commit_then_truncate":
            return await break_connection(request, sent.body)
        return _respond(request, request_id, sent, entry)

    def _execute(self, received: Received, fault: Do | None) -> Sent:
        """The answer to one request, with everything it changed committed."""
        # Stripe's rate limiters and authentication stand before the idempotency layer: a 4xx on demand does too.
        if fault is not None and fault.kind == "status" and fault.status < 500:
            if fault.committed:
                self._commit(received, fault)
            return _encode(_scripted(fault))
        try:
            replayed = self._replay(received)
        except StripeError as error:
            return _encode(error.answer)
        return replayed if replayed is not None else self._commit(received, fault)

    def _commit(self, received: Received, fault: Do | None) -> Sent:
        try:
            with self.state.transaction():
                answer = self._handle(received, fault)
                sent = _encode(answer)
                if received.method == "POST" and received.idempotency_key is not None and answer.is_saved:
                    self.state.save_answer(
                        received.account,
                        received.idempotency_key,
                        received.fingerprint,
                        sent.status,
                        sent.body,
                        received.request_id,
                    )
        except ContractViolation as violation:
            message = f"EMULATOR VIOLATES STRIPE SPEC: {violation}"
            return Sent(status=500, body=encode_json({"error": {"type": "api_error", "message": message}}))
        return sent

    def _handle(self, received: Received, fault: Do | None) -> Answer:
        if fault is not None and fault.kind == "status" and not fault.committed:
            return _scripted(fault)
        try:
            operation, path_parameters = find_operation(received.method, received.path)
        except StripeError as error:
            return error.answer
        answer = self._dispatch(operation, path_parameters, received, fault)
        check_response(operation, answer.status, answer.body)
        return _scripted(fault) if fault is not None and fault.kind == "status" else answer

    def _dispatch(
        self, operation: Operation, path_parameters: dict[str, str], received: Received, fault: Do | None
    ) -> Answer:
        now = self.state.now()
        billing.catch_up(self.state, received.account, now)
        try:
            call = Call(
                state=self.state,
                account=received.account,
                path=received.path,
                path_parameters=path_parameters,
                parameters=check_parameters(operation, decode_form(received.form)),
                now=now,
                fault=fault,
            )
            handler = HANDLERS.get(operation.name)
            if handler is None:
                raise unrecognized(received.method, received.path)
            with self.state.attempt():  # a refusal changes nothing
                return Answer(status=200, body=handler(call))
        except StripeError as error:
            return error.answer

    def _replay(self, received: Received) -> Sent | None:
        key = received.idempotency_key
        if key is None or received.method != "POST":
            return None
        saved = self.state.find_saved(received.account, key, saved_after=self.state.now() - IDEMPOTENCY_SECONDS)
        if saved is None:
            return None
        fingerprint, status, body, request_id = saved
        if fingerprint != received.fingerprint:
            raise StripeError(
                400,
                "Keys for idempotent requests can only be used with the same parameters they were first used with. "
                f"Try using a key other than '{key}' if you meant to execute a different request.",
                kind="idempotency_error",
            )
        return Sent(status=status, body=body, headers={"Idempotent-Replayed": "true", "Original-Request": request_id})


def create_app(state: State) -> FastAPI:
    """The emulator as an ASGI application."""
    app = FastAPI(title=TITLE, docs_url=None, redoc_url=None, openapi_url=None)
    emulator = Emulator(state)
    app.include_router(ControlPlane(emulator.state, emulator.faults, emulator.journal).router())
    app.add_api_route("/{path:path}", emulator.answer, methods=["GET", "POST", "DELETE"], response_model=None)
    return app


def account_of(key: str) -> str:
    """The account id an API key stands for: each key has its own account."""
    return f"acct_{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _receive(request: Request, form: str, request_id: str) -> Received:
    account = account_of(_key_of(request))
    identifier = decode_form(form).get("identifier", "")
    return Received(
        method=request.method,
        path=request.url.path,
        form=form,
        account=account,
        idempotency_key=request.headers.get("idempotency-key"),
        request_id=request_id,
        identifier=identifier if isinstance(identifier, str) else "",
    )


def _key_of(request: Request) -> str:
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    key = ""
    if scheme.lower() == "bearer":
        key = credentials.strip()
    elif scheme.lower() == "basic":
        try:
            key = base64.b64decode(credentials).decode().split(":", 1)[0]
        except (binascii.Error, UnicodeDecodeError):
            key = ""
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


def _scripted(fault: Do) -> Answer:
    kind = "api_error" if fault.status >= 500 else "invalid_request_error"
    message = f"Fault on demand: {fault.status}"
    body = fault.body if fault.body is not None else {"error": {"type": kind, "message": message}}
    return Answer(status=fault.status, body=body, headers=fault.headers, is_saved=fault.status >= 500)


def _encode(answer: Answer) -> Sent:
    return Sent(status=answer.status, body=encode_json(answer.body), headers=answer.headers)


def _respond(request: Request, request_id: str, sent: Sent, entry: Json) -> Response:
    entry["status"] = sent.status
    entry["is_replayed"] = "Idempotent-Replayed" in sent.headers
    entry["answer"] = json.loads(sent.body)
    headers = {"Request-Id": request_id, "X-Emulator": "1", **sent.headers}
    for name in ("Stripe-Version", "Idempotency-Key"):
        if name in request.headers:
            headers[name] = request.headers[name]
    return Response(content=sent.body, status_code=sent.status, headers=headers, media_type="application/json")
