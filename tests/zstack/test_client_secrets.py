"""No credential is in any answer, error, warning, repr or log, even if the server repeats all it was sent."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

import pytest

from batch.errors import ZcloneError
from batch.zstack.queries import Ownership, QueryApi
from batch.zstack.settings import AccessKeyAuth, Auth, PasswordAuth, SessionAuth, Settings
from tests.zstack.wire_server import CLONE, JOB, RESOURCE, Seen, WireServer, answer, client_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Planted(Protocol):
    session: str
    password: str
    key_secret: str


def forms(secret: str) -> tuple[str, ...]:
    raw = secret.encode()
    return (
        secret,
        hashlib.sha512(raw).hexdigest(),
        base64.b64encode(raw).decode(),
        quote(secret, safe=""),
        json.dumps(secret)[1:-1],
    )


def auths(planted: Planted) -> list[Auth]:
    return [
        SessionAuth(planted.session),
        PasswordAuth("admin", planted.password),
        AccessKeyAuth("AKID", planted.key_secret),
    ]


def parrot(status: int, *, as_error: bool, session: str) -> Callable[[Seen], bytes]:
    """Repeat the request in the answer; let the first login and the version pass, so that there is a session."""

    def handler(seen: Seen) -> bytes:
        if "actions" in seen.target:
            return answer(200, {"version": "5.5.22"})
        if "login" in seen.target and status != 503:
            return answer(200, {"inventory": {"uuid": session}})
        quoted = f"{seen.target} {seen.headers} {seen.body.decode()}"
        error = {"error": {"code": "SYS.1007", "details": quoted, "cause": {"code": quoted, "details": quoted}}}
        return answer(status, error if as_error else quoted, X_Echo="x")

    return handler


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 500, 503])
@pytest.mark.parametrize("as_error", [False, True])
async def test_a_server_that_repeats_its_requests_reveals_nothing(
    planted: Planted,
    caplog: pytest.LogCaptureFixture,
    which: int,
    status: int,
    as_error: bool,  # noqa: FBT001 - a parameter
) -> None:
    """Whatever a server repeats, no form of a secret shows."""
    caplog.set_level(logging.DEBUG)
    auth = auths(planted)[which]
    texts: list[str] = [repr(auth), repr(Settings("http://x/zstack", auth))]
    handler = parrot(status, as_error=as_error, session=planted.session)
    async with WireServer(handler) as server, client_of(server.url, auth) as client:
        query_api = QueryApi(client)
        calls: tuple[Callable[[], Awaitable[object]], ...] = (
            client.preflight,
            lambda: client.submit(CLONE, JOB),
            lambda: client.poll(JOB),
            lambda: client.find(RESOURCE),
            client.renew,
            query_api.check_permission,
            lambda: Ownership(client).change_owner(RESOURCE, "account"),
        )
        for call in calls:
            try:
                texts.append(repr(await call()))
            except ZcloneError as error:
                texts += [repr(error), str(error), repr(error.__cause__), repr(error.__context__)]
        texts.append(repr(client))
    texts += [*client.warnings, caplog.text]
    everything = "\n".join(texts)
    for secret in (planted.session, planted.password, planted.key_secret):
        assert not [form for form in forms(secret) if form in everything]
