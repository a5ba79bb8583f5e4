"""The REST layer: routes, check order, bodies (zstack/README.md 1 and 5)."""

from __future__ import annotations

from typing import Any

import pytest

from batch.simulator.faults import FaultKind
from batch.simulator.wire import Response
from tests.simulator.simulator_bench import CLONE, SERVICES, SOURCE, START, Bench, decoded, hit, job

DEAD = "0" * 32


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "/v1/nothing", 404, "no api mapping to /v1/nothing"),
        (
            "PATCH",
            f"{SERVICES}/{SOURCE}",
            405,
            f"The method[PATCH] is not allowed for the path[/zstack{SERVICES}/{SOURCE}]",
        ),
        ("POST", "/v1/api-jobs/x", 405, "only GET method is allowed for querying job status"),
        ("GET", f"/v1/api-jobs/{DEAD}", 404, "the job has been expired"),
    ],
)
def test_refusals_of_the_rest_layer_are_plain_text(method: str, path: str, status: int, text: str) -> None:
    """Unknown paths, verbs and jobs are reported in plain text, never JSON."""
    assert decoded(Bench().send(method, path, {})) == (status, text)


def test_paths_outside_the_context_path_are_unknown() -> None:
    """Without /zstack in front, even an existing path is 404."""
    reply = Bench(context_path="/other").send("GET", "/v1/management-nodes/ready")
    assert reply.status == 404


def test_a_query_by_uuid_answers_a_list_even_when_empty() -> None:
    """GET of an unknown uuid is 200 with an empty list and a schema, not 404."""
    assert decoded(Bench().send("GET", f"{SERVICES}/{CLONE}")) == (200, {"inventories": [], "schema": {}})


_BAD_JOB = {"x-job-uuid": "short"}
_ORDER: tuple[tuple[str, dict[str, Any], int, str], ...] = (
    ("JSON comes before everything but the route", {"body": b"{", "session": None}, 500, "JsonSyntax"),
    ("an array is no message", {"body": b"[]", "session": None}, 500, "BEGIN_ARRAY"),
    ("too deep JSON is a server error", {"body": b"[" * 100_000, "session": None}, 500, "JsonSyntax"),
    ("the verb comes before the credential", {"method": "PATCH", "session": None}, 405, "PATCH"),
    (
        "the credential comes before types",
        {"body": {"params": {"requestCpu": 4.5}}, "session": None},
        400,
        "missing header 'Authorization'",
    ),
    ("types come before structure", {"body": {"params": {"requestCpu": "x", "name": []}}}, 400, "[requestCpu] field"),
    ("structure comes before the job uuid", {"body": {"params": {"name": []}}, "headers": _BAD_JOB}, 500, "$.name"),
    ("the job uuid comes before the timeout", {"headers": _BAD_JOB | {"x-api-timeout": "x"}}, 400, "[X-Job-UUID]"),
    ("the timeout comes before acceptance", {"headers": {"x-api-timeout": "30m"}}, 500, 'For input string: "30m"'),
    ("a dead session is accepted", {"session": DEAD}, 202, "location"),
    ("a foreign authorization is refused", {"headers": {"authorization": "Basic x"}}, 400, "must be 'OAuth'"),
    ("the prefix is case-sensitive", {"headers": {"authorization": "oauth x"}}, 400, "must be 'OAuth'"),
    ("tags must be lists", {"body": {"systemTags": "x"}}, 500, "ClassCastException"),
    ("params must be an object", {"body": {"params": []}}, 500, "ClassCastException"),
    ("an empty body is a clone without overrides", {"body": b""}, 202, "location"),
    ("fields outside params are ignored", {"body": {"requestCpu": "x"}}, 202, "location"),
)


@pytest.mark.parametrize(("how", "status", "text"), [row[1:] for row in _ORDER], ids=[row[0] for row in _ORDER])
def test_checks_come_in_the_servers_order(how: dict[str, Any], status: int, text: str) -> None:
    """The first of several errors that the server checks decides the answer."""
    how = dict(how)
    reply = Bench().send(how.pop("method", "POST"), f"{SERVICES}/{SOURCE}", how.pop("body", {}), **how)
    assert reply.status == status
    assert text in reply.body.decode()


def test_parameters_are_checked_before_the_session() -> None:
    """With a dead session and a bad parameter the poll reports the parameter."""
    assert Bench().error({"type": "endpoint"}, session=DEAD)[0] == "SYS.1007"
    assert Bench().error(session=DEAD)[0] == "ID.1001"


def test_a_server_may_check_the_session_first() -> None:
    """A switch reverses the order: with a dead session and a bad parameter the poll reports the session."""
    assert Bench(session_first=True).error({"type": "endpoint"}, session=DEAD)[0] == "ID.1001"
    assert Bench(session_first=True).error({"type": "endpoint"})[0] == "SYS.1007"


@pytest.mark.parametrize(
    ("action", "status"), [(b"", 500), (b"null", 500), (b'{"other":{}}', 400), (b'{"getVersion":{}}', 200)]
)
def test_put_needs_an_action_key(action: bytes, status: int) -> None:
    """A PUT without body is a NullPointerException, without a known action key a 400."""
    assert Bench().send("PUT", "/v1/management-nodes/actions", action, session=None).status == status


def test_answers_name_no_content_type_by_default() -> None:
    """RestServer sets no Content-Type; a switch adds one."""
    path = "/v1/management-nodes/ready"
    assert "Content-Type" not in dict(Bench().send("GET", path).headers)
    assert "json" in dict(Bench(content_type=True).send("GET", path).headers)["Content-Type"]


def test_json_is_html_escaped_without_nulls() -> None:
    """Success bodies escape <>&=' as Gson does, keep UTF-8 and omit nulls; a switch turns escaping off."""
    for escape, name in ((True, rb"it\u0027s\u003d\u003cx\u003e\u0026"), (False, b"it's=<x>&")):
        bench = Bench(html_escape=escape)
        bench.clone({"name": "it's=<x>&名", "readme": None})
        body = bench.send("GET", f"/v1/api-jobs/{job()}").body
        assert name + "名".encode() in body
        assert b"null" not in body


def test_errors_of_sync_calls_are_not_html_escaped() -> None:
    """They go through another serialiser than events."""
    reply = Bench(locale="en_US").send("GET", f"{SERVICES}?q=it's=1")
    assert (reply.status, b"it's" in reply.body) == (503, True)


def test_cookieless_requests_get_an_http_session_each() -> None:
    """Each request without the cookie is given a new JSESSIONID; a switch turns it off."""
    bench = Bench()
    cookies = [dict(bench.send("GET", "/v1/management-nodes/ready").headers)["Set-Cookie"] for _ in range(2)]
    kept = bench.send("GET", "/v1/management-nodes/ready", headers={"cookie": cookies[0]})
    assert cookies[0] != cookies[1]
    assert "Set-Cookie" not in dict(kept.headers)
    assert "Set-Cookie" not in dict(Bench(http_sessions=False).send("GET", "/v1/nothing").headers)


@pytest.mark.parametrize(
    ("content_type", "latin1", "name"),
    [
        ("application/json", True, "名".encode().decode("latin-1")),
        ("application/json;charset=UTF-8", True, "名"),
        ("application/json", False, "名"),
    ],
)
def test_bodies_without_charset_are_read_as_latin_1(content_type: str, name: str, *, latin1: bool) -> None:
    """Raw UTF-8 without a charset becomes mojibake, as the servlet specification has it."""
    bench = Bench(latin1_bodies=latin1)
    body = '{"params":{"name":"名"}}'.encode()
    bench.send("POST", f"{SERVICES}/{SOURCE}", body, job=job(), headers={"content-type": content_type})
    bench.wait()
    assert bench.poll()[1]["inventory"]["name"] == name


def test_a_used_job_uuid_is_refused_for_calls_that_change() -> None:
    """POST and DELETE with a known job uuid are 400 with the exact text, GET may repeat it."""
    bench = Bench()
    bench.clone()
    assert decoded(bench.send("POST", f"{SERVICES}/{SOURCE}", {}, job=job())) == (400, f"Duplicate job uuid[{job()}]")
    assert bench.send("DELETE", f"{SERVICES}/{SOURCE}", job=job()).status == 400
    assert bench.send("GET", f"{SERVICES}/{SOURCE}", job=job()).status == 200
    assert bench.node.ledger.counts["duplicate_jobs"] == 2


def test_a_failed_job_uses_its_uuid_up() -> None:
    """A terminal failure consumes the job uuid like a success."""
    bench = Bench()
    bench.error({"type": "none"})
    assert bench.send("POST", f"{SERVICES}/{SOURCE}", {}, job=job()).status == 400


def test_the_duplicate_check_is_not_atomic() -> None:
    """Inside the window two POSTs of one job uuid both run, and the second result replaces the first."""
    bench = Bench(duplicate_window=0.1)
    bench.post({"resourceUuid": CLONE})
    bench.now += 0.05
    assert isinstance(bench.post({"resourceUuid": CLONE}), Response)
    bench.wait(0.155)
    assert bench.poll()[0] == 200
    bench.wait()
    assert bench.poll()[1]["error"]["code"] == "SYS.1000"
    assert len(bench.node.ledger.clones) == 1


@pytest.mark.parametrize("switches", [{"loses_rows": True}, {"faults": hit(FaultKind.ROW_MISSING)}])
def test_a_lost_row_answers_404_though_the_job_ran(switches: dict[str, Any]) -> None:
    """When the row's insert fails the POST is still 202 and the clone is made."""
    bench = Bench(**switches)
    assert bench.clone({"resourceUuid": CLONE})[0] == 404
    assert len(bench.found()) == 1


def test_location_names_the_management_node() -> None:
    """location carries the node's own origin, which may be one the client cannot reach, and apiTimeout is in ms."""
    bench = Bench(management_url="http://172.20.0.5:8080", faults=hit(FaultKind.FOREIGN_LOCATION, requests=2))
    first = decoded(bench.send("POST", f"{SERVICES}/{SOURCE}", {}, job=job(1)))
    second = decoded(bench.send("POST", f"{SERVICES}/{SOURCE}", {}, job=job(2), headers={"x-api-timeout": "600"}))
    where = "/zstack/v1/api-jobs/"
    assert first == (202, {"location": f"http://172.20.0.5:8080{where}{job(1)}", "apiTimeout": 1_800_000})
    assert second == (202, {"location": f"http://192.0.2.10:8080{where}{job(2)}", "apiTimeout": 600_000})


def test_dates_are_in_the_nodes_zone() -> None:
    """Timestamps read like Nov 25, 2025 11:51:50 AM, without a zone."""
    bench = Bench(latency=(0.0, 0.0), check_seconds=0.0)
    bench.post()
    bench.node.advance(START)
    assert bench.poll()[1]["inventory"]["createDate"] == "Nov 25, 2025 11:51:50 AM"
