"""The node's database between starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from batch.simulator.faults import FaultKind
from batch.simulator.node import Node
from batch.simulator.options import Source
from batch.simulator.state import StateError, StateFile, read_events
from tests.simulator.simulator_bench import CLONE, QUICK, SERVICES, SOURCE, START, Bench, hit, job

if TYPE_CHECKING:
    from pathlib import Path

SECOND = CLONE[:-1] + "7"
BASE = Source(SOURCE, "base")


class Kept(Bench):
    """A node that writes its events down, and can be restarted from them."""

    def __init__(self, **switches: Any) -> None:
        super().__init__(**switches)
        self.events: list[Any] = []
        self.revive()

    def revive(self) -> None:
        self.node = Node(self.node.options, now=self.now, events=list(self.events), journal=self.events.extend)


def _full_life() -> Kept:
    """Make two clones, one deleted, a failed job, a purged one and one under way."""
    bench = Kept(sources=(BASE,), faults=hit(FaultKind.PURGED, requests=5))
    bench.clone({"resourceUuid": CLONE, "name": "kept"}, userTags=["t"], job=job(1))
    bench.clone({"resourceUuid": SECOND}, source="e" * 32, job=job(2))
    bench.send("DELETE", f"{SERVICES}/{SECOND}", job=job(3))
    bench.wait()
    bench.clone({"type": "x"}, job=job(4))
    bench.clone(source=CLONE, job=job(5))
    bench.post(job=job(6))
    bench.clone(job=job(7))
    return bench


def test_everything_answered_survives_a_kill() -> None:
    """Clones, results, deleted and used uuids, tags and ledger are as before."""
    bench = _full_life()
    before = bench.node.report(bench.now)
    polls = [bench.poll(job(number)) for number in range(1, 8)]
    bench.revive()
    assert [bench.poll(job(number)) for number in range(1, 8)] == polls
    after = bench.node.report(bench.now)
    for key in ("clones", "posts_per_source", "faults", "deleted", "duplicates"):
        assert after[key] == before[key]
    assert after["calls"]["submit"] == before["calls"]["submit"]
    assert bench.found(SECOND) == []
    assert bench.error({"resourceUuid": SECOND}, job=job(8))[0] == "SYS.1000"
    assert len(bench.found("e" * 32)) == 1


def test_jobs_under_way_are_orphans_after_a_kill() -> None:
    """A 202 before the kill stays 202, and its uuid is used."""
    bench = Kept(session_timeout=1e6)
    bench.post()
    bench.revive()
    bench.wait(20_000)
    assert bench.poll() == (202, {})
    assert bench.send("POST", f"{SERVICES}/{SOURCE}", {}, job=job()).status == 400


def test_a_restarted_node_draws_other_faults_and_uuids() -> None:
    """A rerun does not get the very same faults again, and never a used random uuid."""
    bench = Kept()
    first = bench.clone(job=job(1))[1]["inventory"]["uuid"]
    bench.revive()
    assert bench.clone(job=job(2))[1]["inventory"]["uuid"] != first


def test_logins_owners_and_shares_are_kept() -> None:
    """The changes of admin calls are restored."""
    bench = Kept()
    bench.clone({"resourceUuid": CLONE}, job=job(1))
    body = {"shareResource": {"resourceUuids": [CLONE], "toPublic": True}}
    bench.send("PUT", "/v1/accounts/resources/actions", body, job=job(2))
    bench.send(
        "POST",
        f"/v1/account/{'36c27e8ff05c4780bf6d2fa65700f22e'}/resources",
        {"params": {"resourceUuid": CLONE}},
        job=job(3),
    )
    bench.wait()
    bench.node.add_sources(["c" * 32])
    bench.node.expire_sessions()
    bench.revive()
    assert bench.poll(job(2)) == (200, {})
    assert {event["e"] for event in bench.events} >= {"share", "owner", "sources", "expire"}


def test_a_state_file_has_one_owner_and_waits_for_a_dying_one(tmp_path: Path) -> None:
    """The second open fails once its wait is over, and works when the first is gone."""
    path = tmp_path / "node.state"
    first = StateFile.open(path)
    with pytest.raises(StateError, match="another node holds this file"):
        StateFile.open(path, wait=0.06)
    first.close()
    StateFile.open(path, wait=0.0).close()


def test_a_torn_tail_is_cut_before_appending(tmp_path: Path) -> None:
    """No answer depended on an unfinished line."""
    path = tmp_path / "node.state"
    path.write_bytes(b'{"e":"logout","u":"a"}\n{"e":"log')
    file = StateFile.open(path)
    file.append([{"e": "logout", "u": "b"}])
    assert [event["u"] for event in file.events()] == ["a", "b"]
    file.close()
    path.write_bytes(b'{"e":"' + b"x" * 70_000)
    StateFile.open(path).close()
    assert path.read_bytes() == b""


@pytest.mark.parametrize("line", [b"garbage", b"[]", b"{}"])
def test_damage_is_reported_with_its_line(tmp_path: Path, line: bytes) -> None:
    """A line no node wrote stops the start."""
    path = tmp_path / "node.state"
    path.write_bytes(b'{"e":"logout","u":"a"}\n' + line + b"\n")
    with pytest.raises(StateError, match="node.state:2: not an event"):
        list(read_events(path))


@pytest.mark.parametrize("event", [{"e": "unheard"}, {"e": "clone"}, {"e": "session", "u": "x", "a": "nobody"}])
def test_events_that_do_not_match_are_refused(event: dict[str, str]) -> None:
    """An event of other options or another program is reported by its number."""
    with pytest.raises(StateError, match="event 1 of the node's state"):
        Node(QUICK, now=START, events=[event])


ADDED = {
    "name": "added",
    "yaml": "a: 1",
    "modelCenterUuid": "c" * 32,
    "requestCpu": 1,
    "requestMemory": 1,
    "installPath": "/m",
    "startCommand": "run",
    "resourceUuid": SECOND,
}
CHANGES: tuple[tuple[str, str, Any], ...] = (
    ("POST", SERVICES, {"param": ADDED, "userTags": ["first"]}),
    ("PUT", f"{SERVICES}/{SECOND}", {"updateModelService": {"name": "renamed", "servicePorts": [80]}}),
    ("POST", "/v1/user-tags", {"params": {"resourceType": "ModelServiceVO", "resourceUuid": SECOND, "tag": "second"}}),
    ("POST", "/v1/tags", {"params": {"name": "n", "value": "v", "resourceUuid": CLONE}}),
    ("POST", f"/v1/tags/{CLONE}/resources", {"params": {"resourceUuids": [SECOND]}}),
    ("PUT", "/v1/accounts/resources/actions", {"shareResource": {"resourceUuids": [SECOND], "toPublic": True}}),
    ("PUT", "/v1/accounts/resources/actions", {"revokeResourceSharing": {"resourceUuids": [SECOND], "all": True}}),
)


def test_other_changes_survive_a_kill() -> None:
    """Added or updated services, tags, patterns and revoked shares are as before."""
    bench = Kept(sources=(BASE,))
    for number, (method, path, body) in enumerate(CHANGES, 1):
        assert bench.send(method, path, body, job=job(number)).status == 202
        bench.wait()
        assert bench.poll(job(number))[0] == 200
    queries = (
        f"{SERVICES}/{SECOND}",
        f"{SERVICES}?q=__tagUuid__={CLONE}",
        f"/v1/user-tags?q=resourceUuid={SECOND}",
        f"/v1/tags/{CLONE}",
    )
    before = [bench.send("GET", path).body for path in queries]
    assert b"renamed" in before[0]
    assert b"second" in before[2]
    bench.revive()
    assert [bench.send("GET", path).body for path in queries] == before


def test_a_result_of_the_legacy_api_survives_a_kill() -> None:
    """Its row is in the database, and is not purged with those of api jobs."""
    bench = Kept(sources=(BASE,), cache_size=0)
    message = {"org.zstack.ai.message.APICloneModelServiceMsg": {"uuid": SOURCE, "id": job(), "name": "n"}}
    assert bench.send("POST", "/api/", message, session=None).status == 200
    bench.wait(20_000)
    before = bench.send("GET", f"/api/result/{job()}", session=None).body
    assert b"ID.1001" in before
    bench.revive()
    after = bench.send("GET", f"/api/result/{job()}", session=None).body
    assert after == before
