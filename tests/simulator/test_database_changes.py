"""Changes of services without the API: shown by every query, and restored after a restart."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from batch.simulator.options import NodeAccount, Source
from tests.simulator.simulator_bench import CLONE, SERVICES, SOURCE, decoded, job
from tests.simulator.test_node_state import Kept

OTHER = CLONE[:-1] + "7"
MADE = CLONE[:-1] + "8"
TENANT = NodeAccount("5" * 32, "tenant")


def _kept() -> Kept:
    bench = Kept(sources=(Source(SOURCE, "base"),), accounts=(TENANT,))
    bench.clone({"resourceUuid": CLONE, "name": "kept", "requestCpu": 2}, userTags=["t"], job=job(1))
    bench.clone({"resourceUuid": OTHER, "name": "gone"}, job=job(2))
    return bench


def _shown(bench: Kept, path: str) -> list[dict[str, Any]]:
    status, answer = decoded(bench.send("GET", path))
    assert status == 200, answer
    found: list[dict[str, Any]] = answer["inventories"]
    return found


def test_a_change_is_shown_and_survives_a_restart() -> None:
    """Fields, tags, owners, deletions and added services are in the next answers, also after a restart."""
    bench = _kept()
    order = {
        "change": {CLONE: {"name": "other", "requestCpu": 9, "description": None}},
        "delete": [OTHER],
        "make": [{"uuid": MADE, "name": "made", "source": SOURCE, "userTags": ["x::y"]}],
        "tags": {CLONE: ["u"]},
        "owners": {MADE: TENANT.uuid},
    }
    bench.node.tamper(order, bench.now)
    for _ in range(2):
        (kept,) = bench.found(CLONE)
        assert (kept["name"], kept["requestCpu"], "description" in kept) == ("other", 9, False)
        assert bench.found(OTHER) == []
        assert bench.found(MADE)[0]["name"] == "made"
        tags = _shown(bench, "/v1/user-tags?q=tag~=x::%25")
        assert [(row["resourceUuid"], row["tag"]) for row in tags] == [(MADE, "x::y")]
        assert [row["tag"] for row in _shown(bench, f"/v1/user-tags?q=resourceUuid={CLONE}")] == ["u"]
        owners = decoded(bench.send("GET", f"/v1/resources/accounts?resourceUuids={MADE}"))[1]["inventories"]
        assert owners[MADE]["uuid"] == TENANT.uuid
        bench.revive()
    assert bench.error({"resourceUuid": OTHER}, job=job(9))[0] == "SYS.1000"
    assert len(_shown(bench, f"{SERVICES}?q=uuid?={CLONE},{OTHER},{MADE}")) == 2


@pytest.mark.parametrize(
    "order",
    [
        [],
        {"chnage": {}},
        {"delete": CLONE},
        {"delete": ["x"]},
        {"change": {CLONE: 5}},
        {"tags": {CLONE: "u"}},
        {"make": [5]},
        {"make": [{"name": "no uuid"}]},
        {"make": [{"uuid": MADE, "userTags": [5]}]},
        {"owners": {CLONE: "nobody"}},
        {"groups": {CLONE: MADE}},
        {"groups": {CLONE: ["x"]}},
    ],
)
def test_an_invalid_request_changes_nothing(order: Any) -> None:
    """A request with any error in it is refused whole."""
    bench = _kept()
    with pytest.raises(ValueError, match="expected|no account"):
        bench.node.tamper({"delete": [CLONE], **order} if isinstance(order, dict) else order, bench.now)
    assert len(bench.found(CLONE)) == 1


def test_a_service_is_put_to_use_and_out_of_use() -> None:
    """A request lists all instance groups of a service; the query for groups shows them, also after a restart."""
    bench = _kept()
    path = f"/v1/ai/model-services/instances/groups/?q=modelServiceUuid?={CLONE},{OTHER}"
    for groups in ([MADE], [], [MADE]):
        bench.node.tamper({"groups": {CLONE: groups}}, bench.now)
        for _ in range(2):
            shown = [(row["uuid"], row["modelServiceUuid"], row["status"]) for row in _shown(bench, path)]
            assert shown == [(uuid, CLONE, "Running") for uuid in groups]
            bench.revive()


def test_shares_are_shown_to_admin_only() -> None:
    """QuerySharedResource names resource and receiver, and refuses other accounts."""
    bench = _kept()
    share = {"shareResource": {"resourceUuids": [CLONE], "accountUuids": [TENANT.uuid], "toPublic": False}}
    bench.send("PUT", "/v1/accounts/resources/actions", share, job=job(3))
    bench.wait()
    path = f"/v1/accounts/resources?q=resourceUuid?={CLONE},{OTHER}"
    assert [(row["resourceUuid"], row["receiverAccountUuid"]) for row in _shown(bench, path)] == [(CLONE, TENANT.uuid)]
    login = {"logInByAccount": {"accountName": TENANT.name, "password": hashlib.sha512(b"password").hexdigest()}}
    session = decoded(bench.send("PUT", "/v1/accounts/login", login, session=None))[1]["inventory"]["uuid"]
    assert bench.send("GET", path, session=session).status == 503
