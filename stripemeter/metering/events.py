"""Usage events: what outside data must look like, and what makes two of them the same.

Belongs here: parsing and validating an ingest body, keys and hashes. Does not: HTTP, storage, the clock.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec

from stripemeter.errors import InvalidInput

MAX_AHEAD = timedelta(hours=1)
"""How far in the future `ts` may lie. Source: the original's contract."""
MAX_WHOLE_DIGITS = 26
MAX_DECIMALS = 12
"""numeric(38, 12): 26 digits before the point, 12 after."""
MAX_META_WHOLE_DIGITS = 309
MAX_META_DECIMALS = 1074
"""Bounds of a number inside `meta`: those of a double, written out. jsonb writes every digit, so 1e131071 would come
back 131 072 characters long; and it refuses to store what is a little beyond."""
NUL = "\x00"

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
_Ref = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,4})?")
_CANONICAL = re.compile(rb"(?:0|[1-9][0-9]{0,25})(?:\.[0-9]{0,11}[1-9])?")
_DECIMAL_STRING = re.compile(rb'"-?[0-9]+(?:\.[0-9]+)?"')
_PATH = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_INDEX = re.compile(r"^events\[(?P<index>\d+)\]")
_MISSING = re.compile(r"^Object missing required field `(?P<name>[^`]+)`")
_TOO_MANY_DIGITS = Decimal(10) ** MAX_WHOLE_DIGITS


class UsageEvent(msgspec.Struct, frozen=True, gc=False):
    """One acceptable event, as the ledger stores it. `meta` is JSON text; quantity plain decimal text, canonical."""

    key_hash: bytes
    payload_hash: int
    tenant_id: str
    metric: str
    customer_ref: str
    resource_id: str | None
    quantity: str
    ts: datetime
    meta: str | None
    idempotency_key: str
    source: str


class RejectedEvent(msgspec.Struct, frozen=True, gc=False):
    """One event of a well-formed batch that cannot be accepted, and why."""

    tenant_id: str
    idempotency_key: str
    code: str
    message: str


class IngestLimits(msgspec.Struct, frozen=True):
    """What an operator may bound."""

    max_batch: int = 1000
    max_meta_bytes: int = 4096
    is_tenant_uuid: bool = False


class _IncomingEvent(msgspec.Struct, rename="camel", gc=False):
    tenant_id: _Ref
    metric: _Name
    customer_ref: _Ref
    quantity: msgspec.Raw
    ts: Annotated[datetime, msgspec.Meta(tz=True)]
    resource_id: Annotated[str, msgspec.Meta(max_length=255)] | None = None
    meta: msgspec.Raw = msgspec.Raw(b"")
    idempotency_key: _Ref | None = None
    source: Literal["sdk", "http", "etl", "import", "system"] = "http"


class _IncomingBatch(msgspec.Struct):
    events: Annotated[list[_IncomingEvent], msgspec.Meta(min_length=1)]


def _exact_number(text: str) -> Decimal:
    """A JSON number with a point or an exponent, exactly; ValueError beyond the bounds."""
    number = Decimal(text)
    exponent = int(number.as_tuple().exponent)  # JSON knows no NaN and no infinity
    if exponent < -MAX_META_DECIMALS or number.adjusted() >= MAX_META_WHOLE_DIGITS:
        raise ValueError(f"the number {_shown(text.encode())} is out of range")
    return number


_decode_batch = msgspec.json.Decoder(_IncomingBatch).decode
_decode_event = msgspec.json.Decoder(_IncomingEvent).decode
_decode_any = msgspec.json.Decoder(float_hook=_exact_number).decode
# A decimal stays a number: as a string 1.5 and "1.5" would be one payload, and one derived key.
_encode_sorted = msgspec.json.Encoder(order="sorted", decimal_format="number").encode


def parse_ingest(
    body: bytes, *, header_key: str | None, now: datetime, limits: IngestLimits
) -> list[UsageEvent | RejectedEvent]:
    """The events of an ingest body, in its order.

    Args:
        body: the raw JSON document.
        header_key: the `Idempotency-Key` header, for events without a key of their own.
        now: aware; events more than MAX_AHEAD later are rejected one by one.
        limits: the operator's bounds.

    Raises:
        InvalidInput: the body as a whole is refused; `index` and `field` name the first offender.
    """
    try:
        incoming = _decode_batch(body).events
    except msgspec.ValidationError as error:
        raise _located(str(error)) from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the body is not valid JSON: {error}", field="body") from error
    if len(incoming) > limits.max_batch:
        raise InvalidInput(f"Batch too large: {len(incoming)} > {limits.max_batch}", field="events", index=-1)
    if header_key is not None:
        _check_header_key(header_key)
    # A raw NUL cannot stand in JSON, so no escape means no NUL anywhere: one scan spares five per event.
    may_hold_nul = b"\\u0000" in body
    latest = now + MAX_AHEAD
    single = len(incoming) == 1
    parsed: list[UsageEvent | RejectedEvent] = []
    for index, event in enumerate(incoming):
        if may_hold_nul:
            _refuse_nul(event, index)
        if limits.is_tenant_uuid:
            _require_uuid(event.tenant_id, index)
        fallback = header_key if single or header_key is None else f"{header_key}:{index}"
        parsed.append(_parse_event(event, index, fallback, latest, limits.max_meta_bytes))
    return parsed


def parse_event(document: bytes, *, now: datetime, limits: IngestLimits) -> UsageEvent | RejectedEvent:
    """One event object that stands alone (a row of a file), by the rules and in the words of `parse_ingest`.

    Without a key of its own it gets the derived one.

    Raises:
        InvalidInput: it is refused; `field` names the member.
    """
    try:
        event = _decode_event(document)
    except msgspec.ValidationError as error:
        raise _located(str(error)) from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the row is not valid JSON: {error}", field="row") from error
    if b"\\u0000" in document:
        _refuse_nul(event, None)
    if limits.is_tenant_uuid:
        _require_uuid(event.tenant_id, None)
    return _parse_event(event, None, None, now + MAX_AHEAD, limits.max_meta_bytes)


def key_hash(tenant_id: str, idempotency_key: str) -> bytes:
    """128 bits that identify (tenant, key). Both are free of NUL, so joining with it is unambiguous."""
    return hashlib.blake2b(f"{tenant_id}{NUL}{idempotency_key}".encode(), digest_size=16).digest()


def payload_hash(payload: bytes) -> int:
    """64 bits of the canonical payload, as a signed integer: tells a retry from a conflict."""
    return int.from_bytes(hashlib.blake2b(payload, digest_size=8).digest(), "big", signed=True)


def canonical_quantity(quantity: Decimal) -> str:
    """Plain decimal text without exponent, sign of zero or trailing zeros: equal numbers, equal text."""
    text = format(quantity, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in {"-0", ""} else text


def _parse_event(
    event: _IncomingEvent, index: int | None, fallback_key: str | None, latest: datetime, max_meta_bytes: int
) -> UsageEvent | RejectedEvent:
    quantity = _parse_quantity(bytes(event.quantity), index)
    try:
        ts = event.ts if event.ts.tzinfo is UTC else event.ts.astimezone(UTC)
    except OverflowError as error:
        raise _invalid(index, "ts", "ts is outside the years 0001 to 9999 in UTC") from error
    meta = bytes(event.meta)
    meta_canonical = b""
    if meta and meta != b"null":
        meta_canonical = _canonical_meta(meta, index)
    payload = NUL.join(
        (
            event.tenant_id,
            event.metric,
            event.customer_ref,
            "" if event.resource_id is None else f"={event.resource_id}",
            ts.isoformat(),
            quantity,
            "",
        )
    ).encode()
    payload += meta_canonical
    key = event.idempotency_key or fallback_key
    if key is None:
        key = "evt_" + hashlib.blake2b(payload, digest_size=16).hexdigest()
    if ts > latest:
        return RejectedEvent(event.tenant_id, key, "ts_too_far_ahead", "Event timestamp too far in the future")
    if len(meta) > max_meta_bytes:
        return RejectedEvent(
            event.tenant_id, key, "meta_too_large", f"meta is {len(meta)} bytes, at most {max_meta_bytes} are accepted"
        )
    return UsageEvent(
        key_hash(event.tenant_id, key),
        payload_hash(payload),
        event.tenant_id,
        event.metric,
        event.customer_ref,
        event.resource_id,
        quantity,
        ts,
        meta.decode() if meta_canonical else None,
        key,
        event.source,
    )


def _parse_quantity(raw: bytes, index: int | None) -> str:
    if _CANONICAL.fullmatch(raw):  # what nearly every event carries, and already the text it would become
        return raw.decode("ascii")
    if not (_NUMBER.fullmatch(raw) or _DECIMAL_STRING.fullmatch(raw)):
        raise _invalid(
            index, "quantity", f'quantity must be a number or a decimal string like "1.5", not {_shown(raw)}'
        )
    quantity = Decimal(raw.strip(b'"').decode("ascii"))
    if quantity < 0:
        raise _invalid(index, "quantity", "quantity must be at least 0: to take usage back, create an adjustment")
    if quantity >= _TOO_MANY_DIGITS:
        raise _invalid(index, "quantity", f"quantity has more than {MAX_WHOLE_DIGITS} digits before the point")
    if _has_too_many_decimals(quantity):
        raise _invalid(index, "quantity", f"quantity has more than {MAX_DECIMALS} decimals")
    return canonical_quantity(quantity)


def _has_too_many_decimals(quantity: Decimal) -> bool:
    """Whether a digit other than 0 stands beyond the twelfth decimal."""
    _, digits, exponent = quantity.as_tuple()
    surplus = -MAX_DECIMALS - int(exponent)  # an integer: the patterns admit no NaN and no infinity
    return surplus > 0 and any(digits[-surplus:])


def _canonical_meta(raw: bytes, index: int | None) -> bytes:
    try:
        value: Any = _decode_any(raw)
    except (msgspec.DecodeError, RecursionError, ArithmeticError, ValueError) as error:
        raise _invalid(index, "meta", f"meta cannot be stored: {error}") from error
    if not isinstance(value, dict):
        raise _invalid(index, "meta", f"meta must be an object, not {_shown(raw)}")
    return _encode_sorted(value)


def _refuse_nul(event: _IncomingEvent, index: int | None) -> None:
    texts: Sequence[tuple[str, str | None]] = (
        ("tenantId", event.tenant_id),
        ("metric", event.metric),
        ("customerRef", event.customer_ref),
        ("resourceId", event.resource_id),
        ("idempotencyKey", event.idempotency_key),
        ("meta", NUL if _escapes_nul(bytes(event.meta)) else None),
    )
    for name, text in texts:
        if text is not None and NUL in text:
            raise _invalid(index, name, f"{name} must not contain the NUL character")


def _escapes_nul(raw: bytes) -> bool:
    """Whether a JSON text holds an escaped NUL (and not an escaped backslash before `u0000`)."""
    return re.search(rb"(?<!\\)(?:\\\\)*\\u0000", raw) is not None


def _require_uuid(tenant_id: str, index: int | None) -> None:
    try:
        uuid.UUID(tenant_id)
    except ValueError as error:
        raise _invalid(index, "tenantId", "tenantId must be a UUID (STRICT_TENANT_ID_UUID is on)") from error


def _check_header_key(header_key: str) -> None:
    if not 1 <= len(header_key) <= 240 or NUL in header_key:  # room for ":999"
        raise InvalidInput("the Idempotency-Key header must have 1 to 240 characters", field="Idempotency-Key")


def _located(message: str) -> InvalidInput:
    """msgspec's complaint as ours: the path as `events[3].metric`, the index beside it."""
    found = _PATH.search(message)
    path = found["path"] if found else ""
    reason = message[: found.start()] if found else message
    missing = _MISSING.match(reason)
    if missing:
        path = f"{path}.{missing['name']}".lstrip(".")
        reason = f"{missing['name']} is required"
    index = _INDEX.match(path)
    name = path or "body"
    return InvalidInput(f"{name}: {reason}", field=name, index=int(index["index"]) if index else None)


def _invalid(index: int | None, name: str, message: str) -> InvalidInput:
    return InvalidInput(message, field=name if index is None else f"events[{index}].{name}", index=index)


def _shown(raw: bytes) -> str:
    text = raw.decode("utf-8", errors="replace")
    return text if len(text) <= 40 else f"{text[:40]}…"
