"""The Change of ``verify --fix`` against a minimal fake server: what is set, set again, left and unknown."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

import pytest

from batch.app.clone_changes import ChangeExecutor
from batch.app.fix import CloneUpdate
from batch.app.verifier import Item
from batch.clock import SystemClock
from batch.engine import Stop
from batch.manifest import Header, open_manifest
from batch.manifest.kinds import UpdatingLine
from batch.manifest.target_state import TargetState
from batch.model import Clone, State
from batch.report.verification import Finding, Verdict
from batch.zstack.answers import Accepted, Done, Duplicate, Unknown
from batch.zstack.params import Difference

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from batch.app.verifier import Verifier
    from batch.manifest import Manifest
    from batch.zstack.answers import PollAnswer, SubmitAnswer
    from batch.zstack.calls import ServiceChanges

UUID: Final = "a" * 32
JOB: Final = "9" * 32
WANTED: Final = {"name": "n", "requestCpu": 2, "readme": "r"}


def item(wanted: Mapping[str, Any] = WANTED, *, digest: str = "d1") -> Item:
    target = TargetState("a", "s", State.CLONED, UUID, "n", 1, "d", None, None, None, has_new_owner=False)
    body = json.dumps({"params": dict(wanted)}).encode()
    return Item(0, target, Clone("a", "s", UUID, body, digest, dict(wanted)))


@dataclass
class Server:
    """One service, which executes each PUT once per job uuid; it ignores the fields in ``deaf``."""

    path: Path
    fields: dict[str, Any]
    wanted: dict[str, Any] = field(default_factory=lambda: dict(WANTED))
    deaf: set[str] = field(default_factory=set)
    jobs: dict[str, PollAnswer] = field(default_factory=dict)
    puts: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    generation: int = 0

    async def compare_page(self, page: Sequence[Item]) -> dict[str, Finding]:
        assert len(page) == 1
        wrong = [
            Difference(name, value, self.fields.get(name))
            for name, value in self.wanted.items()
            if self.fields.get(name) != value
        ]
        return {"a": Finding(Verdict.DRIFTED, "a", differences=tuple(wrong))} if wrong else {}

    async def update(self, uuid: str, fields: dict[str, Any], job_uuid: str) -> SubmitAnswer:
        assert uuid == UUID
        assert job_uuid in [line["job_uuid"] for line in lines(self.path) if "mending" in line]
        self.puts.append((job_uuid, fields))
        if job_uuid in self.jobs:
            return Duplicate()
        self.fields |= {name: value for name, value in fields.items() if name not in self.deaf}
        self.jobs[job_uuid] = Done(None)
        return Accepted(None)

    async def end(self, job_uuid: str, *, seconds: float, first: float = 1.0) -> PollAnswer:
        assert seconds > 0
        assert first > 0
        return self.jobs.get(job_uuid, Unknown())


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@dataclass
class Scene:
    manifest: Manifest
    server: Server

    async def mend(
        self,
        fields: Sequence[str] = ("name", "requestCpu"),
        *,
        begun: UpdatingLine | None = None,
        wanted_item: Item | None = None,
    ) -> ChangeExecutor:
        jobs = cast("ServiceChanges", self.server)
        mending = CloneUpdate(cast("Verifier", self.server), jobs, {"a": tuple(fields)})
        executor = ChangeExecutor(self.manifest, mending, jobs, clock=SystemClock(), stop=Stop(), concurrency=1)
        if begun is not None:
            await self.manifest.commit_operation(begun)
        await executor.run([wanted_item or item()], {} if begun is None else {"a": begun})
        await self.manifest.flush()
        return executor

    def updated_fields(self) -> list[list[str]]:
        return [line["fields"] for line in lines(self.manifest.path) if "mended" in line]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    path = tmp_path / "m.jsonl"
    manifest = open_manifest(path, Header("j", "default", "u", simulated=False, tool="t", created_at=0.0, job_file=""))
    return Scene(manifest, Server(path, {"name": "x", "requestCpu": 9, "readme": "r"}))


def earlier(*fields: str, digest: str = "d1", age: float = 0.0) -> UpdatingLine:
    return UpdatingLine("a", time.time() - age, UUID, JOB, fields, digest)


async def test_one_put_sets_all_fields_and_is_recorded_before_and_after(scene: Scene) -> None:
    """The drifted fields go in one PUT, with the values of the job file; a line before it, a line after it."""
    done = await scene.mend()
    assert [fields for _, fields in scene.server.puts] == [{"name": "n", "requestCpu": 2}]
    assert (done.done, done.left, done.unknown) == ({"a"}, {}, {})
    assert scene.updated_fields() == [["name", "requestCpu"]]


async def test_only_what_was_listed_is_set(scene: Scene) -> None:
    """A field that drifted after the listing is not set, nor is one that the server cannot set."""
    scene.server.fields["readme"] = "other"
    done = await scene.mend(["name"])
    assert [fields for _, fields in scene.server.puts] == [{"name": "n"}]
    assert done.done == {"a"}
    assert scene.server.fields["requestCpu"] == 9


async def test_an_executed_put_is_not_sent_again(scene: Scene) -> None:
    """If an earlier process's PUT has set everything nothing is sent, and the line after it is written."""
    scene.server.fields |= {"name": "n", "requestCpu": 2}
    scene.server.jobs[JOB] = Done(None)
    done = await scene.mend(begun=earlier("name", "requestCpu"))
    assert (done.done, scene.server.puts, scene.updated_fields()) == ({"a"}, [], [["name", "requestCpu"]])


async def test_a_put_unknown_to_the_server_is_repeated_under_its_job_uuid(scene: Scene) -> None:
    """What was recorded and not received is sent under the same job uuid, so that it is executed once."""
    done = await scene.mend(begun=earlier("name", "requestCpu"))
    assert done.done == {"a"}
    assert [job for job, _ in scene.server.puts] == [JOB]


async def test_a_field_changed_again_is_set_again(scene: Scene) -> None:
    """A field that drifted again after an earlier process's PUT succeeded is set by another PUT."""
    scene.server.jobs[JOB] = Done(None)
    done = await scene.mend(begun=earlier("name", "requestCpu"))
    assert done.done == {"a"}
    assert [job == JOB for job, _ in scene.server.puts] == [False]


async def test_a_field_the_server_ignores_is_left(scene: Scene) -> None:
    """A PUT that succeeds and changes nothing is not sent again; the field stays drifted and is reported."""
    scene.server.deaf.add("requestCpu")
    done = await scene.mend()
    assert (done.done, len(scene.server.puts)) == (set(), 1)
    assert "not updated" in done.left["a"]
    assert scene.updated_fields() == []


@pytest.mark.parametrize(("age", "puts"), [(60.0, 0), (4000.0, 1)])
@pytest.mark.parametrize("is_in_sync", [True, False])
async def test_an_earlier_put_of_another_job_file_is_waited_for(
    age: float, puts: int, *, is_in_sync: bool, scene: Scene
) -> None:
    """While a PUT with outdated values may still be executed the target is unknown."""
    if is_in_sync:
        scene.server.fields |= {"name": "n", "requestCpu": 2}
    done = await scene.mend(begun=earlier("name", "requestCpu", digest="d0", age=age))
    assert bool(done.unknown) == (not puts)
    assert len(scene.server.puts) == (0 if is_in_sync else puts)
