"""The OpenAPI document: what FastAPI derives, made to say what this API really does.

Belongs here: the corrections, and writing `api/openapi.json`. Does not: models (`documents.py`), routes.

    python -m stripemeter_api.openapi > api/openapi.json
"""

from __future__ import annotations

import json
import sys
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

SECURITY_SCHEMES = {
    "ApiKeyAuth": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "BearerAuth": {"type": "http", "scheme": "bearer"},
}
VERSION = "1"
"""Version of the contract, as in the paths' `/v1`; the release is in `GET /health/ready`."""


def install(api: FastAPI) -> None:
    """Make `api` answer the corrected document, built once."""

    def openapi() -> dict[str, Any]:
        if api.openapi_schema is None:
            api.openapi_schema = describe(api)
        return api.openapi_schema

    api.openapi = openapi  # type: ignore[method-assign] # FastAPI's documented way to extend the document


def describe(api: FastAPI) -> dict[str, Any]:
    """The document: our 400 instead of FastAPI's 422, problems as problem+json, and the security schemes."""
    document = get_openapi(title=api.title, version=VERSION, description=api.description, routes=api.routes)
    for path in document["paths"].values():
        for operation in path.values():
            _correct(operation["responses"])
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    document["components"]["securitySchemes"] = SECURITY_SCHEMES
    document["security"] = [{}, *({name: []} for name in SECURITY_SCHEMES)]
    return document


def render(api: FastAPI) -> str:
    """The document as it is committed: sorted, indented, with a final newline."""
    return json.dumps(api.openapi(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _correct(responses: dict[str, Any]) -> None:
    responses.pop("422", None)  # a parameter that is not as it must be is answered 400
    for response in responses.values():
        content = response.get("content", {})
        schema = content.get("application/json", {}).get("schema", {})
        if schema.get("$ref", "").endswith("Problem"):
            content["application/problem+json"] = content.pop("application/json")


if __name__ == "__main__":
    from stripemeter_api.app import build_api

    sys.stdout.write(render(build_api()))
