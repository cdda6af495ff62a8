from __future__ import annotations

import json
import re
from pathlib import Path

from stripemeter_api.app import build_api
from stripemeter_api.openapi import render
from tests.api.serving import Api

COMMITTED = Path(__file__).resolve().parents[2] / "api" / "openapi.json"


def test_the_committed_document_is_the_served_one(api: Api) -> None:
    """`python -m stripemeter_api.openapi > api/openapi.json` was run after the last change of a route."""
    assert COMMITTED.read_text(encoding="utf-8") == render(build_api())
    assert api.get("/docs/json").json() == json.loads(COMMITTED.read_text(encoding="utf-8"))


def test_the_documentation_page_loads_nothing_from_elsewhere(api: Api) -> None:
    """Scripts, styles and images come from this server, and they are there."""
    page = api.get("/docs")
    assert page.status_code == 200
    sources = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    assert len(sources) == 3
    for source in sources:
        assert source.startswith("/")
        assert not source.startswith("//")
        asset = api.get(source)
        assert (asset.status_code, len(asset.content) > 0) == (200, True)
    assert not re.search(r"https?://", page.text)


def test_the_document_describes_what_is_served() -> None:
    """Every route with its problems as problem+json, wire names in camelCase, both security schemes, no 422."""
    document = json.loads(COMMITTED.read_text(encoding="utf-8"))
    assert {"/v1/events/ingest", "/v1/events", "/v1/events/conflicts", "/v1/usage/current", "/v1/usage/history"} <= set(
        document["paths"]
    )
    assert set(document["components"]["securitySchemes"]) == {"ApiKeyAuth", "BearerAuth"}
    for path in document["paths"].values():
        for operation in path.values():
            assert "422" not in operation["responses"]
            assert not [parameter for parameter in operation.get("parameters", []) if "_" in parameter["name"]]
            problem = operation["responses"].get("400")
            assert problem is None or list(problem["content"]) == ["application/problem+json"]
    ingest = document["paths"]["/v1/events/ingest"]["post"]
    assert ingest["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/IngestRequest")
    event = document["components"]["schemas"]["IncomingEvent"]
    assert set(event["required"]) == {"tenantId", "metric", "customerRef", "quantity", "ts"}


def test_the_documented_example_is_accepted_and_answered_as_documented(api: Api, tenant: str) -> None:
    """Bodies built from the document's own examples pass the hot route, which shares no code with the models."""
    from stripemeter_api.documents import IngestAnswer, IngestProblem

    schema = json.loads(COMMITTED.read_text(encoding="utf-8"))["components"]["schemas"]["IncomingEvent"]
    example = {name: member["examples"][0] for name, member in schema["properties"].items() if "examples" in member}
    answer = api.post("/v1/events/ingest", json={"events": [{**example, "tenantId": tenant}]})
    assert answer.status_code == 200, answer.text
    assert IngestAnswer.model_validate(answer.json()).accepted == 1
    assert set(answer.json()) <= set(IngestAnswer.model_validate(answer.json()).model_dump(by_alias=True))
    refused = api.post("/v1/events/ingest", json={"events": [{**example, "metric": ""}]})
    assert refused.status_code == 400
    assert IngestProblem.model_validate(refused.json()).errors[0].path == "events[0].metric"
