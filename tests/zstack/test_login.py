"""Sessions opened with a password: one login for all, one wrong password per process, no session left behind."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from batch.errors import CallCutError, RunStoppedError, UnreachableError
from batch.model import CallKind
from batch.zstack.answers import Absent, Accepted, ErrorClass, Refused
from batch.zstack.settings import AccessKeyAuth, Auth, PasswordAuth, SessionAuth
from tests.zstack.wire_server import (
    CLONE,
    JOB,
    RESOURCE,
    CountingGate,
    Seen,
    VirtualClock,
    WireServer,
    answer,
    client_of,
    error,
)

if TYPE_CHECKING:
    from batch.zstack.client import Client

AUTH = PasswordAuth("admin", "planted-password")
DIGEST = hashlib.sha512(b"planted-password").hexdigest()


@dataclass
class SessionNode:
    """Sessions as the server keeps them: the POST is accepted anyway, the poll reports that its session was dead."""

    logins: int = 0
    alive: set[str] = field(default_factory=set)
    jobs: dict[str, str] = field(default_factory=dict)
    password: str = DIGEST
    is_unique: bool = False

    def __call__(self, seen: Seen) -> bytes | None:
        session = seen.headers.get("authorization", "").removeprefix("OAuth ")
        if seen.call == "PUT /v1/accounts/login":
            return self._login(seen)
        if seen.method == "DELETE":
            self.alive.discard(seen.target.rpartition("/")[2])
            return answer(200, {})
        if "actions" in seen.target:
            return answer(200, {"version": "5.5.22"})
        if seen.method == "POST":
            self.jobs[seen.headers["x-job-uuid"]] = session
            return answer(202, {})
        if "/api-jobs/" in seen.target:
            session = self.jobs[seen.target.rpartition("/")[2]]
        if session not in self.alive:
            return answer(503, error("ID.1001", "Session expired"))
        empty: object = {"inventories": []}
        return answer(200, {"inventory": {"uuid": RESOURCE}} if "/api-jobs/" in seen.target else empty)

    def _login(self, seen: Seen) -> bytes:
        self.logins += 1
        credentials = seen.json["logInByAccount"]
        if credentials["password"] != self.password:
            return answer(503, error("ID.1000", "wrong account name or password"))
        if self.is_unique:
            self.alive.clear()
        session = f"{self.logins:032x}"
        self.alive.add(session)
        return answer(200, {"inventory": {"uuid": session}})


async def _clone(client: Client, number: int) -> bool:
    """Clone as the engine does: a dead session means renew, and another try under a new job uuid."""
    for attempt in range(100):
        job = f"{number:016x}{attempt:016x}"
        assert isinstance(await client.submit(CLONE, job), Accepted)
        ended = await client.poll(job)
        if not isinstance(ended, Refused):
            return True
        assert ended.error.error_class is ErrorClass.RENEW
        await client.renew()
    return False


async def test_login_body() -> None:
    """The login is logInByAccount with the SHA-512 of the password, and the session is closed at the end."""
    node = SessionNode()
    async with WireServer(node) as server:
        async with client_of(server.url, AUTH) as client:
            await client.preflight()
        assert client.warnings == ()
    login = next(seen for seen in server.seen if seen.call == "PUT /v1/accounts/login")
    assert login.json == {"logInByAccount": {"accountName": "admin", "password": DIGEST}}
    assert server.calls[-1] == f"DELETE /v1/accounts/sessions/{1:032x}"
    assert node.alive == set()


async def test_ten_expiries_under_fifty_workers() -> None:
    """Fifty workers over ten expiries make eleven logins, and no target fails."""
    node, clock = SessionNode(), VirtualClock()
    async with WireServer(node) as server, client_of(server.url, AUTH, clock=clock) as client:
        await client.preflight()
        for round_ in range(10):
            clock.now += 7200
            node.alive.clear()
            assert all(await asyncio.gather(*(_clone(client, round_ * 50 + worker) for worker in range(50))))
    assert node.logins == 11
    assert node.alive == set()


async def test_late_news_of_an_old_session() -> None:
    """A job that was sent with a replaced session does not end the current one."""
    node, clock = SessionNode(), VirtualClock()
    async with WireServer(node) as server, client_of(server.url, AUTH, clock=clock) as client:
        await client.preflight()
        node.alive.clear()
        clock.now += 7200
        await client.submit(CLONE, JOB)
        assert await client.find(RESOURCE) == Absent()
        assert node.logins == 2
        assert isinstance(await client.poll(JOB), Refused)
        await client.renew()
        assert node.logins == 2


async def test_find_renews_by_itself() -> None:
    """A lookup survives the end of the session."""
    node, clock = SessionNode(), VirtualClock()
    async with WireServer(node) as server, client_of(server.url, AUTH, clock=clock) as client:
        await client.preflight()
        node.alive.clear()
        clock.now += 7200
        assert await client.find(RESOURCE) == Absent()
    assert node.logins == 2


async def test_wrong_password_is_sent_once() -> None:
    """A wrong password is sent exactly once per process."""
    node = SessionNode(password="another")
    async with WireServer(node) as server, client_of(server.url, AUTH) as client:
        with pytest.raises(UnreachableError) as caught:
            await client.preflight()
        for _ in range(3):
            with pytest.raises((UnreachableError, RunStoppedError)):
                await client.renew()
    assert node.logins == 1
    assert "planted" not in str(caught.value)
    assert DIGEST not in repr(caught.value)


UNANSWERED = {
    "dropped": None,
    "truncated": answer(200, {"inventory": {"uuid": "c" * 32}}, Connection="close")[:-20],
    "500": b"HTTP/1.1 500 \r\nContent-Length: 6\r\n\r\n<html>",
    "502": b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 3\r\n\r\nbad",
    "503": b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
    "504": b"HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 0\r\n\r\n",
    "no session": answer(200, {"inventory": {}}),
}
"""Everything that is not an answer to a login."""


@pytest.mark.parametrize("kind", UNANSWERED)
async def test_a_first_login_without_an_answer_is_retried(kind: str) -> None:
    """A first login that was not answered is sent again, with increasing waits, until it is answered."""
    node, clock = SessionNode(), VirtualClock()
    lost = iter([True] * 3)

    def handler(seen: Seen) -> bytes | None:
        return UNANSWERED[kind] if "login" in seen.target and next(lost, False) else node(seen)

    async with WireServer(handler) as server, client_of(server.url, AUTH, clock=clock) as client:
        await client.preflight()
    assert server.calls.count("PUT /v1/accounts/login") == 4
    assert clock.slept == [2.0, 4.0, 8.0]


@pytest.mark.parametrize("kind", UNANSWERED)
async def test_a_first_login_is_retried_a_few_times_only(kind: str) -> None:
    """A first login that is never answered is sent four times in all, also if the password is wrong."""
    node = SessionNode(password="another")

    def handler(seen: Seen) -> bytes | None:
        made = node(seen)
        return UNANSWERED[kind] if "login" in seen.target else made

    async with WireServer(handler) as server, client_of(server.url, AUTH, clock=VirtualClock()) as client:
        with pytest.raises(UnreachableError, match="login"):
            await client.preflight()
        for _ in range(3):
            with pytest.raises((UnreachableError, RunStoppedError)):
                await client.renew()
    assert node.logins == 4


async def test_a_refusal_after_a_lost_answer_ends_the_retries() -> None:
    """A login whose first answer was lost and whose second is a refusal is not sent a third time."""
    node = SessionNode(password="another")
    lost = iter([True])

    def handler(seen: Seen) -> bytes | None:
        made = node(seen)
        return None if "login" in seen.target and next(lost, False) else made

    async with WireServer(handler) as server, client_of(server.url, AUTH, clock=VirtualClock()) as client:
        with pytest.raises(UnreachableError, match="ID.1000"):
            await client.preflight()
    assert node.logins == 2


async def test_password_changed_while_running() -> None:
    """A password that stops working in a run is sent once more and never again."""
    node, clock = SessionNode(), VirtualClock()
    async with WireServer(node) as server, client_of(server.url, AUTH, clock=clock) as client:
        await client.preflight()
        node.alive.clear()
        node.password = "changed"
        clock.now += 7200
        results = await asyncio.gather(*(client.find(RESOURCE) for _ in range(20)), return_exceptions=True)
        assert all(isinstance(result, RunStoppedError) for result in results)
        with pytest.raises(RunStoppedError, match="ID.1000"):
            await client.renew()
    assert node.logins == 2


async def test_proven_password_survives_lost_answers() -> None:
    """A login that worked before is retried when its answer is lost."""
    node, clock = SessionNode(), VirtualClock()
    lost = iter([False, True, True])

    def handler(seen: Seen) -> bytes | None:
        made = node(seen)
        return None if "login" in seen.target and next(lost, False) else made

    async with WireServer(handler) as server, client_of(server.url, AUTH, clock=clock) as client:
        await client.preflight()
        node.alive.clear()
        clock.now += 7200
        assert await client.find(RESOURCE) == Absent()
    assert node.logins == 4


async def test_two_runs_with_unique_sessions() -> None:
    """Two runs that end each other's sessions both stop with a clear message, within three logins each."""
    node, clock = SessionNode(is_unique=True), VirtualClock()
    async with (
        WireServer(node) as server,
        client_of(server.url, AUTH, clock=clock) as one,
        client_of(server.url, AUTH, clock=clock) as other,
    ):
        await one.preflight()
        await other.preflight()
        results: list[bool | BaseException] = await asyncio.gather(
            *(_clone(client, number) for number, client in enumerate((one, other) * 20)), return_exceptions=True
        )
        stopped = [result for result in results if isinstance(result, RunStoppedError)]
        for _ in range(40):
            both = (_clone(client, number) for number, client in enumerate((one, other), 100))
            results = await asyncio.gather(*both, return_exceptions=True)
            stopped += [result for result in results if isinstance(result, RunStoppedError)]
            node.alive.clear()
        assert {"enable.unique.session" in str(error_) for error_ in stopped} == {True}
    assert node.logins <= 6


async def test_given_session_is_not_closed_and_not_renewed() -> None:
    """A session that somebody else opened is left open, and its end stops the run with what to do."""
    node = SessionNode(alive={"a" * 32})
    async with WireServer(node) as server, client_of(server.url, SessionAuth("a" * 32)) as client:
        await client.preflight()
        node.alive.clear()
        await client.submit(CLONE, JOB)
        assert isinstance(await client.poll(JOB), Refused)
        with pytest.raises(RunStoppedError, match="ZSTACK_SESSION_ID"):
            await client.renew()
    assert not any(call.startswith("DELETE") for call in server.calls)


@pytest.mark.parametrize("auth", [SessionAuth("a" * 32), AccessKeyAuth("i", "k"), AUTH])
async def test_a_dead_session_of_another_process(auth: Auth) -> None:
    """A job of an earlier process whose session ended does not affect the current credentials."""

    def handler(seen: Seen) -> bytes:
        if "login" in seen.target:
            return answer(200, {"inventory": {"uuid": "b" * 32}})
        return answer(503, error("ID.1001")) if "/api-jobs/" in seen.target else answer(200, {"inventories": []})

    async with WireServer(handler) as server, client_of(server.url, auth) as client:
        await client.preflight()
        assert isinstance(await client.poll(JOB), Refused)
        await client.renew()
    assert server.calls.count("PUT /v1/accounts/login") == (auth is AUTH)


async def test_cancelled_caller_does_not_cancel_the_login() -> None:
    """Cancelling one worker leaves the login to the others, and close still logs out."""
    node, clock = SessionNode(), VirtualClock()
    gate = CountingGate()

    under_way = asyncio.Event()

    async def slow(seen: Seen) -> bytes | None:
        if "login" in seen.target and node.logins:
            under_way.set()
            await asyncio.sleep(0.05)
        return node(seen)

    async with WireServer(slow) as server:
        async with client_of(server.url, AUTH, clock=clock, gate=gate) as client:
            await client.preflight()
            node.alive.clear()
            clock.now += 7200
            workers = [asyncio.create_task(client.find(RESOURCE)) for _ in range(2)]
            await asyncio.wait_for(under_way.wait(), 5)
            workers[0].cancel()
            assert await workers[1] == Absent()
        assert node.alive == set()
    assert node.logins == 2
    assert gate.passed == len(server.seen)


async def test_a_failed_logout_is_reported() -> None:
    """A session that could not be closed is reported among the warnings."""
    node = SessionNode()

    def handler(seen: Seen) -> bytes | None:
        return None if seen.method == "DELETE" else node(seen)

    async with WireServer(handler) as server:
        async with client_of(server.url, AUTH) as client:
            await client.preflight()
        assert "could not log out" in client.warnings[-1]


@pytest.mark.parametrize("code", ["ID.1005", "ID.1006", "ID.2001", "LOGIN_CONTROL.1002", "LOGIN_CONTROL.1003"])
async def test_refused_logins(code: str) -> None:
    """A lock, captcha, full session list or second factor is reported once with what to do."""

    def handler(seen: Seen) -> bytes:
        return answer(200, {}) if "actions" in seen.target else answer(503, error(code))

    async with WireServer(handler) as server, client_of(server.url, AUTH) as client:
        with pytest.raises(UnreachableError, match=code):
            await client.preflight()
    assert server.calls.count("PUT /v1/accounts/login") == 1


async def test_a_login_cut_at_the_gate_is_not_retried() -> None:
    """After a stop a login that still waited is abandoned at once, and there is no session to log out of."""
    clock, gate = VirtualClock(), CountingGate(cut=(CallKind.LOGIN, CallKind.QUESTION))
    async with WireServer(SessionNode()) as server:
        async with client_of(server.url, AUTH, clock=clock, gate=gate) as client:
            with pytest.raises(CallCutError):
                await client.renew()
        assert server.seen == []
    assert clock.slept == []


async def test_only_the_logout_is_made_after_the_end() -> None:
    """When every other wait is cut the session is still logged out of."""
    node, gate = SessionNode(), CountingGate()
    async with WireServer(node) as server, client_of(server.url, AUTH, clock=VirtualClock(), gate=gate) as client:
        await client.preflight()
        gate.cut = (CallKind.LOGIN, CallKind.QUESTION, CallKind.CLONE)
        await client.close()
        assert server.calls[-1].startswith("DELETE /v1/accounts/sessions/")
    assert node.alive == set()
