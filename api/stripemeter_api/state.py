"""What a running API process holds, and how its endpoints get at it.

Belongs here: the state opened by the lifespan and the FastAPI dependencies for it. Does not: opening (`app.py`).
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from fastapi import Depends, Request
from psycopg_pool import ConnectionPool

from stripemeter.metering.events import IngestLimits
from stripemeter.pipeline.price_mappings import OpenAccount
from stripemeter_api.probes import Probes


def _pool_of(request: Request) -> ConnectionPool:
    pool: ConnectionPool = request.app.state.pool
    return pool


def _limits_of(request: Request) -> IngestLimits:
    limits: IngestLimits = request.app.state.limits
    return limits


def _probes_of(request: Request) -> Probes:
    probes: Probes = request.app.state.probes
    return probes


def _max_adjustment_delta_of(request: Request) -> Decimal:
    greatest: Decimal = request.app.state.max_adjustment_delta
    return greatest


def _open_account_of(request: Request) -> OpenAccount:
    open_account: OpenAccount = request.app.state.open_account
    return open_account


Pool = Annotated[ConnectionPool, Depends(_pool_of)]
Limits = Annotated[IngestLimits, Depends(_limits_of)]
ProbesOfProcess = Annotated[Probes, Depends(_probes_of)]
MaxAdjustmentDelta = Annotated[Decimal, Depends(_max_adjustment_delta_of)]
Accounts = Annotated[OpenAccount, Depends(_open_account_of)]
