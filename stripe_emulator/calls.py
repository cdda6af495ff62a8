"""What a handler is given, and what several handlers share: lists, pages, ids, missing objects.

Belongs here: Stripe's conventions across resources. Does not: a resource of its own.
"""

from __future__ import annotations

import operator
import secrets
import string
from collections.abc import Sequence
from dataclasses import dataclass

from stripe_emulator.faults import Do
from stripe_emulator.state import State, StoredObject
from stripe_emulator.wire import Json, StripeError

_ALPHABET = string.ascii_letters + string.digits
DEFAULT_LIMIT = 10
MAX_LIMIT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request, authenticated and checked against the schema.

    now: the time of the customer it is about, which may live on a test clock.
    clock: that test clock; None: the emulator's own.
    """

    state: State
    account: str
    path: str
    path_parameters: dict[str, str]
    parameters: Json
    now: int
    fault: Do | None = None
    request_id: str | None = None
    idempotency_key: str | None = None
    clock: str | None = None

    @property
    def world_now(self) -> int:
        """The emulator's time, also where `now` is a test clock's: what is received and sent happens in the world."""
        return self.now if self.clock is None else self.state.now()

    def set_alarm(self, kind: str, object_id: str, at: int | None) -> None:
        """Have something happen to an object at an instant of the clock it lives on; None: nothing."""
        self.state.set_alarm(self.account, kind, object_id, at, clock=self.clock or "")

    @property
    def object_id(self) -> str:
        """The id in the path."""
        return next(iter(self.path_parameters.values()))


def new_id(prefix: str) -> str:
    """A fresh id as Stripe shapes them: prefix, underscore, letters and digits."""
    return f"{prefix}_{''.join(secrets.choice(_ALPHABET) for _ in range(24))}"


def find_or_404(call: Call, kind: str, noun: str, param: str) -> StoredObject:
    """The object the path names.

    Raises:
        StripeError: Stripe's 404 `resource_missing`.
    """
    found = call.state.find_object(call.account, kind, call.object_id)
    if found is None:
        raise missing(noun, call.object_id, param)
    return found


def missing(noun: str, object_id: str, param: str) -> StripeError:
    """Stripe's 404 for an object that is not there."""
    return StripeError(404, f"No such {noun}: '{object_id}'", code="resource_missing", param=param)


def page(call: Call, items: Sequence[Json]) -> Json:
    """One page of a list as the parameters `limit`, `starting_after`, `ending_before` ask.

    Raises:
        StripeError: a limit out of 1..100, or a cursor that is not in the list.
    """
    limit = call.parameters.get("limit", DEFAULT_LIMIT)
    if not 1 <= limit <= MAX_LIMIT:
        raise StripeError(
            400,
            f"Invalid limit: must be between 1 and {MAX_LIMIT}.",
            code="parameter_invalid_integer",
            param="limit",
        )
    ids = [item["id"] for item in items]
    after, before = call.parameters.get("starting_after"), call.parameters.get("ending_before")
    for param, cursor in (("starting_after", after), ("ending_before", before)):
        if cursor is not None and cursor not in ids:
            raise missing("object", cursor, param)
    if before is not None:
        end = ids.index(before)
        first = max(0, end - limit)
        return {"object": "list", "data": list(items[first:end]), "has_more": first > 0, "url": call.path}
    first = ids.index(after) + 1 if after is not None else 0
    return {
        "object": "list",
        "data": list(items[first : first + limit]),
        "has_more": first + limit < len(items),
        "url": call.path,
    }


def was_created(at: int, created: Json | int | None) -> bool:
    """Whether an instant is what a list's parameter `created` asks for."""
    if created is None:
        return True
    if isinstance(created, int):
        return at == created
    compared = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}
    return all(compared[name](at, bound) for name, bound in created.items())


def check_implemented(call: Call, names: set[str], expandable: set[str] | None = None) -> None:
    """Nothing, when every parameter is one the emulator acts on: silence would look like obedience.

    Raises:
        StripeError: a parameter or an expansion Stripe has and the emulator does not.
    """
    for name in sorted(call.parameters.keys() - names - {"expand"}):
        raise StripeError(400, f"The emulator does not implement parameter: {name}", param=name)
    for field in call.parameters.get("expand", ()):
        if field not in (expandable or set()):
            raise StripeError(400, f"The emulator does not implement expanding: {field}", param="expand")


def merged_metadata(kept: Json, given: Json | str | None) -> Json:
    """Metadata after an update: keys are merged, an empty value removes its key, an empty string removes all."""
    if given is None:
        return kept
    merged = {} if isinstance(given, str) else {**kept, **given}
    return {key: text for key, text in merged.items() if text != ""}
