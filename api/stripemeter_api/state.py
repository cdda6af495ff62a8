"""What a running API process holds, and how its endpoints get at it.

Belongs here: the state opened by the lifespan and the FastAPI dependencies for it. Does not: opening (`app.py`).
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from psycopg_pool import ConnectionPool

from stripemeter_api.probes import Probes


def _pool_of(request: Request) -> ConnectionPool:
    pool: ConnectionPool = request.app.state.pool
    return pool


def _probes_of(request: Request) -> Probes:
    probes: Probes = request.app.state.probes
    return probes


Pool = Annotated[ConnectionPool, Depends(_pool_of)]
ProbesOfProcess = Annotated[Probes, Depends(_probes_of)]
