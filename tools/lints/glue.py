"""Glue stays thin: assets, triggers and routes say which verb runs, and nothing about how.

Belongs here: what a body of glue may hold. Does not: the verbs (`stripemeter.pipeline`).

What an asset computes cannot be used by the CLI, what a route computes cannot be used by an asset, and neither can be
tested without its framework.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tools.lints.source import Finding, Source

LINT = "glue"
MOST_STATEMENTS = 15
_ROUTE_METHODS = frozenset({"get", "post", "put", "patch", "delete", "head", "options", "api_route", "websocket"})
_QUANTITY = re.compile(r"quantity|quantities|amount|_minor|price|total|delta|drift")
_Definition = ast.FunctionDef | ast.AsyncFunctionDef


def check(source: Source) -> Iterator[Finding]:
    """Bodies of more than `MOST_STATEMENTS` statements, and arithmetic on quantities or money."""
    is_asset = source.is_under("stripemeter_assets/assets") or source.path == "stripemeter_assets/triggers.py"
    is_asset = is_asset or source.is_under("stripemeter_assets/triggers")
    is_receiver = source.is_under("api/stripemeter_api")
    if not is_asset and not is_receiver:
        return
    for node in ast.walk(source.tree()):
        if isinstance(node, _Definition) and (is_asset or _is_route(node)):
            yield from _check_definition(source, node)


def count_statements(definition: _Definition) -> int:
    """Statements of a body at every depth, its docstring not counted."""
    inside = [node for child in definition.body for node in ast.walk(child) if isinstance(node, ast.stmt)]
    return len(inside) - (ast.get_docstring(definition) is not None)


def _check_definition(source: Source, definition: _Definition) -> Iterator[Finding]:
    count = count_statements(definition)
    if count > MOST_STATEMENTS:
        message = f"{definition.name} has {count} statements, glue has at most {MOST_STATEMENTS}: move them to a verb"
        yield from source.finding(definition, LINT, message)
    for node in ast.walk(definition):
        if isinstance(node, ast.BinOp | ast.AugAssign) and _is_arithmetic(node.op) and _touches_quantity(node):
            yield from source.finding(node, LINT, f"{definition.name} computes with a quantity: that is a verb's work")


def _is_route(definition: _Definition) -> bool:
    calls = [node.func for node in definition.decorator_list if isinstance(node, ast.Call)]
    return any(isinstance(call, ast.Attribute) and call.attr in _ROUTE_METHODS for call in calls)


def _is_arithmetic(operator: ast.operator) -> bool:
    return isinstance(operator, ast.Add | ast.Sub | ast.Mult | ast.Div | ast.FloorDiv | ast.Mod | ast.Pow)


def _touches_quantity(node: ast.BinOp | ast.AugAssign) -> bool:
    names = [part.id for part in ast.walk(node) if isinstance(part, ast.Name)]
    names += [part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)]
    return any(_QUANTITY.search(name) and "timedelta" not in name for name in names)
