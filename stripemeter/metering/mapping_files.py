"""Price mappings as a file: a tenant, which prices bill its metrics, and which Stripe customers its customers are.

Belongs here: parsing and writing the decoded file, planning. Does not: YAML (`cli.yaml_files`), asking Stripe or
changing anything (`pipeline.price_mappings`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from stripemeter.errors import Conflict
from stripemeter.metering.parsing import elements_of, invalid, members_of, parse_text, within
from stripemeter.metering.price_mappings import (
    MappingStatement,
    parse_statement,
    parse_stripe_id,
    statement_document,
)

MAX_MAPPINGS = 1000
MAX_CUSTOMERS = 100_000
"""Of one file."""
_MEMBERS = ("tenant", "mappings", "customers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """Which Stripe customer a customer is at an account."""

    customer_ref: str
    stripe_account_id: str
    stripe_customer_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MappingFile:
    """What a file says: each (metric, account) once, each (customer, account) once."""

    tenant_id: str
    mappings: tuple[MappingStatement, ...]
    bindings: tuple[Binding, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedStatement:
    """What is said of a mapping that exists."""

    id: UUID
    statement: MappingStatement


@dataclass(frozen=True, slots=True, kw_only=True)
class MappingChange:
    """One mapping that applying a file would make or change; `members`: member, before, after."""

    action: Literal["create", "change", "off"]
    id: UUID | None
    statement: MappingStatement
    members: tuple[tuple[str, object, object], ...] = ()


def parse_mapping_file(document: object) -> MappingFile:
    """What a decoded file says.

    Raises:
        InvalidInput: it is no such file; `field` names the member.
    """
    members = members_of(document, _MEMBERS, "")
    for name in ("tenant", "mappings"):
        if name not in members:
            raise invalid("is required", name)
    return MappingFile(
        tenant_id=parse_text(members["tenant"], "tenant"),
        mappings=_parse_mappings(members["mappings"]),
        bindings=_parse_bindings(members.get("customers", [])),
    )


def mapping_file_document(
    tenant_id: str, recorded: Sequence[RecordedStatement], bindings: Sequence[Binding]
) -> dict[str, Any]:
    """The file that says what is so: applying it changes nothing. Members that have their default are left out."""
    kept = _standing(recorded)
    return {
        "tenant": tenant_id,
        "mappings": [_entry(kept[key].statement) for key in sorted(kept)],
        "customers": [
            {
                "customerRef": binding.customer_ref,
                "stripeAccount": binding.stripe_account_id,
                "stripeCustomer": binding.stripe_customer_id,
            }
            for binding in bindings
        ],
    }


def plan_mappings(file: MappingFile, recorded: Sequence[RecordedStatement], *, is_pruning: bool) -> list[MappingChange]:
    """The mappings that applying the file would make or change; those it would switch off come first.

    A mapping is known by its metric and the account it sends to: of several, the one that is on, else the newest.

    Args:
        file: what is wanted.
        recorded: what is so, oldest first.
        is_pruning: switch off what the file does not name.
    """
    known = _standing(recorded)
    changes = [_planned(said, known.get(_key(said))) for said in file.mappings]
    stated = {_key(said) for said in file.mappings}
    others = [
        MappingChange(action="off", id=each.id, statement=each.statement)
        for each in recorded
        if is_pruning and each.statement.is_active and _key(each.statement) not in stated
    ]
    found = others + [change for change in changes if change is not None]
    # What is switched off makes room for what is switched on.
    return sorted(found, key=lambda change: change.action != "off" and change.statement.is_active)


def plan_bindings(file: MappingFile, recorded: Sequence[Binding]) -> list[Binding]:
    """The customers that applying the file would bind, in its order.

    Raises:
        Conflict: a customer is bound to another Stripe customer: what it was sent stays there.
    """
    known = {(each.customer_ref, each.stripe_account_id): each for each in recorded}
    missing = []
    for said in file.bindings:
        bound = known.get((said.customer_ref, said.stripe_account_id))
        if bound is None:
            missing.append(said)
        elif bound != said:
            raise Conflict(
                f"customer {said.customer_ref!r} is {bound.stripe_customer_id} at {said.stripe_account_id}, not "
                f"{said.stripe_customer_id}; what it was sent stays there"
            )
    return missing


def _planned(said: MappingStatement, before: RecordedStatement | None) -> MappingChange | None:
    if before is None:
        return MappingChange(action="create", id=None, statement=said)
    old, new = statement_document(before.statement), statement_document(said)
    members = tuple((name, old[name], new[name]) for name in new if old[name] != new[name])
    return MappingChange(action="change", id=before.id, statement=said, members=members) if members else None


def _key(statement: MappingStatement) -> tuple[str, str]:
    return statement.metric, statement.target_account_id


def _standing(recorded: Sequence[RecordedStatement]) -> dict[tuple[str, str], RecordedStatement]:
    """By key the mapping that counts: the one that is on, else the newest."""
    kept: dict[tuple[str, str], RecordedStatement] = {}
    for each in recorded:
        held = kept.get(_key(each.statement))
        if held is None or each.statement.is_active or not held.statement.is_active:
            kept[_key(each.statement)] = each
    return kept


def _parse_mappings(document: object) -> tuple[MappingStatement, ...]:
    entries = [] if document == [] else elements_of(document, "mappings", most=MAX_MAPPINGS)
    statements = tuple(parse_statement(entry, within("mappings", index)) for index, entry in enumerate(entries))
    seen: set[tuple[str, str]] = set()
    for index, statement in enumerate(statements):
        if _key(statement) in seen:
            raise invalid(
                f"{statement.metric!r} at {statement.target_account_id} stands twice", f"mappings[{index}].metric"
            )
        seen.add(_key(statement))
    return statements


def _parse_bindings(document: object) -> tuple[Binding, ...]:
    entries = [] if document == [] else elements_of(document, "customers", most=MAX_CUSTOMERS)
    bindings = tuple(_parse_binding(entry, within("customers", index)) for index, entry in enumerate(entries))
    seen: set[tuple[str, str]] = set()
    for index, binding in enumerate(bindings):
        for key, name in (
            ((f"r{binding.customer_ref}", binding.stripe_account_id), "customerRef"),
            ((f"s{binding.stripe_customer_id}", binding.stripe_account_id), "stripeCustomer"),
        ):
            if key in seen:
                raise invalid(f"{key[0][1:]!r} stands twice at {key[1]}", f"customers[{index}].{name}")
            seen.add(key)
    return bindings


def _parse_binding(document: object, field: str) -> Binding:
    members = members_of(document, ("customerRef", "stripeAccount", "stripeCustomer"), field)
    for name in ("customerRef", "stripeAccount", "stripeCustomer"):
        if name not in members:
            raise invalid("is required", within(field, name))
    return Binding(
        customer_ref=parse_text(members["customerRef"], within(field, "customerRef")),
        stripe_account_id=parse_stripe_id(members["stripeAccount"], within(field, "stripeAccount"), prefix="acct_"),
        stripe_customer_id=parse_stripe_id(members["stripeCustomer"], within(field, "stripeCustomer"), prefix="cus_"),
    )


def _entry(statement: MappingStatement) -> dict[str, Any]:
    defaults: Mapping[str, object] = {"active": True, "shadow": False, "latePolicy": "hold"}
    return {
        name: value
        for name, value in statement_document(statement).items()
        if value is not None and value != defaults.get(name)
    }
