"""The calls of runs as a worker makes them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import pytest
from temporalio.testing import ActivityEnvironment

from batch.clock import SystemClock
from batch.engine import Gate, hard_cap
from batch.engine.control import DeadlineGate
from batch.errors import EndReason, RunStoppedError
from batch.model import CallKind
from batch.temporal.messages import Ask, Ending, Facts, Reply, Submit
from batch.temporal.worker import Activities
from batch.zstack.answers import ApiError, ErrorClass, Refused, Unknown
from tests.temporal.scene import ScriptedClient, clones

if TYPE_CHECKING:
    from batch.model import Clone
    from batch.zstack.answers import SubmitAnswer
    from batch.zstack.client import Client

DEAD = Refused(ApiError(ErrorClass.RENEW, "ID.1001", "session expired"))


class GatedClient(ScriptedClient):
    """A client that notes which kinds of call its gate passed."""

    def __init__(self, gate: DeadlineGate) -> None:
        super().__init__()
        self.gate = gate
        self.passed: list[tuple[CallKind, bool]] = []

    async def submit(self, clone: Clone, job_uuid: str) -> SubmitAnswer:
        self.passed.append((CallKind.CLONE, await self.gate.wait(CallKind.CLONE)))
        return await super().submit(clone, job_uuid)

    async def poll(self, job_uuid: str) -> Unknown:
        self.passed.append((CallKind.POLL, await self.gate.wait(CallKind.POLL, job_uuid)))
        return Unknown()


class LostClient(ScriptedClient):
    """A client that cannot log in again."""

    async def renew(self) -> None:
        raise RunStoppedError("the password is refused", EndReason.LOGIN)


def activities(client: ScriptedClient) -> Activities:
    return Activities(cast("Client", client), Facts(1.0, None), name="worker")


def slow_gate() -> DeadlineGate:
    clock = SystemClock()
    return DeadlineGate(Gate(10.0, cap=hard_cap(10.0), clock=clock), clock)


@pytest.mark.parametrize(("not_after", "is_sent"), [(60.0, True), (0.0, False)])
async def test_a_post_abandoned_by_its_workflow_is_not_sent(not_after: float, *, is_sent: bool) -> None:
    """A POST that leaves the gate after its workflow has given up is held back; a poll is not."""
    client = GatedClient(slow_gate())
    found, environment = activities(client), ActivityEnvironment()
    await environment.run(found.submit, Submit(clones(1)[0], "j", not_after))
    await environment.run(found.poll, Ask("j"))
    assert client.passed == [(CallKind.CLONE, is_sent), (CallKind.POLL, True)]


async def test_a_waiting_activity_sends_heartbeats() -> None:
    """While a call waits its activity sends heartbeats, so that a dead worker is noticed within seconds."""
    client = GatedClient(slow_gate())
    client.gate.pause(0.2)
    beats: list[object] = []
    environment = ActivityEnvironment()
    environment.on_heartbeat = lambda *_: beats.append(None)
    await environment.run(activities(client).poll, Ask("j"))
    assert beats


async def test_a_cancelled_activity_makes_no_call() -> None:
    """A call that Temporal has abandoned leaves the gate without being made."""
    client = GatedClient(slow_gate())
    client.gate.pause(60.0)
    environment = ActivityEnvironment()
    running = asyncio.create_task(environment.run(activities(client).submit, Submit(clones(1)[0], "j", 60.0)))
    await asyncio.sleep(0.05)
    environment.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (client.passed, client.posts.total()) == ([], 0)


async def test_a_worker_renews_a_session_that_is_named_as_dead() -> None:
    """A worker logs in again if a call names its own session, and not if another's is named."""
    client = ScriptedClient()
    found, environment = activities(client), ActivityEnvironment()
    await environment.run(found.find, Ask("r", ("worker:1", "other:0")))
    await environment.run(found.find, Ask("r", ("worker:0",)))
    await environment.run(found.find, Ask("r", ("worker:0",)))
    assert client.replaced == [0]


async def test_a_lost_login_ends_the_run() -> None:
    """A worker that cannot log in again answers with the reason, so that the run ends as on one machine."""
    client = LostClient(on_submit=lambda _: DEAD)
    reply = await ActivityEnvironment().run(activities(client).submit, Submit(clones(1)[0], "j", 60.0))
    assert reply == Reply(ending=Ending("the password is refused", EndReason.LOGIN))
