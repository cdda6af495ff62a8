"""Stripe's OpenAPI document as judge: every request and every response is checked against it.

Belongs here: reading the pruned document, compiling it once, naming violations. Does not: behaviour.

A request that breaks it gets Stripe's 400. A response that breaks it is our defect: `ContractViolation`.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from stripe_emulator.wire import Json, StripeError

DOCUMENT = Path(__file__).resolve().parent / "openapi" / "stripe.json"
_INTEGER = re.compile(r"-?[0-9]{1,18}")


class ContractViolation(Exception):
    """Our own answer is not what Stripe's document allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path, compiled."""

    name: str
    pattern: re.Pattern[str]
    parameters: Mapping[str, Any]
    parameters_validator: Draft202012Validator
    response_validator: Draft202012Validator
    response_fields: frozenset[str]
    error_validator: Draft202012Validator


@functools.cache
def load_operations() -> Mapping[str, tuple[Operation, ...]]:
    """Operations by HTTP method."""
    document = json.loads(DOCUMENT.read_text(encoding="utf-8"))
    schemas = document["components"]["schemas"]
    by_method: dict[str, list[Operation]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            by_method.setdefault(method.upper(), []).append(_compile(method.upper(), path, operation, schemas))
    return {method: tuple(operations) for method, operations in by_method.items()}


@functools.cache
def document_version() -> str:
    """Stripe's version of the document, e.g. `2026-08-26.dahlia`."""
    version: str = json.loads(DOCUMENT.read_text(encoding="utf-8"))["info"]["version"]
    return version


def find_operation(method: str, path: str) -> tuple[Operation, dict[str, str]]:
    """The operation of a request and its path parameters.

    Raises:
        StripeError: Stripe's 404.
    """
    for operation in load_operations().get(method, ()):
        matched = operation.pattern.fullmatch(path)
        if matched is not None:
            return operation, matched.groupdict()
    raise unrecognized(method, path)


def unrecognized(method: str, path: str) -> StripeError:
    """Stripe's 404 for a URL it does not serve."""
    return StripeError(
        404,
        f"Unrecognized request URL ({method}: {path}). If you are trying to list objects, remove the trailing slash. "
        "If you are trying to retrieve an object, make sure you passed a valid (non-empty) identifier in your code. "
        "Please see https://stripe.com/docs or we can help at https://support.stripe.com/.",
    )


def check_parameters(operation: Operation, raw: Json) -> Json:
    """The parameters in the types of the schema.

    Raises:
        StripeError: unknown, missing or invalid parameter, worded as Stripe does.
    """
    typed: Json = _coerce(operation.parameters, raw, "")
    problem = best_match(operation.parameters_validator.iter_errors(typed))
    if problem is not None:
        param = _param_name(problem.absolute_path)
        raise StripeError(400, f"Invalid {param or 'request'}: {problem.message}", param=param or None)
    return typed


def check_response(operation: Operation, status: int, body: Json) -> None:
    """Nothing, when Stripe could have sent this.

    Raises:
        ContractViolation: it could not.
    """
    validator = operation.response_validator if status == 200 else operation.error_validator
    problem = best_match(validator.iter_errors(body))
    if problem is not None:
        raise ContractViolation(f"{operation.name} {status}: {problem.json_path}: {problem.message}")
    if status == 200:
        # Stripe's response schemas are open; we are not: a member it does not know is one we invented.
        unknown = body.keys() - operation.response_fields
        if unknown:
            raise ContractViolation(f"{operation.name} {status}: not in Stripe's schema: {sorted(unknown)}")


def _compile(method: str, path: str, operation: Json, schemas: Json) -> Operation:
    response = operation["responses"]["200"]["content"]["application/json"]["schema"]
    resolved = _resolve(response, schemas)
    parameters = _parameters(operation, schemas)
    error = _resolve(operation["responses"]["default"]["content"]["application/json"]["schema"], schemas)
    return Operation(
        name=f"{method} {path}",
        pattern=re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path)),
        parameters=parameters,
        parameters_validator=Draft202012Validator(parameters),
        response_validator=Draft202012Validator(resolved),
        response_fields=_fields(resolved),
        error_validator=Draft202012Validator(error),
    )


def _parameters(operation: Json, schemas: Json) -> Json:
    form = operation.get("requestBody", {}).get("content", {}).get("application/x-www-form-urlencoded")
    if form is not None:
        resolved: Json = _resolve(form["schema"], schemas)
        return resolved
    query = [parameter for parameter in operation.get("parameters", ()) if parameter["in"] == "query"]
    return {
        "type": "object",
        "properties": {parameter["name"]: _resolve(parameter["schema"], schemas) for parameter in query},
        "required": [parameter["name"] for parameter in query if parameter["required"]],
        "additionalProperties": False,
    }


def _resolve(node: Any, schemas: Json) -> Any:  # noqa: ANN401 - any JSON
    """References inlined (Stripe's kept schemas do not recurse), `nullable` in JSON Schema's words."""
    if isinstance(node, list):
        return [_resolve(item, schemas) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _resolve(schemas[node["$ref"].rsplit("/", 1)[1]], schemas)
    resolved = {key: _resolve(value, schemas) for key, value in node.items() if key != "nullable"}
    return {"anyOf": [resolved, {"type": "null"}]} if node.get("nullable") is True else resolved


def _fields(schema: Json) -> frozenset[str]:
    branches = schema.get("anyOf", [schema])
    return frozenset().union(*(branch.get("properties", {}) for branch in branches))


def _coerce(schema: Any, value: Any, path: str) -> Any:  # noqa: ANN401 - any JSON
    if "anyOf" in schema:
        return _coerce(_branch(schema["anyOf"], value), value, path)
    match schema.get("type"):
        case "object" if isinstance(value, dict):
            return _coerce_object(schema, value, path)
        case "array" if isinstance(value, dict):
            return [_coerce(schema["items"], item, f"{path}[{index}]") for index, item in enumerate(value.values())]
        case "object" | "array":
            raise StripeError(400, f"Invalid {schema['type']}", param=path)
        case "integer" if isinstance(value, str) and _INTEGER.fullmatch(value):
            return int(value)
        case "integer":
            raise StripeError(400, f"Invalid integer: {value}", code="parameter_invalid_integer", param=path)
        case "boolean" if value in ("true", "false"):
            return value == "true"
        case "string" if isinstance(value, dict):
            raise StripeError(400, f"Invalid string: {json.dumps(value)}", param=path)
        case _:
            return value


def _coerce_object(schema: Any, value: Json, path: str) -> Json:  # noqa: ANN401 - any JSON
    fields = schema.get("properties", {})
    extra = schema.get("additionalProperties")
    typed: Json = {}
    for name, item in value.items():
        inner = f"{path}[{name}]" if path else name
        if name in fields:
            typed[name] = _coerce(fields[name], item, inner)
        elif isinstance(extra, dict):
            typed[name] = _coerce(extra, item, inner)
        elif fields or extra is False:
            raise StripeError(400, f"Received unknown parameter: {inner}", code="parameter_unknown", param=inner)
        else:
            typed[name] = item
    for name in schema.get("required", ()):
        if name not in typed:
            inner = f"{path}[{name}]" if path else name
            raise StripeError(400, f"Missing required param: {inner}.", code="parameter_missing", param=inner)
    return typed


def _branch(branches: list[Json], value: Any) -> Json:  # noqa: ANN401 - any JSON
    """The alternative that fits the shape of the value: Stripe's unions are object | "" and the like."""
    wanted = ("object", "array") if isinstance(value, dict) else ("string", "integer", "boolean", "number")
    fitting = [branch for branch in branches if branch.get("type") in wanted]
    enumerated = [branch for branch in fitting if value in branch.get("enum", ())] if isinstance(value, str) else []
    open_ended = [branch for branch in fitting if "enum" not in branch]
    return (enumerated or open_ended or fitting or branches)[0]


def _param_name(path: Any) -> str:  # noqa: ANN401 - a deque of jsonschema's
    parts = [str(part) for part in path]
    return parts[0] + "".join(f"[{part}]" for part in parts[1:]) if parts else ""
