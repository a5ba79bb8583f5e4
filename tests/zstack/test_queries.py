"""Queries and changes of resources around the clone."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest

from batch.errors import RunStoppedError
from batch.zstack.params import parse_version, split_condition, too_new
from batch.zstack.queries import IMAGES, PAGE, Ownership, QueryApi
from batch.zstack.wire import CallFailedError
from tests.zstack.wire_server import RESOURCE, CountingGate, Seen, VirtualClock, WireServer, answer, client_of, error

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS = [{"uuid": f"{number:032x}", "name": f"s{number}"} for number in range(2 * PAGE + 7)]


def query_node(*, cap: int = 1000, with_total: bool = True) -> Callable[[Seen], bytes]:
    def handler(seen: Seen) -> bytes:
        parameters = parse_qs(urlsplit(seen.target).query)
        start, limit = int(parameters["start"][0]), min(cap, int(parameters["limit"][0]))
        body: dict[str, object] = {"inventories": ROWS[start : start + limit]}
        return answer(200, body | ({"total": len(ROWS)} if with_total else {}))

    return handler


@pytest.mark.parametrize(("cap", "with_total"), [(1000, True), (50, True), (1000, False)])
async def test_query_walks_all_pages(cap: int, with_total: bool) -> None:  # noqa: FBT001 - a parameter
    """A query streams every row, however short the server cuts its pages."""
    gate = CountingGate()
    handler = query_node(cap=cap, with_total=with_total)
    async with WireServer(handler) as server, client_of(server.url, gate=gate) as client:
        seen = [service.uuid async for service in QueryApi(client).query(["type=Endpoint"], ["name"])]
    assert seen == [row["uuid"] for row in ROWS]
    parameters = parse_qs(urlsplit(server.seen[0].target).query)
    assert parameters["q"] == ["type=Endpoint"]
    assert parameters["fields"] == ["uuid,name"]
    assert parameters["replyWithCount"] == ["true"]
    assert gate.passed == len(server.seen)


async def test_uuids_in_batches_that_fit() -> None:
    """Many uuids are queried in batches whose URL stays below 8 KiB."""
    async with WireServer(lambda _: answer(200, {"inventories": ROWS[:1]})) as server, client_of(server.url) as client:
        found = [service.uuid async for service in QueryApi(client).services(f"{n:032x}" for n in range(450))]
    assert len(found) == 3
    assert [len(parse_qs(urlsplit(seen.target).query)["q"][0].split(",")) for seen in server.seen] == [200, 200, 50]
    assert max(len(seen.target) for seen in server.seen) < 7000


@pytest.mark.parametrize(
    "body", [{}, {"inventories": None}, {"inventories": ROWS[:1], "total": 2}, {"inventories": ROWS[:1]}]
)
async def test_rows_an_answer_omits_are_not_absent(body: dict[str, object]) -> None:
    """An answer without rows, or with fewer than exist, does not prove that an image does not exist."""
    async with WireServer(lambda _: answer(200, body)) as server, client_of(server.url) as client:
        with pytest.raises(CallFailedError, match="QueryImage.*not complete"):
            await QueryApi(client).rows(IMAGES, [row["uuid"] for row in ROWS[:3]])


async def test_no_service_is_missed_if_pages_are_cut() -> None:
    """A server that cuts a batch's page shorter than requested is queried for the rest: none counts as absent."""
    rows = ROWS[:PAGE]

    def handler(seen: Seen) -> bytes:
        start = int(parse_qs(urlsplit(seen.target).query)["start"][0])
        return answer(200, {"inventories": rows[start : start + 70], "total": len(rows)})

    async with WireServer(handler) as server, client_of(server.url) as client:
        found = [service.uuid async for service in QueryApi(client).services(row["uuid"] for row in rows)]
    assert found == [row["uuid"] for row in rows]


async def test_owners_are_queried_in_batches_that_fit() -> None:
    """The owners of a hundred resources are one query; invisible ones are left out."""
    owner = {"uuid": "acc", "name": "tenant"}

    def handler(seen: Seen) -> bytes:
        parameters = parse_qs(urlsplit(seen.target).query)["resourceUuids"]
        return answer(200, {"inventories": {parameters[0]: owner, parameters[1]: {"name": "no uuid"}}})

    async with WireServer(handler) as server, client_of(server.url) as client:
        found = await QueryApi(client).owners(f"{number:032x}" for number in range(250))
    assert {uuid: str(account) for uuid, account in found.items()} == {
        f"{number:032x}": "'tenant' (acc)" for number in (0, 100, 200)
    }
    assert max(len(seen.target) for seen in server.seen) < 7000


@pytest.mark.parametrize(
    ("admins", "all_accounts", "own"),
    [(["admin"], ["admin", "a"], "admin"), ([], ["a"], "a"), ([], ["a", "b"], None), (["x", "y"], ["x", "y"], None)],
)
async def test_the_own_account_is_the_only_visible_one(
    admins: list[str], all_accounts: list[str], own: str | None
) -> None:
    """Admin is the only administrator, anybody else sees one account; an inconclusive answer gives none."""

    def handler(seen: Seen) -> bytes:
        names = admins if "q" in parse_qs(urlsplit(seen.target).query) else all_accounts
        return answer(200, {"inventories": [{"uuid": name} for name in names]})

    async with WireServer(handler) as server, client_of(server.url) as client:
        found = await QueryApi(client).own_account()
    assert (found and found.uuid) == own


@pytest.mark.parametrize(
    ("field", "operator", "value"),
    [("name", "=", "a"), ("name", "~=", "qwen%"), ("uuid", "?=", "a,b"), ("name", "is null", ""), ("size", ">=", "3")],
)
def test_condition(field: str, operator: str, value: str) -> None:
    """A condition is read as field, operator and value."""
    text = f"{field} {operator}" if operator.endswith("null") else f"{field}{operator}{value}"
    assert split_condition(text) == (field, operator, value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("name=a>=b", ("name=a", ">=", "b")),
        ("name=x!=y", ("name=x", "!=", "y")),
        ("name~=a?=b!=c", ("name~=a?=b", "!=", "c")),
    ],
)
def test_conditions_the_server_would_misread(text: str, parts: tuple[str, str, str]) -> None:
    """A condition is split where the server splits it, also if a value holds an operator."""
    assert split_condition(text) == parts


def test_condition_without_operator() -> None:
    """A text without an operator is no condition."""
    assert split_condition("name") is None


async def test_simple_queries() -> None:
    """Version, APIs, readiness, clock, session and permission are read from their answers."""

    def handler(seen: Seen) -> bytes:
        if b"getVersion" in seen.body:
            return answer(200, {"version": "5.3.46.1"})
        if b"getSupportAPIs" in seen.body:
            return answer(200, {"supportApis": ["APICloneModelServiceMsg", 7]})
        if b"getCurrentTime" in seen.body:
            return answer(200, {"currentTime": {"MillionSeconds": 1500, "Seconds": 1}})
        if "permissions" in seen.target:
            api = seen.json["checkApiPermission"]["apiNames"][0]
            return answer(200, {"inventory": {api: "Allow"}})
        return answer(200, {"valid": True})

    async with WireServer(handler) as server, client_of(server.url) as client:
        query_api = QueryApi(client)
        assert await query_api.support_apis() == {"APICloneModelServiceMsg"}
        assert await query_api.server_time() == 1.5
        assert await query_api.check_permission() is True


def job_node(*polls: bytes) -> Callable[[Seen], bytes]:
    replies = iter(polls)

    def handler(seen: Seen) -> bytes:
        return next(replies) if "/api-jobs/" in seen.target else answer(202, {})

    return handler


async def test_side_jobs() -> None:
    """Owner and sharing are sent in the wire's format and waited for to their end."""
    polls = [answer(202, {}), answer(200, {"inventory": {"accountUuid": "a"}}), answer(200, {})]
    async with WireServer(job_node(*polls)) as server, client_of(server.url) as client:
        ownership = Ownership(client)
        await ownership.change_owner(RESOURCE, "acc")
        await ownership.share_resource([RESOURCE], ["acc"])
    sent = [seen for seen in server.seen if "/api-jobs/" not in seen.target]
    assert sent[0].target == "/zstack/v1/account/acc/resources"
    assert sent[0].json == {"params": {"resourceUuid": RESOURCE}}
    assert sent[1].json == {
        "shareResource": {"resourceUuids": [RESOURCE], "accountUuids": ["acc"], "toPublic": False},
    }
    assert len({seen.headers["x-job-uuid"] for seen in sent}) == 2


async def test_side_job_is_repeated_under_a_new_job_uuid() -> None:
    """A side job that failed temporarily, or is unknown, is started again under another job uuid."""
    gone = answer(404, "the job has been expired")
    polls = [answer(503, error("SYS.1011")), gone, gone, gone, answer(200, {})]
    async with WireServer(job_node(*polls)) as server, client_of(server.url) as client:
        await Ownership(client).change_owner(RESOURCE, "acc")
    sent = [seen.headers["x-job-uuid"] for seen in server.seen if seen.method == "POST"]
    assert len(sent) == len(set(sent)) == 3


async def test_side_job_that_fails_for_good() -> None:
    """A permanent failure is reported at once with its code."""
    async with WireServer(job_node(answer(503, error("SYS.1003")))) as server, client_of(server.url) as client:
        with pytest.raises(CallFailedError, match=r"ChangeResourceOwner: SYS\.1003"):
            await Ownership(client).change_owner(RESOURCE, "acc")
    assert len(server.seen) == 2


async def test_side_job_that_never_ends() -> None:
    """A side job that stays running is abandoned after the server's own timeout."""
    running = answer(202, {})
    clock = VirtualClock()
    async with WireServer(lambda _: running) as server, client_of(server.url, clock=clock) as client:
        with pytest.raises(CallFailedError, match="did not end in time"):
            await Ownership(client).change_owner(RESOURCE, "acc")


async def test_dead_session_in_a_query() -> None:
    """A given session that ended stops a query with what to do."""
    data = answer(503, error("ID.1001"))
    async with WireServer(lambda _: data) as server, client_of(server.url) as client:
        with pytest.raises(RunStoppedError, match="ZSTACK_SESSION_ID"):
            await QueryApi(client).check_permission()
    assert len(server.seen) == 1


def test_versions() -> None:
    """A parameter newer than the server is reported with the version that introduces it."""
    assert parse_version("5.3.46") == (5, 3, 46)
    assert parse_version("v5.5.22-rc1") == (5, 5, 22)
    assert parse_version("5.3") == (5, 3, 0)
    assert parse_version("four") is None
    names = ("name", "cpuArchitectures", "supportDistributed", "containerArgs", "nonsense")
    assert too_new(names, (5, 3, 45)) == {"supportDistributed": (5, 3, 46), "containerArgs": (5, 5, 22)}
    assert too_new(names, (5, 5, 22)) == {}
