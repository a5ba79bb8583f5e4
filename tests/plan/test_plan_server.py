"""What a plan takes from the server: pins, queries, derived images, and problems that only the server knows."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest

from batch.errors import JobFileError
from batch.jobfile import load
from batch.model import Pins
from batch.plan import Planning

if TYPE_CHECKING:
    from pathlib import Path

    from batch.jobfile import Job
    from batch.model import JsonValue

UUID: Final = "d76744cb53f9378abf42b907df3efb6e"
OTHER: Final = "21cb9f654e9d3feab962ce3f5eec5796"
VM: Final = "1d919fda666b3bdcb5f4925f1cf17c71"
RULES: Final = "  - {from: r/, to: short/}\n  - {from: r/x86/, to: r/arm/}\n"


def job_of(folder: Path, targets: str, *, more: str = "") -> Job:
    path = folder / "job.yaml"
    path.write_text(f"version: 1\nname: j\nvars: {{kind: App}}\n{more}targets:\n{targets}", encoding="utf-8")
    return load(path)


def params_of(job: Job, pins: Pins) -> dict[str, Any]:
    planned = Planning(job, run=None, started_at=0.0, pins=pins).plan()
    return {clone.source_uuid: json.loads(clone.body)["params"] for clone in planned.clones()}


def image(name: str, architecture: str = "x86_64") -> dict[str, JsonValue]:
    return {"cpuArchitecture": architecture, "vmImageUuid": VM, "dockerImage": name}


def rearchitected(folder: Path, *images: dict[str, JsonValue], to: str = "[AARCH64]", rules: str = RULES) -> Any:
    job = job_of(folder, f"  - {UUID}\n", more=f"rearchitect:\n  to: {to}\n  images:\n{rules.replace('  -', '    -')}")
    return params_of(job, Pins({UUID: {"modelServiceImages": list(images)}}))[UUID]


def test_a_first_walk_collects_missing_sources(tmp_path: Path) -> None:
    """Only the sources and fields that a target uses and no pin has are queried."""
    job = job_of(
        tmp_path,
        f"  - {{uuid: {UUID}, params: {{name: '${{source.name}}', requestCpu: '${{source.requestCpu}}'}}}}\n"
        f"  - {{uuid: {OTHER}, keep: [size], params: {{name: '${{source.name}}'}}}}\n  - {VM}\n"
        "  - {query: [name=a]}\n",
    )
    pins = Pins({OTHER: {"name": "b", "size": None}})
    questions = Planning(job, run=None, started_at=0.0, pins=pins).draft().questions
    assert (list(questions.sources), questions.fields) == ([UUID], {"name", "requestCpu", "size"})
    assert questions.queries == {("name=a",): ("name=a",)}


def test_a_plan_under_the_same_pins_is_the_same(tmp_path: Path) -> None:
    """Pins decide the plan and its digest of inputs; other pins are another plan."""
    job = job_of(tmp_path, "  - {query: [name=a], params: {name: '${source.name}'}}\n")
    pins = Pins({UUID: {"name": "x"}}, {("name=a",): (UUID,)})
    first, again = (Planning(job, run=None, started_at=0.0, pins=pins).plan() for _ in range(2))
    other = Planning(job, run=None, started_at=0.0, pins=replace(pins, sources={UUID: {"name": "y"}})).plan()
    assert (first.digest, first.inputs) == (again.digest, again.inputs)
    assert first.digest != other.digest
    assert first.inputs != other.inputs
    assert list(again.clones()) == list(first.clones())


def test_a_query_that_finds_nothing_is_a_problem(tmp_path: Path) -> None:
    """A query without results is reported at its place: it is hardly what was meant."""
    with pytest.raises(JobFileError, match=r"job\.yaml:5:13: targets\[0\]\.query: finds no model service"):
        params_of(job_of(tmp_path, "  - {query: [name=a]}\n"), Pins({}, {("name=a",): ()}))


def test_query_conditions_are_rendered(tmp_path: Path) -> None:
    """Conditions are rendered with vars and the run's names before they are queried."""
    job = job_of(tmp_path, "  - {query: ['type=${kind}', 'name=${run}-${date}']}\n")
    questions = Planning(job, run="r", started_at=0.0).draft().questions
    assert list(questions.queries.values()) == [("type=App", "name=r-1970-01-01")]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("name=${knid}", "unknown name 'knid'; did you mean kind?"),
        ("name=${", r"\$\{ must be followed by a dotted name"),
        ("name=a>=b", "'name=a>=b' is parsed by the server as a condition on 'name=a', which is not a field"),
    ],
)
def test_an_invalid_condition_is_reported_at_its_place(condition: str, message: str, tmp_path: Path) -> None:
    """A condition with an unknown name, or that the server would read as another one, is reported at its place."""
    job = job_of(tmp_path, f"  - {UUID}\n  - query: [type=App, '{condition}']\n")
    with pytest.raises(JobFileError, match=rf"job\.yaml:6:23: targets\[1\]\.query\[1\]: {message}"):
        Planning(job, run=None, started_at=0.0).draft()


def test_the_longest_rule_wins(tmp_path: Path) -> None:
    """The rule with the longest prefix derives the image; its VM image is left out if the rule names none."""
    found = rearchitected(tmp_path, image("r/x86/a:1"))
    assert found["architectureImages"] == [{"cpuArchitecture": "AARCH64", "dockerImage": "r/arm/a:1"}]
    assert found["cpuArchitectures"] == ["AARCH64"]
    assert rearchitected(tmp_path, image("r/b"))["architectureImages"][0]["dockerImage"] == "short/b"


def test_an_image_the_source_has_is_kept(tmp_path: Path) -> None:
    """If the source has an image of the architecture, in any case, and no rule matches, it is kept whole."""
    rules = "  - {from: r/, to: s/, cpuArchitecture: AARCH64}\n"
    found = rearchitected(tmp_path, image("r/a"), image("q/x"), image("z/a", "aarch64"), rules=rules)
    assert found["architectureImages"] == [image("z/a", "AARCH64")]
    both = rearchitected(tmp_path, image("r/a"), to="[X86_64, AARCH64]", rules=rules.replace("r/", "r/a"))
    assert [row["dockerImage"] for row in both["architectureImages"]] == ["r/a", "s/"]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([image("q/a")], "no rule matches the source's image 'q/a', so AARCH64 has no image"),
        ([image("r/a"), image("q/a")], "no rule matches the source's image 'q/a'"),
        ([image("r/a"), image("r/b")], "give 2 different ones for AARCH64"),
        ([], "has no images"),
    ],
)
def test_a_source_without_a_rule_is_a_problem_of_the_plan(
    images: list[dict[str, JsonValue]], message: str, tmp_path: Path
) -> None:
    """A source whose images do not give exactly one for each architecture is reported at the target's place."""
    with pytest.raises(JobFileError, match=rf"job\.yaml:10:5: targets\[0\]: rearchitect: .*{message}"):
        rearchitected(tmp_path, *images)


def test_given_images_are_left_alone(tmp_path: Path) -> None:
    """A target with its own images is not rearchitected and needs no source."""
    own = "{cpuArchitectures: [AARCH64], architectureImages: [{cpuArchitecture: AARCH64, dockerImage: own}]}"
    job = job_of(
        tmp_path,
        f"  - {{uuid: {UUID}, params: {own}}}\n",
        more=f"rearchitect: {{to: [X86_64], images: [{RULES.splitlines()[0].strip(' -')}]}}\n",
    )
    assert params_of(job, Pins())[UUID]["architectureImages"] == [{"cpuArchitecture": "AARCH64", "dockerImage": "own"}]


def test_coverage_counts_sources_and_unused_rules(tmp_path: Path) -> None:
    """The report counts distinct sources and names the rules that none of them needs."""
    job = job_of(
        tmp_path,
        f"  - {UUID}\n  - {{uuid: {UUID}, id: twice}}\n  - {OTHER}\n",
        more=f"rearchitect:\n  to: [AARCH64]\n  images:\n{RULES.replace('  -', '    -')}",
    )
    pins = Pins({UUID: {"modelServiceImages": [image("r/a")]}, OTHER: {"modelServiceImages": [image("q/a")]}})
    (found,) = Planning(job, run=None, started_at=0.0, pins=pins).coverage()
    assert (found.covered, found.uncovered) == (1, (OTHER,))
    assert [rule for _, rule in found.unused] == ["AARCH64 from 'r/x86/'"]


VENDORS: Final = f"""rearchitect:
  vendors:
    - {{from: nvidia, to: Huawei, specUuids: [{VM}]}}
    - {{from: NVIDIA-A100, to: Huawei, specUuids: [{OTHER}]}}
    - {{from: AMD, to: Hygon, specUuids: [{OTHER}]}}
"""


def respecified(folder: Path, specs: JsonValue, *, own: str = "") -> Any:
    job = job_of(folder, f"  - {{uuid: {UUID}{own}}}\n", more=VENDORS)
    return params_of(job, Pins({UUID: {"vendorToSpecUuidsMap": specs}}))[UUID].get("vendorToSpecUuidsMap")


def test_gpu_vendors_are_replaced(tmp_path: Path) -> None:
    """The rule with the longest prefix, in any case, gives vendor and specs; rows of one vendor are merged."""
    assert respecified(tmp_path, {"NVIDIA": ["x"]}) == {"Huawei": [VM]}
    assert respecified(tmp_path, {"NVIDIA-A100-80G": ["x"]}) == {"Huawei": [OTHER]}
    assert respecified(tmp_path, {"NVIDIA": ["x"], "huawei": [UUID, VM]}) == {"Huawei": [VM, UUID]}
    assert respecified(tmp_path, {"AMD": [], "Nvidia": []}) == {"Hygon": [OTHER], "Huawei": [VM]}


def test_a_source_without_gpus_and_given_specs_are_left_alone(tmp_path: Path) -> None:
    """Nothing is derived for a source that has no specs, nor for a target that gives its own."""
    assert respecified(tmp_path, None) is None
    assert respecified(tmp_path, {}) is None
    own = f", params: {{vendorToSpecUuidsMap: {{Intel: [{OTHER}]}}}}"
    assert respecified(tmp_path, {"Moore": ["x"]}, own=own) == {"Intel": [OTHER]}


def test_a_gpu_vendor_without_a_rule_is_a_problem_of_the_plan(tmp_path: Path) -> None:
    """A vendor without a rule is reported at the target's place, and counted with the unused rules in the report."""
    with pytest.raises(JobFileError, match=r"job\.yaml:10:5: targets\[0\]: rearchitect: no rule .* vendor 'Moore'"):
        respecified(tmp_path, {"NVIDIA": [], "Moore": []})
    job = job_of(tmp_path, f"  - {UUID}\n  - {OTHER}\n  - {VM}\n", more=VENDORS)
    rows: list[JsonValue] = [{"NVIDIA": []}, {"Moore": []}, None]
    pins = Pins({uuid: {"vendorToSpecUuidsMap": row} for uuid, row in zip((UUID, OTHER, VM), rows, strict=True)})
    (found,) = Planning(job, run=None, started_at=0.0, pins=pins).coverage()
    assert list(found.lines()) == [
        "rearchitect to GPUs of Huawei, Hygon: 1 of 2 sources are covered, 1 are not",
        f"{job.path}:7:7: rearchitect: the rule for the GPU vendor 'NVIDIA-A100' matches nothing",
        f"{job.path}:8:7: rearchitect: the rule for the GPU vendor 'AMD' matches nothing",
    ]


def test_gpu_specs_are_queried_only_if_a_rule_needs_them(tmp_path: Path) -> None:
    """The source's specs are fetched for vendor rules, its images are not."""
    questions = Planning(job_of(tmp_path, f"  - {UUID}\n", more=VENDORS), run=None, started_at=0.0).draft().questions
    assert (list(questions.sources), questions.fields) == ([UUID], {"vendorToSpecUuidsMap"})


def test_parameters_newer_than_the_server_have_their_place(tmp_path: Path) -> None:
    """A parameter that the server would drop is an error where it is written, once for defaults."""
    job = job_of(
        tmp_path,
        f"  - {UUID}\n  - {OTHER}\n  - {{uuid: {VM}, params: {{containerCommand: x}}}}\n",
        more="defaults: {params: {supportDistributed: true}}\n",
    )
    with pytest.raises(JobFileError) as caught:
        Planning(job, run=None, started_at=0.0).check(version=(5, 3, 45))
    assert [(found.place.line, found.path) for found in caught.value.problems] == [
        (4, "defaults.params.supportDistributed"),
        (8, "targets[2].params.containerCommand"),
    ]
    Planning(job, run=None, started_at=0.0).check(version=(5, 5, 22))


def test_sources_that_do_not_exist_have_their_place(tmp_path: Path) -> None:
    """A source that the server does not have is an error at its target."""
    job = job_of(tmp_path, f"  - {UUID}\n  - {OTHER}\n")
    with pytest.raises(JobFileError, match=rf"job\.yaml:6:5: targets\[1\]: the source {OTHER} does not"):
        Planning(job, run=None, started_at=0.0).check(version=None, absent={OTHER})


def test_the_uuid_of_a_source_is_known_without_the_server(tmp_path: Path) -> None:
    """${source.uuid} is the target's own uuid, beside fields that the server answers and without any query."""
    both = "params: {name: '${source.uuid}-${source.name}'}"
    job = job_of(tmp_path, f"  - {{uuid: {UUID}, {both}}}\n")
    assert params_of(job, Pins({UUID: {"name": "x", "uuid": OTHER}}))[UUID]["name"] == f"{UUID}-x"
    job = job_of(tmp_path, f"  - {{uuid: {UUID}, params: {{name: '${{source.uuid}}'}}}}\n")
    assert not Planning(job, run=None, started_at=0.0).draft().questions
    assert params_of(job, Pins())[UUID]["name"] == UUID
