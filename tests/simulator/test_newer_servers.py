"""Newer servers, and older ones in corner cases that only other clients reach (zstack/README.md 11)."""

from __future__ import annotations

import hashlib
import json

from batch.simulator.faults import FaultKind
from batch.simulator.options import SESSION, NodeAccount, Source
from batch.simulator.wire import Response
from tests.simulator.simulator_bench import CLONE, SERVICES, SOURCE, Bench, decoded, hit, job


def test_13_1_requests_of_one_client_are_limited() -> None:
    """Beyond the limit in any minute polls, queries and POSTs get a plain 429, and nothing is executed."""
    bench = Bench(requests_per_minute=3)
    assert bench.send("GET", SERVICES).status == 200
    bench.wait(30.0)
    assert bench.poll()[0] == 404
    assert bench.send("GET", SERVICES).status == 200
    assert bench.post() == Response(429, b"Rate limit exceeded")
    assert bench.send("GET", "/v1/api-jobs/x") == Response(429, b"Rate limit exceeded")
    bench.wait(30.0)
    # The first has left the window, the other two have not.
    assert bench.send("GET", SERVICES).status == 200
    assert bench.send("GET", SERVICES).status == 429
    assert bench.node.report(bench.now)["clones_made"] == 0


def test_a_limiter_may_have_another_window() -> None:
    """Two requests in any five seconds: the third is refused until the first is five seconds old."""
    bench = Bench(requests_per_minute=2, limit_window=5.0)
    statuses = []
    for seconds in (0.0, 3.0, 1.9, 0.2, 0.1):
        bench.wait(seconds)
        statuses.append(bench.send("GET", SERVICES).status)
    assert statuses == [200, 200, 429, 200, 429]


def test_13_1_each_client_has_its_own_budget() -> None:
    """The first address of X-Forwarded-For, or else X-Real-IP, names the client; all others share one budget."""
    bench = Bench(requests_per_minute=1)
    for headers in (
        {},
        {"x-forwarded-for": "192.0.2.1"},
        {"x-forwarded-for": "192.0.2.2, 192.0.2.1"},
        {"x-real-ip": "192.0.2.3"},
    ):
        assert bench.send("GET", SERVICES, headers=headers).status == 200
        assert bench.send("GET", SERVICES, headers=headers).status == 429


def test_13_1_a_proxy_that_refuses_is_no_limit() -> None:
    """Requests that never reach the server are not counted."""
    bench = Bench(requests_per_minute=1, faults=hit(FaultKind.RATE_LIMITED, on="query"))
    assert dict(bench.send("GET", SERVICES).headers)["Retry-After"] == "0"
    assert bench.send("GET", SERVICES).status == 200


def test_13_9_jobs_have_one_segment_and_get() -> None:
    """A path below a job is no API, and another verb gets the allowed one."""
    bench = Bench()
    below = bench.send("GET", "/v1/api-jobs/a/b")
    assert (below.status, below.body) == (404, b"no api mapping to /v1/api-jobs/a/b")
    posted = bench.send("POST", "/v1/api-jobs/a")
    assert (posted.status, posted.body) == (405, b"only GET method is allowed for querying job status")


def test_13_3_a_web_hook_has_the_language_of_its_request() -> None:
    """The caller's Accept-Language counts for the web hook as it does at the poll."""
    bench = Bench(global_error_codes=True, locale="en_US", invent_sources=False)
    hook = {"x-web-hook": "http://127.0.0.1:1/", "accept-language": "zh-CN"}
    bench.post(job=job(), headers=hook)
    bench.wait()
    (called,) = bench.node.take_hooks()
    error = json.loads(called.body)["error"]
    assert ("未找到" in error["message"], "not found" in error["details"]) == (True, True)
    assert "not found" in bench.poll()[1]["error"]["message"]


def test_13_10_logins_have_their_own_classes() -> None:
    """Whichever message logs in, its reply is APILogInReply; such a session is one like any other."""
    bench = Bench()
    password = hashlib.sha512(b"password").hexdigest()
    fields = {"username": "admin", "password": password, "loginType": "account"}
    done = decoded(bench.send("POST", "/api/", {"org.zstack.header.identity.login.APILogInMsg": fields}, session=None))
    (name, reply), *_ = json.loads(done[1]["result"]).items()
    assert name == "org.zstack.header.identity.APILogInReply"
    assert bench.found(session=reply["inventory"]["uuid"]) == []


def test_13_10_a_lost_legacy_result_stays_processing() -> None:
    """Faults of api jobs hit messages of the legacy API too, if a script says so."""
    bench = Bench(faults=hit(FaultKind.RESULT_LOST, on="legacy"))
    message = {
        "org.zstack.ai.message.APICloneModelServiceMsg": {
            "uuid": SOURCE,
            "id": job(),
            "session": {"uuid": SESSION},
            "resourceUuid": CLONE,
        }
    }
    bench.send("POST", "/api/", message, session=None)
    bench.wait(100_000)
    assert decoded(bench.send("GET", f"/api/result/{job()}", session=None))[1]["state"] == "Processing"
    assert [row.uuid for row in bench.node.ledger.clones] == [CLONE]


def test_5_the_hook_of_a_batch_says_how_it_ended() -> None:
    """X-Job-Batch stands beside X-Job-Success where a message is about several resources."""
    tenant = NodeAccount("7" * 32, "tenant", password="p")
    sources = (Source("a" * 32, owner=tenant.uuid), Source("b" * 32))
    bench = Bench(accounts=(tenant,), sources=sources)
    login = {"logInByAccount": {"accountName": "tenant", "password": hashlib.sha512(b"p").hexdigest()}}
    session = decoded(bench.send("PUT", "/v1/accounts/login", login, session=None))[1]["inventory"]["uuid"]
    replies = []
    for number, uuids in enumerate((("b",), ("a", "b"), ("a",)), 1):
        named = "&".join(f"uuids={letter * 32}" for letter in uuids)
        path, hook = f"{SERVICES}/?{named}", {"x-web-hook": "http://127.0.0.1:1/"}
        bench.send("DELETE", path, job=job(number), session=session, headers=hook)
        bench.wait()
        (called,) = bench.node.take_hooks()
        replies.append(dict(called.headers)["X-Job-Batch"])
    assert replies == ["FAIL", "PARTIAL", "SUCCESS"]
