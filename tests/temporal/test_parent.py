"""Decisions over the sum of all pages: first clone, waves, max_failures, deadline, stop; and long histories."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import pytest
from temporalio.service import RPCError, RPCStatusCode

from batch.errors import EndReason, UnreachableError
from batch.model import State, Wave
from batch.temporal import command
from batch.temporal.messages import Course
from batch.temporal.worker import open_connection
from batch.zstack.answers import ApiError, Done, ErrorClass, NoAnswer, Refused, Running, Service
from tests.temporal.scene import ScriptedClient, scene, working

if TYPE_CHECKING:
    from collections.abc import Callable

    from batch.model import Clone
    from batch.zstack.answers import PollAnswer, SubmitAnswer
    from tests.temporal.stage import Server

NO = Refused(ApiError(ErrorClass.PERMANENT, "SYS.1007", "no"))
DEAD = Refused(ApiError(ErrorClass.RENEW, "ID.1001", "session expired"))


def refusing(*keys: str) -> Callable[[Clone], SubmitAnswer | None]:
    return lambda clone: NO if clone.key in keys else None


async def test_a_wave_that_failed_holds_the_next_one_back(server: Server) -> None:
    """The wave after a failure is not started, though its pages exist; what was not sent stays planned."""
    client = ScriptedClient(on_submit=refusing("k2"))
    found = await scene(server, client, 20, waves=(Wave(1), Wave(4)), concurrency=4)
    async with working(server, client):
        await found.begin()
        ending = await found.follow()
    assert ending is not None
    assert (ending.reason, "wave 3" in ending.text) == (EndReason.WAVE, True)
    assert found.sheet.states == {State.CLONED: 4, State.FAILED: 1}
    assert set(client.posts) == {f"k{number}" for number in range(5)}


async def test_too_many_failures_end_the_run(server: Server) -> None:
    """max_failures is judged over all pages: no page begins after it is exceeded."""
    client = ScriptedClient(on_submit=lambda clone: None if clone.key == "k0" else NO)
    found = await scene(server, client, 60, max_failures=5.0, concurrency=1)
    async with working(server, client):
        await found.begin()
        ending = await found.follow()
    assert ending is not None
    assert ending.reason is EndReason.MAX_FAILURES
    assert found.sheet.states[State.FAILED] < 59


async def test_the_first_clone_goes_alone(server: Server) -> None:
    """A server that makes another uuid than requested ends the run after one clone, whatever the pages."""
    client = ScriptedClient(on_poll=lambda _: Done(Service("f" * 32, "x", {})))
    found = await scene(server, client, 30, concurrency=8)
    async with working(server, client):
        await found.begin()
        ending = await found.follow()
    assert ending is not None
    assert ending.reason is EndReason.RESOURCE_UUID
    assert client.posts.total() == 1


@pytest.mark.slow
async def test_a_deadline_ends_the_run(server: Server) -> None:
    """Jobs that never end are left as they are once the deadline has passed, and nothing new is sent."""
    client = ScriptedClient(on_poll=lambda _: Running())
    found = await scene(server, client, 8, concurrency=4, deadline=2.0, timeout=600.0)
    async with working(server, client):
        await found.begin()
        ending = await asyncio.wait_for(found.follow(), 60)
    assert ending is not None
    assert ending.reason is EndReason.DEADLINE
    assert found.sheet.states == {State.ACCEPTED: 1}


async def test_a_run_that_is_cancelled_on_temporal_settles(server: Server) -> None:
    """Temporal's own cancel is a stop: pages that have not begun end as they are, and the run says why."""
    client = ScriptedClient()
    found = await scene(server, client, 12, concurrency=1)
    await found.begin()
    temporal = await open_connection({"TEMPORAL_ADDRESS": server.address})
    await temporal.client.get_workflow_handle(found.run.id).cancel()
    async with working(server, client):
        ending = await found.follow()
    assert ending is not None
    assert ending.reason is EndReason.SIGNAL
    assert client.posts.total() <= 1


async def test_a_long_run_continues_with_a_new_history(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many pages the parent continues as new, with counts, pages and open clones."""
    monkeypatch.setattr(command, "Course", partial(Course, turn=2))
    client = ScriptedClient(on_submit=refusing("k3"))
    found = await scene(server, client, 24, waves=(Wave(8), Wave(8)), max_failures=2.0, concurrency=4)
    async with working(server, client):
        await found.begin()
        ending = await found.follow()
    assert ending is None
    assert found.sheet.states == {State.CLONED: 23, State.FAILED: 1}
    assert set(client.posts.values()) == {1}


async def test_at_most_once_a_lost_post_is_not_sent_again(server: Server) -> None:
    """An at-most-once run leaves a target with a lost POST uncertain, and all pages begin at once."""
    client = ScriptedClient(on_submit=lambda clone: NoAnswer("reset") if clone.key == "k1" else None)
    found = await scene(server, client, 8, at_most_once=True, concurrency=4)
    async with working(server, client):
        await found.begin()
        ending = await found.follow()
    assert ending is None
    assert found.sheet.states == {State.CLONED: 7, State.UNCERTAIN: 1}
    assert set(client.posts.values()) == {1}


async def test_the_worker_with_the_dead_session_logs_in_again(server: Server) -> None:
    """A job that ended for its session has its worker log in again, whoever polled; the clone is made all the same."""
    dead: list[str] = []

    def poll(job_uuid: str) -> PollAnswer | None:
        if not dead:
            dead.append(job_uuid)
        return DEAD if job_uuid == dead[0] else None

    client = ScriptedClient(on_poll=poll, on_submit=lambda _: None)
    found = await scene(server, client, 4, concurrency=2)
    async with working(server, client):
        await found.begin()
        ending = await found.follow()
    assert ending is None
    assert found.sheet.states == {State.CLONED: 4}
    assert client.replaced == [0]


async def test_a_run_with_silent_workers_is_queried_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command whose run has no answering worker says why, queries again, and continues with the first one."""
    monkeypatch.setattr(command, "QUERY_TIMEOUT", timedelta(seconds=1))
    client, outputs = ScriptedClient(), asyncio.Queue[str]()
    found = await scene(server, client, 2)
    found.opened = await found.run.begin(found.work)
    asking = asyncio.create_task(found.run.is_loaded(silent=outputs.put_nowait))
    assert await asyncio.wait_for(outputs.get(), 60)
    async with working(server, client):
        assert await asyncio.wait_for(asking, 60) is False
        await found.run.load(found.opened, found.work)
        assert await asyncio.wait_for(found.follow(), 60) is None
    assert found.sheet.states == {State.CLONED: 2}


async def test_an_unreachable_temporal_is_reported_as_such(server: Server) -> None:
    """Every call of a Temporal that does not answer ends as unreachable, never as an unexpected error."""
    found = await scene(server, ScriptedClient(), 1)
    away = RPCError("gone", RPCStatusCode.UNAVAILABLE, b"")
    with pytest.raises(UnreachableError, match=server.address), found.run.connection.queries():
        raise away
    opened = await found.run.begin(found.work)
    await found.run.connection.client.get_workflow_handle(found.run.id).terminate()
    with pytest.raises(UnreachableError, match="cannot query Temporal"):
        await found.run.load(opened, found.work)
