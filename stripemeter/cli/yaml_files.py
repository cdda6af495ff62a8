"""YAML files: read with exact numbers and without surprises, written to be read.

Belongs here: the text. Does not: what a document means.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import yaml

from stripemeter.errors import InvalidInput


def read_yaml(path: Path) -> Any:  # noqa: ANN401 - YAML
    """The document of a file: decimals as Decimal, dates as texts.

    Raises:
        InvalidInput: no such file, no YAML, a member twice in one object.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_ExactLoader)  # noqa: S506 - a SafeLoader
    except (OSError, UnicodeDecodeError, RecursionError, ValueError, yaml.YAMLError) as error:
        raise InvalidInput(f"{path} cannot be read as YAML: {error}", field="file") from error


def to_yaml(document: object) -> str:
    """A document of plain values as YAML, its members in their order."""
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)


class _ExactLoader(yaml.SafeLoader):
    """SafeLoader, but for floats, dates, and members that stand twice: the last would silently win."""


def _decimal(loader: _ExactLoader, node: yaml.ScalarNode) -> Decimal:
    text = loader.construct_scalar(node)
    try:
        return Decimal(text)
    except InvalidOperation as error:
        raise yaml.constructor.ConstructorError(
            None, None, f"{text!r} is no decimal number", node.start_mark
        ) from error


def _text(loader: _ExactLoader, node: yaml.ScalarNode) -> str:
    return loader.construct_scalar(node)


def _members(loader: _ExactLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    seen: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(None, None, "a member's name must be a text", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands twice", key_node.start_mark)
        seen[key] = loader.construct_object(value_node, deep=True)
    return seen


_ExactLoader.add_constructor("tag:yaml.org,2002:float", _decimal)
_ExactLoader.add_constructor("tag:yaml.org,2002:timestamp", _text)
_ExactLoader.add_constructor("tag:yaml.org,2002:map", _members)
