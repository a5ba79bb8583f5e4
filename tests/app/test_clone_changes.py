"""``ChangeExecutor`` against a minimal fake server: what is recorded, sent, left and unknown."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

import pytest

from batch.app.clone_changes import ChangeExecutor, Objection
from batch.app.deletions import CloneDeletion
from batch.app.verifier import Item
from batch.clock import SystemClock
from batch.engine import Stop
from batch.errors import RunStoppedError
from batch.manifest import Header, open_manifest
from batch.manifest.kinds import DeletingLine
from batch.manifest.target_state import TargetState
from batch.model import Record, State
from batch.zstack.answers import (
    Accepted,
    ApiError,
    Done,
    Duplicate,
    ErrorClass,
    NoAnswer,
    NotSent,
    Refused,
    Running,
    Unknown,
)
from batch.zstack.queries import Identity
from batch.zstack.wire import CallFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from batch.app.verifier import Verifier
    from batch.clock import Clock
    from batch.manifest import Manifest
    from batch.zstack.answers import PollAnswer, SubmitAnswer
    from batch.zstack.calls import CloneReader, ServiceChanges

KEYS: Final = ("a", "b", "c")
IN_USE: Final = Objection("in use")
ADMIN: Final = Identity(None, is_admin=True)


def item(key: str) -> Item:
    uuid = key * 32
    target = TargetState(key, key, State.CLONED, uuid, key, 1, "d", None, None, None, has_new_owner=False)
    return Item(KEYS.index(key), target, None)


@dataclass
class Server:
    """Executes a DELETE under each job uuid once, unless ``ends`` says how its job ends."""

    path: Path
    there: set[str] = field(default_factory=lambda: {key * 32 for key in KEYS})
    used: set[str] = field(default_factory=set)
    ends: dict[str, PollAnswer] = field(default_factory=dict)
    """How every job of a clone ends instead, by the clone's uuid."""
    jobs: dict[str, PollAnswer] = field(default_factory=dict)
    sent: list[tuple[str, str]] = field(default_factory=list)
    looks: int = 0
    generation: int = 0
    on_send: Callable[[], None] = lambda: None

    async def objections(self, page: Sequence[Item]) -> dict[str, Objection]:
        self.looks += 1
        found: dict[str, Objection] = {}
        for one in page:
            if one.target.clone_uuid not in self.there:
                found[one.target.key] = Objection("gone", is_done=True)
            elif one.target.clone_uuid in self.used:
                found[one.target.key] = IN_USE
        return found

    async def delete(self, uuid: str, job_uuid: str) -> SubmitAnswer:
        assert job_uuid in recorded(self.path)
        self.sent.append((uuid, job_uuid))
        self.on_send()
        if job_uuid in self.jobs:
            return Duplicate()
        self.jobs[job_uuid] = self.ends.get(uuid, Done(None))
        if isinstance(self.jobs[job_uuid], Done):
            self.there.discard(uuid)
        return Accepted(None)

    async def end(self, job_uuid: str, *, seconds: float, first: float = 1.0) -> PollAnswer:
        assert seconds > 0
        assert first > 0
        return self.jobs.get(job_uuid, Unknown())

    async def renew(self, generation: int) -> None:
        assert generation == self.generation
        self.generation += 1


def lines(path: Path) -> Iterator[dict[str, object]]:
    yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())


def recorded(path: Path) -> list[object]:
    return [line["job_uuid"] for line in lines(path) if "deleting" in line]


@dataclass
class Scene:
    manifest: Manifest
    server: Server

    def executor(self, clock: Clock | None = None) -> ChangeExecutor:
        jobs, server = cast("ServiceChanges", self.server), self.server
        objections = cast("Verifier", server), cast("CloneReader", server)
        deletion = Removal(*objections, jobs, identity=ADMIN, objections={}, longest_job=1860.0)
        return ChangeExecutor(self.manifest, deletion, jobs, clock=clock or SystemClock(), stop=Stop(), concurrency=1)

    async def delete(
        self, open_deletion: Mapping[str, DeletingLine] | None = None, *, clock: Clock | None = None
    ) -> ChangeExecutor:
        executor = self.executor(clock)
        await executor.run([item(key) for key in KEYS], open_deletion or {})
        return executor


class Removal(CloneDeletion):
    """The product's own change, with objections from the fake server."""

    async def objections(self, page: Sequence[Item]) -> dict[str, Objection]:
        return await cast("Server", self._verifier).objections(page)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    path = tmp_path / "m.jsonl"
    manifest = open_manifest(path, Header("j", "default", "u", simulated=False, tool="t", created_at=0.0, job_file=""))
    return Scene(manifest, Server(path))


def open_deletion(key: str, *, at: float) -> DeletingLine:
    return DeletingLine(key, at, key * 32, "9" * 32)


async def record_clones(scene: Scene) -> None:
    for key in KEYS:
        sent = Record(State.SENT, key, 1.0, 1, source_uuid=key, resource_uuid=key * 32, job_uuid="1" * 32, digest="d")
        scene.manifest.note(sent)
        scene.manifest.note(Record(State.CLONED, key, 2.0, 1, clone_uuid=key * 32))
    await scene.manifest.flush()


async def test_each_delete_is_recorded_before_it_is_sent(scene: Scene) -> None:
    """One DELETE per clone, in the given order, its job uuid on disk by then; a deleted clone is recorded as undone."""
    await record_clones(scene)
    done = await scene.delete()
    assert [uuid for uuid, _ in scene.server.sent] == [key * 32 for key in KEYS]
    assert (done.done, done.left, done.unknown) == (set(KEYS), {}, {})
    await scene.manifest.close(4)
    undone = [line["clone_uuid"] for line in lines(scene.manifest.path) if line.get("state") == "undone"]
    assert undone == [key * 32 for key in KEYS]


async def test_a_clone_used_after_the_listing_is_left(scene: Scene) -> None:
    """A lookup is valid for ten seconds: a clone on which something runs after that is left."""
    await record_clones(scene)
    clock = HandClock()

    def later() -> None:
        clock.now += 10.5
        scene.server.used.add("c" * 32)

    scene.server.on_send = later
    done = await scene.delete(clock=clock)
    assert done.left == {"c": "in use"}
    assert done.done == {"a", "b"}


@pytest.mark.parametrize(
    ("end", "left", "unknown"),
    [
        (Running(), [], ["b"]),
        (NotSent("down"), [], ["b"]),
        (Unknown(), [], ["b"]),
        (Refused(ApiError(ErrorClass.AMBIGUOUS, "SYS.1001", "timeout", may_go_on=True)), [], ["b"]),
        (Refused(ApiError(ErrorClass.PERMANENT, "SYS.1006", "no")), ["b"], []),
        (Refused(ApiError(ErrorClass.AMBIGUOUS, "SYS.1004", "no")), ["b"], []),
        (Refused(ApiError(ErrorClass.NODE, "SYS.1010", "starting")), ["b"], []),
    ],
)
async def test_an_unknown_end_is_unknown(end: PollAnswer, left: list[str], unknown: list[str], scene: Scene) -> None:
    """A job without a definite end is unknown, one that failed leaves its clone; the others are deleted."""
    await record_clones(scene)
    scene.server.ends["b" * 32] = end
    done = await scene.delete()
    assert (sorted(done.left), sorted(done.unknown), done.done) == (left, unknown, {"a", "c"})


async def test_a_success_without_effect_is_unknown(scene: Scene) -> None:
    """A clone that still exists after its DELETE succeeded is neither undone nor left."""
    await record_clones(scene)
    scene.server.there = Sticky(scene.server.there)
    done = await scene.delete()
    assert (sorted(done.unknown), done.done) == (["a"], {"b", "c"})


class Sticky(set[str]):
    """Keeps the first clone despite its DELETE."""

    def discard(self, element: object) -> None:
        if element != "a" * 32:
            super().remove(str(element))


@dataclass
class Dates:
    """Shows a clone as requested and unused, with these dates."""

    created: str
    changed: str

    @property
    def services(self) -> Mapping[str, Mapping[str, object]]:
        return {"a" * 32: {"createDate": self.created, "lastOpDate": self.changed}}

    async def compare_page(self, page: Sequence[Item]) -> dict[str, object]:
        return {}

    async def services_in_use(self, uuids: Sequence[str]) -> set[str]:
        return set()


@pytest.mark.parametrize(
    ("changed", "found_after", "is_left"),
    [
        ("Nov 25, 2025 11:51:52 AM", 3.0, False),
        ("Nov 25, 2025 11:52:50 AM", 3.0, True),
        ("Nov 25, 2025 12:20:50 PM", 86_400.0, False),
        ("Nov 25, 2025 1:51:50 PM", 86_400.0, True),
        ("an hour later", 86_400.0, True),
    ],
)
async def test_a_change_after_the_clones_own_job_is_detected(
    changed: str, found_after: float, *, is_left: bool
) -> None:
    """What was changed later than the job can have lasted is left, also if the run resumed a day later."""
    server = Dates("Nov 25, 2025 11:51:50 AM", changed)
    deletion = CloneDeletion(
        cast("Verifier", server),
        cast("CloneReader", server),
        cast("ServiceChanges", server),
        identity=ADMIN,
        objections={},
        longest_job=1860.0,
    )
    one = item("a")
    target = one.target._replace(asked_at=1000.0, at=1000.0 + found_after)
    found = await deletion.objections([one._replace(target=target)])
    assert [why.text.partition(":")[0] for why in found.values()] == ["changed"] * is_left


async def test_refusals_that_executed_nothing_are_sent_again(scene: Scene) -> None:
    """After a dead session the DELETE is sent once more, under another job uuid that is recorded too."""
    await record_clones(scene)
    scene.server.ends["a" * 32] = Refused(ApiError(ErrorClass.RENEW, "ID.1001", "expired"))
    scene.server.on_send = lambda: scene.server.ends.clear() if len(scene.server.sent) > 1 else None
    done = await scene.delete()
    assert done.done == set(KEYS)
    of_a = [job for uuid, job in scene.server.sent if uuid == "a" * 32]
    assert len(set(of_a)) == len(of_a) == 2
    assert scene.server.generation == 1


async def test_a_recorded_delete_is_repeated_under_its_own_job_uuid(scene: Scene) -> None:
    """What an earlier process recorded and the server does not know is sent under the same job uuid, on record."""
    await record_clones(scene)
    line = open_deletion("b", at=time.time())
    await scene.manifest.commit_operation(line)
    done = await scene.delete({"b": line})
    assert done.done == set(KEYS)
    assert ("b" * 32, line.job_uuid) in scene.server.sent
    again = [one for one in lines(scene.manifest.path) if one.get("job_uuid") == line.job_uuid]
    assert [one.get("sent_before") for one in again] == [None, True]
    assert len(recorded(scene.manifest.path)) == 4


async def test_a_repeated_delete_is_recorded_again(scene: Scene) -> None:
    """A DELETE sent long after its record is recorded again with its new time, from which a later process counts."""
    await record_clones(scene)
    line = open_deletion("b", at=time.time() - 600)
    await scene.manifest.commit_operation(line)
    done = await scene.delete({"b": line})
    assert done.done == set(KEYS)
    times = [cast("float", one["at"]) for one in lines(scene.manifest.path) if one.get("job_uuid") == line.job_uuid]
    assert [time.time() - at > 300 for at in times] == [True, False]


async def test_a_job_that_never_ends_expires_at_last(scene: Scene) -> None:
    """What the server can no longer execute is no longer in doubt, although its job still runs: it is sent again."""
    await record_clones(scene)
    line = open_deletion("b", at=time.time() - 4000)
    scene.server.jobs[line.job_uuid] = Running()
    done = await scene.delete({"b": line})
    assert (done.done, done.unknown) == (set(KEYS), {})
    assert ("b" * 32, line.job_uuid) not in scene.server.sent


async def test_a_recorded_delete_that_ended_is_not_sent_again(scene: Scene) -> None:
    """If its job succeeded the clone is undone, and no second DELETE is sent."""
    await record_clones(scene)
    line = open_deletion("b", at=time.time())
    scene.server.jobs[line.job_uuid] = Done(None)
    scene.server.there.discard("b" * 32)
    done = await scene.delete({"b": line})
    assert done.done == set(KEYS)
    assert "b" * 32 not in [uuid for uuid, _ in scene.server.sent]


async def test_a_delete_refused_in_an_earlier_process_is_retried(scene: Scene) -> None:
    """A DELETE that an earlier process was refused, such as for a missing right, is sent under another job uuid."""
    await record_clones(scene)
    line = open_deletion("b", at=time.time())
    scene.server.jobs[line.job_uuid] = Refused(ApiError(ErrorClass.PERMANENT, "SYS.1006", "no"))
    done = await scene.delete({"b": line})
    assert (done.done, done.left) == (set(KEYS), {})
    assert ("b" * 32, line.job_uuid) not in scene.server.sent


@pytest.mark.parametrize(("age", "left", "unknown"), [(60.0, [], ["b"]), (4000.0, ["b"], [])])
async def test_a_delete_that_may_still_be_executed_is_unknown(
    age: float, left: list[str], unknown: list[str], scene: Scene
) -> None:
    """A clone that came into use after a DELETE was recorded is unknown until the server can no longer execute it."""
    await record_clones(scene)
    scene.server.used.add("b" * 32)
    done = await scene.delete({"b": open_deletion("b", at=time.time() - age)})
    assert (sorted(done.left), sorted(done.unknown), done.done) == (left, unknown, {"a", "c"})


async def test_lookups_that_are_always_too_old_end_the_command(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """If every lookup is too old by the time of its DELETE nothing is sent, and the command exits with 4."""
    await record_clones(scene)
    monkeypatch.setattr(Stop, "sleep", no_sleep)
    with pytest.raises(RunStoppedError, match="within 10 s"):
        await scene.delete(clock=HandClock(step=11.0))
    assert scene.server.sent == []


class HandClock(SystemClock):
    """A clock whose monotonic seconds pass as the test says, and ``step`` at each lookup."""

    def __init__(self, *, step: float = 0.0) -> None:
        super().__init__()
        self.now = 0.0
        self._step = step

    def monotonic(self) -> float:
        self.now += self._step
        return self.now


async def no_sleep(_stop: Stop, _seconds: float) -> None:
    """Return at once."""


async def test_nothing_is_deleted_if_usage_cannot_be_queried(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed lookup ends the command before any DELETE."""
    await record_clones(scene)
    refused = CallFailedError("query of instance groups", NoAnswer("HTTP 502"))

    async def fail(_server: Server, _page: Sequence[Item]) -> dict[str, Objection]:
        raise refused

    monkeypatch.setattr(Server, "objections", fail)
    with pytest.raises(CallFailedError):
        await scene.delete()
    assert scene.server.sent == []


async def test_after_a_stop_nothing_is_sent(scene: Scene) -> None:
    """A stop ends the command before the next DELETE."""
    await record_clones(scene)
    executor = scene.executor()
    executor._stop.request("SIGTERM", None)
    with pytest.raises(RunStoppedError, match="SIGTERM"):
        await executor.run([item(key) for key in KEYS], {})
    assert scene.server.sent == []
