"""Who asks, for the record: the actor that audits name.

Belongs here: the header, its bounds, which of several statements holds. Does not: deciding what an actor may do.

A person or service says who it is in the body's `actor`, or for every request alike in the header `x-actor`.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Header

from stripemeter_api.parameters import MAX_TEXT

DEFAULT = "api"

ActorHeader = Annotated[
    str | None,
    Header(
        alias="x-actor",
        min_length=1,
        max_length=MAX_TEXT,
        pattern=r"^[ -~]+$",
        description="Who asks, for the record; the body's `actor` comes first. Neither: `api`. Printable ASCII.",
        examples=["ann@example.com"],
    ),
]


def actor_of(said: str | None, header: str | None) -> str:
    """Whom to write down: the body's actor, else the header's, else `api`."""
    return said or header or DEFAULT
