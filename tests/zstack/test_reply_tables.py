"""The meaning of each reply for submit, poll and find: sections 3, 4 and 6 of the wire description."""

from __future__ import annotations

import json
from typing import Any

import pytest

from batch.zstack.answers import Absent, Accepted, Done, ErrorClass, Found, NoAnswer, Refused, Running, Service, Unknown
from batch.zstack.replies import read_find, read_job_end, read_poll, read_submit
from batch.zstack.wire import HttpReply, requested_pause
from tests.zstack.wire_server import JOB, RESOURCE, error

INVENTORY = {"uuid": RESOURCE, "name": "n"}


def reply(status: int, body: Any) -> HttpReply:
    return HttpReply(status, body if isinstance(body, bytes) else json.dumps(body).encode())


SUBMITS: list[tuple[int, Any, type, float | None]] = [
    (202, {"location": f"http://10.0.0.9:8080/zstack/v1/api-jobs/{JOB}", "apiTimeout": 1800000}, Accepted, 1800.0),
    (202, {"location": f"http://10.0.0.9:8080/zstack/v1/api-jobs/{JOB}"}, Accepted, None),
    (202, {"apiTimeout": "soon"}, Accepted, None),
    (202, {"apiTimeout": True}, Accepted, None),
    (202, {"apiTimeout": -5}, Accepted, None),
    (202, {"apiTimeout": 1e300}, Accepted, 366 * 86400.0),
    (202, {"location": "http://10.0.0.9/zstack/v1/api-jobs/" + "f" * 32}, NoAnswer, None),
    (202, {"location": 7}, NoAnswer, None),
    (202, b"", NoAnswer, None),
    (202, b"<html>", NoAnswer, None),
    (200, {"inventory": INVENTORY}, Done, None),
    (200, {}, NoAnswer, None),
    (200, b"<html>Welcome to the hotel</html>", NoAnswer, None),
    (200, {"inventory": []}, NoAnswer, None),
    (200, error("SYS.1007"), Refused, None),
    (503, error("SYS.1010"), Refused, None),
    (204, b"", NoAnswer, None),
    (301, b"", NoAnswer, None),
    (307, b"", NoAnswer, None),
    (404, b"<html>not found</html>", NoAnswer, None),
    (500, b"<html>Tomcat</html>", NoAnswer, None),
    (500, b"", NoAnswer, None),
    (500, b"For input string", Refused, None),
]


@pytest.mark.parametrize(("status", "body", "kind", "timeout"), SUBMITS)
def test_submitted(status: int, body: Any, kind: type, timeout: float | None) -> None:
    """The POST's reply means what zstack/README.md 5 says, and is no answer if it is not clearly ZStack's."""
    answer = read_submit(reply(status, body), JOB)
    assert type(answer) is kind
    assert not isinstance(answer, Accepted) or answer.api_timeout == timeout


POLLS: list[tuple[int, Any, object]] = [
    (202, {}, Running()),
    (200, {"inventory": INVENTORY}, Done(Service(RESOURCE, "n", INVENTORY))),
    (200, {}, Done(None)),
    (200, {"success": True}, Done(None)),
    (404, b"the job has been expired", Unknown()),
    (404, "作业已过期".encode(), Unknown()),
]


@pytest.mark.parametrize(("status", "body", "expected"), POLLS)
def test_polled(status: int, body: Any, expected: object) -> None:
    """The poll's reply means what zstack/README.md 6 says."""
    assert read_poll(reply(status, body)) == expected


POLL_SILENCE: list[tuple[int, Any]] = [
    (202, b""),
    (200, b""),
    (200, {"status": "maintenance"}),
    (200, {"success": False}),
    (200, {"inventory": {"uuid": 3}}),
    (200, {"error": "x"}),
    (404, b"<html>nginx</html>"),
    (404, b""),
    (503, b"<html>"),
    (503, {}),
    (503, {"error": {}}),
    *((status, error("SYS.1007")) for status in (400, 401, 403, 405, 410, 500, 502)),
    (302, b""),
]


@pytest.mark.parametrize(("status", "body"), POLL_SILENCE)
def test_a_poll_never_fails_a_job_by_itself(status: int, body: Any) -> None:
    """Only a 503, or a 200, with ZStack's error object ends a job as failed; everything else is polled again."""
    assert isinstance(read_poll(reply(status, body)), NoAnswer)


def test_a_failed_job() -> None:
    """A 503 with an error is the job's end, and an error in a 200 as well."""
    for status in (200, 503):
        answer = read_poll(reply(status, error("SYS.1003")))
        assert isinstance(answer, Refused)
        assert answer.error.error_class is ErrorClass.PERMANENT


def test_side_job_results() -> None:
    """A job that makes no model service succeeds with any result."""
    assert read_job_end(reply(200, {"inventory": {"accountUuid": "a"}})) == Done(None)
    assert read_job_end(reply(200, {"results": []})) == Done(None)
    assert isinstance(read_job_end(reply(200, b"<")), NoAnswer)
    assert isinstance(read_job_end(reply(200, error("SYS.1006"))), Refused)
    assert read_job_end(reply(202, {})) == Running()


def test_what_goes_on_record_is_of_a_bounded_length() -> None:
    """A name of megabytes is cut, and a uuid of more than 64 characters is none: a line of the manifest holds both."""
    name = "\u202e" * 1_300_000
    done = read_poll(
        reply(200, json.dumps({"inventory": {"uuid": RESOURCE, "name": name}}, ensure_ascii=False).encode())
    )
    assert isinstance(done, Done)
    assert done.service is not None
    assert len(done.service.name or "") == 2048
    assert isinstance(read_poll(reply(200, {"inventory": {"uuid": "f" * 65}})), NoAnswer)


def test_found() -> None:
    """A query by uuid is answered with a list: empty means absent, other resources mean nothing."""
    assert read_find(reply(200, {"inventories": [INVENTORY]}), RESOURCE) == Found(Service(RESOURCE, "n", INVENTORY))
    assert read_find(reply(200, {"inventories": []}), RESOURCE) == Absent()
    for body in ({}, {"inventories": None}, {"inventories": [{"uuid": "x"}]}, {"inventories": [7]}, b"<"):
        assert isinstance(read_find(reply(200, body), RESOURCE), NoAnswer)
    for status in (404, 500, 502, 503):
        assert isinstance(read_find(reply(status, b"<html>"), RESOURCE), NoAnswer)
    assert isinstance(read_find(reply(404, b"no api mapping to /v1/x"), RESOURCE), Refused)


DATE = "Mon, 24 Nov 2025 16:00:00 GMT"
NOW = 1_764_000_000.0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        (" 7 ", 7.0),
        ("1000000000", 900.0),
        ("9" * 400, 900.0),
        ("0", None),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        (None, None),
        ("٧", None),
        ("Mon, 24 Nov 2025 16:00:30 GMT", 30.0),
        ("Mon, 24 Nov 2025 15:00:30 GMT", None),
        ("Mon, 24 Nov 2035 16:00:30 GMT", 900.0),
        ("Mon, 99 Nov 2025 16:00:30 GMT", None),
    ],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    """Retry-After is in seconds or relative to the server's own Date, at most 15 minutes; anything else is ignored."""
    assert requested_pause(HttpReply(429, b"", DATE, header), now=0.0) == seconds


def test_retry_after_without_a_date_header() -> None:
    """Without a Date header a Retry-After date is relative to our clock."""
    assert requested_pause(HttpReply(429, b"", None, "Mon, 24 Nov 2025 16:00:30 GMT"), now=NOW - 10) == 40.0
