"""Routes whose path holds references: any text, a slash among it.

Belongs here: matching a path as it was sent. Does not: what a parameter means.

Servers decode a path before routing, so `a%2Fb` looks like two segments, and a customer named `ada/splits` like the
splits of `ada`. Here %2F belongs to a reference, and a slash ends it.
"""

from __future__ import annotations

from urllib.parse import unquote

from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Scope


class RawPathRoute(APIRoute):
    """A route that matches before it decodes."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether the request is this route's, and its path parameters, each decoded once."""
        sent = scope.get("raw_path")
        if scope["type"] != "http" or sent is None:
            return super().matches(scope)
        match, found = super().matches({**scope, "path": sent.decode("latin-1")})
        if "path_params" in found:
            found["path_params"] = {name: unquote(text) for name, text in found["path_params"].items()}
        return match, found
