"""The ASGI application: the hot ingest route ahead of FastAPI, everything else in it.

Belongs here: what is mounted where, what a process opens and closes. Does not: any route's work.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import cache
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Lifespan, Receive, Scope, Send

import stripemeter
from stripemeter.access.dunning import DunningPolicy
from stripemeter.billing import BillingSink, Mode, open_sink
from stripemeter.errors import InvalidInput, StripeMeterError
from stripemeter.pipeline.ingest import GroupCommit
from stripemeter.pipeline.price_mappings import OpenAccount
from stripemeter.runtime.settings import Settings
from stripemeter.store.postgres import open_pool
from stripemeter_api import (
    access,
    adjustments,
    backfills,
    closings,
    customers,
    events,
    explain,
    health,
    mappings,
    meters,
    metrics,
    openapi,
    parity,
    projections,
    reconciliation,
    replay,
    simulations,
    stripe_webhooks,
    usage,
    usage_query,
    voids,
)
from stripemeter_api.edge import Edge
from stripemeter_api.errors import answer_http_exception, answer_invalid_request, answer_our_error, answer_unforeseen
from stripemeter_api.ingest import PATH as INGEST_PATH
from stripemeter_api.ingest import IngestRoute, ingest_limits
from stripemeter_api.probes import Probes

POOL_SIZE = 8
POOL_WAIT_SECONDS = 2
"""How long a read waits for a connection: with the database down it is refused well within 3 s."""

_log = structlog.get_logger(__name__)


class Receiver:
    """The outer application: `POST /v1/events/ingest` straight to its route, the rest to FastAPI.

    The framework's routing, middleware and injection cost the hot route several times its own work.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ingest: IngestRoute | None = None
        self._rest = Edge(build_api(self._open))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI scope."""
        if self._ingest is not None and scope.get("path") == INGEST_PATH and scope.get("method") == "POST":
            await self._ingest(scope, receive, send)
        else:
            await self._rest(scope, receive, send)

    @asynccontextmanager
    async def _open(self, api: FastAPI) -> AsyncIterator[None]:
        """What lives as long as the process serves; the database need not be up."""
        database_url = self._settings.database_url
        if database_url is None:
            raise InvalidInput(
                "DATABASE_URL is not set: `stripemeter up` sets it for its workers", field="DATABASE_URL"
            )
        group_commit = GroupCommit(database_url, clock=lambda: datetime.now(UTC))
        with open_pool(database_url, max_size=POOL_SIZE, timeout_seconds=POOL_WAIT_SECONDS) as pool:
            api.state.pool = pool
            api.state.limits = ingest_limits(self._settings)
            api.state.backfills = backfills.backfill_limits(self._settings)
            api.state.backfill_body_bytes = api.state.backfills.body_bytes
            api.state.reconciliation_body_bytes = self._settings.reconciliation_body_limit_bytes
            api.state.simulation_body_bytes = simulations.BODY_BYTES
            api.state.webhook_body_bytes = self._settings.stripe_webhook_body_limit_bytes
            api.state.webhook_secrets = self._settings.webhook_secrets
            api.state.dunning_policy = DunningPolicy(
                days_until_blocked=self._settings.dunning_days_until_blocked,
                days_recovered=self._settings.dunning_days_recovered,
            )
            api.state.dunning_mode = "live" if self._settings.allow_live else "shadow"
            api.state.max_adjustment_delta = self._settings.max_adjustment_delta
            api.state.open_account = _accounts(self._settings)
            api.state.probes = Probes(self._settings, pool)
            group_commit.start()
            self._ingest = IngestRoute(self._settings, group_commit)
            _log.info("api_started", version=stripemeter.__version__)
            try:
                yield
            finally:
                self._ingest = None
                await group_commit.stop()
                _log.info("api_stopped")


def _accounts(settings: Settings) -> OpenAccount:
    """Opens each account once: it remembers which account its key is of."""

    @cache
    def opened(mode: Mode, account: str | None) -> BillingSink:
        return open_sink(settings, mode=mode, account=account)

    def open_account(mode: Mode, account: str | None = None) -> BillingSink:
        # Only accounts that are set are kept apart: requests may name any number of others.
        return opened(mode, account if account in settings.connected_accounts else None)

    return open_account


def create_app(settings: Settings) -> ASGIApp:
    """The application one worker process serves."""
    receiver = Receiver(settings)
    origins = [origin.strip() for origin in (settings.api_cors_origin or "").split(",") if origin.strip()]
    if not origins:
        return receiver
    return CORSMiddleware(
        receiver,
        allow_origins=origins,
        allow_methods=["*"],
        allow_headers=["*"],
        allow_credentials="*" not in origins,  # a browser refuses credentials for any origin, and so do we
        expose_headers=["x-request-id", "retry-after", "x-next-cursor"],
    )


def build_api(lifespan: Lifespan[FastAPI] | None = None) -> FastAPI:
    """The FastAPI part: routers, error handlers, documentation pages that load nothing from elsewhere."""
    api = FastAPIOffline(
        title="Stripemeter API",
        version=stripemeter.__version__,
        description="Usage metering for companies that bill through Stripe. Every event is stored once, and counted.",
        docs_url="/docs",
        redoc_url=None,
        openapi_url="/docs/json",
        lifespan=lifespan,
        redirect_slashes=False,
    )
    for router in (
        access.router,
        adjustments.router,
        events.router,
        backfills.router,
        closings.router,
        voids.router,
        explain.router,
        customers.router,
        mappings.router,
        meters.router,
        parity.router,
        projections.router,
        reconciliation.router,
        replay.router,
        simulations.router,
        stripe_webhooks.router,
        usage.router,
        usage_query.router,
        health.router,
        metrics.router,
    ):
        api.include_router(router)
    handlers: dict[Any, Any] = {
        StripeMeterError: answer_our_error,
        RequestValidationError: answer_invalid_request,
        HTTPException: answer_http_exception,
        Exception: answer_unforeseen,
    }
    for kind, handler in handlers.items():
        api.add_exception_handler(kind, handler)
    openapi.install(api)
    return api
