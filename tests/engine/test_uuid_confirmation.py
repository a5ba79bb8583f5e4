"""The proof that the server honours resourceUuid: looked up while the first clone's job runs."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest

from batch.engine.comparison import UuidConfirmation
from batch.engine.steps import End
from batch.errors import CallCutError, EndReason, RunStoppedError
from batch.model import Limits, Record, State
from batch.zstack.answers import Absent, ApiError, ErrorClass, Found, NoAnswer, Refused, Service
from tests.engine.scripted_api import CLONE, ScriptedApi
from tests.engine.scripted_api import RESOURCE_UUID as UUID
from tests.engine.test_run import Scene, clones
from tests.simulation.virtual import VirtualClock, VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Callable

    from batch.model import Clone
    from batch.zstack.answers import FindAnswer

JOB = 10.0
NEVER = float("inf")


def scene(shows: Callable[[float], FindAnswer], *, is_given: bool = False) -> Scene:
    """Run twenty clones of ten seconds; ``shows``: the answer to a lookup so many seconds after the POST."""
    found = Scene(count=20, limits=Limits(concurrency=8, rate=100.0), rate=100.0)
    found.server.takes = JOB
    planned = [clone._replace(params={"name": "x"}, is_given=is_given) for clone in clones(20)]
    found.planned = planned

    async def find(resource_uuid: str) -> FindAnswer:
        found.server.log.append((found.loop.time(), "find", resource_uuid))
        ends = found.server.made.get(resource_uuid)
        answer = Absent() if ends is None else shows(found.loop.time() - (ends - JOB))
        if isinstance(answer, Found):
            return Found(Service(resource_uuid, answer.service.name, answer.service.fields))
        return answer

    found.server.find = find  # type: ignore[method-assign]
    return found


def row(name: str = "x") -> Found:
    return Found(Service("", name, {"name": name}))


def submits(found: Scene) -> list[float]:
    return [at for at, kind, _ in found.server.log if kind == "submit"]


@pytest.mark.parametrize(
    ("appears", "matches"),
    [
        pytest.param(0.0, 0.0, id="at the start"),
        pytest.param(0.0, 4.0, id="half-written"),
        pytest.param(5.0, 5.0, id="half-way"),
        pytest.param(JOB, JOB, id="at the end"),
        pytest.param(NEVER, NEVER, id="never"),
    ],
)
def test_the_pool_opens_once_the_clone_is_visible_and_matches(appears: float, matches: float) -> None:
    """Whenever the row appears: the second POST is sent soon after it shows what was requested, or at the job's end."""
    found = scene(lambda age: Absent() if age < appears else row("x" if age >= matches else "half"))
    assert found.run() == {State.CLONED: 20}
    second = submits(found)[1]
    soonest = min(matches, JOB)
    assert soonest <= second <= soonest * 1.3 + 0.5
    looks = [at for at, kind, _ in found.server.log if kind == "find"]
    assert len(looks) < 25


@pytest.mark.parametrize(
    "answer",
    [
        NoAnswer("lost"),
        Refused(ApiError(ErrorClass.PERMANENT, "SYS.1006", "denied")),
        RunStoppedError("away", EndReason.OUTAGE),
        CallCutError("cut"),
    ],
    ids=["no answer", "refused", "stopped", "cut"],
)
def test_an_inconclusive_lookup_decides_nothing(answer: FindAnswer | Exception) -> None:
    """The first clone continues alone to its own end."""

    def show(_: float) -> FindAnswer:
        if isinstance(answer, Exception):
            raise answer
        return answer

    found = scene(show)
    assert found.run() == {State.CLONED: 20}
    assert submits(found)[1] >= JOB


def test_a_given_uuid_is_no_proof() -> None:
    """A service may have had it before: the pool opens at the job's end, and nothing looks it up meanwhile."""
    found = scene(lambda _: row(), is_given=True)
    found.run()
    assert submits(found)[1] >= JOB
    assert not [at for at, kind, _ in found.server.log if kind == "find" and 0.1 < at < JOB]


def test_a_failure_after_the_proof_does_not_undo_it() -> None:
    """The clone that proved the server ends as any other, and an error of its journal ends the whole run."""
    found = scene(lambda _: row())

    note = found.journal.note

    def keep(record: Record) -> None:
        if record.state is State.CLONED:
            raise RuntimeError("no journal")
        note(record)

    found.journal.note = keep  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="no journal"):
        found.run()
    assert len(submits(found)) >= 8


@pytest.mark.parametrize(
    ("end", "clone", "is_proof"),
    [
        (End(State.CLONED, 0, Service(UUID, "x", {}), adopted=True), CLONE, True),
        (End(State.CLONED, 0, Service(UUID, "y", {"name": "y"}), adopted=True), CLONE, False),
        (End(State.CLONED, 1, Service(UUID, "y", {"name": "y"})), CLONE, True),
        (End(State.CLONED, 1, Service("1" * 32, "x", {})), CLONE, False),
        (End(State.CLONED, 0, Service(UUID, "x", {})), CLONE._replace(is_given=True), False),
        (End(State.CLONED, 0, Service(UUID, "x", {})), CLONE._replace(body=b""), False),
        (End(State.CONFLICT, 1, Service(UUID, "x", {})), CLONE, False),
        (End(State.CLONED, 1, None), CLONE._replace(resource_uuid=""), False),
    ],
)
def test_a_clone_under_a_derived_uuid_is_proof(end: End, clone: Clone, *, is_proof: bool) -> None:
    """Also if the record of its attempt was lost, so that nothing in the manifest shows it yet."""
    loop = VirtualLoop()
    proof = UuidConfirmation(ScriptedApi([]), VirtualClock(loop, Random(1)), is_recorded=lambda: False)
    proof.note_end(clone, end)
    assert proof.is_confirmed() is is_proof
    loop.close()
