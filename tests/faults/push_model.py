"""A model of the push, small enough that every history of it can be visited.

Belongs here: the model and the search. Does not: the product; `test_push_model` holds the two together.

One customer and one meter. Usage grows by units. A request may be refused, lost before or after Stripe took it, delayed
until its sender has long gone, or answered by a saved 500. The worker may die between any two steps. A day may pass:
then Stripe has forgotten identifiers and saved answers. Stripe must never hold more than was used, and whenever every
row is settled and covers the usage, not less.

It assumes what the product relies on: a minute is read back after its summary has settled, nobody else writes to the
meter, no request lives a day in the network, and Stripe remembers identifiers longer than RETRY_WINDOW.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

OK, EXISTS, REFUSED, LOST, FAILED = "200", "exists", "429", "no answer", "500"
SETTLED: dict[str, tuple[str, int]] = {
    OK: ("accepted", 0),
    EXISTS: ("accepted", 0),
    REFUSED: ("sending", 0),
    LOST: ("sending", 0),
    FAILED: ("sending", 1),
}
"""What an answer makes of a row in `sending`: its state, and by how much its Idempotency-Key's number grows."""
READ_BACK: dict[bool, tuple[str, int]] = {True: ("accepted", 0), False: ("planned", 1)}
"""What reading a row's minute back makes of it: was the row there?"""


class Row(NamedTuple):
    """A row of the outbox; `is_old` when its first attempt was a day ago."""

    delta: int
    state: str
    name: str
    key_no: int
    is_old: bool


class Request(NamedTuple):
    """What is sent; `row` is None for a variant that has none yet. `token` is what the row's minute is read back by."""

    row: int | None
    delta: int
    name: str
    key_no: int
    token: tuple[object, ...]


class Event(NamedTuple):
    """What Stripe holds; it is forgotten as an identifier after a day, and still counted."""

    name: str
    delta: int
    token: tuple[object, ...]
    is_remembered: bool


class World(NamedTuple):
    """Everything there is at one instant. `hand` is the request about to leave, or the one whose answer came."""

    used: int = 0
    rows: tuple[Row, ...] = ()
    events: tuple[Event, ...] = ()
    saved: tuple[tuple[str, str], ...] = ()
    late: tuple[Request, ...] = ()
    hand: Request | None = None
    answer: str | None = None
    sends: int = 0
    days: int = 0

    @property
    def held(self) -> int:
        """What Stripe holds."""
        return sum(event.delta for event in self.events)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """The protocol, or a naive one with some of it left out."""

    is_row_first: bool = True
    is_name_kept: bool = True
    is_name_of_total: bool = False
    reads_back: bool = True
    changes_key: bool = True
    takes_exists: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """How far the search goes."""

    units: int = 2
    sends: int = 4
    days: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the search found; a counterexample is the steps that lead to it. `moves` are the rows' changes of state."""

    worlds: int
    complete: int
    too_much: tuple[str, ...] | None
    too_little: tuple[str, ...] | None
    moves: frozenset[tuple[str, str]]


def explore(variant: Variant, scope: Scope) -> Verdict:
    """Visit every world that can be reached, the nearest first."""
    start = World()
    came: dict[World, tuple[World, str] | None] = {start: None}
    frontier = [start]
    complete = 0
    too_much: World | None = None
    too_little: World | None = None
    moves: set[tuple[str, str]] = set()
    for world in frontier:  # grows while it is read: breadth first, so a counterexample is a shortest one
        if world.held > world.used and too_much is None:
            too_much = world
        if is_complete(world):
            complete += 1
            if world.held < world.used and too_little is None:
                too_little = world
        for step, after in steps(world, variant, scope):
            moves |= {(old.state, new.state) for old, new in zip(world.rows, after.rows, strict=False)}
            if after not in came:
                came[after] = (world, step)
                frontier.append(after)
    return Verdict(
        worlds=len(came),
        complete=complete,
        too_much=_path(came, too_much),
        too_little=_path(came, too_little),
        moves=frozenset(move for move in moves if move[0] != move[1]),
    )


def is_complete(world: World) -> bool:
    """Nothing is under way, and what is settled as sent is what was used."""
    return (
        world.hand is None
        and not world.late
        and bool(world.rows)
        and all(row.state in ("accepted", "rejected") for row in world.rows)
        and _planned(world) == world.used
    )


def steps(world: World, variant: Variant, scope: Scope) -> Iterator[tuple[str, World]]:
    """Everything that may happen next."""
    if world.used < scope.units:
        yield "use one", world._replace(used=world.used + 1)
    if world.hand is None:
        yield from _idle(world, variant)
    else:
        if world.answer is not None:
            yield _settle(world, world.hand, world.answer, variant)
        elif world.sends < scope.sends:
            yield from _send(world, world.hand, variant)
        yield "die", world._replace(hand=None, answer=None)
    for number, request in enumerate(world.late):
        rest = world._replace(late=world.late[:number] + world.late[number + 1 :])
        yield "a late request executes", rest if _is_remembered(rest, request.name) else _take(rest, request)
    if world.days < scope.days and not world.late and world.hand is None:
        yield (
            "a day passes",
            world._replace(
                days=world.days + 1,
                saved=(),
                events=tuple(event._replace(is_remembered=False) for event in world.events),
                rows=tuple(row._replace(is_old=row.is_old or row.state == "sending") for row in world.rows),
            ),
        )


def _idle(world: World, variant: Variant) -> Iterator[tuple[str, World]]:
    in_flight = [number for number, row in enumerate(world.rows) if row.state in ("planned", "sending")]
    lacking = world.used - _planned(world)
    if not in_flight and lacking > 0:
        name = f"total {world.used}" if variant.is_name_of_total else f"row {len(world.rows)}"
        if variant.is_row_first:
            row = Row(delta=lacking, state="planned", name=name, key_no=0, is_old=False)
            yield "plan", world._replace(rows=(*world.rows, row))
        else:
            request = Request(row=None, delta=lacking, name=name, key_no=0, token=("unwritten", name, lacking))
            yield "send without a row", world._replace(hand=request)
    for number in in_flight:
        row = world.rows[number]
        request = Request(row=number, delta=row.delta, name=row.name, key_no=row.key_no, token=(number,))
        if row.state == "planned":
            yield "claim", _with(world, number, state="sending")._replace(hand=request)
        elif row.is_old and variant.reads_back:
            is_there = any(event.token == request.token for event in world.events)
            state, key_steps = READ_BACK[is_there]
            after = _with(world, number, state=state, key_no=row.key_no + key_steps, is_old=False)
            yield f"read back: {'there' if is_there else 'absent'}", after
        else:
            yield "send again", world._replace(hand=request)


def _send(world: World, request: Request, variant: Variant) -> Iterator[tuple[str, World]]:
    named = request if variant.is_name_kept else request._replace(name=f"{request.name}, attempt {world.sends}")
    for after, answer in _answers(world, named):
        yield f"send: {answer}", after._replace(answer=answer, sends=world.sends + 1)


def _answers(world: World, request: Request) -> Iterator[tuple[World, str]]:
    key = f"{request.name}.{request.key_no}"
    if (key, FAILED) in world.saved:
        yield world, FAILED
        return
    if _is_remembered(world, request.name):
        yield world, EXISTS
        return
    taken = _take(world, request)
    yield world, REFUSED
    yield world, LOST
    yield taken, OK
    yield taken, LOST
    yield world._replace(late=(*world.late, request)), LOST
    yield world._replace(saved=(*world.saved, (key, FAILED))), FAILED
    yield taken._replace(saved=(*taken.saved, (key, FAILED))), FAILED


def _settle(world: World, request: Request, answer: str, variant: Variant) -> tuple[str, World]:
    idle = world._replace(hand=None, answer=None)
    state, key_steps = SETTLED[answer]
    if answer == EXISTS and not variant.takes_exists:
        state = "rejected"
    if answer == FAILED and not variant.changes_key:
        state, key_steps = "rejected", 0
    if request.row is not None:
        key_no = world.rows[request.row].key_no + key_steps
        return f"settle {answer}: {state}", _with(idle, request.row, state=state, key_no=key_no)
    if state != "accepted":
        return "forget it", idle
    row = Row(delta=request.delta, state="accepted", name=request.name, key_no=0, is_old=False)
    return "write the row", idle._replace(rows=(*idle.rows, row))


def _planned(world: World) -> int:
    return sum(row.delta for row in world.rows if row.state != "rejected")


def _is_remembered(world: World, name: str) -> bool:
    return any(event.name == name and event.is_remembered for event in world.events)


def _take(world: World, request: Request) -> World:
    event = Event(name=request.name, delta=request.delta, token=request.token, is_remembered=True)
    return world._replace(events=(*world.events, event))


def _with(world: World, number: int, **changes: object) -> World:
    row = world.rows[number]._replace(**changes)  # type: ignore[arg-type] # fields by name
    return world._replace(rows=(*world.rows[:number], row, *world.rows[number + 1 :]))


def _path(came: dict[World, tuple[World, str] | None], world: World | None) -> tuple[str, ...] | None:
    if world is None:
        return None
    path: list[str] = []
    while (step := came[world]) is not None:
        world, name = step
        path.append(name)
    return tuple(reversed(path))
