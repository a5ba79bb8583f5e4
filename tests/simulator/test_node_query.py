"""The query API and the calls around cloning (zstack/README.md 8 and 9)."""

from __future__ import annotations

from typing import Any

import pytest

from batch.simulator.node import Node
from batch.simulator.options import Source
from tests.simulator.simulator_bench import CLONE, SERVICES, START, Bench, decoded, job

ROWS = tuple(
    Source(f"{number:032x}", f"qwen-{number}", fields={"requestCpu": number, "type": kind})
    for number, kind in ((1, "Endpoint"), (2, "App"), (10, "Endpoint"))
)


def _names(query: str) -> list[str]:
    bench = Bench(sources=ROWS)
    status, answer = decoded(bench.send("GET", f"{SERVICES}?{query}"))
    assert status == 200, answer
    return [row["name"] for row in answer["inventories"]]


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("", [1, 2, 10]),
        ("condition=name=nobody", [1, 2, 10]),
        ("q=name=qwen-2", [2]),
        ("q=name!=qwen-2", [1, 10]),
        ("q=name~=qwen-1%25", [1, 10]),
        ("q=name!~=qwen-1%25", [2]),
        ("q=name~=qwen-_", [1, 2]),
        (f"q=uuid?={ROWS[0].uuid},{ROWS[2].uuid},{'f' * 32}", [1, 10]),
        (f"q=uuid={ROWS[1].uuid}", [2]),
        ("q=name!?=qwen-1,qwen-2", [10]),
        ("q=requestCpu>2", [10]),
        ("q=requestCpu>=2", [2, 10]),
        ("q=requestCpu<10", [1, 2]),
        ("q=requestCpu<=1", [1]),
        ("q=zoneUuid is null", [1, 2, 10]),
        ("q=zoneUuid not null", []),
        ("q=type=Endpoint&q=requestCpu>5", [10]),
        ("sort=-requestCpu", [10, 2, 1]),
        ("sort=%2Bname", [1, 10, 2]),
        ("sort=+name", [1, 10, 2]),
        ("sort=name", [1, 10, 2]),
        ("limit=2", [1, 2]),
        ("start=1&limit=1", [2]),
    ],
)
def test_queries(query: str, numbers: list[int]) -> None:
    """Conditions are joined by and; an unknown parameter is ignored."""
    assert _names(query) == [f"qwen-{number}" for number in numbers]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("name=a>=b", None),
        ("name=a!=b", None),
        ("name!=a>=b", 3),
        ("name>=a<=b", 3),
        ("name~=a?=b", 0),
        ("name!?=a~=b", 3),
        ("name!~=a?=b", 3),
        ("name=a is null", 0),
    ],
)
def test_an_operator_inside_a_value_changes_the_parse(query: str, found: int | None) -> None:
    """Operators are tried in a fixed order by substring; None: the field is not the one meant, 503."""
    status, answer = decoded(Bench(sources=ROWS).send("GET", f"{SERVICES}?q={query}"))
    assert (len(answer["inventories"]) if status == 200 else None) == found


@pytest.mark.parametrize("query", ["q=name", "limit=x", "start=2147483648", "q=name=", "limit="])
def test_malformed_queries_are_plain_400s(query: str) -> None:
    """No operator, no value, no number or too large a one: 400 with text."""
    status, text = decoded(Bench().send("GET", f"{SERVICES}?{query}"))
    assert (status, isinstance(text, str)) == (400, True)


@pytest.mark.parametrize("query", ["q=nme=x", "fields=uuid,nme", "sort=-nme"])
def test_unknown_fields_are_a_503(query: str) -> None:
    """SYS.1000 with the words not having field."""
    status, answer = decoded(Bench().send("GET", f"{SERVICES}?{query}"))
    assert (status, answer["error"]["code"]) == (503, "SYS.1000")
    assert "not having field[nme]" in answer["error"]["details"]


def test_totals_counts_fields_and_schema() -> None:
    """replyWithCount adds the total of all pages, count answers only that, fields cuts the rows."""
    bench = Bench(sources=ROWS)
    paged = decoded(bench.send("GET", f"{SERVICES}?limit=1&replyWithCount=true&fields=uuid"))[1]
    assert paged == {
        "inventories": [{"uuid": ROWS[0].uuid}],
        "total": 3,
        "schema": {"inventories[0]": "org.zstack.ai.entity.ModelServiceInventory"},
    }
    assert decoded(bench.send("GET", f"{SERVICES}?count=true"))[1] == {"total": 3}


def test_a_page_is_silently_cut_at_a_thousand() -> None:
    """The default limit is 1000, and nothing says that there are more."""
    bench = Bench(sources=tuple(Source(f"{number:032x}") for number in range(1001)))
    answer = decoded(bench.send("GET", SERVICES))[1]
    assert (len(answer["inventories"]), "total" in answer) == (1000, False)


_OPEN: tuple[tuple[str, str, Any, Any], ...] = (
    ("PUT", "/v1/management-nodes/actions", {"getVersion": {}}, {"version": "5.5.22"}),
    (
        "PUT",
        "/v1/management-nodes/actions",
        {"getCurrentTime": {}},
        {"currentTime": {"MillionSeconds": int(START * 1000), "Seconds": int(START)}},
    ),
    ("GET", "/v1/management-nodes/ready", None, {}),
    ("GET", f"/v1/accounts/sessions/{'0' * 32}/valid", None, {"valid": False}),
)


@pytest.mark.parametrize(("method", "path", "body", "answer"), _OPEN)
def test_open_apis_need_no_credential(method: str, path: str, body: Any, answer: Any) -> None:
    """Version, time, readiness and validity are answered at once to everybody."""
    assert decoded(Bench().send(method, path, body, session=None)) == (200, answer)


def test_supported_apis_are_named_by_class() -> None:
    """The exact probe for the clone API."""
    body: Any = {"getSupportAPIs": {}}
    names = decoded(Bench().send("PUT", "/v1/management-nodes/actions", body, session=None))[1]["supportApis"]
    assert {"APICloneModelServiceMsg", "APIQueryModelServiceMsg", "APILogInByAccountMsg"} <= set(names)


def test_the_zone_needs_a_session() -> None:
    """platform-timezone needs a session."""
    path = "/v1/management-nodes/platform-timezone"
    assert decoded(Bench().send("GET", path)) == (200, {"timezone": "Asia/Shanghai", "offset": "+08:00"})
    assert decoded(Bench(utc_offset=-12600.0).send("GET", path))[1]["offset"] == "-03:30"
    assert Bench().send("GET", path, session=None).status == 400


def test_accounts_can_be_queried() -> None:
    """Admin sees every account."""
    answer = decoded(Bench().send("GET", "/v1/accounts?q=name=admin"))[1]
    assert answer["inventories"][0]["type"] == "SystemAdmin"


def test_the_ledger_counts_calls_and_clones() -> None:
    """The ledger has every call with its time, every clone with its request, POSTs per source."""
    bench = Bench()
    bench.clone({"name": "a", "resourceUuid": CLONE})
    bench.post(job=job(), source="f" * 32)
    report = bench.node.report(bench.now)
    assert report["calls"] == {"submit": 2, "poll": 1}
    assert report["posts_per_source"]["f" * 32] == 1
    assert (report["clones_made"], report["max_concurrent"], report["duplicate_jobs"]) == (1, 1, 1)
    assert [(clone["uuid"], clone["params"]) for clone in report["clones"]] == [(CLONE, {"name": "a"})]
    assert report["call_kinds"] == ["submit", "poll", "submit"]
    assert report["call_times"] == [START, START + 5, START + 5]


def test_the_peak_counts_any_window() -> None:
    """Most calls in any second, its end not included."""
    bench = Bench()
    for gap in (0.0, 0.5, 0.49, 0.02, 1.0):
        bench.wait(gap)
        bench.poll()
    assert bench.node.ledger.peak() == 3
    bench = Bench()
    for _ in range(3):
        bench.poll()
        bench.wait(1.0)
    assert bench.node.ledger.peak() == 1


def test_parameters_may_be_left_out_of_the_ledger() -> None:
    """With keep_params off only names and digests are kept, enough to detect duplicates."""
    bench = Bench(keep_params=False)
    for number in (1, 2):
        bench.clone({"name": "n", "description": "long"}, job=job(number))
    assert [dict(row.params) for row in bench.node.ledger.clones] == [{}, {}]
    assert bench.node.ledger.duplicates()[0]["count"] == 2


def test_sources_can_be_invented_in_advance() -> None:
    """A client may read them before the first clone."""
    node = Node(now=START)
    node.add_sources([CLONE])
    assert node.report(START)["clones_made"] == 0
