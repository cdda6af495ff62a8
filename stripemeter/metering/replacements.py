"""Replacements: the event that stands in a voided one's place.

Belongs here: its key, and reading it as any other event. Does not: voiding (`pipeline.void`), what an event must look
like (`events`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from stripemeter.errors import InvalidInput
from stripemeter.metering.events import IngestLimits, RejectedEvent, UsageEvent, parse_event

FIELD = "replacement"
MAX_KEY = 255
_NUMBERED = re.compile(r"(?P<stem>.+)#(?P<number>[1-9][0-9]{0,8})", re.DOTALL | re.ASCII)
# A decimal stays the number it was.
_encode = msgspec.json.Encoder(decimal_format="number").encode


def parse_replacement(
    document: object, *, tenant_id: str, voided_key: str, now: datetime, limits: IngestLimits
) -> UsageEvent:
    """The event a decoded document says, of the voided one's tenant; without a key it gets `next_key`'s.

    Args:
        document: decoded JSON, an event without tenantId; numbers int or Decimal.
        tenant_id: whose.
        voided_key: key of the event it stands for.
        now: aware; the future it may lie in is counted from here.
        limits: the operator's bounds.

    Raises:
        InvalidInput: it cannot be accepted; `field` names the member.
    """
    if not isinstance(document, Mapping):
        raise InvalidInput(f"{FIELD} must be an event", field=FIELD)
    said: dict[str, Any] = {**document}
    if said.setdefault("tenantId", tenant_id) != tenant_id:
        raise InvalidInput(f"{FIELD}.tenantId is another tenant's than the event's", field=f"{FIELD}.tenantId")
    if said.get("idempotencyKey") is None:
        said["idempotencyKey"] = next_key(voided_key)
    try:
        event = parse_event(_encode(said), now=now, limits=limits)
    except InvalidInput as error:
        # `row` is the whole document.
        field = FIELD if error.field in {"row", "body", ""} else f"{FIELD}.{error.field}"
        raise InvalidInput(str(error), field=field) from error
    if isinstance(event, RejectedEvent):
        member = "ts" if event.code == "ts_too_far_ahead" else "meta"
        raise InvalidInput(event.message, field=f"{FIELD}.{member}")
    return event


def next_key(key: str) -> str:
    """`order-7` becomes `order-7#2`, that `order-7#3`: a retry comes to the same.

    Raises:
        InvalidInput: it would be too long; the caller must choose one.
    """
    found = _NUMBERED.fullmatch(key)
    following = f"{found['stem']}#{int(found['number']) + 1}" if found else f"{key}#2"
    if len(following) > MAX_KEY:
        raise InvalidInput("the key is too long to be numbered: send one", field=f"{FIELD}.idempotencyKey")
    return following
