"""The SDK-like action, beside the vendor's example."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import pytest

from batch.errors import UsageError
from batch.zstack import CloneModelServiceAction
from batch.zstack.params import PARAMS, ParamType
from tests.zstack.wire_server import RESOURCE, SESSION, SOURCE, Seen, WireServer, answer, client_of, error

if TYPE_CHECKING:
    from collections.abc import Callable

TYPES = {
    ParamType.STRING: "str | None",
    ParamType.INTEGER: "int | None",
    ParamType.LONG: "int | None",
    ParamType.BOOLEAN: "bool | None",
    ParamType.STRINGS: "list[str] | None",
    ParamType.IMAGES: "list[dict[str, str]] | None",
    ParamType.UUIDS_BY_NAME: "dict[str, list[str]] | None",
}


def node(poll: Callable[[str], bytes], *, finds: bool = False) -> Callable[[Seen], bytes]:
    """Answer the poll as given; the query shows the clone only if it ``finds``."""
    made: list[str] = []

    def handler(seen: Seen) -> bytes:
        if "actions" in seen.target:
            return answer(200, {"version": "5.5.22"})
        if seen.method == "POST":
            made.append(seen.json["params"]["resourceUuid"])
            return answer(202, {})
        if "/api-jobs/" in seen.target:
            return poll(made[-1])
        return answer(200, {"inventories": [{"uuid": made[-1]}] if finds and made else []})

    return handler


def test_every_parameter_is_an_attribute() -> None:
    """The action has each parameter of the API page as an attribute of its type."""
    types = {row.name: str(row.type) for row in fields(CloneModelServiceAction)}
    for name, param in PARAMS.items():
        assert types[name] == ("str" if name == "uuid" else TYPES[param.type]), name
    assert set(types) - set(PARAMS) == {"url", "sessionId", "settings", "_random_uuid"}


async def test_the_vendors_example() -> None:
    """The vendor's example works as written: attributes, sessionId, call, inventory."""
    async with WireServer(node(lambda uuid: answer(200, {"inventory": {"uuid": uuid, "name": "example"}}))) as server:
        action = CloneModelServiceAction(url=server.url)
        action.uuid = SOURCE
        action.name = "example"
        action.size = 0
        action.system = False
        action.cpuArchitectures = ["X86_64", "AARCH64"]
        action.userTags = ["team::search"]
        action.sessionId = SESSION
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("batch.clock.SystemClock.sleep", _no_sleep)
            result = await action.call()
    assert result.inventory is not None
    assert result.inventory.name == "example"
    assert result.inventory.uuid == result.resource_uuid == action.resourceUuid
    sent = next(seen for seen in server.seen if seen.method == "POST").json
    assert sent["userTags"] == ["team::search"]
    assert sent["params"] == {
        "name": "example",
        "size": 0,
        "system": False,
        "resourceUuid": action.resourceUuid,
        "cpuArchitectures": ["X86_64", "AARCH64"],
    }
    assert SESSION not in repr(action)


async def _no_sleep(_: object, seconds: float) -> None:
    assert seconds > 0


async def test_failed_action() -> None:
    """A failure is a result with ZStack's code, not an exception."""
    async with WireServer(node(lambda _: answer(503, error("SYS.1003")))) as server, client_of(server.url) as client:
        result = await CloneModelServiceAction(uuid=SOURCE).call(client)
    assert result.error is not None
    assert result.error.code == "SYS.1003"
    assert result.inventory is None


@pytest.mark.parametrize(
    "poll", [answer(404, "the job has been expired"), answer(503, error("SYS.1001")), answer(200, {})]
)
async def test_lost_job_is_resolved_by_the_clones_uuid(poll: bytes) -> None:
    """If the job is unknown, or failed although the clone exists, the clone's uuid decides."""
    async with WireServer(node(lambda _: poll, finds=True)) as server, client_of(server.url) as client:
        result = await CloneModelServiceAction(uuid=SOURCE).call(client)
    assert result.inventory is not None


async def test_an_unknown_result_says_so() -> None:
    """If neither job nor clone is visible the result says that it is unknown, and where to look."""
    poll = answer(404, "the job has been expired")
    async with WireServer(node(lambda _: poll)) as server, client_of(server.url) as client:
        result = await CloneModelServiceAction(uuid=SOURCE).call(client)
    assert (result.inventory, result.error) == (None, None)
    assert result.reason
    assert len(result.resource_uuid) == 32


async def test_a_uuid_in_use_is_not_adopted() -> None:
    """A resourceUuid that the caller chose and that is already in use is an error, not somebody else's clone."""
    async with (
        WireServer(node(lambda _: answer(503, error("SYS.1000")), finds=True)) as server,
        client_of(server.url) as client,
    ):
        result = await CloneModelServiceAction(uuid=SOURCE, resourceUuid=RESOURCE).call(client)
    assert result.error is not None
    assert result.inventory is None


async def test_an_incomplete_action_says_what_is_missing() -> None:
    """An action without a source or without settings says what is missing."""
    with pytest.raises(UsageError, match="uuid"):
        await CloneModelServiceAction().call()
    with pytest.raises(UsageError, match="sessionId"):
        await CloneModelServiceAction(uuid=SOURCE).call()
