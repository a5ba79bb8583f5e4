"""What a clone is made of and what refuses it (zstack/README.md 4)."""

from __future__ import annotations

from typing import Any

import pytest

from batch.simulator.node import Node
from batch.simulator.options import FLAKY, Source
from batch.simulator.resources import derive_fields
from batch.simulator.wire import Request, Response
from batch.zstack.params import BODY_PARAMS
from tests.simulator.simulator_bench import CLONE, SERVICES, SOURCE, Bench, decoded, job

V4 = "90d425a802ff44eeb530f21587633701"


@pytest.mark.parametrize(
    ("uuid", "accepted"),
    [
        (CLONE, True),
        (CLONE.upper(), False),
        ("90d425a802ff64eeb530f21587633700", False),
        ("90d425a802ff44ee7530f21587633700", False),
        ("90d425a8-02ff-44ee-b530-f21587633700", False),
        ("", False),
        ("90d425a802ff14eeb530f21587633700", True),
    ],
)
def test_a_resource_uuid_is_lower_case_with_version_and_variant(uuid: str, *, accepted: bool) -> None:
    """Anything else is SYS.1007 at the poll."""
    status, answer = Bench().clone({"resourceUuid": uuid})
    assert (status == 200) == accepted
    assert accepted or answer["error"]["code"] == "SYS.1007"


def test_a_server_may_accept_any_resource_uuid() -> None:
    """A switch accepts every resourceUuid."""
    assert Bench(strict_resource_uuid=False).clone({"resourceUuid": CLONE.upper()})[0] == 200


@pytest.mark.parametrize("kind", ["ModelServiceVO", "VmInstanceVO"])
def test_a_resource_uuid_collides_with_every_kind_of_resource(kind: str) -> None:
    """A used uuid is SYS.1000, also if it is no model service and so invisible to the query."""
    bench = Bench(sources=(Source(CLONE, kind=kind),))
    assert bench.error({"resourceUuid": CLONE})[0] == "SYS.1000"
    assert len(bench.found()) == (kind == "ModelServiceVO")


def test_an_invented_source_occupies_its_uuid() -> None:
    """A source that was cloned cannot be made again as a clone."""
    bench = Bench()
    bench.clone(source=CLONE, job=job(1))
    assert bench.error({"resourceUuid": CLONE}, job=job(2))[0] == "SYS.1000"


@pytest.mark.parametrize(("soft", "status"), [(True, 503), (False, 200)])
def test_a_deleted_uuid_stays_occupied_when_deleted_softly(status: int, *, soft: bool) -> None:
    """It is invisible and yet SYS.1000; with hard deletion it is free again."""
    bench = Bench(soft_delete=soft)
    bench.clone({"resourceUuid": CLONE}, job=job(1))
    bench.send("DELETE", f"{SERVICES}/{CLONE}?deleteMode=Permissive", job=job(2))
    bench.wait()
    assert (bench.poll(job(2)), bench.found()) == ((200, {}), [])
    assert bench.clone({"resourceUuid": CLONE}, job=job(3))[0] == status


def test_names_are_not_unique() -> None:
    """Two clones of one name, without resourceUuid, are two clones; the ledger calls them duplicates."""
    bench = Bench()
    uuids = {bench.clone({"name": "same"}, job=job(number))[1]["inventory"]["uuid"] for number in (1, 2)}
    assert len(uuids) == 2
    assert bench.node.ledger.duplicates() == [{"source": SOURCE, "name": "same", "count": 2}]


def test_a_server_may_ignore_the_resource_uuid() -> None:
    """The switch that a canary must detect."""
    answer = Bench(honours_resource_uuid=False).clone({"resourceUuid": CLONE})[1]
    assert answer["inventory"]["uuid"] != CLONE


@pytest.mark.parametrize("locale", ["zh_CN", "en_US"])
def test_a_missing_source_is_reported_at_the_poll(locale: str) -> None:
    """SYS.1003 names field, uuid and type; nothing is invented when the switch is off."""
    code, details = Bench(invent_sources=False, locale=locale).error()
    assert code == "SYS.1003"
    assert SOURCE in details
    assert "ModelServiceVO" in details


def test_missing_tags_are_reported_together() -> None:
    """Unknown tagUuids are one SYS.1003, the empty string among them."""
    bench = Bench(invent_sources=False, sources=(Source(SOURCE),), tags=("1" * 32,))
    assert bench.clone({"tagUuids": ["1" * 32]}, job=job(1))[0] == 200
    code, details = bench.error({"tagUuids": ["1" * 32, "2" * 32, ""]}, job=job(2))
    assert (code, f"[{'2' * 32},]" in details) == ("SYS.1003", True)


@pytest.mark.parametrize(
    ("params", "status", "text"),
    [
        ({"requestCpu": 4.5}, 400, "[requestCpu] field is excepted an int or long, but was [4.5]."),
        ({"requestCpu": "four"}, 400, "[requestCpu] field is excepted an int or long, but was [four]."),
        ({"size": True}, 400, "[size] field is excepted an int or long, but was [true]."),
        ({"system": "yes"}, 400, "Invalid value for boolean field [system], [yes] is not a valid boolean"),
        ({"requestCpu": 2**31}, 500, 'For input string: "2147483648"'),
        ({"requestMemory": 2**63}, 500, "For input string"),
        ({"cpuArchitectures": "X86_64"}, 500, "Expected BEGIN_ARRAY but was STRING at path $.cpuArchitectures"),
        ({"architectureImages": [1]}, 500, "Expected BEGIN_OBJECT but was NUMBER"),
        ({"architectureImages": {}}, 500, "Expected BEGIN_ARRAY but was BEGIN_OBJECT"),
        ({"architectureImages": [{"dockerImage": []}]}, 500, "Expected a string but was BEGIN_ARRAY"),
        ({"vendorToSpecUuidsMap": []}, 500, "Expected BEGIN_OBJECT but was BEGIN_ARRAY"),
        ({"yaml": {}}, 500, "Expected a string but was BEGIN_OBJECT at path $.yaml"),
    ],
)
def test_wrong_types_are_refused_at_once(params: dict[str, Any], status: int, text: str) -> None:
    """TypeVerifier's errors are 400, Gson's are 500, both in plain text."""
    reply = Bench().post(params)
    assert isinstance(reply, Response)
    assert (reply.status, text in reply.body.decode()) == (status, True)


@pytest.mark.parametrize(
    ("params", "shown"),
    [
        ({"requestCpu": 4.0}, {"requestCpu": 4}),
        ({"pythonVersion": 3.10}, {"pythonVersion": "3.1"}),
        ({"name": "  padded "}, {"name": "padded"}),
        ({"unknown": 1}, {}),
        ({"description": ""}, {"description": ""}),
        ({"cpuArchitectures": ["AARCH64"]}, {"cpuArchitectures": ["aarch64"]}),
        ({"vendorToSpecUuidsMap": {"NVIDIA": ["x"]}}, {"vendorToSpecUuidsMap": {"NVIDIA": ["x"]}}),
    ],
)
def test_values_are_converted_like_gson(params: dict[str, Any], shown: dict[str, Any]) -> None:
    """Integral floats become ints, numbers become strings where strings are expected, strings are trimmed."""
    inventory = Bench().clone(params)[1]["inventory"]
    assert {key: inventory[key] for key in shown} == shown
    assert "unknown" not in inventory


@pytest.mark.parametrize(
    "params",
    [{"type": "endpoint"}, {"type": ""}, {"source": "huggingface"}, {"cpuArchitectures": [None]}],
)
def test_choices_have_exact_case_and_lists_no_nulls(params: dict[str, Any]) -> None:
    """SYS.1007 at the poll."""
    assert Bench().error(params)[0] == "SYS.1007"


def test_size_and_system_are_not_copied_from_the_source() -> None:
    """Left out they are 0 and false; everything else left out is the source's."""
    source = Source(SOURCE, "original", fields={"size": 77, "system": True, "framework": "vLLM"})
    inventory = Bench(sources=(source,)).clone()[1]["inventory"]
    shown = {key: inventory[key] for key in ("name", "size", "system", "framework")}
    assert shown == {"name": "original", "size": 0, "system": False, "framework": "vLLM"}


def test_images_become_rows_of_the_clone() -> None:
    """architectureImages are shown as modelServiceImages, with lower-case architectures; else the source's own."""
    image = {"cpuArchitecture": "AARCH64", "vmImageUuid": "1" * 32, "dockerImage": "r/x:1"}
    bench = Bench()
    (row,) = bench.clone({"resourceUuid": CLONE, "architectureImages": [image]})[1]["inventory"]["modelServiceImages"]
    assert (row["cpuArchitecture"], row["dockerImage"], row["modelServiceUuid"]) == ("aarch64", "r/x:1", CLONE)
    (copied,) = bench.clone(source=CLONE, job=job(2))[1]["inventory"]["modelServiceImages"]
    assert copied["dockerImage"] == "r/x:1"


def test_invented_sources_are_derived_from_their_uuid() -> None:
    """Two nodes invent the same source, and only what was touched is visible."""
    inventories = []
    for seed in (1, 2):
        bench = Bench(seed=seed)
        assert bench.found(SOURCE) == []
        bench.clone()
        (found,) = bench.found(SOURCE)
        inventories.append(found["name"] + found["yaml"])
    assert inventories[0] == inventories[1]
    assert inventories[0].startswith(derive_fields(SOURCE)["name"])


@pytest.mark.parametrize("release", [(5, 3, 20), (5, 3, 40), (5, 3, 46), (5, 5, 22)])
def test_older_servers_drop_newer_fields_silently(release: tuple[int, int, int]) -> None:
    """A field newer than the server is neither kept, nor checked, nor shown."""
    values = {"supportDistributed": True, "containerCommand": "run", "cpuArchitectures": ["AARCH64"]}
    inventory = Bench(version=".".join(map(str, release))).clone(values)[1]["inventory"]
    for name in values:
        assert (name in inventory) == (BODY_PARAMS[name].since <= release)
    wrong = Bench(version=".".join(map(str, release))).post({"supportDistributed": "yes"})
    assert isinstance(wrong, Response)
    assert wrong.status == (400 if BODY_PARAMS["supportDistributed"].since <= release else 202)


_LONG: tuple[dict[str, Any], ...] = (
    {"name": "x" * 256},
    {"description": "x" * 2049},
    {"readme": "名" * 21846},
    {"pythonVersion": "3" * 33},
    {"installPath": "/" * 513},
    {"cpuArchitectures": ["X" * 200, "Y" * 60]},
    {"architectureImages": [{"dockerImage": "x" * 256}]},
)


@pytest.mark.parametrize("params", _LONG, ids=[next(iter(params)) for params in _LONG])
def test_values_longer_than_their_column_fail_inside(params: dict[str, Any]) -> None:
    """SYS.1000 at the poll, and no clone."""
    bench = Bench()
    assert bench.error(params)[0] == "SYS.1000"
    assert bench.node.ledger.clones == []


def test_values_as_long_as_their_column_fit() -> None:
    """VARCHAR counts characters, TEXT bytes."""
    assert Bench().clone({"name": "名" * 255, "readme": "x" * 65535})[0] == 200


def test_columns_may_truncate_instead() -> None:
    """The switch for servers without strict mode."""
    inventory = Bench(column_overflow="truncate").clone({"name": "x" * 300, "readme": "名" * 30000})[1]["inventory"]
    assert (len(inventory["name"]), len(inventory["readme"])) == (255, 21845)


@pytest.mark.parametrize(("narrow", "status"), [(True, 503), (False, 200)])
def test_emoji_do_not_fit_three_byte_tables(status: int, *, narrow: bool) -> None:
    """SYS.1000 if the tables are utf8."""
    assert Bench(three_byte_utf8=narrow).clone({"name": "rocket 🚀"})[0] == status


def test_validation_only_runs_every_check_and_makes_nothing() -> None:
    """The tag answers 200 {} without effect, and the usual errors if a check fails."""
    bench = Bench()
    tags = ["ephemeral::validationOnly"]
    assert bench.clone({"resourceUuid": CLONE}, systemTags=tags, job=job(1)) == (200, {})
    assert bench.error({"type": "x"}, systemTags=tags, job=job(2))[0] == "SYS.1007"
    assert (bench.found(), bench.node.ledger.clones) == ([], [])


def test_a_server_that_ignores_the_tag_clones() -> None:
    """A switch ignores the tag, and the message is executed."""
    bench = Bench(honours_validation_only=False)
    status, answer = bench.clone({"resourceUuid": CLONE}, systemTags=["ephemeral::validationOnly"])
    assert (status, answer["inventory"]["uuid"]) == (200, CLONE)
    assert len(bench.node.ledger.clones) == 1


def test_system_tags_may_stand_inside_params_but_the_outer_win() -> None:
    """The Java SDK sends them inside."""
    bench = Bench()
    inside = {"systemTags": ["ephemeral::validationOnly"]}
    assert bench.clone(inside, job=job(1)) == (200, {})
    assert bench.clone(inside, systemTags=[], job=job(2))[0] == 200
    assert len(bench.node.ledger.clones) == 1


def test_unknown_system_tags_are_refused() -> None:
    """SYS.1007 at the poll; known ones pass, repeated too."""
    bench = Bench(system_tags=("ai::",), locale="en_US")
    assert bench.clone(systemTags=["ai::x", "ai::x"], job=job(1))[0] == 200
    assert bench.error(systemTags=["nonsense"], job=job(2)) == ("SYS.1007", "no system tag matches nonsense")


def test_user_tags_are_stored_and_can_be_queried() -> None:
    """__userTag__ finds the clone; the tags show in QueryUserTag and not in the inventory."""
    bench = Bench()
    bench.clone({"resourceUuid": CLONE}, userTags=["team::search", "x"], job=job(1))
    bench.clone(userTags=["other"], job=job(2))
    found = decoded(bench.send("GET", f"{SERVICES}?q=__userTag__=team::search"))[1]["inventories"]
    assert [row["uuid"] for row in found] == [CLONE]
    assert "__userTag__" not in found[0]
    tags = decoded(bench.send("GET", f"/v1/user-tags?q=resourceUuid={CLONE}"))[1]["inventories"]
    assert [row["tag"] for row in tags] == ["team::search", "x"]


def test_duplicate_user_tags_fail_a_job_whose_clone_exists() -> None:
    """The tags are written after the resource: the job fails, the clone stays."""
    bench = Bench()
    assert bench.error({"resourceUuid": CLONE}, userTags=["a", "a"])[0] == "SYS.1006"
    assert len(bench.found()) == 1


def test_deleting_an_unknown_service_succeeds() -> None:
    """The job of a DELETE of nothing is 200 {}; a bad deleteMode is SYS.1007, a body is parsed and not read."""
    bench = Bench()
    bench.send("DELETE", f"{SERVICES}/{CLONE}", {"deleteMode": "Gently"}, job=job(1))
    bench.send("DELETE", f"{SERVICES}/{CLONE}?deleteMode=Gently", job=job(2))
    bench.wait()
    assert bench.poll(job(1)) == (200, {})
    assert bench.poll(job(2))[1]["error"]["code"] == "SYS.1007"


def test_the_same_seed_and_requests_behave_the_same() -> None:
    """Every answer, delay and fault follows from seed and requests."""
    traces = []
    for seed in (5, 5, 6):
        node = Node(FLAKY, now=0.0) if seed == 5 else Node(Bench(FLAKY, seed=6).node.options, now=0.0)
        headers = {"authorization": f"OAuth {node.options.session}"}
        trace = []
        for number in range(300):
            post = Request("POST", f"/zstack{SERVICES}/{SOURCE}", (), headers | {"x-job-uuid": job(number)}, b"{}")
            trace.append(repr(node.receive(post, number / 10)))
            trace.append(repr(node.receive(Request("GET", f"/zstack/v1/api-jobs/{job(number // 2)}"), number / 10)))
        traces.append(trace)
    assert traces[0] == traces[1] != traces[2]
