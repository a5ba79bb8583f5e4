"""From a Job to a Plan: merging, rendering, identities and digests."""

from __future__ import annotations

import hashlib
import json
import random
import re
import string
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batch.errors import JobFileError, UsageError
from batch.jobfile import load
from batch.jobfile.job import Layer, merge_layers
from batch.model import Pins
from batch.plan import Planning, resource_uuid
from batch.plan.render import RenderError, render

if TYPE_CHECKING:
    from pathlib import Path

    from batch.model import Clone, Plan

HEAD: Final = "version: 1\nname: j\n"
UUID: Final = "d76744cb53f9378abf42b907df3efb6e"
OTHER: Final = "21cb9f654e9d3feab962ce3f5eec5796"
NOON: Final = 1_800_000_000.0
"""2027-01-15 08:00:00 UTC."""
FRESH: Final = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)


def make(
    folder: Path,
    job: str,
    *,
    run: str | None = None,
    pins: Pins | None = None,
    rows_jsonl: str | None = None,
    rows_csv: str | None = None,
) -> Plan:
    path = folder / "job.yaml"
    path.write_text(job, encoding="utf-8")
    for name, text in {"rows.jsonl": rows_jsonl, "rows.csv": rows_csv}.items():
        if text is not None:
            (folder / name).write_text(text, encoding="utf-8")
    return Planning(load(path), run=run, started_at=NOON, pins=pins or Pins()).plan()


def clones(folder: Path, targets: str, *, rows_jsonl: str | None = None, rows_csv: str | None = None) -> list[Clone]:
    return list(make(folder, f"{HEAD}{targets}", rows_jsonl=rows_jsonl, rows_csv=rows_csv).clones())


def test_target_goes_over_entry_over_defaults(tmp_path: Path) -> None:
    """Merge is parameter by parameter, lists and maps are replaced, null removes, tags are merged."""
    job = (
        "defaults:\n  params: {name: d, description: d, cpuArchitectures: [X86_64], type: App}\n  userTags: [a, b]\n"
        "targets:\n  - from: rows.jsonl\n    params: {description: e, type: null}\n    userTags: [c]\n"
    )
    row = json.dumps({"uuid": UUID, "params": {"cpuArchitectures": ["AARCH64"], "name": None}, "userTags": ["b", "d"]})
    (clone,) = clones(tmp_path, job, rows_jsonl=row)
    assert clone.params == {"description": "e", "cpuArchitectures": ["AARCH64"]}
    assert json.loads(clone.body)["userTags"] == ["a", "b", "c", "d"]


PARAMS: Final = st.dictionaries(st.sampled_from(["name", "type", "size"]), st.one_of(st.none(), st.text(max_size=3)))
LAYERS: Final = st.builds(
    Layer, PARAMS, st.just(()), *[st.lists(st.sampled_from("abc"), unique=True).map(tuple)] * 2, st.just(())
)


@given(LAYERS, LAYERS, LAYERS)
def test_merge_laws(low: Layer, mid: Layer, high: Layer) -> None:
    """Merging with nothing changes nothing but nulls, merging is idempotent, and the upper layer wins."""
    alone = merge_layers(Layer(), low)
    assert alone.params == {name: value for name, value in low.params.items() if value is not None}
    assert merge_layers(alone, Layer()) == alone == merge_layers(alone, alone)
    both = merge_layers(merge_layers(Layer(), mid), high)
    assert all(both.params.get(name) == value for name, value in high.params.items())
    assert set(merge_layers(both, low).user_tags) == {*low.user_tags, *mid.user_tags, *high.user_tags}


def test_the_body_is_what_the_api_page_shows(tmp_path: Path) -> None:
    """The body is ASCII JSON with resourceUuid inside params, tags beside them only if there are any."""
    first, second = clones(
        tmp_path, f"targets:\n  - {UUID}\n  - {{uuid: {OTHER}, params: {{name: 克隆}}, systemTags: [s]}}\n"
    )
    assert first.body == b'{"params":{"resourceUuid":"%b"}}' % first.resource_uuid.encode()
    assert second.body.isascii()
    assert json.loads(second.body) == {
        "params": {"name": "克隆", "resourceUuid": second.resource_uuid},
        "systemTags": ["s"],
    }
    assert first.digest == hashlib.sha256(UUID.encode() + b"\0" + first.body).hexdigest()[:32]


@given(st.text(), st.text(), st.text(), st.integers(0, 9))
def test_resource_uuids_are_lower_case_v4(job: str, run: str, key: str, generation: int) -> None:
    """A resource uuid has the server's shape, and is the same for the same job, run, key and generation only."""
    job, run, key = (text.encode(errors="replace").decode().replace("\0", "") for text in (job, run, key))
    found = resource_uuid(job, run, key, generation=generation)
    assert re.fullmatch(r"[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}", found)
    assert found == resource_uuid(job, run, key, generation=generation)
    assert found != resource_uuid(job, run, key, generation=generation + 1)
    assert found != resource_uuid(job, run + "x", key, generation=generation)


def test_resource_uuids_never_change() -> None:
    """A known identity's uuid is pinned: another derivation would clone every target of an upgraded user again."""
    assert resource_uuid("to-arm64", "default", UUID) == "852cba711100416c80fafeaa7630d304"


def test_a_given_resource_uuid_wins(tmp_path: Path) -> None:
    """A user's resourceUuid is used, and is no parameter to compare."""
    own = "90d425a802ff44eeb530f21587633700"
    (clone,) = clones(tmp_path, f"targets:\n  - {{uuid: {UUID}, params: {{resourceUuid: {own}}}}}\n")
    assert (clone.resource_uuid, clone.params) == (own, {})


def test_keys(tmp_path: Path) -> None:
    """The key is the id, else the source uuid, followed by the matrix values in order of their names."""
    job = (
        f"targets:\n  - {UUID}\n  - {{uuid: {UUID}, id: a}}\n"
        f"  - {{uuid: {OTHER}, matrix: {{tenant: [acme], size: [s, l]}}}}\n"
        f"  - {{uuid: {OTHER}, id: b, matrix: {{z: [1]}}}}\n"
    )
    keys = [clone.key for clone in clones(tmp_path, job)]
    assert keys == [UUID, "a", f"{OTHER}[size=s,tenant=acme]", f"{OTHER}[size=l,tenant=acme]", "b[z=1]"]


def test_matrix_includes_and_excludes(tmp_path: Path) -> None:
    """Exclude removes matching cells; include extends matching ones without moving keys, or adds a cell."""
    job = (
        f"targets:\n  - uuid: {UUID}\n    params: {{name: '${{a}}${{b}}', description: '${{c}}'}}\n    matrix:\n"
        "      a: [1, 2]\n      b: [x, y]\n      exclude: [{a: 1, b: y}]\n"
        "      include: [{c: all}, {a: 2, c: two}, {a: 3, b: z, c: new}]\n"
    )
    found = [(clone.key.removeprefix(UUID), *clone.params.values()) for clone in clones(tmp_path, job)]
    assert found == [
        ("[a=1,b=x]", "1x", "all"),
        ("[a=2,b=x]", "2x", "two"),
        ("[a=2,b=y]", "2y", "two"),
        ("[a=3,b=z,c=new]", "3z", "new"),
    ]


ROWS: Final = [
    {"uuid": f"{number:032x}", "tenant": f"t{number}", "params": {"requestCpu": number}} for number in range(9)
]


@FRESH
@given(st.permutations(ROWS))
def test_the_plan_does_not_depend_on_the_order_of_rows(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    """Moved rows give the same clones, uuids and digest."""
    job = HEAD + "targets:\n  - from: rows.jsonl\n    params: {name: '${tenant}'}\n"
    usual = make(tmp_path, job, rows_jsonl="\n".join(map(json.dumps, ROWS)))
    expected = {clone.key: clone for clone in usual.clones()}
    moved = make(tmp_path, job, rows_jsonl="\n".join(map(json.dumps, rows)))
    assert (moved.digest, moved.count) == (usual.digest, 9)
    assert {clone.key: clone for clone in moved.clones()} == expected


def test_formats_agree(tmp_path: Path) -> None:
    """The same targets as YAML, JSON Lines and CSV give the same plan."""
    yaml = f"targets:\n  - {{uuid: {UUID}, id: a, params: {{name: x, size: 4, system: false}}, userTags: [t, u]}}\n"
    params = {"name": "x", "size": 4}
    row = {"uuid": UUID, "id": "a", "params": params, "params.system": False, "userTags": ["t", "u"]}
    csv = f"\ufeffuuid,id,params.name,params.size,params.system,userTags\r\n{UUID},a,x,4,false,t;u\r\n"
    plans = [
        make(tmp_path, HEAD + yaml),
        make(tmp_path, HEAD + "targets: [{from: rows.jsonl}]\n", rows_jsonl=json.dumps(row) + "\n\n"),
        make(tmp_path, HEAD + "targets: [{from: rows.csv}]\n", rows_csv=csv),
    ]
    assert len({found.digest for found in plans}) == 1


def test_csv_cells(tmp_path: Path) -> None:
    """An empty parameter cell keeps the default, lists are separated by ;, and any other column is a name."""
    job = "defaults: {params: {requestCpu: 1}}\ntargets: [{from: rows.csv, params: {name: '${tenant}'}}]\n"
    csv = f'uuid,params.requestCpu,params.cpuArchitectures,tenant\n{UUID},,AARCH64;X86_64,"a, ""b"""\n'
    (clone,) = clones(tmp_path, job, rows_csv=csv)
    assert clone.params == {"requestCpu": 1, "cpuArchitectures": ["AARCH64", "X86_64"], "name": 'a, "b"'}


def test_rendering(tmp_path: Path) -> None:
    """Names come from columns, matrix, vars and the run, nearest first; $$ is a dollar, and other dollars stay."""
    job = (
        "vars: {a: var, b: var, c: var, d.e: dotted}\n"
        "targets:\n  - from: rows.jsonl\n    matrix: {b: [cell], c: [cell]}\n"
        "    params:\n      name: ${a}-${b}-${c}-${d.e}\n      startCommand: $HOME $${x} $$5 $1\n"
        "      requestCpu: ${cpu}\n"
        "      description: ${date} ${time} ${run} ${name}\n      vendorToSpecUuidsMap: {NVIDIA: ['${spec}']}\n"
        "    userTags: ['t::${a}', 't::${b}']\n"
    )
    row = json.dumps({"uuid": UUID, "c": "row", "cpu": 4, "spec": OTHER})
    (clone,) = make(tmp_path, HEAD + job, run="r-${date}", rows_jsonl=row).clones()
    assert clone.params == {
        "name": "var-cell-row-dotted",
        "startCommand": "$HOME ${x} $5 $1",
        "requestCpu": 4,
        "description": "2027-01-15 080000 r-2027-01-15 j",
        "vendorToSpecUuidsMap": {"NVIDIA": [OTHER]},
    }
    assert json.loads(clone.body)["userTags"] == ["t::var", "t::cell"]


@given(st.text(alphabet=string.printable, max_size=40), st.text(max_size=20))
def test_rendering_never_evaluates(text: str, value: str) -> None:
    """Whatever a text holds, only given names and $$ are replaced, and never in inserted values."""
    try:
        found = render(text, {"a": value})
    except RenderError:
        assert "${" in text
        return
    parts = re.split(r"(\$\$|\$\{a\})", text)
    assert found == "".join({"$$": "$", "${a}": value}.get(part, part) for part in parts)


@pytest.mark.parametrize(
    "text", ["${a.__class__}", "${a!r}", "${a:>9}", "${a[0]}", "${__import__('os')}", "${}", "${a"]
)
def test_expressions_are_not_names(text: str) -> None:
    """Attributes, indexes, formats and calls are no names."""
    with pytest.raises(RenderError):
        render(text, {"a": "x"})


def test_run_is_rendered_from_the_fixed_start(tmp_path: Path) -> None:
    """The run is rendered in UTC at the run's start; --run goes over the file, and both must be names."""
    job = f"{HEAD}run: nightly-${{date}}\ntargets: [{UUID}]\n"
    assert make(tmp_path, job).run == "nightly-2027-01-15"
    assert make(tmp_path, job, run="again").run == "again"
    with pytest.raises(UsageError, match="--run must be letters"):
        make(tmp_path, job, run="a/b")


QWEN: Final = Pins({UUID: {"name": "qwen", "size": 5, "system": True, "yaml": None}})


def test_source_fields_and_keep_come_from_the_inventory(tmp_path: Path) -> None:
    """${source.…} and keep read the inventory; what a layer sets is not kept from the source."""
    target = f"{{uuid: {UUID}, keep: [size, system], params: {{name: '${{source.name}}-arm', system: false}}}}"
    (clone,) = make(tmp_path, f"{HEAD}targets:\n  - {target}\n", pins=QWEN).clones()
    assert clone.params == {"name": "qwen-arm", "system": False, "size": 5}


@pytest.mark.parametrize(
    ("uuid", "text", "message"),
    [(OTHER, "source.name", "does not exist"), (UUID, "source.yaml", "has no yaml"), (UUID, "source.x", "has no x")],
)
def test_missing_source_fields_are_problems(tmp_path: Path, uuid: str, text: str, message: str) -> None:
    """A missing source, or a missing field of it, is a problem of the plan."""
    with pytest.raises(JobFileError, match=message):
        make(tmp_path, f"{HEAD}targets:\n  - {{uuid: {uuid}, params: {{name: '${{{text}}}'}}}}\n", pins=QWEN)


def test_inputs_change_with_every_input(tmp_path: Path) -> None:
    """The digest of the inputs changes with the job file, a from: file, the run and its start only."""
    job = HEAD + "targets: [{from: rows.jsonl}]\n"
    row = json.dumps(UUID)
    found = make(tmp_path, job, rows_jsonl=row)
    assert found.inputs == make(tmp_path, job, rows_jsonl=row).inputs != ""
    others = [
        make(tmp_path, job + "# x\n", rows_jsonl=row).inputs,
        make(tmp_path, job, rows_jsonl=row + "\n").inputs,
        make(tmp_path, job, run="other", rows_jsonl=row).inputs,
        Planning(load(tmp_path / "job.yaml"), run=None, started_at=NOON + 1).inputs_digest(),
    ]
    assert len({found.inputs, *others}) == 5


def test_a_file_changed_during_a_run_is_noticed(tmp_path: Path) -> None:
    """Streaming again ends with an error when the rows are not those that were checked."""
    found = make(tmp_path, HEAD + "targets: [{from: rows.jsonl}]\n", rows_jsonl=json.dumps(UUID))
    (tmp_path / "rows.jsonl").write_text(json.dumps(OTHER))
    with pytest.raises(JobFileError, match="was changed while the run was reading it"):
        list(found.clones())


def test_duplicate_keys_among_many_are_found(tmp_path: Path) -> None:
    """Among thousands of rows the two with one key are reported, in any files."""
    names = [f"{number:032x}" for number in random.Random(1).sample(range(10**9), 5000)]
    rows = "\n".join(map(json.dumps, names))
    job = f"{HEAD}targets:\n  - from: rows.jsonl\n  - {names[3000]}\n"
    with pytest.raises(JobFileError) as caught:
        make(tmp_path, job, rows_jsonl=rows)
    (problem,) = caught.value.problems
    assert (problem.place.line, "rows.jsonl:3001:1" in problem.message) == (5, True)


def test_the_order_of_parameters_does_not_matter(tmp_path: Path) -> None:
    """Parameters written in another order are the same request."""
    one, other = ("{name: x, type: App}", "{type: App, name: x}")
    digests = [
        make(tmp_path, f"{HEAD}targets:\n  - {{uuid: {UUID}, params: {text}}}\n").digest for text in (one, other)
    ]
    assert digests[0] == digests[1]


def test_a_small_file_cannot_grow_without_bound(tmp_path: Path) -> None:
    """The names in a text and the length of an inserted value are bounded."""
    job = "vars: {{a: {a}}}\ntargets:\n  - {{uuid: {uuid}, params: {{readme: '{text}'}}}}\n"
    with pytest.raises(JobFileError, match="longer than 65,536 characters"):
        clones(tmp_path, job.format(a="x" * 65_537, uuid=UUID, text="${a}"))
    with pytest.raises(JobFileError, match="has more than 1,000 names"):
        clones(tmp_path, job.format(a="x", uuid=UUID, text="${a}" * 1001))


def test_explain_names_the_layer_of_each_parameter(tmp_path: Path) -> None:
    """Each parameter of a clone is traced to the layer and place that set it."""
    job = (
        f"{HEAD}defaults: {{params: {{name: d, type: App}}}}\ntargets:\n"
        "  - from: rows.jsonl\n    params: {name: e, description: e}\n    keep: [size]\n"
    )
    make(tmp_path, job, pins=QWEN, rows_jsonl=json.dumps({"uuid": UUID, "params": {"name": "t"}}))
    ((clone, settings),) = Planning(load(tmp_path / "job.yaml"), run=None, started_at=NOON, pins=QWEN).explain()
    assert clone.key == UUID
    assert {name: (setting.layer, setting.place.line) for name, setting in settings().items()} == {
        "name": ("target", 1),
        "type": ("defaults", 3),
        "description": ("from", 6),
        "size": ("source", 1),
    }
