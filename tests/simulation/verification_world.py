"""Random runs and the later fates of their clones, verified by a random account over a server that may fail.

The server keeps the promises of a real one: an account sees what it owns or may use, admin sees everything, an answer
may be cut, refused or lack fields that the server does not know, and deleted services are in no answer.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from batch.app.verifier import Verifier
from batch.manifest import open_manifest
from batch.manifest.kinds import ConnectedLine
from batch.manifest.targets import open_targets
from batch.model import Clone, HandOver, HandOverRecord, JsonValue, Plan, Record, State
from batch.report.verification import Verdict, Verification
from batch.zstack.answers import NoAnswer
from batch.zstack.calls import Services
from batch.zstack.queries import Account, Identity
from batch.zstack.wire import CallFailedError
from tests.manifest.manifest_world import HEADER, inline

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
    from pathlib import Path
    from random import Random

    from batch.zstack.calls import CloneReader
    from batch.zstack.queries import QueryApi

ADMIN, ALICE, BOB = "0" * 32, "a" * 32, "b" * 32
TARGETS = 6


@dataclass
class Service:
    """A model service on the server."""

    fields: dict[str, JsonValue]
    owner: str
    tags: set[str]
    shared: set[str] = field(default_factory=set)
    is_deleted: bool = False


@dataclass
class Target:
    """A target of the run and what the job file asks for."""

    clone: Clone
    state: State
    makers: list[str | None]
    """The account of each attempt; None if the process did not record it."""


@dataclass
class World:
    """One run, the server since then, and the account that verifies."""

    rng: Random
    caller: str
    targets: list[Target] = field(default_factory=list)
    services: dict[str, Service] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    """Fields that the server never shows."""
    shown: set[str] = field(default_factory=set)
    """Fields that any answer had."""

    def visible(self, uuids: Iterable[str]) -> dict[str, Service]:
        found = ((uuid, self.services.get(uuid)) for uuid in uuids)
        return {uuid: row for uuid, row in found if row is not None and self._may_see(row)}

    def _may_see(self, row: Service) -> bool:
        return not row.is_deleted and (self.caller in {ADMIN, row.owner} or self.caller in row.shared)

    def _fail(self) -> None:
        if self.rng.random() < 0.03:
            raise CallFailedError("query", NoAnswer("reset"))

    async def services_of(self, uuids: Sequence[str]) -> Services:
        self._fail()
        rows = self.visible(uuids)
        shown: dict[str, Mapping[str, JsonValue]] = {
            uuid: {name: value for name, value in row.fields.items() if value is not None and name not in self.hidden}
            for uuid, row in rows.items()
        }
        if shown and self.rng.random() < 0.1:
            # Cut short, and the total says so.
            shown.pop(next(iter(shown)))
        self.shown.update(name for row in shown.values() for name in row)
        return Services(shown, len(shown) == len(rows))

    async def tags_of(self, uuids: Sequence[str]) -> dict[str, set[str]]:
        self._fail()
        return {uuid: set(row.tags) for uuid, row in self.visible(uuids).items()}

    async def shares_of(self, uuids: Sequence[str]) -> dict[str, set[str]]:
        assert self.caller == ADMIN
        return {uuid: set(row.shared) for uuid, row in self.visible(uuids).items()}

    async def owners_of(self, uuids: Iterable[str]) -> dict[str, Account]:
        self._fail()
        return {uuid: Account(row.owner, None) for uuid, row in self.visible(uuids).items()}

    def is_in_sync(self, target: Target) -> bool:
        """Return whether the server has what the job file asks for, as far as it shows it to anybody."""
        row, clone = self.services.get(target.clone.resource_uuid), target.clone
        if row is None or row.is_deleted:
            return False
        wanted = {name: value for name, value in clone.params.items() if name in self.shown}
        tags = set(json.loads(clone.body).get("userTags", []))
        owner = None if clone.hand_over is None else clone.hand_over.owner
        is_same = all(row.fields.get(name) == value for name, value in wanted.items())
        return is_same and tags <= row.tags and owner in (None, row.owner)


class Faces:
    """The world as ``Verifier`` queries it: both of its helpers in one."""

    def __init__(self, world: World) -> None:
        self.services, self.tags, self.shares = world.services_of, world.tags_of, world.shares_of
        self.owners = world.owners_of

    async def tags_with_prefix(self, _prefix: str) -> AsyncIterator[tuple[str, str]]:
        none: tuple[tuple[str, str], ...] = ()
        for pair in none:
            yield pair


def make_world(rng: Random) -> World:
    """Draw a run and the fates of its clones."""
    world = World(rng, rng.choice([ADMIN, ALICE, BOB]), hidden={"b"} if rng.random() < 0.3 else set())
    for number in range(TARGETS):
        params: dict[str, JsonValue] = {name: rng.randrange(3) for name in "ab" if rng.random() < 0.8}
        tags = ["t::t"] if rng.random() < 0.4 else []
        body = json.dumps({"params": params, "userTags": tags}).encode()
        owner = rng.choice([None, None, ALICE, BOB])
        over = None if owner is None else HandOver(owner)
        uuid = f"{number + 1:032x}"
        clone = Clone(f"k{number}", "s", uuid, body, f"{number:032x}", params, over)
        state = rng.choice([State.CLONED] * 4 + [State.SENT, State.FAILED])
        makers = [rng.choice([ALICE, ALICE, BOB, ADMIN, None]) for _ in range(rng.choice([1, 1, 2]))]
        world.targets.append(Target(clone, state, makers))
        if state is State.CLONED:
            last = makers[-1] or rng.choice([ALICE, BOB, ADMIN])
            world.services[uuid] = Service(dict(params), owner or last, set(tags))
    for row in world.services.values():
        _change(rng, row)
    return world


def _change(rng: Random, row: Service) -> None:
    """Let somebody else change a service, or leave it alone."""
    act = rng.randrange(10)
    if act == 0:
        row.is_deleted = True
    elif act == 1:
        row.fields["a"] = 7
    elif act == 2:
        row.fields["a"] = None
    elif act == 3:
        row.tags.clear()
    elif act == 4:
        row.shared.add(rng.choice([ALICE, BOB]))


async def _write(world: World, path: Path) -> None:
    """Write the run's manifest: each attempt by another process."""
    plan = Plan("j", "default", "aa", TARGETS, lambda: iter(()), hand_overs=_hand_overs(world))
    for number, target in enumerate(world.targets):
        for attempt, maker in enumerate(target.makers, 1):
            manifest = open_manifest(path, HEADER, in_thread=inline)
            manifest.note_operation(ConnectedLine(1.0, maker, 1.0))
            if not number and attempt == 1:
                await manifest.write_plan(plan, ((one.clone.key, "s") for one in world.targets))
            clone, uuid = target.clone, target.clone.resource_uuid
            manifest.note(Record(State.SENT, clone.key, 1.0, attempt, "s", uuid, "1" * 32, clone.digest, open_jobs=()))
            if attempt == len(target.makers) and target.state is not State.SENT:
                made = uuid if target.state is State.CLONED else None
                manifest.note(Record(target.state, clone.key, 2.0, attempt, clone_uuid=made))
                # A process may be killed between a hand-over and its record.
                if made and clone.hand_over is not None and world.rng.random() < 0.7:
                    manifest.note_hand_over(HandOverRecord(clone.key, 3.0, clone.hand_over, uuid))
            await manifest.close(0)


def _hand_overs(world: World) -> int:
    return sum(target.clone.hand_over is not None for target in world.targets)


async def verdicts(world: World, path: Path) -> list[Verdict]:
    """Verify the run and return the verdict on each target; raises nothing."""
    await _write(world, path)
    clones = [target.clone for target in world.targets]
    plan = Plan("j", "default", "aa", TARGETS, lambda: iter(clones), hand_overs=_hand_overs(world))
    found = Verification("j", "default", "", "", "", 0.0)
    faces: Any = Faces(world)
    identity = Identity(Account(world.caller, None), world.caller == ADMIN)
    with open_targets(path) as targets:
        verifier = Verifier(
            targets,
            plan,
            found,
            identity=identity,
            readback=cast("CloneReader", faces),
            query_api=cast("QueryApi", faces),
        )
        await verifier.run()
        return [verifier.verdict(ordinal) for ordinal in range(TARGETS)]


def broken_promises(rng: Random, path: Path) -> list[str]:
    """Play one schedule and return the false verdicts."""
    world = make_world(rng)
    path.unlink(missing_ok=True)
    result = asyncio.run(verdicts(world, path))
    wrong = []
    for target, verdict in zip(world.targets, result, strict=True):
        row = world.services.get(target.clone.resource_uuid)
        is_there = row is not None and not row.is_deleted
        if verdict is Verdict.MISSING and is_there:
            wrong.append(f"{target.clone.key} is there, and missing is said of it")
        if verdict is Verdict.IN_SYNC and not world.is_in_sync(target):
            wrong.append(f"{target.clone.key} is in sync, and is not as it was asked for")
        if target.state is not State.CLONED and verdict in (Verdict.MISSING, Verdict.IN_SYNC, Verdict.DRIFTED):
            wrong.append(f"{target.clone.key} is {target.state}, and {verdict} is said of it")
    return wrong
