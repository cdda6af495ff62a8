"""Routes whose JSON body keeps its numbers exact.

Belongs here: decoding. Does not: what a body means.

The framework decodes with floats: 0.1 would be something else before anybody saw it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from decimal import Decimal
from typing import Any

import msgspec
from fastapi import Request, Response

from stripemeter_api.raw_paths import RawPathRoute

_decode = msgspec.json.Decoder(float_hook=Decimal).decode


class ExactBodyRoute(RawPathRoute):
    """A route whose body's decimals arrive as Decimal."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The framework's handler, given the request that decodes so."""
        answer = super().get_route_handler()

        async def answer_exactly(request: Request) -> Response:
            return await answer(_ExactRequest(request.scope, request.receive))

        return answer_exactly


class _ExactRequest(Request):
    async def json(self) -> Any:  # noqa: ANN401 - JSON
        """The body, decoded.

        Raises:
            JSONDecodeError: it is not JSON, or nests too deep: what the framework answers with 400.
        """
        body = await self.body()
        try:
            return _decode(body)
        except (ValueError, ArithmeticError, RecursionError, msgspec.DecodeError) as error:
            raise json.JSONDecodeError(str(error), "", 0) from error
