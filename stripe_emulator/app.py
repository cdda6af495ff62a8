"""The application: what happens to a request between the socket and its handler.

Belongs here: idempotency, carrying out faults, the contract check, the journal, what happens by itself. Does not:
what an endpoint does (`routes`, `v2_routes`), the control plane's routes (`control`).
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastapi import FastAPI, Request, Response

from stripe_emulator import TITLE, alarms, destinations, error_reports
from stripe_emulator.calls import Call, new_id
from stripe_emulator.contract import (
    ContractViolation,
    check_parameters,
    check_response,
    find_operation,
    unrecognized,
)
from stripe_emulator.control import ControlPlane
from stripe_emulator.deliveries import Courier, delivery_knobs
from stripe_emulator.faults import Do, FaultScript
from stripe_emulator.in_work import InWork
from stripe_emulator.received import Received, receive
from stripe_emulator.routes import HANDLERS
from stripe_emulator.state import State
from stripe_emulator.transport import break_connection
from stripe_emulator.v2_routes import check_v2_answer, check_v2_parameters, find_route
from stripe_emulator.wire import Answer, Json, OutcomeError, StripeError, encode_json

IDEMPOTENCY_SECONDS = 24 * 3_600
V2_IDEMPOTENCY_SECONDS = 30 * 86_400
JOURNAL_LENGTH = 10_000
TICK_SECONDS = 0.2
"""Real seconds between two looks at what is due by itself."""


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
        self.courier = Courier(state)
        self._in_work = InWork(state)

    async def answer(self, request: Request) -> Response:
        """Everything under `/v1` and `/v2`."""
        request_id = new_id("req")
        text = (await request.body()).decode() if request.method == "POST" else request.url.query
        entry: Json = {
            "at": self.state.now(),
            "method": request.method,
            "path": request.url.path,
            "form": text,
            "request_id": request_id,
            "idempotency_key": request.headers.get("idempotency-key"),
            "stripe_version": request.headers.get("stripe-version"),
            "headers": {name: value for name, value in request.headers.items() if name != "authorization"},
            "fault": None,
        }
        self.journal.append(entry)
        try:
            received = receive(request, text, request_id, self.state)
        except StripeError as error:
            return _respond(request, request_id, _encode(error.answer), entry)
        entry |= {"account": received.account, "identifier": received.identifier}
        fault = self.faults.take(
            method=received.method,
            path=received.path,
            identifier=received.identifier,
            account=received.account,
            now=self.state.now(),
        )
        entry["fault"] = fault.kind if fault else None
        if fault is not None and fault.kind == "reset_before_commit":
            return await break_connection(request, b"")
        if fault is not None and fault.kind == "delay_request":
            await asyncio.sleep(fault.seconds)
        sent = await self._execute(received, fault)
        match fault.kind if fault else None:
            case "commit_then_reset" | "commit_part_then_reset":
                return await break_connection(request, b"")
            case "commit_then_truncate":
                return await break_connection(request, sent.body)
            case "duplicate_delivery":
                sent = await self._execute(received, fault)
            case "commit_then_timeout" if fault is not None:
                await asyncio.sleep(fault.seconds)
        return _respond(request, request_id, sent, entry)

    def catch_up(self, account: str) -> None:
        """What the clock has brought about by now; inside the caller's transaction."""
        now = self.state.now()
        alarms.catch_up(self.state, account, now)
        error_reports.catch_up(self.state, account, now)

    async def run_by_itself(self) -> None:
        """For ever: what is due happens and is sent, where somebody wants to be told."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            if delivery_knobs(self.state).mode == "automatic":
                await self.deliver()

    async def deliver(self) -> Json:
        """Let happen what is due in accounts with destinations, and send everything that waits."""
        for account in self.state.accounts_with((destinations.ENDPOINT, destinations.DESTINATION)):
            with self.state.transaction():
                self.catch_up(account)
        return await self.courier.deliver_due()

    async def _execute(self, received: Received, fault: Do | None) -> Sent:
        """The answer to one request, with everything it changed committed."""
        # Stripe's rate limiters and authentication stand before the idempotency layer: a 4xx on demand does too.
        if fault is not None and fault.kind == "rate_limit":
            return _encode(_limited(fault))
        if fault is not None and fault.kind == "status" and fault.status < 500:
            if fault.committed:
                self._commit(received, fault)
            return _encode(_scripted(fault))
        try:
            async with self._in_work.hold(received):
                replayed = self._replay(received)
                return replayed if replayed is not None else self._commit(received, fault)
        except StripeError as error:
            return _encode(error.answer)

    def _commit(self, received: Received, fault: Do | None) -> Sent:
        try:
            with self.state.transaction():
                answer = self._handle(received, fault)
                sent = _encode(answer)
                if _is_replayable(received) and _is_kept(received, answer):
                    self.state.save_answer(
                        received.account,
                        received.idempotency_key or "",
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
            self.catch_up(received.account)
            answer = self._answer_v2(received, fault) if received.is_v2 else self._answer_v1(received, fault)
        except StripeError as error:
            answer = error.answer
        return _scripted(fault) if fault is not None and fault.kind == "status" else answer

    def _answer_v1(self, received: Received, fault: Do | None) -> Answer:
        operation, path_parameters = find_operation(received.method, received.path)
        handler = HANDLERS.get(operation.name)
        try:
            parameters = check_parameters(operation, received.parameters)
            if handler is None:
                raise unrecognized(received.method, received.path)
            with self.state.attempt():  # a refusal changes nothing
                try:
                    answer = Answer(status=200, body=handler(self._call(received, path_parameters, parameters, fault)))
                except OutcomeError as outcome:
                    answer = outcome.answer
        except StripeError as error:
            answer = error.answer
        check_response(operation, answer.status, answer.body)
        return answer

    def _answer_v2(self, received: Received, fault: Do | None) -> Answer:
        route, path_parameters = find_route(received.method, received.path)
        parameters = check_v2_parameters(route, received.parameters)
        with self.state.attempt():
            body = route.handler(self._call(received, path_parameters, parameters, fault))
        check_v2_answer(route, body)
        return Answer(status=200, body=body)

    def _call(self, received: Received, path_parameters: dict[str, str], parameters: Json, fault: Do | None) -> Call:
        return Call(
            state=self.state,
            account=received.account,
            path=received.path,
            path_parameters=path_parameters,
            parameters=parameters,
            now=self.state.now(),
            fault=fault,
            request_id=received.request_id,
            idempotency_key=received.idempotency_key,
        )

    def _replay(self, received: Received) -> Sent | None:
        if not _is_replayable(received):
            return None
        key = received.idempotency_key or ""
        kept = V2_IDEMPOTENCY_SECONDS if received.is_v2 else IDEMPOTENCY_SECONDS
        saved = self.state.find_saved(received.account, key, saved_after=self.state.now() - kept)
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
        if received.is_v2:
            return Sent(status=status, body=body)
        return Sent(status=status, body=body, headers={"Idempotent-Replayed": "true", "Original-Request": request_id})


def create_app(state: State) -> FastAPI:
    """The emulator as an ASGI application."""
    emulator = Emulator(state)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        by_itself = asyncio.create_task(emulator.run_by_itself())
        yield
        by_itself.cancel()

    app = FastAPI(title=TITLE, docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.include_router(ControlPlane(state, emulator.faults, emulator.journal, emulator.deliver).router())
    app.add_api_route("/{path:path}", emulator.answer, methods=["GET", "POST", "DELETE"], response_model=None)
    return app


def _is_replayable(received: Received) -> bool:
    methods = ("POST", "DELETE") if received.is_v2 else ("POST",)
    return received.idempotency_key is not None and received.method in methods


def _is_kept(received: Received, answer: Answer) -> bool:
    """v1 keeps whatever began to execute; v2 executes again what failed."""
    return answer.status == 200 if received.is_v2 else answer.is_saved


def _limited(fault: Do) -> Answer:
    error = {"type": "invalid_request_error", "code": "rate_limit", "message": "Request rate limit exceeded."}
    headers = {"Stripe-Rate-Limited-Reason": fault.reason, **fault.headers}
    return Answer(status=429, body={"error": error}, headers=headers, is_saved=False)


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
